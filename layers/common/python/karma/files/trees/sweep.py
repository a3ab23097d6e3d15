"""The sweep of tree changes: sends those again that no worker is at, though they are not over."""

from __future__ import annotations

from typing import Final

from karma.core.clock import Clock
from karma.core.sweeping import sweep_each
from karma.files.ports import Queue
from karma.files.repository.tree_changes import TreeChangeRepository
from karma.files.trees.domain import LOOKED_AFTER, TreeChangeKey
from karma.files.trees.messages import send_tree_change

CHANGES_A_SWEEP: Final = 50


def send_open_changes(changes: TreeChangeRepository, queue: Queue, clock: Clock) -> int:
    """Send tree changes whose message was lost, or whose worker died; return how many."""
    now = clock.now()

    def send(key: TreeChangeKey) -> int:
        if send_tree_change(queue, key):
            changes.put_off(key, before=now, until=now + LOOKED_AFTER)
        return 1

    due = changes.due(before=now, limit=CHANGES_A_SWEEP)
    return sweep_each("trees", due, send, name=lambda key: key.change_id, clock=clock)
