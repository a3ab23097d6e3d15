"""Everything that a store of runs in memory has at a moment, so that two moments can be compared."""

from __future__ import annotations

from typing import Any

from tests.fakes.runs import MemoryRuns


def as_stored(store: MemoryRuns) -> dict[str, Any]:
    """Return a copy of all that is stored: runs with their logs, wishes and questions, threads, and what is counted."""
    return {
        "runs": dict(store.runs_by_key),
        "logs": {key: dict(log) for key, log in store.logs.items() if log},
        "setups": dict(store.setups),
        "checkpoints": {key: dict(each) for key, each in store.checkpoints.items() if each},
        "threads": dict(store.threads),
        "questions": dict(store.interrupts_by_id),
        "wishes": {key: dict(each) for key, each in store.wished.items() if each},
        "subagents": (dict(store.steps), dict(store.at_work)),
        "taken": dict(store.usage.taken),
        "days": (dict(store.usage.days), dict(store.usage.account_days), dict(store.usage.delegated)),
        "attachments": dict(store.attachments),
    }
