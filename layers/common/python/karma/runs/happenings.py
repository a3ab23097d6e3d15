"""Events of runs that webhooks tell: their ends, whoever ended them, as each end changes a run's row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from karma.core.happenings import Happening, HappeningSource, HappeningType, ItemChange

_ENDED: Final[Mapping[str, str]] = {
    "finished": "A run ended with an answer, or with calls of its client's tools.",
    "interrupted": "A run ended with a question; a later run of its thread answers it.",
    "failed": "A run ended with an error; `data.error_code` names it.",
    "cancelled": "A run was cancelled, by a request or since its conversation went on without it.",
}


class RunHappenings:
    """Ends of runs."""

    types: Sequence[HappeningType] = tuple(
        HappeningType(name=f"run.{status}", meaning=meaning) for status, meaning in _ENDED.items()
    )

    table = "agents"
    items: Sequence[str] = ("run",)

    def happened(self, change: ItemChange) -> Happening | None:
        """Return the end of a run by which its row has changed; a later change of the row is none."""
        if change.new is None or _status(change.new) not in _ENDED or (change.old and _status(change.old) in _ENDED):
            return None
        # Late: a route that only names the types needs none of these.
        from karma.core.clock import iso
        from karma.core.ids import derived_id
        from karma.runs.changes import run_in

        run = run_in(change.new)
        if run is None:
            return None
        at = run.finished_at or run.created_at
        return Happening(
            id=derived_id(at, "run.ended", run.key.user_id, run.key.run_id),
            user_id=run.key.user_id,
            type=f"run.{run.status.value}",
            at=at,
            address=run.webhook,
            data={
                "run_id": run.key.run_id,
                "thread_id": run.thread_id,
                "parent_run_id": run.parent_run_id or None,
                "schedule_id": run.schedule_id or None,
                "agent_id": run.agent_id,
                "agent_version": run.agent_version,
                "status": run.status.value,
                "error_code": run.error_code or None,
                "turns": run.turns,
                "usage": run.usage,
                "cost_micros": run.cost_micros,
                "started_at": iso(run.created_at),
                "finished_at": iso(at),
            },
        )


def source() -> HappeningSource:
    """Return what runs declare."""
    return RunHappenings()


def _status(image: Mapping[str, Mapping[str, object]]) -> object:
    return image["status"].get("S") if image.get("type") == {"S": "run"} and "status" in image else None
