"""Messages that name an export, in the queue of telemetry: hints, which may come twice or late."""

from __future__ import annotations

import orjson

from karma.core.errors import Upstream, ValidationFailed
from karma.core.ids import UserId, is_id
from karma.core.observability import count, logger
from karma.telemetry.exports.domain import ExportId, ExportKey
from karma.telemetry.exports.ports import ExportQueue


def send_export(queue: ExportQueue, key: ExportKey) -> bool:
    """Enqueue an export; return False when that failed: the sweep sends it again within minutes."""
    body = {"export": {"user_id": key.user_id, "export_id": key.export_id}}
    try:
        queue.send(orjson.dumps(body).decode())
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
    try:
        named = orjson.loads(body)["export"]
        user_id, export_id = named["user_id"], named["export_id"]
    except (ValueError, KeyError, TypeError) as exc:
        raise ValidationFailed.of("body", "must name an export") from exc
    if not (is_id(user_id) and is_id(export_id)):
        raise ValidationFailed.of("body", "must name an export by ids")
    return ExportKey(UserId(user_id), ExportId(export_id))
