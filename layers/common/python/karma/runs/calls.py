"""Calls of the server's tools in a run: how they are made, and the messages with their results."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Container, Sequence
from typing import Protocol

import orjson

from karma.conversations.domain import History, Json, Message, ThreadKey, ToolCall
from karma.conversations.history import stopped_words
from karma.conversations.state import State
from karma.core.ids import RunId, short_id
from karma.runs import events
from karma.runs.decisions import cancelled, effect_unanswered, failure
from karma.runs.events import ACTIVITIES_SINCE, Event, Version, activity
from karma.runs.interrupts import Interrupt, Reason
from karma.runs.ports import Sink, Voice
from karma.tools.domain import GivenInput
from karma.tools.toolbox import ToolOutcome


class MakeCall(Protocol):
    """A way to make a call of a server's tool: newly, or after a loss."""

    async def __call__(self, call: ToolCall, *, run_id: RunId, known: dict[str, object]) -> ToolOutcome:
        """Make the call; the tool records what it knows of its effect in `known`."""
        ...


class MakeCallWith(Protocol):
    """As `MakeCall`, with what the call's user has given, who can be asked for more; None: nobody can be asked."""

    async def __call__(
        self, call: ToolCall, *, run_id: RunId, known: dict[str, object], given: GivenInput | None
    ) -> ToolOutcome:
        """Make the call."""
        ...


RESULTS_A_COMMIT = 16
"""Results per transaction; each has at most 64 KB (twice that when escaped once more)."""


NOT_MADE = "The run ended before this call was approved: it was not made."
NOT_BEGUN = "The run ended before it began: this call was not made."
AGENT_LEFT = (
    "This agent waited for an answer of the user, who went on without it, or cancelled it: it does not go on. "
    "What it had done before is done."
)
PASSED_OVER = (
    "The user went back to before this call had a result, and on with a new message: it is not made from here. "
    "Whether it was made before they went back is not told."
)


class Expected(Protocol):
    """The calls of a turn, as karma.runs.gate sorts them."""

    @property
    def ready(self) -> Sequence[ToolCall]:
        """Calls that are made."""
        ...

    @property
    def held(self) -> Sequence[Interrupt]:
        """Questions about calls that wait for an answer."""
        ...


class Activities:
    """Shows clients the progress of calls of a run, or of a subagent in it, while they are made; no model reads it.

    It is told at once and stored with what comes next, as the beginning of a text is (log.py). Whoever makes a call
    again after a loss shows it anew, under the same id.
    """

    def __init__(self, voice: Voice, sink: Sink, *, speaks: Version) -> None:
        """Begin without any; clients whose version has none are shown nothing."""
        self._voice = voice
        self._sink = sink
        self._is_shown = speaks >= ACTIVITIES_SINCE
        self._contents: dict[str, Json] = {}

    def show(self, call_id: str, kind: str, content: Json) -> None:
        """Show how far a call is; nothing where that is what was shown last.

        Raises as `RunLog.soft`.
        """
        if not self._is_shown:
            return
        told: Json = {"toolCallId": call_id, **content}
        message_id, before = f"{call_id}-activity", self._contents.get(call_id)
        if before == told:
            return
        self._contents[call_id] = told
        self._sink.write(self._voice.soft(activity(message_id, kind, told, before=before)))


class OpenCalls:
    """The server's calls of a run's last turn, from the moment that the turn is stored until their results are."""

    def __init__(
        self, repeatable: Container[str] = (), *, decided: Callable[[ToolCall], ToolOutcome | None] = lambda _: None
    ) -> None:
        """Begin without any; `repeatable` as in `stopped`, `decided` returns the outcome of a call that is not made."""
        self._repeatable = repeatable
        self._decided = decided
        self.said_at = -1
        """Position of the message that their results follow; -1: there are none."""
        self._tasks: dict[ToolCall, asyncio.Task[ToolOutcome] | None] = {}
        """In order, with the tasks that make them; None: not begun yet."""
        self._known: dict[str, dict[str, object]] = {}
        """Facts that each tool knows about its effect, by the id of the call."""
        self._held: list[Interrupt] = []
        """Questions about calls that wait for an answer, one for each call."""

    def expect(self, calls: Expected, *, said_at: int) -> None:
        """Take over calls whose turn is about to be stored: from then on each gets a result, however the run ends."""
        self.said_at, self._tasks = said_at, dict.fromkeys(calls.ready)
        self._held = list({interrupt.awaited: interrupt for interrupt in calls.held}.values())

    async def make(
        self, calls: Sequence[ToolCall], make: MakeCall, *, run_id: RunId
    ) -> list[tuple[ToolCall, ToolOutcome]]:
        """Make calls that are expected side by side, and return them in their order with their outcomes."""
        self._known = {call.id: {} for call in calls}
        tasks = [asyncio.ensure_future(make(call, run_id=run_id, known=self._known[call.id])) for call in calls]
        self._tasks = dict(zip(calls, tasks, strict=True))
        return list(zip(calls, await asyncio.gather(*tasks), strict=True))

    def leave(self, left: Sequence[ToolCall]) -> None:
        """Note calls that have no result after all: those that have one are stored before them."""
        made = {call: task for call, task in self._tasks.items() if call not in left}
        self._tasks = {**made, **dict.fromkeys(left)}

    @property
    def has_begun(self) -> bool:
        """Tell whether any of the calls is being made, or was."""
        return any(task is not None for task in self._tasks.values())

    def missing_results(self, thread: ThreadKey, stored: int | None, *, n: int) -> History | None:
        """Make results for open calls when a run ends: their outcomes, or that it ended.

        Args:
            thread: the run's thread.
            stored: position of the last message of the run's branch; None: this run has no part of it.
            n: number of messages of the thread.
        """
        if stored is None or stored < self.said_at:
            return None  # the turn was not kept
        left = list(self._tasks.items())[stored - self.said_at :]
        outcomes = [
            (call, self._outcome(call, task if at < RESULTS_A_COMMIT else None)) for at, (call, task) in enumerate(left)
        ]
        results = [result_message(call, outcome) for call, outcome in outcomes]
        results += map(unanswered, self._held)
        return History(thread, n, tuple(results), stored, state_of(outcomes)) if results else None

    def _outcome(self, call: ToolCall, task: asyncio.Task[ToolOutcome] | None) -> ToolOutcome:
        decided = self._decided(call)
        if decided is not None:
            return decided
        return outcome_of(task, self._known.get(call.id, {}), stopped_words(call, self._repeatable))


def outcome_of(task: asyncio.Task[ToolOutcome] | None, known: Json, words: str) -> ToolOutcome:
    """Return the outcome of a call whose run ends.

    Args:
        task: what makes it; None: it has not begun, or its result finds no room any more.
        known: what its tool knows of its effect.
        words: the result of a call that was stopped.
    """
    if task is None or not task.done() or task.cancelled() or task.exception() is not None:
        told = orjson.dumps({**orjson.loads(words), **known}).decode() if known else words
        return ToolOutcome(told, failed=True, effect="unknown")
    outcome = task.result()
    return ToolOutcome(words, failed=True, effect="unknown") if outcome.is_open else outcome


def state_of(made: Sequence[tuple[ToolCall, ToolOutcome]]) -> State | None:
    """Return the state after calls, which change it in their order; None: none of them did."""
    return next((outcome.state for _, outcome in reversed(made) if outcome.state is not None), None)


def result_message(call: ToolCall, outcome: ToolOutcome) -> Message:
    """Make the message with the result of a call."""
    return Message(
        id=short_id(),
        role="tool",
        content=outcome.content,
        tool_call_id=call.id,
        failed=outcome.failed,
        effect=outcome.effect,
    )


def not_made(call: ToolCall, told: str = NOT_MADE) -> Message:
    """Make the result of a call that has not been made when its run ends: as it was not approved, or as is told."""
    return result_message(call, ToolOutcome(failure(told), failed=True, effect="none"))


def unanswered(question: Interrupt) -> Message:
    """Make the result of a call that waited for an answer when its run ended otherwise."""
    if question.reason is Reason.TOOL_CALL and question.inside is None:
        return not_made(question.awaited)
    if question.inside is not None:
        return left_agent(question.awaited)
    told, effect = cancelled(question, moved_on=True), effect_unanswered(question)
    return result_message(question.awaited, ToolOutcome(told, failed=True, effect=effect))


def left_agent(call: ToolCall) -> Message:
    """Make the result of a call of a subagent that waited for an answer which it will not have: that was at work."""
    return result_message(call, ToolOutcome(failure(AGENT_LEFT), failed=True))


def told_of(results: Sequence[Message], speaks: Version) -> list[Event]:
    """Make the events that tell a client of results."""
    return [
        events.tool_result(
            message_id=each.id,
            tool_call_id=each.tool_call_id,
            content=str(each.content),
            failed=each.failed,
            speaks=speaks,
        )
        for each in results
    ]
