"""Results of a client's tools that are given once more: another one is another answer, the same one is no news."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations, product

import pytest

from karma.conversations.arrival import MessageAdmission, recognise
from karma.conversations.attachments import Library
from karma.conversations.branches import Merged, merge
from karma.conversations.domain import Message, Thread, ThreadKey, ToolCall
from karma.conversations.messages import Sent
from karma.core.ids import ThreadId
from tests.fakes.attachments import MemoryAttachments, MemoryDeviceFiles, ScriptedFetch
from tests.fakes.runs import caller

pytestmark = pytest.mark.fault("F-02n")

QUESTION = Message(id="u1", role="user", content="May I?")
TURN = Message(id="a1", role="assistant", tool_calls=(ToolCall("c1", "ask", "{}"), ToolCall("c2", "ask", "{}")))
DONE = Message(id="", role="assistant", content="Done.")
"""The model says the same, whatever it is answered: the results alone tell the branches apart."""
ANSWERS = list(product(("yes", "no", "failed"), repeat=2))
KINDS = ("whole", "without ids", "ids anew")
LONG = "é" * 200_000


def result(call: str, content: str, message_id: str = "") -> Message:
    return Message(id=message_id, role="tool", tool_call_id=call, content=content, failed=content == "failed")


def sent(*messages: Message) -> list[Sent]:
    return [Sent(i, message) for i, message in enumerate(messages)]


def grown(thread: Thread, found: Merged, *more: Message) -> Thread:
    """Store what a request and its run add to a thread."""
    n = thread.next_message
    messages = (*thread.messages, *found.new, *more)
    forks = thread.forks if found.after == n - 1 or n == len(messages) else {**thread.forks, n: found.after}
    return replace(thread, messages=messages, next_message=len(messages), forks=forks)


def answered_each_way() -> Thread:
    """Make a thread whose two calls were answered in each way, one after the other."""
    thread = empty()
    for i, (first, second) in enumerate(ANSWERS):
        screen = (QUESTION, TURN, result("c1", first, f"r{i}"), result("c2", second, f"s{i}"))
        found = merge(thread, sent(*screen), own=())
        assert [m.content for m in found.conversation[2:]] == [first, second]
        assert not found.notes
        assert found.new, "another answer is new"
        thread = grown(thread, found, replace(DONE, id=f"d{i}"))
    return thread


def empty() -> Thread:
    key = ThreadKey(caller().user_id, ThreadId("t1"))
    return Thread(key=key, messages=(QUESTION, TURN), next_message=2)


def as_sent(kind: str, *messages: Message) -> list[Sent]:
    def message_id(i: int, own: str) -> str:
        return {"without ids": "", "ids anew": f"anew-{i}"}.get(kind, own)

    return sent(*(replace(each, id=message_id(i, each.id)) for i, each in enumerate(messages)))


@pytest.mark.parametrize("kind", KINDS)
def test_the_results_on_the_screen_tell_the_branch_in_any_order(kind: str) -> None:
    thread = answered_each_way()
    for (i, answers), order in product(enumerate(ANSWERS), permutations((0, 1))):
        given = [result(f"c{k + 1}", answers[k], f"x{k}") for k in order]
        said = [QUESTION, TURN, *given]
        again = merge(thread, as_sent(kind, *said), own=())
        done = replace(DONE, id=f"d{i}" if kind == "whole" else "")
        goes_on = merge(thread, as_sent(kind, *said, done, Message(id="u2", role="user", content="And now?")), own=())

        assert (again.new, again.notes) == ((), ()), "the same answers are no news"
        for found in (again, goes_on):
            shown = {m.tool_call_id: m.content for m in found.conversation if m.role == "tool"}
            assert shown == dict(zip(("c1", "c2"), answers, strict=True))
        assert [m.content for m in goes_on.new] == ["And now?"]
        assert not goes_on.notes


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("call", ["c1", "c2"])
def test_a_call_that_is_open_on_the_screen_is_open_again(kind: str, call: str) -> None:
    found = merge(answered_each_way(), as_sent(kind, QUESTION, TURN, result(call, "yes", "x")), own=())

    assert [(m.tool_call_id, m.content) for m in found.conversation[2:]] == [(call, "yes")]
    assert not found.notes


def test_what_was_answered_to_an_earlier_result_stands_with_it() -> None:
    found = merge(answered_each_way(), sent(QUESTION, TURN, result("c1", "CHANGED"), replace(DONE, id="d0")), own=())

    assert [m.content for m in found.conversation[2:4]] == list(ANSWERS[0])
    assert [note.field for note in found.notes] == ["messages.2"]


def test_a_result_is_not_taken_for_the_answer_to_a_later_call_of_the_same_id() -> None:
    turn = replace(TURN, tool_calls=TURN.tool_calls[:1])
    messages = (QUESTION, turn, Message(id="u2", role="user", content="Well?"), replace(turn, id="a2"))
    thread = replace(empty(), messages=messages, next_message=len(messages))

    found = merge(thread, sent(*messages[:2], result("c1", "yes"), *messages[2:]), own=())

    assert found.new == ()
    assert [note.field for note in found.notes] == ["messages.2"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("is_changed", [False, True])
def test_a_long_result_is_compared_as_it_is_kept(kind: str, *, is_changed: bool) -> None:
    user_id, thread = caller().user_id, empty()
    arrivals = MessageAdmission(Library(MemoryAttachments(), MemoryDeviceFiles(), ScriptedFetch()))
    screen = (QUESTION, TURN, result("c1", LONG, "r"))
    first = arrivals.admit(user_id, thread.messages, sent(*screen))
    thread = grown(thread, merge(thread, first.sent, own=()))
    again = as_sent(kind, *screen[:2], result("c1", LONG + "!" * is_changed, "r"))

    admitted = arrivals.admit(user_id, thread.messages, again).sent
    for taken in (admitted, recognise(user_id, thread.messages, again)):
        found = merge(thread, taken, own=())
        assert [m.content != thread.messages[2].content for m in found.new] == [True] * is_changed
        assert not found.notes
