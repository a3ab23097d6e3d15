"""Work of a request is linear in its size, whoever wrote it: twice as many messages, twice the work.

Work is counted in lines that are executed, which no busy machine changes: of a conversation of `n` parts and of one of
`2 n`. What compares each with each would quadruple.
"""

from __future__ import annotations

import base64
import os
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from types import CodeType
from typing import Any

import orjson
import pytest

from karma.conversations.arrival import recognise
from karma.conversations.attachments import attachment_id, digest_of_url
from karma.conversations.branches import has_moved_on, merge
from karma.conversations.domain import Message, Thread, ThreadKey, ToolCall
from karma.conversations.history import late_results
from karma.conversations.messages import MAX_MESSAGES, Sent
from karma.conversations.repair import repair
from karma.core.errors import AppError, ValidationFailed
from karma.core.ids import ThreadId, UserId
from karma.runs.requests import parse_run_input

pytestmark = pytest.mark.fault("F-25a")

N = 64
FEW = 16
WHOLE = os.environ.get("WORK") == "all"
MOST = 2.2
"""Largest ratio of work for twice the size: linear work stays below, even a small quadratic share does not."""

BRANCH = "branch"
"""Id of a message that begins its conversation anew."""
BESIDE = "beside"
"""Id of each answer that is given at the beginning, beside the others."""


def said(
    role: str, at: int, *, content: str = "", calls: Sequence[str] = (), call: str = "", name: str = ""
) -> Message:
    asked = tuple(ToolCall(each, "look", "{}") for each in calls)
    return Message(id=name, role=role, content=content, tool_calls=asked, tool_call_id=call)  # type: ignore[arg-type]


def calls_then_results(n: int) -> list[Message]:
    return [
        *(said("assistant", i, calls=[f"c{i}"]) for i in range(n)),
        *(said("tool", i, call=f"c{i}", content="r") for i in range(n)),
        said("user", 0, content="x"),
    ]


def one_call_id(n: int) -> list[Message]:
    return [*(said("assistant", i, calls=["c"], name=f"a{i}") for i in range(n)), said("user", 0, content="x")]


def two_call_ids_in_turn(n: int) -> list[Message]:
    return [*(said("assistant", i, calls=["cd"[i % 2]]) for i in range(n)), said("user", 0, content="x")]


def pairs_of_calls(n: int) -> list[Message]:
    return [
        *(said("assistant", i, calls=["c", f"x{i}"] if i % 2 else ["d", f"x{i}"]) for i in range(n)),
        *(said("assistant", i, calls=["c", "d"], content=f"t{i}") for i in range(n)),
    ]


def the_same_words(n: int) -> list[Message]:
    return [said(("user", "assistant")[i % 2], i, content="ok") for i in range(2 * n)]


def other_words(n: int) -> list[Message]:
    return [said(("user", "assistant")[i % 2], i, content=f"w{i}") for i in range(2 * n)]


def blank_words(n: int) -> list[Message]:
    return [*(said("user", i, content=" ", name=f"u{i}") for i in range(n)), said("user", 0, content="x")]


def results_of_no_call(n: int) -> list[Message]:
    return [*(said("tool", i, call="c", content="r", name=f"r{i}") for i in range(n)), said("user", 0, content="x")]


def unknown_answers(n: int) -> list[Message]:
    return [*(said("assistant", i, content=f"t{i}", name=f"z{i}") for i in range(n)), said("user", 0, content="x")]


def known_calls_with_unknown_ones(n: int) -> list[Message]:
    return [*(said("assistant", i, calls=[f"y{i}", "c"]) for i in range(n)), said("user", 0, content="x")]


def calls_on_another_branch(n: int) -> list[Message]:
    return [*(said("assistant", i, calls=["c"]) for i in range(n)), said("user", 0, content="x", name=BRANCH)]


def calls_in_turn_of_known_answers(n: int) -> list[Message]:
    return [said("assistant", i, calls=["cd"[i % 2], f"x{i}"], name=f"a{i}") for i in range(n)]


def calls_at_once_of_known_answers(n: int) -> list[Message]:
    known = (said("assistant", i, calls=["c", "d"], name=f"a{i}") for i in range(n))
    return [*known, said("user", 0, content="x")]


def one_call_beside_a_branch(n: int) -> list[Message]:
    return [*(said("assistant", i, calls=["c"]) for i in range(n)), *many_calls_of_a_branch(n)]


def many_calls_of_a_branch(n: int) -> list[Message]:
    asking = [said("user", 0, content="x", name=BRANCH), said("assistant", 0, calls=[f"x{i}" for i in range(n)])]
    return [*asking, *(said("tool", i, call=f"x{i}", content="r") for i in range(n))]


def results_of_a_branch_and_of_the_call_beside_it(n: int) -> list[Message]:
    asking, results = many_calls_of_a_branch(n)[:2], many_calls_of_a_branch(n)[2:]
    return [*asking, *(each for result in results for each in (result, said("tool", 0, call="c", content="r")))]


def the_same_call_many_times_beside_each_other(n: int) -> list[Message]:
    pairs = [(said("assistant", i, calls=["c"], name=BESIDE), said("tool", i, call="c")) for i in range(n)]
    return [*(each for pair in pairs for each in pair), said("assistant", n, calls=["c"], name=BESIDE)]


def results_of_one_of_the_same_calls(n: int) -> list[Message]:
    results = (said("tool", i, call="c", content="r") for i in range(n))
    return [said("assistant", 0, calls=["c"], name=BESIDE), *results]


HISTORIES = [
    calls_then_results,
    one_call_id,
    two_call_ids_in_turn,
    pairs_of_calls,
    the_same_words,
    other_words,
    blank_words,
    results_of_no_call,
    unknown_answers,
    known_calls_with_unknown_ones,
    calls_on_another_branch,
    calls_in_turn_of_known_answers,
    calls_at_once_of_known_answers,
    one_call_beside_a_branch,
    results_of_a_branch_and_of_the_call_beside_it,
    the_same_call_many_times_beside_each_other,
    results_of_one_of_the_same_calls,
]


def base64_of(i: int) -> str:
    return base64.b64encode(f"{i}".encode()).decode()


def url_of(i: int) -> str:
    return f"https://example.com/{i}"


def medium(how: str, value: str, **more: str) -> dict[str, object]:
    return {"type": "document", "source": {"type": how, "value": value, "mimeType": "text/plain"}, **more}


def text(value: str) -> dict[str, object]:
    return {"type": "text", "text": value}


SPELLINGS: dict[str, list[Callable[[int], dict[str, object]]]] = {
    "text": [lambda i: text(f"t{i}")],
    "data": [lambda i: medium("data", base64_of(i)), lambda i: medium("url", f"data:text/plain;base64,{base64_of(i)}")],
    "attachment": [
        lambda i: medium("file", f"attachments/{attachment_id(f'{i}'.encode())}"),
        lambda i: medium("data", base64_of(i)),
        lambda i: medium("url", f"https://x/attachments/u/{attachment_id(f'{i}'.encode())}?signed=1"),
    ],
    "fetched": [
        lambda i: medium("data", base64_of(i), url_sha256=digest_of_url(url_of(i))),
        lambda i: medium("url", url_of(i)),
        lambda i: medium("data", base64_of(i)),
    ],
    "file": [
        lambda i: medium("file", f"devices/d/files/f{i}"),
        lambda i: text(f"[document devices/d/files/f{i}]"),
    ],
}
"""By kind of content: the part as it is stored, then other spellings of a client's copy."""


def with_parts(part: Callable[[int], dict[str, object]], n: int, *, kinds: int, name: str, first: int) -> list[Message]:
    """Return `n` questions with one of `kinds` media each, all without an id or all under one id."""
    asked = [Message(id=name, role="user", content=(part(first + i % kinds), text("?"))) for i in range(n)]
    return [each for one in asked for each in (one, said("assistant", 0, content="ok"))]


def thread(messages: Sequence[Message]) -> Thread:
    kept = tuple(replace(each, id=each.id or f"m{i}") for i, each in enumerate(messages))
    key = ThreadKey(UserId("u"), ThreadId("t"))
    forks = {i: -1 for i, each in enumerate(kept) if each.id in (BRANCH, BESIDE)}
    return Thread(key=key, messages=kept, next_message=len(kept), version=1, forks=forks)


def lines(work: Callable[[], object]) -> int:
    """Count the lines of our own code that are executed, each step of a comprehension and of a generator too."""
    counted, here = 0, threading.get_ident()
    monitoring: Any = sys.monitoring  # type: ignore[attr-defined, unused-ignore]  # newer than the oldest Python of ours
    tool = next(i for i in range(6) if monitoring.get_tool(i) is None)

    def count(code: CodeType, line: int) -> object:
        nonlocal counted
        if "/karma/" not in code.co_filename:
            return monitoring.DISABLE
        counted += threading.get_ident() == here
        return None

    monitoring.use_tool_id(tool, "work")
    monitoring.register_callback(tool, monitoring.events.LINE, count)
    monitoring.set_events(tool, monitoring.events.LINE)
    try:
        with suppress(AppError):
            work()
    finally:
        monitoring.set_events(tool, monitoring.events.NO_EVENTS)
        monitoring.free_tool_id(tool)
    return counted


@pytest.mark.skipif(not hasattr(sys, "monitoring"), reason="Python counts lines for us from 3.12 on")
@pytest.mark.parametrize("stored", HISTORIES)
@pytest.mark.parametrize("given", HISTORIES)
@pytest.mark.parametrize("own", [(), ("look",)])
def test_twice_the_messages_are_twice_the_work(
    stored: Callable[[int], list[Message]], given: Callable[[int], list[Message]], own: tuple[str, ...], seed: int
) -> None:
    def work(n: int) -> int:
        held = thread(stored(n))
        sent = [Sent(i, message) for i, message in enumerate(given(n))]

        def all_of_it() -> None:
            has_moved_on(held, held.latest, sent, own=())
            merged = merge(held, sent, own=own)
            repair(late_results(merged.conversation))

        return lines(all_of_it)

    # All of them with few messages; a third, others for another number of the run, with many: WORK=all takes all.
    n = N if WHOLE or seed % 3 == 0 else FEW
    assert work(2 * n) < MOST * work(n)


@pytest.mark.skipif(not hasattr(sys, "monitoring"), reason="Python counts lines for us from 3.12 on")
@pytest.mark.parametrize(
    ("stored", "given"),
    [
        pytest.param(parts[0], part, id=f"{kind} {i}")
        for kind, parts in SPELLINGS.items()
        for i, part in enumerate(parts)
    ],
)
@pytest.mark.parametrize("kinds", [1, 10 * N], ids=["one medium", "each another"])
@pytest.mark.parametrize("first", [0, 100 * N], ids=["known", "new"])
@pytest.mark.parametrize("name", ["", BESIDE], ids=["without ids", "under one id"])
def test_twice_the_media_are_twice_the_work(
    stored: Callable[[int], dict[str, object]],
    given: Callable[[int], dict[str, object]],
    kinds: int,
    first: int,
    name: str,
) -> None:
    """However each is spelled, and whether it is known or not."""

    def work(n: int) -> int:
        held = thread(with_parts(stored, n, kinds=kinds, name=name, first=0))
        sent = [Sent(i, each) for i, each in enumerate(with_parts(given, n, kinds=kinds, name="", first=first))]

        def all_of_it() -> None:
            recognised = recognise(UserId("u"), held.messages, sent)
            has_moved_on(held, held.latest, recognised, own=())
            merge(held, recognised, own=())

        return lines(all_of_it)

    assert work(N // 2) < MOST * work(N // 4)


def test_no_more_messages_than_a_limit_are_read() -> None:
    def body(n: int) -> bytes:
        return orjson.dumps({"messages": [{"role": "user", "content": "x"}] * n})

    assert len(parse_run_input(body(MAX_MESSAGES)).sent) == MAX_MESSAGES
    with pytest.raises(ValidationFailed) as refused:
        parse_run_input(body(MAX_MESSAGES + 1))

    assert refused.value.details == [
        {
            "field": "messages",
            "message": f"must be at most {MAX_MESSAGES}; of a longer conversation send what is new",
            "type": "value_error",
        }
    ]
