"""Restores the order of messages in a client's history, and chooses snapshots that give a client's screen its order.

Clients merge a `MESSAGES_SNAPSHOT` into what they hold: a message that they have stays where it is, one that is absent
is dropped, and the rest is appended. So a client that holds its new message alone shows it before all earlier ones,
and sends its history in that order from then on.
"""

from __future__ import annotations

from collections.abc import Sequence

from karma.conversations.domain import Thread
from karma.conversations.messages import Sent


def in_stored_order(thread: Thread, sent: Sequence[Sent]) -> Sequence[Sent]:
    """Sort a whole branch that a client sends in another order into the stored order.

    A branch is whole when the client sends each of its messages with text, by id, followed only by new ones. Anything
    else is returned as it is: the user may have left out the rest on purpose.
    """
    at = {message.id: position for position, message in enumerate(thread.messages)}
    held = [each for each in sent if each.message.id in at]
    if not held or list(sent[: len(held)]) != held:
        return sent
    path = thread.path_to(max(at[each.message.id] for each in held))
    place = {thread.messages[position].id: i for i, position in enumerate(path)}
    if any(each.message.id not in place for each in held):
        return sent
    ids = {each.message.id for each in held}
    branch = [thread.messages[position] for position in path]
    if any(each.id not in ids for each in branch if each.role == "user" or (each.role == "assistant" and each.content)):
        return sent
    return [*sorted(held, key=lambda each: place[each.message.id]), *sent[len(held) :]]


def place_of(thread: Thread, sent: Sequence[Sent]) -> int:
    """Return the position of the message that a client's messages follow; -1, the root, for a whole conversation.

    When a client that sends only new messages sends one again, because it lost its connection or asks anew, the id
    tells the position: all are users' messages, and the first is stored and does not begin the conversation.
    """
    if not sent or any(each.message.role != "user" for each in sent):
        return -1
    held = [p for p, message in enumerate(thread.messages) if message.id == sent[0].message.id and message.id]
    return thread.parent(held[-1]) if held else -1


def shown_in_steps(held: Sequence[str], shown: Sequence[str]) -> int:
    """Return how many of `shown` a first snapshot must have, so that after a second one with all the order is right.

    All of them when one snapshot is enough. A client keeps the messages of a snapshot that it has in its own order,
    and appends the others: right as long as those that it has come first.

    Args:
        held: ids of the messages that the client holds, in its order.
        shown: ids of the messages that it must have afterwards, in their order.
    """
    rank = {each: i for i, each in enumerate(held)}
    n, last = 0, -1
    while n < len(shown) and rank.get(shown[n], -1) > last:
        last = rank[shown[n]]
        n += 1
    while n < len(shown) and shown[n] not in rank:
        n += 1
    return n
