"""Exports and alarms of the account whose calls are counted: their rows, and what ingest and the worker do for them."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from benchmarks.account import LIMIT, Account, Step, told_by
from benchmarks.world import Context
from karma.core.clock import SystemClock, epoch_ms, iso
from karma.core.ids import UserId

if TYPE_CHECKING:
    from benchmarks.calls import Cost
    from karma.telemetry.exports.domain import StoredTablePart
    from karma.telemetry.exports.work import ExportWorker
    from karma.telemetry.tables import TableKind

RULES, EXPORTS = "/api/v1/alarm-rules", "/api/v1/telemetry/exports"
RULE = {"name": "Too hot", "trigger": "above", "metric": "temp_c", "high": 40, "margin": 1}

Count = Callable[[str, Callable[[], Any]], "tuple[Cost, Any]"]
"""Counts the calls of some work, under the name of a row, and returns what the work does."""


class Objects:
    """The storage of tables, which keeps nothing but the last checkpoint: no call of it is one of DynamoDB."""

    def __init__(self) -> None:
        self._kept: dict[str, bytes] = {}

    def put(self, name: str, data: bytes, *, kind: TableKind | None = None) -> None:  # noqa: ARG002
        """See karma.telemetry.exports.ports.ExportObjects."""
        self._kept = {name: data}

    def read(self, name: str) -> bytes | None:
        """See karma.telemetry.exports.ports.ExportObjects."""
        return self._kept.get(name)

    def begin(self, name: str, kind: TableKind) -> str:  # noqa: ARG002
        """See karma.telemetry.exports.ports.ExportObjects."""
        return "upload"

    def put_part(self, name: str, upload_id: str, number: int, data: bytes) -> StoredTablePart:  # noqa: ARG002
        """See karma.telemetry.exports.ports.ExportObjects."""
        from karma.telemetry.exports.domain import StoredTablePart

        return StoredTablePart(number, "etag", len(data))

    def complete(self, name: str, upload_id: str, parts: Sequence[StoredTablePart]) -> None:
        """See karma.telemetry.exports.ports.ExportObjects."""

    def abort(self, name: str, upload_id: str) -> None:
        """See karma.telemetry.exports.ports.ExportObjects."""

    def link(self, name: str, *, filename: str, now: Any) -> tuple[str, Any]:
        """See karma.telemetry.exports.ports.ExportObjects."""
        raise NotImplementedError

    def remove_all(self, user_id: UserId, *, limit: int) -> int:
        """See karma.telemetry.exports.ports.ExportObjects."""
        raise NotImplementedError

    def send(self, body: str, *, delay_s: int = 0) -> None:
        """See karma.telemetry.exports.ports.ExportQueue."""


class Fleet:
    """Exports and alarms of the account, and the work on them."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self._objects = Objects()
        self._seq = 0
        self._said_ms = 0

    def make(self) -> None:
        """Make rules, an alarm that is open, and exports that are over."""
        first, call = self._account.first, self._account.call
        for number in range(LIMIT + 1):
            body = {**RULE, "name": f"Too hot, no. {number}", "device_id": first.device_id, "enabled": number == 0}
            made = call(Step("", "POST", RULES, body=body))["alarm_rule"]["id"]
            first.rule_id = first.rule_id or made
        self._hear_of_rules()
        self.tell(41.0)
        first.alarm_id = call(Step("", "GET", "/api/v1/alarms"))["alarms"][0]["id"]
        for _ in range(LIMIT + 1):
            first.export_id = self._ordered()
            self._write(first.export_id)

    def reads(self, listed: Callable[[str, str, dict[str, object]], Iterator[Step]]) -> Iterator[Step]:
        """Yield the reads that are measured; `listed` yields those of a list."""
        first, v1 = self._account.first, "/api/v1"
        yield from listed("GET /alarm-rules", RULES, {})
        yield Step("GET /alarm-rules/{id}", "GET", f"{RULES}/{first.rule_id}")
        yield from listed("GET /alarms", f"{v1}/alarms", {})
        yield from listed("GET /alarms?device_id", f"{v1}/alarms", {"device_id": first.device_id})
        yield Step("GET /alarms/{id}", "GET", f"{v1}/alarms/{first.alarm_id}")
        yield from listed("GET /telemetry/exports", EXPORTS, {})
        yield Step("GET /telemetry/exports/{id}", "GET", f"{EXPORTS}/{first.export_id}")

    def changes(self, count: Count) -> Iterator[Cost]:
        """Measure what writes."""
        yield from self._changes_of_alarms(count)
        yield from self._changes_of_exports(count)

    def tell(self, *values: float) -> None:
        """Have the device send values in one message."""
        from device_ingest.handler import lambda_handler

        now_ms = self._said_ms = max(epoch_ms(SystemClock().now()), self._said_ms + len(values))
        self._seq += 1
        samples = [{"ts": now_ms - len(values) + 1 + n, "m": {"temp_c": each}} for n, each in enumerate(values)]
        body = {"boot": "fleet", "seq": self._seq, "samples": samples}
        event = told_by(self._account.first, [("telemetry", body)], received_ms=now_ms)
        with contextlib.redirect_stdout(io.StringIO()):
            answer = lambda_handler(event, Context())  # type: ignore[arg-type]
        if answer["batchItemFailures"]:
            raise RuntimeError("ingest refused a message")

    def _changes_of_alarms(self, count: Count) -> Iterator[Cost]:
        first, call = self._account.first, self._account.call
        rule = f"{RULES}/{first.rule_id}"
        self._hear_of_rules()
        yield count("ingest: a device with a rule, the first in 30 s", lambda: self.tell(41.0))[0]
        yield count("ingest: a device with a rule", lambda: self.tell(41.0))[0]
        yield count("ingest: an alarm is cleared", lambda: self.tell(21.0))[0]
        yield count("ingest: an alarm is raised", lambda: self.tell(41.0))[0]
        [alarm] = call(Step("", "GET", "/api/v1/alarms", {"limit": 1}))["alarms"]
        path = f"/api/v1/alarms/{alarm['id']}/acknowledge"
        for step in (
            Step("POST /alarms/{id}/acknowledge", "POST", path),
            Step("PATCH /alarm-rules/{id}, another name", "PATCH", rule, body={"name": "Much too hot"}),
            Step("PATCH /alarm-rules/{id}, with an open alarm", "PATCH", rule, body={"high": 39}),
        ):
            yield count(step.route, lambda step=step: call(step))[0]  # type: ignore[misc]
        self._hear_of_rules()
        self.tell(41.0)
        yield count("DELETE /alarm-rules/{id}, with an open alarm", lambda: call(Step("", "DELETE", rule)))[0]
        body = {**RULE, "device_id": first.device_id}
        cost, made = count("POST /alarm-rules", lambda: call(Step("", "POST", RULES, body=body)))
        first.rule_id = made["alarm_rule"]["id"]
        yield cost

    def _changes_of_exports(self, count: Count) -> Iterator[Cost]:
        cost, export_id = count("POST /telemetry/exports", self._ordered)
        yield cost
        yield count("telemetry: an export of an hour, in one attempt", lambda: self._write(export_id))[0]
        export_id = self._ordered()
        # Parts have 8 MB in earnest, and an attempt ends after 20 s; here each page is both.
        once = {"work_s": 0, "page_rows": 150, "part_bytes": 1}
        yield count("telemetry: an attempt that stores a part of an export", lambda: self._write(export_id, **once))[0]
        yield count("telemetry: the attempt behind it, which ends it", lambda: self._write(export_id))[0]
        path = f"{EXPORTS}/{self._ordered()}/cancel"
        cancel = Step("POST /telemetry/exports/{id}/cancel", "POST", path)
        yield count(cancel.route, lambda: self._account.call(cancel))[0]

    def _ordered(self) -> str:
        start = self._account.day + timedelta(hours=10)
        body = {
            "devices": [self._account.first.device_id],
            "begins_at": iso(start),
            "ends_at": iso(start + timedelta(hours=1)),
            "resolution": "raw",
        }
        return str(self._account.call(Step("", "POST", EXPORTS, body=body))["export"]["id"])

    def _write(self, export_id: str, **bounds: Any) -> None:
        from karma.telemetry.exports.domain import ExportId, ExportKey

        key = ExportKey(UserId(self._account.first.user_id), ExportId(export_id))
        with contextlib.redirect_stdout(io.StringIO()):
            done = self._worker(**bounds).take(key)
        if done != ("goes on" if bounds else "succeeded"):
            raise RuntimeError(f"the export {done}")

    def _worker(self, **bounds: Any) -> ExportWorker:
        from karma.devices.lookup import DeviceLookup
        from karma.devices.repository.devices import DeviceRepository
        from karma.devices.repository.telemetry import TelemetryRepository
        from karma.integrations.s3 import S3Archives
        from karma.telemetry.archive_repository import ArchiveRepository
        from karma.telemetry.archives import ArchivedBatches
        from karma.telemetry.exports.repository import ExportRepository
        from karma.telemetry.exports.work import ExportWorker
        from karma.telemetry.reading import TelemetryReader
        from karma.telemetry.repository import RollupRepository

        clock = SystemClock()
        batches = ArchivedBatches(TelemetryRepository(), ArchiveRepository(), S3Archives(""), clock)
        devices = DeviceLookup(DeviceRepository())
        reader = TelemetryReader(devices, batches, RollupRepository(), clock, kept_days=lambda _: 30)
        return ExportWorker(ExportRepository(), reader, self._objects, self._objects, clock, **bounds)

    @staticmethod
    def _hear_of_rules() -> None:
        """Let ingest forget what it knows for half a minute."""
        from device_ingest.handler import services

        services.cache_clear()
