"""Messages that name a tree change, in the queue of files: hints, which may come twice or late."""

from __future__ import annotations

from karma.core.errors import Upstream
from karma.core.ids import DeviceId
from karma.core.messages import named, naming
from karma.core.observability import count, logger
from karma.files.marks import TreeChangeId
from karma.files.ports import Queue
from karma.files.trees.domain import TreeChangeKey


def send_tree_change(queue: Queue, key: TreeChangeKey) -> bool:
    """Enqueue a tree change; return False when that failed: the sweep sends it again within minutes."""
    try:
        queue.send(naming("tree_change", device_id=key.device_id, change_id=key.change_id))
    except Upstream as exc:
        logger.warning("tree_change.left", change_id=key.change_id, cause=type(exc).__name__)
        count("TreeChangeLeft")
        return False
    return True


def read_tree_change(body: str) -> TreeChangeKey:
    """Read a message that `send_tree_change` wrote.

    Raises:
        ValidationFailed: it names no tree change.
    """
    device_id, change_id = named(body, "tree_change", "device_id", "change_id")
    return TreeChangeKey(DeviceId(device_id), TreeChangeId(change_id))
