"""The steps of a run: each call of its model, with what it was told since the one before."""

from __future__ import annotations

from collections.abc import Sequence

from karma.conversations.domain import Message, ThreadKey
from karma.core.records import Record
from karma.runs.domain import CheckpointKind, Run
from karma.runs.points import RunPoint
from karma.runs.ports import Checkpoints, Runs

MAX_STEPS = 1_000
"""Steps of a run that are looked at; the limits of agents are far below."""


class RunStep(Record, kw_only=True):
    """One call of the model that was stored."""

    number: int
    """From 1."""
    told: Sequence[Message]
    """Messages to the model since the step before: of the first one the user's message, later results of tools."""
    response: Message
    total_tokens: int | None
    """Tokens of the call; None: nobody noted them, as of the next one."""
    cost_micros: int | None


class StepReader:
    """Reads the steps of runs."""

    def __init__(self, store: Runs, points: Checkpoints) -> None:
        self._store = store
        self._points = points

    def steps(self, run: Run) -> list[RunStep]:
        """Read the steps of a run that are stored, in order; [] once its thread is deleted.

        One Query a megabyte of its thread, and one of its checkpoints.
        """
        turns = [
            point for point in self._points.points(run.key, limit=3 * MAX_STEPS) if point.kind is CheckpointKind.TURN
        ]
        last = run.last_message if run.finished_at else max((point.position for point in turns), default=-1)
        thread = self._store.thread(ThreadKey(run.key.user_id, run.thread_id))
        if thread.is_deleted or last < 0:
            return []
        path = [each for each in thread.path_to(last) if each < thread.next_message and each >= run.begins_at]
        asked = [run.answers] if 0 <= run.answers < run.begins_at else []
        by_position = {point.position: point for point in turns}
        found: list[RunStep] = []
        told: list[Message] = []
        before: RunPoint | None = None
        for position in [*asked, *path]:
            message = thread.messages[position]
            if message.role == "summary":
                continue
            if message.role != "assistant" or position in asked:
                told.append(message)
                continue
            point = by_position.get(position)
            tokens, cost = _used(run, point, before)
            number = len(found) + 1
            found.append(RunStep(number=number, told=told, response=message, total_tokens=tokens, cost_micros=cost))
            told, before = [], point or before
        return found


def _used(run: Run, point: RunPoint | None, before: RunPoint | None) -> tuple[int | None, int | None]:
    """Return tokens and cost of a step: what the run had used behind it, less what it had before."""
    if point is not None:
        tokens, cost = point.total_tokens, point.cost_micros
    else:
        whole = (run.usage or {}).get("totalTokens")
        tokens, cost = whole if isinstance(whole, int) else None, run.cost_micros
    return _less(tokens, before.total_tokens if before else 0), _less(cost, before.cost_micros if before else 0)


def _less(whole: int | None, part: int | None) -> int | None:
    return None if whole is None or part is None else max(0, whole - part)
