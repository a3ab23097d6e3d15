"""Results that a client sent, until it is known which part of the stored conversation they belong to.

A result of a call of the client's tools is an answer of its user. The same call may be answered otherwise later, when
the user goes back to it: the thread then has one branch for each answer, and the client's results tell which it shows.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from karma.conversations.domain import Message
from karma.conversations.messages import Sent
from karma.conversations.same import is_same_result

DIFFERS = "differs from the result that is there, which stands"


class PostponedResults:
    """Results of a request that have no place in the conversation yet."""

    def __init__(self) -> None:
        self._by_call: dict[str, list[Sent]] = {}
        self.left_out: list[tuple[Sent, str]] = []
        """Results that were not taken, each with the reason."""
        self.shown_calls: Collection[str] = ()
        """Ids of the calls that the client shows: without a result they are open for its user."""

    def __bool__(self) -> bool:
        return bool(self._by_call)

    def __contains__(self, call_id: str) -> bool:
        return call_id in self._by_call

    def add(self, sent: Sent) -> None:
        """Keep a result."""
        self._by_call.setdefault(sent.message.tool_call_id, []).append(sent)

    def all(self) -> list[Sent]:
        """List the results in the order of the request."""
        return sorted((each for held in self._by_call.values() for each in held), key=lambda each: each.at)

    def clear(self) -> None:
        """Forget all results."""
        self._by_call.clear()

    def leave_out(self, call_id: str, why: str, *, unless: Message | None = None, is_own: bool = False) -> None:
        """Remove the results of a call, and name those that do not say the same as a message, as `is_same_result`."""
        for each in self._by_call.pop(call_id, ()):
            if unless is None or not is_same_result(unless, each.message, is_own=is_own):
                self.left_out.append((each, why))

    def agree(self, path: Iterable[Message], own: Collection[str]) -> bool:
        """Tell whether a part of a branch has these results of the client's tools, and none that the client lacks.

        Args:
            path: messages of the branch.
            own: ids of the calls of the server's tools, whose results a client need not send.
        """
        made: set[str] = set()
        for message in path:
            made.update(call.id for call in message.tool_calls)
            call_id = message.tool_call_id
            if message.role != "tool" or call_id in made or call_id in own:
                continue
            held = self._by_call.get(call_id, ())
            is_shown = call_id in self._by_call or call_id in self.shown_calls
            if is_shown and not any(is_same_result(message, each.message) for each in held):
                return False
        return True
