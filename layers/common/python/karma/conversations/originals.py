"""Finds the original of a client's message: the stored message of which it is a copy.

Clients keep ids or do not, or make new ones; they cut answers in parts, and lose the end of one with their connection.
So an original is known by id, by the ids of its calls, or by content, in this order. It is looked for where the branch
may go on (`Branch.find`): a message that stands elsewhere in the thread is not the one that the client shows here.
"""

from __future__ import annotations

from dataclasses import replace

from karma.conversations.branch import Branch
from karma.conversations.copies import key_of
from karma.conversations.domain import Message
from karma.conversations.same import is_same_result
from karma.conversations.tree import Name, Tree, is_blank


class Originals:
    """Finds the positions of originals that may come next in a branch."""

    def __init__(self, tree: Tree, branch: Branch) -> None:
        self._tree = tree
        self._branch = branch

    def without_unknown_id(self, given: Message) -> Message:
        """Drop an id that the thread does not know: the original is then found by place and content."""
        return given if given.id in self._tree.by_id else replace(given, id="")

    def of_user(self, given: Message) -> int | None:
        """Find the user's message of this id and content; without an id, or with no content, the other decides."""
        if not given.id:
            return self._branch.find(Name("user content", key_of(given.content)))
        if is_blank(given):
            return self._branch.find(Name("user id", given.id))
        return self._branch.find(Name("user id and content", (given.id, key_of(given.content))))

    def of_answer(self, given: Message) -> int | None:
        """Find the answer of this id or with these calls; without either, the one with this text."""
        calls = _call_ids(given)
        found = [self._branch.find(Name("answer id", given.id))] if given.id else []
        if calls:
            found.append(self._with_calls(calls, no_further_than=self._tree.nearest_of(found)))
        elif not given.id:
            found.append(self._branch.find(Name("answer text", given.content)))
        return self._tree.nearest_of(found)

    def of_begun_answer(self, given: Message) -> int | None:
        """Find the answer that begins with this text: a client that lost its stream has a part, under its own id."""
        calls = _call_ids(given)

        def begins(stored: Message) -> bool:
            whole, part = stored.content, given.content
            is_part = isinstance(whole, str) and isinstance(part, str) and whole.startswith(part)
            return is_part and calls <= _call_ids(stored)

        return self._branch.find(Name("shown answer"), begins) if given.content else None

    def of_result(self, given: Message) -> int | None:
        """Find the result of a call; of one of the client's tools, the result that says the same, under any id."""
        if self._branch.is_own_call(given.tool_call_id):
            return self._branch.find(Name("result of call", given.tool_call_id))
        return self._branch.find_same_result(given)

    def next_shown_answer(self) -> int | None:
        """Find the answer that stands next, whatever it says."""
        return self._branch.find(Name("shown answer"))

    def _with_calls(self, calls: frozenset[str], *, no_further_than: int | None) -> int | None:
        if self._branch.new:
            return None
        start = self._branch.end
        rarest = min((Name("answer call", each) for each in calls), key=lambda n: self._tree.count_candidates(start, n))
        within = None if no_further_than is None else self._tree.depth(no_further_than)
        return self._branch.find(rarest, lambda stored: calls <= _call_ids(stored), within=within)

    def answer_elsewhere(self, given: Message) -> Message | None:
        """Find an answer by id or first call anywhere in the thread: the branch gets a copy of it."""
        first_call = given.tool_calls[0].id if given.tool_calls else ""
        found = self._tree.by_id.get(given.id) or self._tree.by_call.get(first_call)
        return self._tree.message(found[-1]) if found else None

    def result_elsewhere(self, given: Message) -> Message | None:
        """Find the result of a call anywhere in the thread: the branch gets a copy of it.

        The results of our tools are ours, whatever the client made of them and their ids; of one of its own tools the
        result is the original that has its id and says the same.
        """
        held = [self._tree.message(position) for position in self._tree.by_result.get(given.tool_call_id, ())]
        if not self._branch.is_own_call(given.tool_call_id):
            held = [message for message in held if message.id == given.id and is_same_result(message, given)]
        return held[-1] if held else None


def _call_ids(message: Message) -> frozenset[str]:
    return frozenset(call.id for call in message.tool_calls)
