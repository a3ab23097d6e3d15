"""Histories that lost their order, and snapshots that give a client's screen the right one."""

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from karma.conversations.branches import Merged, merge
from karma.conversations.domain import Message, Thread, ThreadKey
from karma.conversations.messages import Sent
from karma.conversations.order import shown_in_steps
from karma.core.ids import ThreadId
from tests.fakes.runs import caller

STORED = (
    Message(id="u1", role="user", content="one"),
    Message(id="a1", role="assistant", content="first"),
    Message(id="u2", role="user", content="two"),
    Message(id="a2", role="assistant", content="second"),
)
NEW = Message(id="u3", role="user", content="three")
IDS = st.lists(st.sampled_from("abcdefg"), unique=True)


def thread() -> Thread:
    return Thread(key=ThreadKey(caller().user_id, ThreadId("t1")), messages=STORED, next_message=len(STORED))


def merged(*messages: Message) -> Merged:
    return merge(thread(), [Sent(i, message) for i, message in enumerate(messages)], own=())


def taken(screen: list[str], shown: list[str]) -> list[str]:
    """Merge a snapshot as clients do."""
    kept = [each for each in screen if each in shown]
    return kept + [each for each in shown if each not in kept]


@pytest.mark.fault("F-02f")
@given(IDS, IDS)
def test_at_most_two_snapshots_bring_any_screen_into_order(screen: list[str], shown: list[str]) -> None:
    first = shown_in_steps(screen, shown)

    assert taken(taken(screen, shown[:first]), shown) == shown
    assert first or not shown, "an empty snapshot would wipe the screen"
    assert (first == len(shown)) == (taken(screen, shown) == shown), "one is enough where it does"


@pytest.mark.fault("F-02f")
@pytest.mark.parametrize("order", list(permutations(range(len(STORED)))))
def test_a_whole_history_in_another_order_begins_no_branch(order: tuple[int, ...]) -> None:
    found = merged(*(STORED[i] for i in order), NEW)

    assert [message.id for message in found.conversation] == ["u1", "a1", "u2", "a2", "u3"]
    assert (found.after, found.new, found.notes) == (3, (NEW,), ())
    assert found.is_shown == (order == (0, 1, 2, 3)), "the client is told the order where it has another"


@pytest.mark.fault("F-02f")
def test_a_message_that_is_changed_in_a_history_in_another_order_is_changed_in_its_place() -> None:
    edited = Message(id="u2", role="user", content="two, changed")

    found = merged(edited, STORED[0], STORED[1])

    assert [message.content for message in found.conversation] == ["one", "first", "two, changed"]


@pytest.mark.fault("F-02f")
@pytest.mark.parametrize("sent", [[STORED[2]], [STORED[2], NEW]])
def test_a_client_that_sends_only_new_messages_may_send_one_again(sent: list[Message]) -> None:
    found = merged(*sent)

    assert [message.id for message in found.conversation] == ["u1", "a1", *(each.id for each in sent)]
    assert not found.is_shown


@pytest.mark.fault("F-02f")
def test_messages_that_a_client_leaves_out_at_the_beginning_are_not_in_its_conversation() -> None:
    found = merged(STORED[2], STORED[3], NEW)

    assert [message.id for message in found.conversation] == ["u2", "a2", "u3"]
