"""Summaries in the tree of a thread: nobody is shown one, and a branch has those that stand on it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from karma.conversations.branches import merge
from karma.conversations.domain import Compacted, Message, Thread, ThreadKey
from karma.conversations.messages import Sent
from karma.conversations.stored import dump_messages, load_messages
from karma.core.ids import ThreadId, UserId

KEY = ThreadKey(UserId("u"), ThreadId("t"))
SUMMARY = Message(id="s", role="summary", content="before", keeps=1)


def said(message_id: str, role: str = "user") -> Message:
    return Message(id=message_id, role=role, content=f"words of {message_id}")  # type: ignore[arg-type]


def thread(*messages: Message, forks: dict[int, int] | None = None) -> Thread:
    return Thread(key=KEY, messages=messages, next_message=len(messages), forks=forks or {}, version=1)


CHAT = thread(
    said("u1"),
    said("a1", "assistant"),
    said("u2"),
    SUMMARY,
    said("a2", "assistant"),
    said("u3"),
    said("a3", "assistant"),
)


def test_a_summary_stands_for_what_is_before_what_it_keeps() -> None:
    found = CHAT.conversation(CHAT.latest)

    assert [each.id for each in found.messages] == ["u1", "a1", "u2", "a2", "u3", "a3"]
    assert found.compacted == Compacted("before", covers=2, at=3)
    assert CHAT.shown_to(6) == [0, 1, 2, 4, 5, 6]
    assert (CHAT.shown_before(4), CHAT.shown_before(5), CHAT.shown_before(0)) == (2, 4, -1)


def test_of_several_the_last_one_holds() -> None:
    later = thread(*CHAT.messages, Message(id="s2", role="summary", content="later", keeps=2), said("u4"))

    assert later.conversation(later.latest).compacted == Compacted("later", covers=4, at=6)
    assert later.conversation(6).compacted == Compacted("before", covers=2, at=3)


def test_a_branch_that_leaves_before_it_has_none() -> None:
    edited = thread(*CHAT.messages, said("u2b"), forks={7: 1})

    assert edited.conversation(7).compacted is None
    assert edited.conversation(6).compacted is not None


@pytest.mark.parametrize("is_anonymous", [False, True])
def test_a_client_that_sends_what_it_shows_goes_on_behind_the_summary(is_anonymous: bool) -> None:
    shown = CHAT.conversation(CHAT.latest).messages
    ids = ["" if is_anonymous else each.id for each in shown]
    sent = [
        Sent(at, Message(id=name, role=each.role, content=each.content))
        for at, (each, name) in enumerate(zip(shown, ids, strict=True))
    ]
    sent.append(Sent(len(sent), said("u4")))

    merged = merge(CHAT, sent, own=())

    assert (merged.after, [each.id for each in merged.new], merged.notes) == (6, ["u4"], ())
    assert merged.is_shown
    assert merged.compacted == Compacted("before", covers=2, at=3)
    assert [each.id for each in merged.conversation] == ["u1", "a1", "u2", "a2", "u3", "a3", "u4"]


def test_who_edits_a_message_before_it_has_the_whole_conversation() -> None:
    sent = [
        Sent(0, said("u1")),
        Sent(1, said("a1", "assistant")),
        Sent(2, Message(id="u2", role="user", content="Else")),
    ]

    merged = merge(CHAT, sent, own=())

    assert (merged.after, merged.compacted) == (1, None)


def test_it_is_read_back_as_it_was_stored() -> None:
    answer = Message(id="a", role="assistant", content="x", tokens=77)

    (summary, read) = load_messages(dump_messages([SUMMARY, answer]))

    assert (summary, summary.keeps) == (SUMMARY, 1)
    assert (read, read.tokens) == (answer, 77)


def test_a_summary_whose_run_failed_is_not_made_again_unless_its_owner_went_back() -> None:
    ended = thread(said("u1"), said("a1", "assistant"), said("u2"), SUMMARY)
    whole = [Sent(at, each) for at, each in enumerate(ended.conversation(3).messages)]
    again, more = merge(ended, whole, own=()), merge(ended, [*whole, Sent(3, said("u3"))], own=())

    assert (again.after, again.new, again.compacted) == (3, (), Compacted("before", 2, 3))
    assert (more.after, [each.id for each in more.new], more.compacted) == (3, ["u3"], Compacted("before", 2, 3))
    restored = replace(ended, restored_to=2)
    assert merge(restored, [*whole, Sent(3, said("u3"))], own=()).compacted is None
    assert merge(ended, [*whole[:2], Sent(2, said("u2b"))], own=()).compacted is None
