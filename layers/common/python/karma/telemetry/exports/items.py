"""Items of exports in the table `telemetry`, and their keys.

| item | pk | sk | gsi1pk | gsi1sk |
|---|---|---|---|---|
| export | EXPORTS#<user> | EXPORT#<export> | SWEEP#EXPORTS while it is not over | <when>#<export> |
| number of an account's exports that are not over | EXPORTS#<user> | OPEN | - | - |
| export made for an Idempotency-Key | EXPORTS#<user> | REQUEST#<token> | - | - |
"""

from __future__ import annotations

from typing import Any, Final, cast

from pynamodb.attributes import JSONAttribute, NumberAttribute, UnicodeAttribute

from karma.core.dynamo.items import Item, Key, TableMeta
from karma.core.dynamo.requests import RequestAttributes
from karma.core.ids import DeviceId, UserId
from karma.telemetry.domain import Resolution
from karma.telemetry.exports.domain import (
    ExportFailure,
    ExportId,
    ExportKey,
    ExportOrder,
    ExportPlace,
    ExportState,
    TelemetryExport,
)
from karma.telemetry.tables import TableFormat

EXPORT_PREFIX: Final = "EXPORT#"
DUE_PARTITION: Final = "SWEEP#EXPORTS"


def owner_pk(user_id: UserId) -> str:
    """Return the partition of an account's exports."""
    return f"EXPORTS#{user_id}"


def export_key(key: ExportKey) -> Key:
    """Return the key of an export."""
    return Key(owner_pk(key.user_id), f"{EXPORT_PREFIX}{key.export_id}")


def open_key(user_id: UserId) -> Key:
    """Return the key of the number of an account's exports that are not over."""
    return Key(owner_pk(user_id), "OPEN")


class ExportsItem(Item):
    """Base of what exports keep in the table `telemetry`."""

    class Meta(TableMeta):
        """Names the table."""

        logical = "telemetry"


class ExportItem(ExportsItem, discriminator="telemetry_export"):
    """An export."""

    user_id = UnicodeAttribute()
    export_id = UnicodeAttribute()
    order = JSONAttribute()
    """`[devices, metrics, from, to, resolution, percentiles, format, most rows]`."""
    state = UnicodeAttribute()
    created_ms = NumberAttribute()
    reached_ms = NumberAttribute()
    skip = NumberAttribute(default=0)
    rows = NumberAttribute(default=0)
    ended_ms = NumberAttribute(null=True)
    size = NumberAttribute(default=0)
    table = UnicodeAttribute(null=True)
    upload_id = UnicodeAttribute(null=True)
    checkpoint = UnicodeAttribute(null=True)
    next_part = NumberAttribute(default=1)
    attempts = NumberAttribute(default=0)
    held_until_ms = NumberAttribute(default=0)
    failure = JSONAttribute(null=True)
    """`[code, message]`."""


class OpenExportsItem(ExportsItem, discriminator="telemetry_exports_open"):
    """The number of an account's exports that are not over."""

    value = NumberAttribute(default=0)


class ExportRequestItem(RequestAttributes, ExportsItem, discriminator="telemetry_export_request"):
    """The export that a request with an Idempotency-Key has made."""


def stored_order(order: ExportOrder) -> list[Any]:
    """Return an order as it is stored."""
    asked = [list(order.devices), list(order.metrics), order.from_ms, order.to_ms, order.resolution.value]
    return [*asked, list(order.percents), order.format.value, order.most_rows]


def export_of(item: ExportItem) -> TelemetryExport:
    """Return the export of an item."""
    devices, metrics, from_ms, to_ms, resolution, percents, form, most_rows = cast("list[Any]", item.order)
    failure = cast("list[str] | None", item.failure)
    return TelemetryExport(
        key=ExportKey(UserId(item.user_id), ExportId(item.export_id)),
        order=ExportOrder(
            devices=tuple(DeviceId(each) for each in devices),
            metrics=tuple(metrics),
            from_ms=from_ms,
            to_ms=to_ms,
            resolution=Resolution(resolution),
            percents=tuple(percents),
            format=TableFormat(form),
            most_rows=most_rows,
        ),
        state=ExportState(item.state),
        created_ms=int(item.created_ms),
        place=ExportPlace(int(item.reached_ms), int(item.skip)),
        rows=int(item.rows),
        ended_ms=int(item.ended_ms or 0) or None,
        size=int(item.size),
        table=item.table or "",
        upload_id=item.upload_id or "",
        checkpoint=item.checkpoint or "",
        next_part=int(item.next_part),
        attempts=int(item.attempts),
        held_until_ms=int(item.held_until_ms),
        failure=ExportFailure(*failure) if failure else None,
        version=int(item.version or 0),
    )
