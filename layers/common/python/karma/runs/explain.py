"""Describes a run by its id alone, for operators: printed by `karma run explain <id>`."""

from __future__ import annotations

from collections.abc import Iterator

import orjson

from karma.core.clock import Clock, iso
from karma.core.errors import NotFound
from karma.core.ids import RunId
from karma.runs.domain import NOT_EXECUTED, Run, RunKey, RunStatus, Segment
from karma.runs.ending import read_log
from karma.runs.ports import Runs

_SHOWN_CHARS = 100


def explain(run_id: RunId, *, store: Runs, clock: Clock) -> str:
    """Describe every run with this id (one, unless clients of several users chose the same).

    Conversation texts are shown by length only.

    Raises:
        NotFound: no run has this id.
    """
    keys = [RunKey(owner, run_id) for owner in store.owners(run_id)]
    runs = [run for run in map(store.run, keys) if run is not None]
    if not runs:
        raise NotFound(f"Run '{run_id}' not found")
    return "\n\n".join("\n".join(_story(run, read_log(store, run.key), clock)) for run in runs)


def _story(run: Run, log: list[Segment], clock: Clock) -> Iterator[str]:
    yield f"run {run.key.run_id} of user {run.key.user_id} on thread {run.thread_id}"
    ended = f", ended {iso(run.finished_at)}" if run.finished_at else ""
    yield f"{run.status}{' ' + run.error_code if run.error_code else ''}: began {iso(run.created_at)}{ended}"
    agent = f"agent {run.agent_id} of version {run.agent_version}, " if run.agent_id else ""
    usage = orjson.dumps(run.usage).decode() if run.usage else "unknown"
    yield f"{agent}model {run.model}, {run.turns} turns, usage {usage}"
    if run.pending_tool_call_ids:
        yield f"waits for the client's tools: {', '.join(run.pending_tool_call_ids)}"
    if run.paused_at is not None:
        yield f"paused since {iso(run.paused_at)}"
    if run.status is RunStatus.RUNNING and log:
        yield _lease(log[-1], clock)
    writer = ""
    for segment in log:
        change = f"  {_writer(segment, writer)}" if segment.writer != writer else ""
        writer = segment.writer
        held = "of no process yet" if segment.epoch == NOT_EXECUTED else f"lease until {iso(segment.lease_until)}"
        yield f"segment {segment.n}, {held}{change}"
        yield from (f"    {_line(orjson.loads(data))}" for data in segment.events)
        if segment.shows is not None:
            yield f"    MESSAGES_SNAPSHOT of the conversation up to message {segment.shows}, without what broke off"


def _lease(last: Segment, clock: Clock) -> str:
    if last.epoch == NOT_EXECUTED:
        return "no process has begun with it: it waits for a free one, or for its turn in the thread"
    state = "over: another process will go on" if last.is_expired(clock.now()) else "valid"
    return f"lease until {iso(last.lease_until)} ({state})"


def _writer(segment: Segment, before: str) -> str:
    took_over = ", which took over what the one before had left" if before and segment.epoch > 1 else ""
    return f"writer {segment.epoch} ({segment.writer}){took_over}"


def _line(event: dict[str, object]) -> str:
    kind = str(event["type"])
    if "delta" in event:
        return f"{kind} {event.get('messageId') or event.get('toolCallId')} +{len(str(event['delta']))} characters"
    if kind == "TOOL_CALL_RESULT":
        failed = " FAILED" if event.get("metadata") else ""
        return f"{kind} {event['toolCallId']}{failed} {str(event['content'])[:_SHOWN_CHARS]}"
    if kind == "STATE_SNAPSHOT":
        return kind
    rest = {name: value for name, value in event.items() if name != "type"}
    return f"{kind} {orjson.dumps(rest).decode()[: 3 * _SHOWN_CHARS]}"
