"""Importing devices from a list: each becomes a device without a certificate, all of them or those that can.

A device is made in two transactions: the first takes its serial number and its part of the plan, the second shows it.
So a list of which all shall be made, or none, takes all that it needs first, and gives it back where one is refused.
Whoever dies in between leaves devices that nobody sees, which a repeat with the same key takes over at once, any other
request after a minute, and which the sweep of devices removes. Of two lists with the same serial numbers at the same
time, who comes second to one is refused, and has given back what it took when it is told so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from hashlib import sha256
from typing import Final

from karma.billing.allowances import Allowance, Metric
from karma.core.clock import Clock, iso
from karma.core.dynamo.failures import ConditionFailed
from karma.core.errors import AlreadyExists, AppError, Conflict, Gone, QuotaExceeded, ValidationFailed
from karma.core.ids import DeviceId, UserId, new_id
from karma.core.observability import count, logger
from karma.core.records import Record
from karma.core.requests import IdempotencyKey, RepeatableRequest, no_longer, repeatable
from karma.devices.device_csv import DeviceRow, DeviceTable, RowFault
from karma.devices.domain import Device, DeviceState
from karma.devices.repository.devices import DeviceRepository
from karma.devices.service import NewDevice, provisioning

_AT_WORK: Final = timedelta(seconds=60)
"""Time for which what another request has begun is left to it: longer than any request takes."""
_TOLD: Final = 100
"""Faults of which a refused list tells."""


class ImportedDevice(Record, kw_only=True):
    """A device that a row has made."""

    line: int
    id: DeviceId
    serial_number: str


class ImportReport(Record, kw_only=True):
    """Outcome of an import, row by row."""

    total: int
    created: Sequence[ImportedDevice]
    refused: Sequence[RowFault]


class _Claimed(Record, kw_only=True):
    row: DeviceRow
    device: Device
    attempt: str
    request: RepeatableRequest | None


class ImportService:
    """Makes devices of lists."""

    def __init__(self, devices: DeviceRepository, clock: Clock) -> None:
        self._devices = devices
        self._clock = clock

    def import_all(
        self,
        user_id: UserId,
        table: DeviceTable,
        *,
        allowance: Allowance,
        idempotency_key: IdempotencyKey | None = None,
    ) -> ImportReport:
        """Make a device of each row, or of none.

        A repeat with the same key goes on where the first request has died, also when it had made some of them.

        Raises:
            ValidationFailed: a row is wrong.
            AlreadyExists: a serial number is taken, also by a device that another import is making at this moment.
            QuotaExceeded: the plan has no room for all of them.
            Conflict: another request makes one of the devices at this moment; what comes behind it is given back.
            Gone: a device that the first request with this key made was deleted.
            AccountGone: the owner's account is deleted.
            Upstream: the database did not answer.
        """
        if table.faults:
            raise _refused(table.faults)
        claimed: list[_Claimed] = []
        made: list[ImportedDevice] = []
        try:
            for row in table.rows:
                request = self._request(idempotency_key, row)
                if (earlier := self._made_before(user_id, row, request)) is not None:
                    made.append(earlier)
                else:
                    claimed.append(self._claim(user_id, row, request, allowance))
        except AppError as exc:
            self._give_back(claimed)
            line = table.rows[len(claimed) + len(made)].line
            raise _of_line(exc, line) from exc
        for at, each in enumerate(claimed):
            try:
                made.append(self._show(each))
            except Conflict as exc:
                self._give_back(claimed[at + 1 :])
                raise _of_line(exc, each.row.line) from exc
        return _report(table, made, ())

    def import_each(
        self,
        user_id: UserId,
        table: DeviceTable,
        *,
        allowance: Allowance,
        idempotency_key: IdempotencyKey | None = None,
    ) -> ImportReport:
        """Make a device of each row that can become one; the report says which could not, and why.

        Raises:
            AccountGone: the owner's account is deleted.
            Upstream: the database did not answer; a repeat with the same key goes on.
        """
        made: list[ImportedDevice] = []
        refused = list(table.faults)
        for row in table.rows:
            request = self._request(idempotency_key, row)
            try:
                made.append(
                    self._made_before(user_id, row, request)
                    or self._show(self._claim(user_id, row, request, allowance))
                )
            except (AlreadyExists, QuotaExceeded, Conflict, Gone) as exc:
                field = "" if isinstance(exc, QuotaExceeded) else "serial_number"
                refused.append(RowFault(row.line, field, exc.message, exc.code))
        return _report(table, made, sorted(refused))

    def _request(self, key: IdempotencyKey | None, row: DeviceRow) -> RepeatableRequest | None:
        # A request for each device, so that a repeat finds those that are made.
        own = replace(key, value=f"{key.value}\n{row.device.serial_number}") if key is not None else None
        return repeatable(own, row.device.model_dump(mode="json"), at=self._clock.now())

    def _made_before(self, user_id: UserId, row: DeviceRow, request: RepeatableRequest | None) -> ImportedDevice | None:
        made = self._devices.made_by(user_id, request) if request is not None else None
        if made is None:
            return None
        device = self._devices.row(user_id, made, consistent=True)
        if device is None or device.state is not DeviceState.ACTIVE:
            raise no_longer(made)
        return ImportedDevice(line=row.line, id=made, serial_number=device.serial_number)

    def _claim(
        self, user_id: UserId, row: DeviceRow, request: RepeatableRequest | None, allowance: Allowance
    ) -> _Claimed:
        now = self._clock.now()
        attempt = _attempt(user_id, request) if request is not None else new_id()
        fields = row.device.model_dump(exclude={"csr", "tags"})
        device = provisioning(user_id, NewDevice(**fields, tags=tuple(row.device.tags)), now=iso(now))
        try:
            self._devices.claim(device, reservation=allowance.reserve(Metric.DEVICES), attempt=attempt, now=now)
        except AlreadyExists:
            device = self._devices.take_over(device, attempt=attempt, now=now, idle_since=now - _AT_WORK)
        return _Claimed(row=row, device=device, attempt=attempt, request=request)

    def _show(self, claimed: _Claimed) -> ImportedDevice:
        try:
            device = self._devices.activate(
                claimed.device,
                attempt=claimed.attempt,
                certificate_id="",
                now=self._clock.now(),
                request=claimed.request,
            )
        except (ConditionFailed, AlreadyExists) as exc:
            # The same request, sent twice at once, has shown it.
            earlier = self._made_before(claimed.device.user_id, claimed.row, claimed.request)
            if earlier is not None:
                return earlier
            raise Conflict(f"The creation of {claimed.device.serial_number} was taken over by another request") from exc
        count("DeviceCreated")
        return ImportedDevice(line=claimed.row.line, id=device.id, serial_number=device.serial_number)

    def _give_back(self, claimed: Sequence[_Claimed]) -> None:
        for each in claimed:
            self._undo(lambda each=each: self._devices.discard(each.device, attempt=each.attempt))  # type: ignore[misc]

    def _undo(self, undo: Callable[[], None]) -> None:
        try:
            undo()
        except (AppError, ConditionFailed) as exc:
            # The sweep of devices finds it.
            logger.warning("import.left_for_sweep", cause=type(exc).__name__)


def _attempt(user_id: UserId, request: RepeatableRequest) -> str:
    """Return the id under which a request, and each repeat of it, makes a device: a repeat goes on at once."""
    return sha256(f"{user_id}\n{request.key.value}\n{request.request_hash}".encode()).hexdigest()[:32]


def _report(table: DeviceTable, made: Sequence[ImportedDevice], refused: Sequence[RowFault]) -> ImportReport:
    logger.info("devices.imported", rows=table.total, devices=len(made), refusals=len(refused))
    created = sorted(made, key=lambda each: each.line)
    return ImportReport(total=table.total, created=created, refused=refused)


def _refused(faults: Sequence[RowFault]) -> ValidationFailed:
    told = sorted(faults)
    details = [
        {"field": _place(each.line, each.field), "message": each.message, "type": "value_error"}
        for each in told[:_TOLD]
    ]
    return ValidationFailed("Request validation failed", details=details)


def _of_line(exc: AppError, line: int) -> AppError:
    """Return the error of one row with its line."""
    if type(exc) is Conflict:
        return Conflict(f"Line {line}: {exc.message}", details={"line": line})
    if isinstance(exc, AlreadyExists):
        return AlreadyExists(f"Line {line}: {exc.message}", details={"line": line})
    return exc


def _place(line: int, field: str) -> str:
    return f"csv[{line}].{field}" if field else f"csv[{line}]"
