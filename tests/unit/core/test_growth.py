"""Readers of what others have written take time that grows with its size, not with the square of it.

CPU is measured, since most of what is superlinear hides in one call that counts as one line: `list.count`, `bytes +`.
Of four times as much, linear work takes four times as long, square work sixteen times.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from functools import cache
from time import process_time

import orjson
import pytest

from karma.billing.arrival import read_arrival
from karma.core import freeform
from karma.core.conditions.language import MAX_CHARS, compile_condition
from karma.core.conditions.nodes import ConditionUnanswered
from karma.core.cursors import CursorSigner
from karma.core.errors import AppError
from karma.core.ids import UserId, new_id
from karma.devices import payloads
from karma.http.envelope import repeated_parameters, unknown_parameters
from karma.integrations.anthropic_turn import Turn
from karma.integrations.mcp_messages import to_model
from karma.integrations.mcp_streams import StreamPlace, read_events
from karma.integrations.openai_thinking import LeadingThoughts
from karma.mcp.domain import McpFailed
from karma.runs.chat import parse_chat
from karma.runs.direct_requests import parse_direct_input
from karma.runs.requests import parse_run_input
from karma.search.domain import MAX_QUERY_CHARS, Filters
from karma.search.grammar import read_query
from karma.tools.json_arguments import expansion_of
from karma.tools.json_schema import problem_of_size, problems_of
from tests.unit.search.judged import lexicon

pytestmark = pytest.mark.fault("F-25j")

MOST = 9.0
"""Largest ratio for four times the size: between linear work and square work, with room for a busy machine."""
ENOUGH_S = 0.02
"""Work that is less than this at the larger size says nothing, and hurts nobody."""
TRIES = 4


def members(names: list[str]) -> bytes:
    return b"{" + b",".join(b'"%s":0' % name.encode() for name in names) + b"}"


def names(n: int) -> list[str]:
    return [f"m{i}" for i in range(n)]


def schema(more: dict[str, object]) -> bytes:
    return orjson.dumps({"type": "object", **more})


def listed(name: str, each: object, n: int) -> bytes:
    return orjson.dumps({name: [each] * n})


TEXTS: dict[str, Callable[[int], bytes]] = {
    "the last name twice": lambda n: members([*map(str, range(n)), str(n - 1)]),
    "every name twice": lambda n: members([*map(str, range(n // 2))] * 2),
    "objects with a name twice": lambda n: b"[" + b",".join([b'{"a":0,"a":1}'] * n) + b"]",
    "unknown members": lambda n: members(names(n)),
    "members of `forwardedProps`": lambda n: b'{"forwardedProps":' + members([f"agentid{i}" for i in range(n)]) + b"}",
    "lists in lists": lambda n: b"[" * n + b"]" * n,
    "objects in objects": lambda n: b'{"a":' * n + b"0" + b"}" * n,
    "a long number": lambda n: b'{"a":' + b"9" * 8 * n + b"}",
    "numbers beyond 64 bits": lambda n: b"[" + b",".join([b"99999999999999999999"] * n) + b"]",
    "quotes": lambda n: b'"' * 8 * n,
    "backslashes": lambda n: b'"' + b"\\\\" * 4 * n + b'"',
    "halves of characters": lambda n: b'{"a":"' + b"\\ud800" * n + b'"}',
    "escaped colons": lambda n: b"{" + b",".join(b'"\\u003a%d":0' % i for i in range(n)) + b"}",
    "messages without a role": lambda n: listed("messages", {}, n),
    "messages of one id": lambda n: listed("messages", {"id": "1", "role": "user", "content": "x"}, min(n, 10_000)),
    "parts of no kind": lambda n: listed("messages", {"role": "user", "content": [{"type": "x"}] * n}, 1),
    "calls without a name": lambda n: listed("messages", {"role": "assistant", "toolCalls": [{}] * n}, 1),
    "wrong context": lambda n: listed("context", {}, n),
    "required names": lambda n: listed("tools", {"name": "a", "parameters": {"required": ["a"] * n}}, 1),
    "metrics": lambda n: orjson.dumps({"metrics": {f"m{i}": i for i in range(n)}, "boot_id": "b", "seq": 1}),
    "a chat's message": lambda n: orjson.dumps({"message": "\U0001f600 <think> " * n, "stream": True}),
    "a chat's context": lambda n: orjson.dumps({"message": "Hello", "context": {f"c{i}": "x" for i in range(n)}}),
    "a chat's unknown members": lambda n: orjson.dumps({"message": "Hello"})[:-1] + b"," + members(names(n))[1:],
    "words": lambda n: b"pump-online " * n,
    "quotes that do not end": lambda n: b'tag:" "' * n,
    "fields of a query": lambda n: b"status:online created_after:2026-01-31 type:" * (n // 4),
    "a word without spaces": lambda n: "设备".encode() * n,
    "marks upon a letter": lambda n: "e\u0301\u0323".encode() * n,
    "alternatives of a condition": lambda n: b"||".join([b"args.a==1"] * n),
    "negations": lambda n: b"!" * n + b"args.a",
    "brackets": lambda n: b"(" * n + b"args.a" + b")" * n,
    "a list of a condition": lambda n: b"args.a in [" + b",".join([b"'x'"] * n) + b"]",
    "spaces of a condition": lambda n: b"args.a" + b" " * n + b"?",
    "a string that does not end": lambda n: b"args.a == '" + b"\\'" * n,
    "properties": lambda n: schema({"properties": {f"p{i}": {"type": "string"} for i in range(n)}}),
    "properties of no name": lambda n: schema({"properties": {" " * (i % 500): {} for i in range(n)}}),
    "required properties": lambda n: schema({"required": [f"p{i}" for i in range(n)]}),
    "types": lambda n: schema({"properties": {"a": {"type": ["string"] * n}}}),
    "choices": lambda n: schema({"properties": {"a": {"anyOf": [{"type": "x"}] * n}}}),
    "references": lambda n: schema({"$defs": {"a": {"$ref": "#/$defs/a"}}, "prefixItems": [{"$ref": "#/$defs/a"}] * n}),
    "patterns": lambda n: schema({"patternProperties": {f"^a{{{i}}}$": {} for i in range(n)}}),
    "schemas in schemas": lambda n: b'{"not":' * n + b"{}" + b"}" * n,
    "a cursor": lambda n: b"YQ" * n + b".YQ",
    "a cursor of dots": lambda n: b"." * n,
    "a cursor's signature": lambda n: b"YQ." + b"YQ" * n,
}


def of_request(text: bytes) -> object:
    return freeform.loads(text, of_request=True)


def of_chat(text: bytes) -> object:
    return parse_chat(text, user_id=UserId(new_id()), key="")


words = cache(lexicon)


def of_query(text: bytes) -> object:
    return read_query(text.decode(), words(), Filters())


def of_condition(text: bytes) -> object:
    """Compile a condition, and apply it to values that are as long as itself."""
    condition = compile_condition(text.decode(), ("args",))
    with suppress(ConditionUnanswered):
        condition.holds({"args": {"a": ["x"] * len(text)}})
    return condition


def of_schema(text: bytes) -> object:
    if problem_of_size(text):
        return None
    found = freeform.loads(text, of_request=True)
    if not isinstance(found, dict):
        return None
    return problems_of(found), expansion_of(found)


def of_cursor(text: bytes) -> object:
    return CursorSigner(current="a", keys={"a": "k"}).decode(text.decode(), scope="s")


def of_tool(text: bytes) -> object:
    return freeform.large_as_texts(text)


READERS: tuple[Callable[[bytes], object], ...] = (
    of_request,
    of_tool,
    parse_run_input,
    parse_direct_input,
    read_arrival,
    payloads.read_heartbeat,
    payloads.read_event,
    payloads.read_response,
    payloads.read_presence,
    of_chat,
    of_query,
    of_condition,
    of_schema,
    of_cursor,
)
BOUNDS: dict[Callable[[bytes], object], int] = {
    of_query: MAX_QUERY_CHARS,
    of_condition: MAX_CHARS,
    of_schema: 64 * 1024,
    of_cursor: 2_048,
}
"""Bytes of the longest text that a reader takes, where that is less than the others are given."""


def size_for(read: Callable[[bytes], object], shape: str) -> int:
    """Return the size of a text that a reader takes also four times as long."""
    most = BOUNDS.get(read)
    return 3_000 if most is None else max(1, most * 1_000 // len(TEXTS[shape](1_000)) // 4)


def took(read: Callable[[], object]) -> float:
    began = process_time()
    with suppress(AppError, McpFailed, payloads.Unreadable, ValueError):
        read()
    return process_time() - began


def require_linear(work: Callable[[int], Callable[[], object]], n: int) -> None:
    """Measure again what seemed to be superlinear: a busy machine makes single measurements longer, never shorter."""
    small, large = work(n), work(4 * n)
    least = [took(small), took(large)]
    for _ in range(TRIES):
        if least[1] < ENOUGH_S or least[1] < MOST * least[0]:
            return
        gc.collect()
        least = [min(least[0], took(small)), min(least[1], took(large))]
    raise AssertionError(f"{least[0]:.4f} s for {n}, {least[1]:.4f} s for four times as much")


@pytest.mark.parametrize("shape", TEXTS)
@pytest.mark.parametrize("read", READERS, ids=lambda read: read.__name__)
def test_a_reader_takes_twice_as_long_for_twice_as_much(read: Callable[[bytes], object], shape: str) -> None:
    def work(n: int) -> Callable[[], object]:
        text = TEXTS[shape](n)
        return lambda: read(text)

    require_linear(work, size_for(read, shape))


def test_names_of_a_query_are_looked_up() -> None:
    def work(n: int) -> Callable[[], object]:
        names = [str(i) for i in range(n)] * 2
        return lambda: (unknown_parameters(names, ()), repeated_parameters(names, frozenset(names)))

    require_linear(work, 8000)


def test_an_event_may_have_many_lines_of_data() -> None:
    def work(n: int) -> Callable[[], object]:
        block = b"\n".join([b"data: ["] * n) + b"\n\n"

        async def chunks() -> AsyncIterator[bytes]:
            yield block

        return lambda: asyncio.run(read_events(chunks(), 1, StreamPlace(is_resumable=True)))

    require_linear(work, 30_000)


def test_each_text_of_a_result_is_looked_up_among_its_items() -> None:
    def work(n: int) -> Callable[[], object]:
        result = {
            "structuredContent": {"result": [{"at": i} for i in range(n)]},
            "content": [{"type": "text", "text": f"{i}"} for i in range(n)],
        }
        return lambda: to_model(result)

    require_linear(work, 500)


def test_a_text_that_is_deeper_than_a_message_repeats_nothing() -> None:
    deep = "[" * 450 + "]" * 450
    result = {"structuredContent": {"a": 1}, "content": [{"type": "text", "text": deep}]}
    assert to_model(result) == {"structuredContent": {"a": 1}, "content": [deep]}


def test_white_space_is_an_answer_when_there_is_much_of_it() -> None:
    """Else nothing of the stream would be told, and no bound of answers would be heeded."""
    told = LeadingThoughts()
    said = [told.feed(" " * 500)[1] for _ in range(20)]
    assert said[:2] == ["", ""]
    assert "".join(said) == " " * 10_000
    assert told.feed("<think>")[1] == "<think>"


def test_white_space_before_thoughts_may_come_in_pieces() -> None:
    def work(n: int) -> Callable[[], object]:
        def feed() -> None:
            told = LeadingThoughts()
            for _ in range(n):
                told.feed(" ")

        return feed

    require_linear(work, 20_000)


def test_a_signature_may_come_in_pieces() -> None:
    piece = b'data: {"type":"content_block_delta","index":0,"delta":{"type":"signature_delta","signature":"%s"}}\n\n'
    piece %= b"s" * 200

    def work(n: int) -> Callable[[], object]:
        def feed() -> None:
            turn = Turn(shows_reasoning=True)
            turn.feed(
                b'data: {"type":"content_block_start","index":0,"content_block":{"type":"thinking","thinking":""}}\n\n'
            )
            for _ in range(n):
                turn.feed(piece)

        return feed

    require_linear(work, 5_000)
