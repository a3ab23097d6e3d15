"""Calls that may have changed something outside the conversation, named to whoever leaves them behind.

    succeeded   its result says so, or it was carried out although its result could not be kept
    unknown     nobody knows what became of it: its process was lost, it was stopped, or no answer came in time
    failed      it was made, and has failed: it may have changed something all the same
    not named   it was not made (refused, passed over, not approved in time), only reads, or its client makes it

A call is told from others by its answer and its id, since gateways count the ids of calls anew in each branch. It may
have several results: in branches that went on otherwise, or in copies. The first status of the list that any has holds.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Final, Literal, NamedTuple

from karma.conversations.domain import Message, Thread, ToolCall
from karma.core.records import Record
from karma.mcp.offering import is_remote
from karma.runs.setup import RunSetup
from karma.tools.toolbox import Tool

_READS: Final = ":read"

EffectStatus = Literal["succeeded", "unknown", "failed"]
STRENGTH: Final[Mapping[EffectStatus, int]] = {"succeeded": 3, "unknown": 2, "failed": 1}


class Effect(NamedTuple):
    """A call of a tool of the server's, or of an MCP server's, that may have changed something."""

    tool_call_id: str
    name: str
    status: EffectStatus
    message_id: str
    """Id of the answer that made it; of a call within a subagent, that of the conversation's answer that led to it."""


class MadeCall(NamedTuple):
    """A call, and the position of the answer that made it."""

    position: int
    call: ToolCall


class Acting(Record):
    """The tools whose calls may change something.

    Any other agent may, by its own tools, and any tool of an MCP server: that it only reads is its server's own word.
    Those of the client are known to it.
    """

    names: frozenset[str]
    """Names of the server's tools, and of other agents, that do."""
    frontend: frozenset[str]
    """Names of the client's tools."""
    agents: frozenset[str] = frozenset()
    """Names of other agents among them."""

    def has(self, name: str) -> bool:
        """Tell whether calls of a name may change something."""
        return name in self.names or is_remote(name, self.frontend)


def acting(tools: Iterable[Tool], setups: Sequence[RunSetup]) -> Acting:
    """Return which of the server's tools act, and of those that runs were begun with."""
    names = {tool.name for tool in tools if not tool.permission.endswith(_READS)}
    agents = frozenset(each.name for setup in setups for each in setup.subagents)
    frontend = frozenset(tool.name for setup in setups for tool in setup.frontend_tools)
    return Acting(frozenset(names) | agents, frontend, agents)


class ThreadCalls:
    """The calls of a thread, and their results in all of its branches."""

    def __init__(self, thread: Thread) -> None:
        self._thread = thread
        self._above: list[int] = []
        """Position of the answer above each message; -1: there is none."""
        for position in range(thread.next_message):
            self._above.append(self.turn(thread.parent(position)))

    def turn(self, position: int) -> int:
        """Return the position of the last answer of a branch up to a message; -1: there is none."""
        if position < 0 or self._thread.messages[position].role == "assistant":
            return position
        return self._above[position]

    def answered_at(self, position: int) -> MadeCall | None:
        """Return the call whose result stands at a position: of the nearest answer above that has one of its id."""
        call_id, at = self._thread.messages[position].tool_call_id, self._above[position]
        while at >= 0:
            for call in self._thread.messages[at].tool_calls:
                if call.id == call_id:
                    return MadeCall(at, call)
            at = self._above[at]
        return None

    @cached_property
    def _results(self) -> Mapping[tuple[str, str], Sequence[int]]:
        """Return the positions of the results in all branches, by the ids of their calls' answers and their own."""
        found: dict[tuple[str, str], list[int]] = {}
        for at in range(self._thread.next_message):
            made = self.answered_at(at) if self._thread.messages[at].role == "tool" else None
            if made is not None:
                found.setdefault(self._key(made), []).append(at)
        return found

    def results(self, made: MadeCall) -> Sequence[int]:
        """Return the positions of a call's results in all branches, also in copies of its answer."""
        return self._results.get(self._key(made), ())

    def has_result(self, made: MadeCall) -> bool:
        """Tell whether a call has a result in any branch, also in a copy of its answer."""
        return bool(self.results(made))

    def is_told(self, made: MadeCall) -> bool:
        """Tell whether any result of a call says what became of it; that it was not made does not, of other tries."""
        return any(self._thread.messages[at].effect not in {"none", "unknown"} for at in self.results(made))

    def _key(self, made: MadeCall) -> tuple[str, str]:
        return self._thread.messages[made.position].id, made.call.id


def effects_of(
    thread: Thread, positions: Collection[int], of: Acting, *, left: Iterable[tuple[MadeCall, EffectStatus]] = ()
) -> tuple[Effect, ...]:
    """Return the calls of acting tools whose results stand at these positions, and those that were `left` without."""
    calls, found = ThreadCalls(thread), dict[tuple[str, str], Effect]()
    results = (at for at in sorted(positions) if thread.messages[at].role == "tool")
    told: list[tuple[MadeCall, EffectStatus | None]] = [
        (made, status_of(thread.messages[at])) for at in results if (made := calls.answered_at(at)) is not None
    ]
    told += left
    for made, status in sorted(told, key=lambda each: each[0].position):
        answer, call = thread.messages[made.position], made.call
        if status is None or not of.has(call.name):
            continue
        before = found.get((answer.id, call.id))
        if before is None or STRENGTH[status] > STRENGTH[before.status]:
            found[answer.id, call.id] = Effect(call.id, call.name, status, answer.id)
    return tuple(found.values())


def status_of(result: Message) -> EffectStatus | None:
    """Return what a result tells of its call; None: that was not made."""
    if result.effect == "none":
        return None
    if result.effect == "unknown":
        return "unknown"
    return "failed" if result.failed and result.effect != "done" else "succeeded"
