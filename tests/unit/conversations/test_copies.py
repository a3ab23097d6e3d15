"""Copies that a client holds of answers and results: the same is no news, and a difference is never silent."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from karma.conversations.branches import Merged, merge
from karma.conversations.domain import Message, Thread, ThreadKey, ToolCall
from karma.conversations.messages import Sent
from karma.conversations.same import is_same_output
from karma.core.ids import ThreadId
from karma.runs.requests import parse_run_input
from tests.fakes.runs import caller

ARGUMENTS = '{"at": 1.0, "who": "\\u00e9"}'
RESULT = '{"seen": [1.0, true, null], "by": "\\u00e9"}'
QUESTION = Message(id="u1", role="user", content="Look.")
TURN = Message(id="a1", role="assistant", content="I look.", tool_calls=(ToolCall("c1", "look", ARGUMENTS),))
SEEN = Message(id="t1", role="tool", tool_call_id="c1", content=RESULT)
DONE = Message(id="a2", role="assistant", content="I have seen it.")
MORE = Message(id="u2", role="user", content="And now?")
STORED = (QUESTION, TURN, SEEN, DONE)

DIFFERENT: dict[str, tuple[int, Message]] = {
    "the text before a call": (1, replace(TURN, content="I do not look.")),
    "the arguments of a call": (1, replace(TURN, tool_calls=(ToolCall("c1", "look", '{"at": 2}'),))),
    "the name of a call": (1, replace(TURN, tool_calls=(ToolCall("c1", "move", ARGUMENTS),))),
    "a call more": (1, replace(TURN, tool_calls=(*TURN.tool_calls, ToolCall("c2", "look", "{}")))),
    "the result of our tool": (2, replace(SEEN, content='{"seen": []}')),
    "whether our tool failed": (2, replace(SEEN, failed=True)),
    "an answer": (3, replace(DONE, content="I have seen nothing.")),
}
SAME: dict[str, tuple[int, Message]] = {
    "arguments without spaces": (1, replace(TURN, tool_calls=(ToolCall("c1", "look", '{"who":"é","at":1}'),))),
    "a call without its text": (1, replace(TURN, content="")),
    "a result without spaces": (2, replace(SEEN, content='{"by":"é","seen":[1,true,null]}')),
    "a result under another id": (2, replace(SEEN, id="t9")),
}
EDITS: dict[str, Callable[[Message], Message]] = {
    "the same branch": lambda question: question,
    "an edited branch": lambda question: replace(question, content="Look again."),
    "an edited branch under other ids": lambda question: replace(question, id="x1", content="Look again."),
}


def merged(*messages: Message) -> Merged:
    thread = Thread(key=ThreadKey(caller().user_id, ThreadId("t1")), messages=STORED, next_message=len(STORED))
    return merge(thread, [Sent(i, each) for i, each in enumerate(messages)], own=("look",))


@pytest.mark.fault("F-02p")
@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("what", DIFFERENT)
def test_what_differs_from_our_answers_and_results_is_named_and_the_stored_stands(what: str, edit: str) -> None:
    at, copy = DIFFERENT[what]
    screen = [EDITS[edit](QUESTION), *STORED[1:], MORE]
    screen[at] = copy

    found = merged(*screen)

    assert [note.field for note in found.notes] == [f"messages.{at}"]
    assert not found.is_shown, "the client is not shown what stands"
    assert [(m.content, m.tool_calls, m.failed) for m in found.conversation[1:4]] == [
        (m.content, m.tool_calls, m.failed) for m in STORED[1:]
    ]


@pytest.mark.fault("F-02p")
def test_a_result_of_our_tool_is_ours_also_where_ids_are_made_anew() -> None:
    screen = [replace(QUESTION, content="Look again."), TURN, replace(SEEN, content="CHANGED"), DONE, MORE]

    found = merged(*(replace(each, id=f"anew-{i}") for i, each in enumerate(screen)))

    assert [m.content for m in found.conversation if m.role == "tool"] == [RESULT]
    assert [note.field for note in found.notes] == ["messages.2"]


@pytest.mark.fault("F-02q")
@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("what", SAME)
def test_a_copy_that_says_the_same_needs_no_note(what: str, edit: str) -> None:
    at, copy = SAME[what]
    screen = [EDITS[edit](QUESTION), *STORED[1:], MORE]
    screen[at] = copy

    found = merged(*screen)

    assert found.notes == ()
    assert found.conversation[2].content == RESULT


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def as_a_browser_reads(value: Any) -> Any:
    """Return a value with numbers as doubles, whole ones without a point, as JavaScript writes them."""
    if isinstance(value, dict):
        return {name: as_a_browser_reads(each) for name, each in value.items()}
    if isinstance(value, list):
        return list(map(as_a_browser_reads, value))
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    double = float(value)
    return int(double) if double.is_integer() and abs(double) < 2**63 else double


@pytest.mark.fault("F-02q")
@given(VALUES, VALUES, st.sampled_from([None, 2]), st.booleans())
def test_json_that_a_front_end_has_written_anew_is_the_same_result(
    value: Any, other: Any, indent: int | None, is_ascii: bool
) -> None:
    stored = orjson.dumps({"value": value}).decode()
    anew = json.dumps({"value": as_a_browser_reads(value)}, indent=indent, ensure_ascii=is_ascii)
    assert is_same_output(stored, anew)
    assert is_same_output(stored, [{"type": "text", "text": anew}])
    if json.dumps(as_a_browser_reads(other), sort_keys=True) != json.dumps(as_a_browser_reads(value), sort_keys=True):
        assert not is_same_output(stored, orjson.dumps({"value": other}).decode())


@pytest.mark.fault("F-02q")
@pytest.mark.parametrize(("one", "other"), [("1.10", "1.1"), ("yes", '"yes"'), ("{", "[")])
def test_what_a_user_typed_is_compared_as_it_is_written(one: str, other: str) -> None:
    assert not is_same_output(one, other)


@pytest.mark.fault("F-02r")
@pytest.mark.parametrize("role", ["reasoning", "activity"])
@pytest.mark.parametrize("is_before", [False, True])
@pytest.mark.parametrize("at", range(len(STORED)))
def test_a_message_that_is_not_kept_takes_no_id_from_one_that_is(role: str, at: int, *, is_before: bool) -> None:
    calls = [{"id": "c1", "type": "function", "function": {"name": "look", "arguments": ARGUMENTS}}]
    given: list[dict[str, object]] = [{"id": m.id, "role": m.role, "content": m.content} for m in STORED]
    given[1]["toolCalls"] = calls
    given[2]["toolCallId"] = "c1"
    given.insert(at if is_before else at + 1, {"id": STORED[at].id, "role": role, "content": "hm"})

    asked = parse_run_input(orjson.dumps({"messages": given}))

    assert asked.messages == STORED
    assert asked.unread == ()
