"""The worked example of `karma.conversations.branches`."""

from __future__ import annotations

from dataclasses import replace

import pytest

from karma.conversations.branches import Merged, merge
from karma.conversations.domain import Message, Thread, ThreadKey, ToolCall
from karma.conversations.messages import Sent
from karma.core.ids import ThreadId, UserId

STORED = (
    Message(id="u1", role="user", content="Is it open?"),
    Message(id="a1", role="assistant", tool_calls=(ToolCall("c1", "camera", "{}"),)),
    Message(id="t1", role="tool", tool_call_id="c1", content="An open door."),
    Message(id="a2", role="assistant", content="It is."),
    Message(id="u2", role="user", content="Close it."),
    Message(id="a3", role="assistant", content="Done."),
)


def test_an_edited_question_follows_the_answer_before_it_though_hidden_messages_are_not_sent() -> None:
    thread = Thread(key=ThreadKey(UserId("u"), ThreadId("t")), messages=STORED, next_message=len(STORED), version=1)
    edited = Message(id="u2", role="user", content="Lock it.")

    merged = merge(thread, [Sent(i, each) for i, each in enumerate([STORED[0], STORED[3], edited])], own={"camera"})

    assert (merged.after, merged.new, merged.notes, merged.is_shown) == (3, (edited,), (), True)
    assert merged.conversation == (*STORED[:4], edited)


REWRITTEN = '{ "reason": "no", "error": "The user refused this call: it was not made." }'
REFUSED = '{"error":"The user refused this call: it was not made.","reason":"no"}'


def resent(stored: Message, given: Message, *, own: bool) -> Merged:
    """Merge a history whose result is a client's copy, followed by new words."""
    messages = (STORED[0], STORED[1], stored, STORED[3])
    thread = Thread(key=ThreadKey(UserId("u"), ThreadId("t")), messages=messages, next_message=4, version=1)
    sent = [STORED[0], STORED[1], given, STORED[3], Message(id="u9", role="user", content="Go on.")]
    return merge(thread, [Sent(i, each) for i, each in enumerate(sent)], own={"camera"} if own else set())


@pytest.mark.parametrize("words", [REFUSED, REWRITTEN])
@pytest.mark.parametrize("says_so", [True, False])
def test_a_failed_result_of_the_server_is_the_same_whether_or_not_a_copy_says_that_it_failed(
    words: str, *, says_so: bool
) -> None:
    """TOOL_CALL_RESULT has no field for it, so that the stock client keeps the words; a snapshot has `error`."""
    stored = replace(STORED[2], content=REFUSED, failed=True)
    merged = resent(stored, replace(stored, content=words, failed=says_so), own=True)
    assert (merged.notes, merged.is_shown, merged.after) == ((), True, 3)


def test_a_result_of_the_server_that_a_copy_changes_is_named() -> None:
    stored, failed = STORED[2], replace(STORED[2], failed=True)
    others = [replace(failed, content="A window."), replace(stored, content="A window.")]
    for given in others:
        assert [note.field for note in resent(failed, given, own=True).notes] == ["messages.2"]
    assert [note.field for note in resent(stored, failed, own=True).notes] == ["messages.2"]


def test_a_failure_of_the_client_s_own_tool_that_it_takes_back_is_named() -> None:
    failed = replace(STORED[2], failed=True)
    assert resent(failed, failed, own=False).notes == ()
    assert [note.field for note in resent(failed, STORED[2], own=False).notes] == ["messages.2"]
