"""Messages that name an export, in the queue of telemetry: hints, which may come twice or late."""

from __future__ import annotations

from karma.core.errors import Upstream
from karma.core.ids import UserId
from karma.core.messages import named, naming
from karma.core.observability import count, logger
from karma.telemetry.exports.domain import ExportId, ExportKey
from karma.telemetry.exports.ports import ExportQueue


def send_export(queue: ExportQueue, key: ExportKey) -> bool:
    """Enqueue an export; return False when that failed: the sweep sends it again within minutes."""
    try:
        queue.send(naming("export", user_id=key.user_id, export_id=key.export_id))
    except Upstream as exc:
        logger.warning("export.left", export_id=key.export_id, cause=type(exc).__name__)
        count("TelemetryExportLeft")
        return False
    return True


def read_export(body: str) -> ExportKey:
    """Read a message that `send_export` wrote.

    Raises:
        ValidationFailed: it names no export.
    """
    user_id, export_id = named(body, "export", "user_id", "export_id")
    return ExportKey(UserId(user_id), ExportId(export_id))
