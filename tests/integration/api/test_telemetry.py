"""Telemetry through the API: its parameters, what is wrong with them, and pages of several devices."""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import pytest

from karma.billing.plans import PlanName
from karma.core.clock import epoch_ms, from_epoch_ms, iso
from karma.core.dynamo.partitions import delete_keys, pages
from karma.core.ids import DeviceId, UserId, new_id
from karma.devices.repository.devices import DeviceRepository
from karma.devices.repository.items import TelemetryItem, day_of, telemetry_pk
from karma.devices.repository.telemetry import TelemetryRepository
from karma.devices.samples import Batch
from karma.integrations.s3 import S3Archives
from karma.telemetry.archive_repository import ArchiveRepository
from karma.telemetry.archiving import Archiving
from karma.telemetry.domain import DAY_MS, HOUR_MS, Level, Period
from karma.telemetry.repository import RollupRepository
from tests.integration.api.conftest import Api
from tests.support.devices import provisioning_device
from tests.support.plans import reserved, subscribe
from tests.support.rows import DAY, NOW
from tests.support.stack import Context, Stack

QUERY = "/api/v1/telemetry/query"
HOUR = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=3)
"""A full hour that raw telemetry is kept of."""
BEGIN_MS = epoch_ms(HOUR)


def device(api: Api, *samples: tuple[int, Mapping[str, float]]) -> DeviceId:
    """Make a device with samples, each at milliseconds behind HOUR, of which the stream has told."""
    owner = UserId(api.call("GET", "/api/v1/users/me").data["user"]["id"])
    devices, made = DeviceRepository(), provisioning_device(owner)
    devices.claim(made, reservation=reserved(owner), attempt="a", now=NOW)
    devices.activate(made, attempt="a", certificate_id="c", now=NOW)
    for seq, (at, values) in enumerate(samples):
        ts = BEGIN_MS + at
        text = str([[ts, values]]).replace("'", '"').encode()
        TelemetryRepository().store(made.id, Batch("b", seq, ts, ts, 1, text, "d", {}))
    RollupRepository().mark(Period(made.id, Level.HOUR, BEGIN_MS // HOUR_MS), due=HOUR)
    return made.id


def test_the_parameters_of_one_device(ada: Api) -> None:
    path = f"/api/v1/devices/{device(ada)}/telemetry"
    for query in (
        "from=2026-11-20T00:00:00Z&to=2026-11-21T00:00:00%2B01:00&resolution=hour",
        "from=1795250341254",
        "from=2026-01-01T00:00:00Z&percentiles=50,99.9",
    ):
        assert ada.call("GET", path, query=query).status == 200
    for query in ("from=yesterday", "resolution=week", "limit=0", "percentiles=0", "percentiles=1,2,3,4,5,6"):
        assert ada.call("GET", path, query=query).status == 422, query
    for query, code in (
        ("from=2026-01-01T00:00:00Z&resolution=raw", "INVALID_RANGE"),
        ("percentiles=50&resolution=minute", "INVALID_PERCENTILES"),
    ):
        answer = ada.call("GET", path, query=query)
        assert (answer.status, answer.code) == (400, code)


WRONG_QUERIES = {
    "metric": {"%20x": "blank", "a%0Ab": "control characters"},
    "from": {"yesterday": "ISO 8601", "2026-13-01T00:00:00Z": "ISO 8601"},
    "to": {"9999999999999999": "ISO 8601", "x": "ISO 8601"},
    "limit": {"0": "1"},
    "resolution": {"week": "raw"},
    "percentiles": {"100": "between 0 and 100", "p95": "between 0 and 100"},
}
"""By parameter of the route: values, and what is said of each."""


@pytest.mark.fault("F-24h")
def test_all_that_is_wrong_is_told_at_once_each_with_its_own_rule(ada: Api) -> None:
    path = f"/api/v1/devices/{device(ada)}/telemetry"
    for turn in range(2):
        chosen = {name: [*values.items()][turn % len(values)] for name, values in WRONG_QUERIES.items()}
        query = "&".join(f"{name}={value}" for name, (value, _) in chosen.items())
        told = ada.call("GET", path, query=query).json["error"]["details"]
        assert {each["field"] for each in told} == set(chosen)
        assert all(chosen[each["field"]][1] in each["message"] for each in told), told


def test_a_device_shows_buckets_and_raw(ada: Api) -> None:
    path = f"/api/v1/devices/{device(ada, (0, {'temp_c': 1}), (30_000, {'temp_c': 4}), (60_000, {'hum': 7}))}/telemetry"
    query = f"from={BEGIN_MS}&to={BEGIN_MS + 60_001}&resolution=minute"
    shown = ada.call("GET", path, query=query).data
    first, second = shown["points"]
    assert first == {
        "metric": "temp_c", "ts": iso(HOUR), "count": 2, "min": 1, "max": 4, "avg": 2.5, "sum": 5,
        "last": 4, "partial": False,
    }  # fmt: skip
    assert (second["metric"], second["sum"], shown["next_cursor"], shown["resolution"]) == ("hum", 7, None, "minute")
    raw = ada.call("GET", path, query=f"metric=temp_c&from={BEGIN_MS}&to={BEGIN_MS + 60_001}").data
    assert ([point["value"] for point in raw["points"]], raw["resolution"]) == ([1, 4], "raw")
    hours = ada.call(
        "GET", path, query=f"metric=temp_c&from={BEGIN_MS}&to={BEGIN_MS + 1}&resolution=hour&percentiles=50"
    )
    assert hours.data["points"][0]["percentiles"]["p50"] == pytest.approx(1, 0.011)


def test_several_devices_are_read_by_pages_of_the_same_time(ada: Api) -> None:
    ids = [device(ada, *((n * 60_000, {"temp_c": n + at}) for n in range(5))) for at in (0, 10)]
    asked: dict[str, Any] = {
        "devices": ids,
        "metrics": ["temp_c"],
        "begins_at": iso(HOUR),
        "ends_at": iso(HOUR.replace(minute=10)),
        "resolution": "minute",
        "limit": 4,
    }
    found: dict[str, list[float]] = {each: [] for each in ids}
    cursor, pages = None, 0
    while cursor is not None or not pages:
        answer = ada.call("POST", QUERY, {**asked, "cursor": cursor})
        assert answer.status == 200, answer.text
        for series in answer.data["series"]:
            found[series["device_id"]] += [point["last"] for point in series["points"]]
        cursor, pages = answer.data["next_cursor"], pages + 1
    assert found == {ids[0]: [0, 1, 2, 3, 4], ids[1]: [10, 11, 12, 13, 14]}
    assert pages == 5
    whole = ada.call("POST", QUERY, {**asked, "limit": None}).data
    assert whole["series"][0]["gaps"] == [[iso(HOUR.replace(minute=5)), iso(HOUR.replace(minute=10))]]
    assert (whole["begins_at"], whole["ends_at"]) == (asked["begins_at"], asked["ends_at"])
    first = ada.call("POST", QUERY, asked).data["next_cursor"]
    assert ada.call("POST", QUERY, {**asked, "metrics": ["hum"], "cursor": first}).code == "INVALID_CURSOR"


WRONG_BODIES: tuple[tuple[dict[str, Any], int, str], ...] = (
    ({"devices": []}, 422, "devices"),
    ({"devices": ["x"] * 21}, 422, "devices"),
    ({"metrics": ["a\n"]}, 422, "metrics"),
    ({"metrics": [""]}, 422, "metrics"),
    ({"metrics": ["m"] * 51}, 422, "metrics"),
    ({"percentiles": [0]}, 422, "percentiles"),
    ({"percentiles": ["95"]}, 422, "percentiles"),
    ({"limit": 5_001}, 422, "limit"),
    ({"begins_at": "yesterday"}, 422, "begins_at"),
    ({"resolution": "week"}, 422, "resolution"),
    ({"begins_at": iso(NOW), "ends_at": iso(NOW)}, 422, "begins_at"),
    ({"begins_at": iso(NOW - 40 * DAY), "resolution": "minute", "ends_at": iso(NOW)}, 422, "begins_at"),
    ({"ends_at": "0001-01-01T00:00:00Z"}, 422, "ends_at"),
    ({"percentiles": [95], "resolution": "raw"}, 400, "INVALID_PERCENTILES"),
    ({"cursor": "x"}, 400, "INVALID_CURSOR"),
    ({"devices": [new_id()]}, 404, "NOT_FOUND"),
)
"""Members that are wrong, the status, and the field or the code that the answer names."""


def test_what_is_wrong_is_named(ada: Api) -> None:
    right = {"devices": [device(ada)]}
    for wrong, status, named in WRONG_BODIES:
        answer = ada.call("POST", QUERY, {**right, **wrong})
        assert answer.status == status, (wrong, answer.text)
        if status == 422:
            found = {each["field"].partition(".")[0].partition("[")[0] for each in answer.json["error"]["details"]}
            assert found == {named}, wrong
        else:
            assert answer.code == named, wrong


EXPORTS = "/api/v1/telemetry/exports"


def exported(ada: Api, stack: Stack, context: Context, asked: Mapping[str, Any], **headers: str) -> dict[str, Any]:
    """Ask for an export, let the function write it, and return it as it is then."""
    from background.telemetry import lambda_handler

    made = ada.call("POST", EXPORTS, asked, **headers)
    assert made.status == 202, made.text
    view = made.data["export"]
    assert (view["state"], view["url"], view["ended_at"]) == ("queued", None, None)
    sqs = stack.aws("sqs")
    while bodies := sqs.receive_message(QueueUrl=stack.queues["telemetry"], MaxNumberOfMessages=10).get("Messages"):
        records = [{"messageId": each["MessageId"], "body": each["Body"]} for each in bodies]
        assert lambda_handler({"Records": records}, context) == {"batchItemFailures": []}
        for each in bodies:
            sqs.delete_message(QueueUrl=stack.queues["telemetry"], ReceiptHandle=each["ReceiptHandle"])
    found: dict[str, Any] = ada.call("GET", f"{EXPORTS}/{view['id']}").data["export"]
    return found


def test_an_export_is_a_link_to_a_table(ada: Api, stack: Stack, lambda_context: Context) -> None:
    made = device(ada, *((n * 1_000, {"temp_c": n, "hum": 1}) for n in range(30)))
    asked: dict[str, Any] = {"devices": [made], "begins_at": iso(HOUR), "ends_at": iso(HOUR.replace(minute=10))}
    ids = []
    for more, rows in (
        ({"resolution": "raw"}, 60),
        ({"resolution": "minute", "format": "csv-excel"}, 2),
        ({"resolution": "hour", "percentiles": [50], "format": "parquet"}, 2),
        ({"metrics": ["absent"], "format": "parquet"}, 0),
    ):
        view = exported(ada, stack, lambda_context, {**asked, **more})
        ids.append(view["id"])
        assert (view["state"], view["progress"], view["rows"], view["error"]) == ("succeeded", 1, rows, None)
        key = urlsplit(view["url"]).path.rpartition("exports/")[2]
        stored = stack.aws("s3").get_object(Bucket=stack.bucket, Key=f"exports/{key}")
        data = stored["Body"].read()
        assert len(data) == view["size"]
        if more.get("format") == "parquet":
            assert (data[:4], data[-4:]) == (b"PAR1", b"PAR1")
        else:
            assert stored["ContentEncoding"] == "gzip"
            assert len(gzip.decompress(data).splitlines()) == rows + 1
    listed = ada.call("GET", EXPORTS, query="limit=3").data
    assert [each["id"] for each in listed["exports"]] == ids[:0:-1]
    [first] = ada.call("GET", EXPORTS, query=f"limit=3&cursor={listed['next_cursor']}").data["exports"]
    assert (first["id"], first["url"]) == (ids[0], None)
    assert ada.call("POST", EXPORTS, {**asked, "format": "xlsx"}).status == 422
    assert ada.call("POST", EXPORTS, {**asked, "limit": 5}).status == 422
    assert ada.call("POST", EXPORTS, {**asked, "begins_at": asked["ends_at"]}).status == 422
    assert ada.call("POST", f"{EXPORTS}/{ids[0]}/cancel").status == 409


def test_an_export_is_repeated_and_cancelled(ada: Api) -> None:
    asked = {"devices": [device(ada, (0, {"temp_c": 1}))], "begins_at": iso(HOUR)}
    first, again = (ada.call("POST", EXPORTS, asked, idempotency_key="k").data["export"] for _ in range(2))
    assert first == again
    assert ada.call("POST", EXPORTS, {**asked, "format": "parquet"}, idempotency_key="k").status == 409
    for _ in range(2):
        cancelled = ada.call("POST", f"{EXPORTS}/{first['id']}/cancel").data["export"]
        assert (cancelled["state"], cancelled["url"]) == ("cancelled", None)
    for _ in range(3):
        assert ada.call("POST", EXPORTS, asked).status == 202
    full = ada.call("POST", EXPORTS, asked)
    assert (full.status, full.code) == (429, "RATE_LIMITED")
    assert ada.call("GET", f"{EXPORTS}/{new_id()}").status == 404


def test_too_many_series_are_refused(ada: Api) -> None:
    ids = [device(ada) for _ in range(3)]
    refused = ada.call("POST", QUERY, {"devices": ids, "metrics": [f"m{n}" for n in range(34)]})
    assert (refused.status, refused.code) == (400, "TOO_MANY_SERIES")


def test_raw_samples_of_an_archived_day_are_read_and_exported_by_the_same_routes(
    ada: Api, stack: Stack, lambda_context: Context
) -> None:
    """R-K-12: and no longer than the account's plan says."""
    owner, made = UserId(ada.call("GET", "/api/v1/users/me").data["user"]["id"]), device(ada)
    number = epoch_ms(NOW) // DAY_MS - 100
    raw, rollups, ts = TelemetryRepository(), RollupRepository(), number * DAY_MS + 5
    raw.store(made, Batch("b", 1, ts, ts, 1, f'[[{ts},{{"temp_c":20.5}}]]'.encode(), "d", {}), owner=owner)
    rollups.numbers(made, ["temp_c"])
    day = Period(made, Level.ARCHIVE, number)
    rollups.mark(day, due=NOW)
    dirty = rollups.dirty(day)
    assert dirty is not None
    Archiving(raw, ArchiveRepository(), S3Archives(stack.bucket), kept_days=lambda _: 365).archive(dirty)
    delete_keys(TelemetryItem, [key for keys in pages(TelemetryItem, telemetry_pk(made, day_of(ts))) for key in keys])
    path, query = f"/api/v1/devices/{made}/telemetry", f"from={ts - 5}&to={ts + 5}&resolution=raw&metric=temp_c"
    assert ada.call("GET", path, query=query).data["points"] == []  # its plan has no archives
    subscribe(owner, PlanName.PRO)
    shown = ada.call("GET", path, query=query)
    assert shown.data["points"] == [{"ts": iso(from_epoch_ms(ts)), "value": 20.5}]
    asked = {
        "devices": [made],
        "begins_at": iso(from_epoch_ms(ts)),
        "ends_at": iso(from_epoch_ms(ts + 5)),
        "resolution": "raw",
    }
    [series] = ada.call("POST", QUERY, asked).data["series"]
    assert (series["metric"], series["points"]) == ("temp_c", shown.data["points"])
    assert exported(ada, stack, lambda_context, asked)["rows"] == 1
    beyond = ada.call("GET", path, query=f"from={ts - 40 * DAY_MS}&to={ts}&resolution=raw")
    assert (beyond.status, beyond.code) == (400, "INVALID_RANGE")
