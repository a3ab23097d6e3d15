from __future__ import annotations

import hashlib
import re
from typing import Annotated

from fastapi import Query, Request
from pydantic import AfterValidator

from api.services import billing, devices, telemetry
from karma.core.clock import epoch_ms, from_epoch_ms, parse_iso
from karma.core.ids import UserId
from karma.core.paging import shown
from karma.devices.samples import MAX_METRIC_CHARS, metric_name
from karma.http.access import permit
from karma.http.idempotency import Outcome, idempotency_key, once
from karma.http.openapi import answers
from karma.http.pages import DEFAULT_SIZE, Cursor, Limit, next_cursor, position, scope_of
from karma.http.presenters import Answer, ok
from karma.http.routing import Router
from karma.identity.domain import Caller
from karma.telemetry.answers import (
    TelemetryData,
    TelemetryExportData,
    TelemetryExportListData,
    TelemetrySeriesData,
    export_view,
    series_data,
    telemetry_data,
)
from karma.telemetry.domain import Resolution
from karma.telemetry.query import MAX_POINTS, TelemetryPage, TelemetryQuery
from karma.telemetry.schemas import ExportTelemetryBody, QueryTelemetryBody, percents_of

router = Router("devices")

Reader = Annotated[Caller, permit("device:read")]

_MILLISECONDS = re.compile(r"[0-9]{1,15}")


def _milliseconds(text: str) -> int:
    try:
        found = int(text) if _MILLISECONDS.fullmatch(text) else epoch_ms(parse_iso(text.replace(" ", "+")))
        from_epoch_ms(found)
    except (ValueError, OverflowError):
        raise ValueError("ISO 8601 with an offset, or milliseconds since 1970") from None
    return found


def _metric(text: str) -> str:
    if text != text.strip(" "):
        raise ValueError("must not begin or end with a blank")
    name = metric_name(text) if text else ""
    if name is None:
        raise ValueError("must not have control characters, line ends or half characters")
    return name


def _readable(text: str) -> str:
    _milliseconds(text)
    return text


def _percentiles(text: str) -> str:
    percents_of(text)
    return text


Moment = Annotated[str, AfterValidator(_readable)]


@router.get("/devices/{device_id}/telemetry", responses=answers(errors=(400, 404)))
async def read_telemetry(
    device_id: str,
    caller: Reader,
    metric: Annotated[str, AfterValidator(_metric), Query(max_length=MAX_METRIC_CHARS)] = "",
    from_: Annotated[Moment | None, Query(alias="from", max_length=40)] = None,
    to: Annotated[Moment | None, Query(max_length=40)] = None,
    resolution: Resolution = Resolution.AUTO,
    percentiles: Annotated[str, AfterValidator(_percentiles), Query(max_length=60)] = "",
    limit: Annotated[int | None, Query(ge=1, le=MAX_POINTS)] = None,
    cursor: Cursor | None = None,
) -> Answer[TelemetryData]:
    """Read points of [from, to), the last 24 h by default; times are ISO 8601 with an offset, or milliseconds.

    `raw` answers `{ts, value}`, the others `{ts, count, min, max, avg, sum, last, partial}` of each UTC minute, hour or
    day that has samples. `auto` is raw up to an hour, minutes up to 25 hours, hours up to 62 days, then days.
    `percentiles` (`50,95`: up to five, of hours and days) are beside them. Without `metric` points name their own.
    """
    scope = scope_of("telemetry", caller.user_id, device_id, metric, resolution, percentiles, from_, to)
    query = TelemetryQuery(
        devices=(device_id,),
        metrics=(metric,) if metric else (),
        from_ms=_milliseconds(from_) if from_ is not None else None,
        to_ms=_milliseconds(to) if to is not None else None,
        resolution=resolution,
        percents=percents_of(percentiles),
        limit=limit,
        after=position(cursor, scope) or None,
    )

    def use(owner: UserId) -> TelemetryPage:
        return telemetry.reader().read(owner, query)

    found = devices.shared().to_read(caller.user_id, device_id, use)
    return ok(telemetry_data(found, named=not metric, next_cursor=next_cursor(found.next_position, scope)))


@router.post("/telemetry/query", limit="costly", responses=answers(errors=(400, 404)))
async def query_telemetry(body: QueryTelemetryBody, caller: Reader) -> Answer[TelemetrySeriesData]:
    """Read several metrics of several devices, as `GET /devices/{device_id}/telemetry` reads one; changes nothing.

    Each page is one stretch of time, the same for all series; `gaps` are its stretches of buckets without a sample.
    """
    asked = body.model_dump_json(exclude={"cursor", "limit"})
    scope = scope_of("telemetry", caller.user_id, hashlib.sha256(asked.encode()).hexdigest())
    after = position(body.cursor, scope) or None
    with body.naming_ranges():
        found = telemetry.reader().read(caller.user_id, body.query(after))
    return ok(series_data(found, next_cursor=next_cursor(found.next_position, scope)))


@router.post(
    "/telemetry/exports",
    idempotent=True,
    limit="costly",
    status_code=202,
    responses=answers(status=202, errors=(400, 404, 429)),
)
async def create_telemetry_export(
    request: Request, body: ExportTelemetryBody, caller: Reader
) -> Answer[TelemetryExportData]:
    """Write what `POST /telemetry/query` would read, on all its pages, as a table: in the background.

    One row a point. `GET /telemetry/exports/{export_id}` tells how far it is, and has the link.
    """

    def create() -> Outcome[TelemetryExportData]:
        with body.naming_ranges():
            made = telemetry.exports().create(
                caller.user_id,
                body.asked(),
                body.format,
                most_rows=billing.allowances().of(caller.user_id).plan.limits.export_rows,
                idempotency_key=idempotency_key(request, caller),
            )
        return Outcome(status=202, data={"export": export_view(made)}, made_id=made.key.export_id)

    return await once(request, caller, create, find=lambda made: telemetry.exports().get(caller.user_id, made))


@router.get("/telemetry/exports", responses=answers(errors=(400,)))
async def list_telemetry_exports(
    caller: Reader, limit: Limit = DEFAULT_SIZE, cursor: Cursor | None = None
) -> Answer[TelemetryExportListData]:
    """List the caller's exports, newest first and without links; they are kept for a day after their end."""
    scope = scope_of("telemetry-exports", caller.user_id)
    after = str(position(cursor, scope).get("id", ""))
    found, following = telemetry.exports().list(caller.user_id, limit=limit, after=after)
    kept, written = shown(found, export_view)
    more = following if len(kept) == len(found) else kept[-1].key.export_id
    return ok({"exports": written, "limit": limit, "next_cursor": next_cursor({"id": more}, scope)})


@router.get("/telemetry/exports/{export_id}", responses=answers(errors=(404, 503)))
async def get_telemetry_export(export_id: str, caller: Reader) -> Answer[TelemetryExportData]:
    """Show an export: how far it is, and once it has succeeded a link to its table for an hour."""
    found = telemetry.exports().get(caller.user_id, export_id)
    return ok({"export": export_view(found, telemetry.exports().link(found))})


@router.post("/telemetry/exports/{export_id}/cancel", responses=answers(errors=(404, 409)))
async def cancel_telemetry_export(export_id: str, caller: Reader) -> Answer[TelemetryExportData]:
    """Cancel an export that is not over: its table is not written on, and what was written of it is removed."""
    return ok({"export": export_view(telemetry.exports().cancel(caller.user_id, export_id))})
