"""The order of messages: of a client's history that has lost it, and of a client's screen that a snapshot shall have.

Clients merge a `MESSAGES_SNAPSHOT` into what they hold: a message that they have stays where it is, one that is absent
is dropped, and the rest is appended. So a client that holds its new message alone shows it before all earlier ones,
and sends its history in that order from then on.
"""

from __future__ import annotations

from collections.abc import Sequence

from karma.conversations.domain import Thread
from karma.conversations.messages import Sent


def in_stored_order(thread: Thread, sent: Sequence[Sent]) -> Sequence[Sent]:
    """Put a whole branch that a client sends in another order into the order in which it was said.

    Whole means: each message with words of the branch, by its id, and behind them only what is new. Anything else is
    returned as it is: of a part it cannot be told whether its user has left out the rest.
    """
    at = {message.id: position for position, message in enumerate(thread.messages)}
    held = [each for each in sent if each.message.id in at]
    if not held or list(sent[: len(held)]) != held:
        return sent
    way = thread.way_to(max(at[each.message.id] for each in held))
    place = {thread.messages[position].id: i for i, position in enumerate(way)}
    if any(each.message.id not in place for each in held):
        return sent
    ids = {each.message.id for each in held}
    branch = [thread.messages[position] for position in way]
    if any(each.id not in ids for each in branch if each.role == "user" or (each.role == "assistant" and each.content)):
        return sent
    return [*sorted(held, key=lambda each: place[each.message.id]), *sent[len(held) :]]


def place_of(thread: Thread, sent: Sequence[Sent]) -> int:
    """Return the position behind which a client's messages stand; -1, the root, for a whole conversation.

    A client of new messages only that sends one again, because it lost its connection or asks anew, names its place by
    the id: only users' messages, the first of which is held and does not begin the conversation.
    """
    if not sent or any(each.message.role != "user" for each in sent):
        return -1
    held = [p for p, message in enumerate(thread.messages) if message.id == sent[0].message.id and message.id]
    return thread.parent(held[-1]) if held else -1


def shown_in_steps(held: Sequence[str], shown: Sequence[str]) -> int:
    """Return how many of the messages to be shown a first snapshot has, so that a second one brings all in order.

    All of them where one snapshot does. A client keeps what it holds of the first, in its own order, and appends the
    rest: that is right as far as what it holds stands at the beginning.

    Args:
        held: ids of the messages that the client holds, in its order.
        shown: ids of the messages that it shall hold, in theirs.
    """
    rank = {each: i for i, each in enumerate(held)}
    n, last = 0, -1
    while n < len(shown) and rank.get(shown[n], -1) > last:
        last = rank[shown[n]]
        n += 1
    while n < len(shown) and shown[n] not in rank:
        n += 1
    return n
