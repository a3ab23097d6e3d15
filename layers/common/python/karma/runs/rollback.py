"""Rolling a run back: the conversation goes on where the run had begun, and what its tools did is named.

Nothing is deleted: the run's messages are a branch that is left, as when a user edits (docs/adr/0026).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import orjson

from karma.conversations.domain import Thread, ToolCall
from karma.conversations.history import awaited_calls
from karma.conversations.state import EMPTY, State, without_user
from karma.core.records import Record
from karma.runs import events
from karma.runs.domain import NOT_EXECUTED, NOT_KNOWN, Run, RunKey, RunStatus
from karma.runs.ports import Runs
from karma.runs.setup import load_setup, user_of
from karma.runs.wishes import MOVED_ON_REASON
from karma.tools.toolbox import Tool

if TYPE_CHECKING:
    from karma.runs.checkpoints import FoundPoint
    from karma.runs.effects import Effect, EffectStatus

_RESULT: Final = b'{"type":"TOOL_CALL_RESULT"'
_FIRST = 20
"""Segments of which one begins the execution: a run that waited for its turn has few before."""


class RolledBack(Record):
    """A run that another one takes the place of."""

    run: Run
    thread: Thread
    """Its thread up to the message behind which it had begun, and the results of the calls that were open there."""
    effects: tuple[Effect, ...]
    state: State
    """The state with which it had begun."""

    @property
    def event(self) -> bytes:
        """Return the event that tells clients of it."""
        calls = [
            {"toolCallId": each.tool_call_id, "name": each.name, "status": each.status, "messageId": each.message_id}
            for each in self.effects
        ]
        return events.rolled_back(self.run.key.run_id, calls).data


def rolled_back_of(store: Runs, keys: Sequence[RunKey], thread: Thread, tools: Sequence[Tool]) -> RolledBack | None:
    """Return how a thread goes on without runs that were ended for another; None: all had finished by themselves.

    Without any it is the one whose place nobody has taken (`left_behind`), and so where another run has gone on behind
    those since, whose turn it was. Several are those that began one after the other while the request was about to end
    the one before: the thread goes on where the first of them had begun.
    """
    # As in effects_behind: few runs are rolled back.
    from karma.runs.effects import ThreadCalls, acting, effects_of
    from karma.runs.left_calls import left_calls
    from karma.runs.subagents.inside import with_inside

    way = thread.making_way.run_id if thread.making_way else None  # None: a run has begun since
    ended = keys if way in {each.run_id for each in keys} else left_behind(store, thread)
    found = [run for run in map(store.run, dict.fromkeys(ended)) if run is not None and _is_left(run)]
    if not found:
        return None
    run = min(found, key=_size_before)
    awaited = awaited_calls(thread.conversation(_size_before(run) - 1).messages)
    kept = _results_of(awaited, thread, behind=_size_before(run) - 1)
    size = kept[-1] + 1 if kept else _size_before(run)
    forks = {position: after for position, after in thread.forks.items() if position < size}
    before = replace(thread, messages=thread.messages[:size], next_message=size, forks=forks, restored_to=None)
    setups = [load_setup(stored) for stored in (store.setup(each.key) for each in found) if stored]
    of = acting(tools, setups)
    behind = range(run.begins_at, thread.next_message)
    was_open = ThreadCalls(thread).turn(_size_before(run) - 1)
    left = left_calls(store, thread, [*([was_open] if was_open >= 0 else ()), *behind], of)
    effects = with_inside(store, thread, effects_of(thread, behind, of, left=left), of)
    brought = {thread.messages[each].tool_call_id for each in kept if each >= run.begins_at}
    return RolledBack(run, before, effects, _state_before(store, run, thread, brought))


def _results_of(calls: Sequence[ToolCall], thread: Thread, *, behind: int) -> list[int]:
    """Return the positions of the results that calls have got directly behind a message, the newest ones, in order.

    They belong to what stays: a model that was told of none would take what was done for what failed.
    """
    names = {call.id for call in calls}
    newest = {
        thread.parent(at): at
        for at in range(behind + 1, thread.next_message)
        if thread.messages[at].role == "tool" and thread.messages[at].tool_call_id in names
    }
    found: list[int] = []
    while (at := newest.get(found[-1] if found else behind)) is not None:
        found.append(at)
    return found


def left_behind(store: Runs, thread: Thread) -> list[RunKey]:
    """Return the last run of a thread, if it was ended for another one that has not begun; one read.

    The request that ended it died before it stored its own run, or another request came in between.
    """
    # The newest run may be one that waits for its turn behind it.
    run_id = thread.making_way.run_id if thread.making_way else thread.last_run_id
    if thread.active_run_id is not None or not run_id:
        return []
    run = store.run(RunKey(thread.key.user_id, run_id))
    if run is None or run.status is not RunStatus.CANCELLED or run.cancel_reason != MOVED_ON_REASON:
        return []
    return [run.key] if run.last_message == thread.latest else []


def _state_before(store: Runs, run: Run, thread: Thread, brought: set[str]) -> State:
    """Return the state with which a run began to be executed, as its thread keeps it; one read or two.

    The calls whose results it has `brought` for what was before it have changed that, too.
    """
    missing = set(brought)
    state, stored = None, store.setup(run.key)
    for segment in store.segments(run.key, after=0, limit=_FIRST):
        state = events.state_after(segment.events, state)
        missing -= {orjson.loads(data)["toolCallId"] for data in segment.events if data.startswith(_RESULT)}
        if segment.epoch != NOT_EXECUTED and not missing:
            break
    if state is None or not stored:
        return thread.state or EMPTY
    return State(without_user(state, user_of(load_setup(stored).caller)))


def _is_left(run: Run) -> bool:
    return run.begins_at >= 0 and run.status is not RunStatus.FINISHED


def _size_before(run: Run) -> int:
    return run.follows + 1 if run.follows != NOT_KNOWN else run.begins_at - 1


def effects_behind(
    store: Runs, found: FoundPoint, thread: Thread, tools: Sequence[Tool], *, kept: int | None = None
) -> tuple[Effect, ...]:
    """Return the calls that were made behind a point, in all branches of a thread, and may have changed something.

    Calls that were open at the point may have been begun without a result. Where only the first messages are `kept`,
    calls behind these count; None: all are.
    """
    from karma.runs.begun_calls import begun_calls
    from karma.runs.effects import MadeCall, ThreadCalls, acting, effects_of
    from karma.runs.left_calls import left_calls
    from karma.runs.subagents.inside import with_inside

    path = found.path(len(found.messages) if kept is None else kept)
    point = path[-1] if path else -1
    behind: set[int] = set()
    for position in range(point + 1, thread.next_message):
        if thread.parent(position) == point or thread.parent(position) in behind:
            behind.add(position)
    of = acting(tools, [found.setup] if found.setup is not None else [])
    open_at = ThreadCalls(thread).turn(found.point.position)
    begun = begun_calls(store, found).items()
    left: list[tuple[MadeCall, EffectStatus]] = [
        (MadeCall(open_at, call), "unknown") for call, how in begun if how.is_unknown
    ]
    effects = effects_of(thread, behind, of, left=[*left, *left_calls(store, thread, behind, of)])
    return with_inside(store, thread, effects, of)
