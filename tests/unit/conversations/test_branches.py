"""The worked example of `karma.conversations.branches`."""

from __future__ import annotations

from karma.conversations.branches import merge
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
