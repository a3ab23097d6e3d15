"""Use cases of owners with bulk commands: make one, see how far it is and what each device did, cancel it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final

from karma.core.clock import Clock, epoch_ms
from karma.core.errors import AlreadyExists, InvalidRequest, InvalidTransition, NotFound, ValidationFailed
from karma.core.ids import BulkId, DeviceId, UserId, is_id, new_id
from karma.core.observability import count, logger
from karma.core.records import Record
from karma.core.requests import IdempotencyKey, RepeatableRequest, no_longer, repeatable
from karma.devices.bulk import (
    LANES,
    MAX_LOOKED_AT,
    PART_DEVICES,
    BulkCommand,
    BulkKey,
    BulkLimit,
    BulkPart,
    BulkResult,
    PartKey,
    PartStage,
    parts_of,
    state_of,
    too_many,
)
from karma.devices.bulk_parts import QueuedBulkParts
from karma.devices.ports import Join
from karma.devices.reading import MAX_OFFSET_ROWS
from karma.devices.repository.bulk_commands import BulkCommandRepository
from karma.devices.repository.commands import CommandRepository
from karma.devices.repository.devices import DeviceRepository

LOOKED_AFTER: Final = timedelta(minutes=2)
"""Time after which the sweep looks after a bulk command whose parts are open, and again each time."""


class BulkOrder(Record, kw_only=True):
    """A command to the devices with a tag, or to those that are named; validated by schemas.SendBulkCommandBody."""

    command: str
    params: Mapping[str, Any]
    ttl_s: int
    serial: bool
    tag: str | None = None
    device_ids: tuple[str, ...] = ()


class BulkCommandService:
    """Makes and cancels bulk commands, and reads what became of them."""

    def __init__(
        self,
        bulks: BulkCommandRepository,
        devices: DeviceRepository,
        commands: CommandRepository,
        queue: QueuedBulkParts,
        clock: Clock,
    ) -> None:
        self._bulks = bulks
        self._devices = devices
        self._commands = commands
        self._queue = queue
        self._clock = clock

    def create(
        self, user_id: UserId, order: BulkOrder, *, limit: BulkLimit, idempotency_key: IdempotencyKey | None = None
    ) -> BulkCommand:
        """Store a bulk command and its devices, and have the first parts of it sent in the background.

        A repeat with the same key returns the first one as it is by then, also when other devices have the tag now.

        Raises:
            ValidationFailed: no device has the tag.
            QuotaExceeded: they are more devices than the plan allows; none is sent a command.
            InvalidRequest: TOO_MANY_DEVICES, the account has more devices than are looked at for a tag.
            IdempotencyKeyReused: the first request with this key asked for something else.
            Gone: what it made is no longer kept.
        """
        now = self._clock.now()
        request = repeatable(idempotency_key, order, at=now)
        if request is not None and (earlier := self._made_before(user_id, request)) is not None:
            return earlier
        device_ids = self._targets(user_id, order, limit)
        bulk = _new(BulkKey(user_id, BulkId(new_id())), order, len(device_ids), at=now)
        try:
            self._bulks.add(bulk, parts_of(device_ids), due=now + LOOKED_AFTER, request=request)
        except AlreadyExists:
            earlier = self._made_before(user_id, request) if request is not None else None
            if earlier is None:
                raise
            return earlier
        self._created(bulk)
        return bulk

    def create_with(self, key: BulkKey, order: BulkOrder, *, limit: BulkLimit, also: Join, schedule_id: str) -> bool:
        """Store a bulk command of an id that its maker derives, with what `also` writes; False: there is one.

        It is done or not as a whole, by one transaction. Its parts are sent behind that; where the process dies before,
        the sweep sends them.

        Raises:
            ValidationFailed, QuotaExceeded, InvalidRequest: as of `create`; nothing is written.
            AppError: what `also` refuses.
        """
        now = self._clock.now()
        device_ids = self._targets(key.user_id, order, limit)
        bulk = replace(_new(key, order, len(device_ids), at=now), schedule_id=schedule_id)
        try:
            self._bulks.add(bulk, parts_of(device_ids), due=now + LOOKED_AFTER, also=also)
        except AlreadyExists:
            return False
        self._created(bulk)
        return True

    def is_at_work(self, key: BulkKey) -> bool:
        """Tell whether a device of a bulk command has not ended it, and may still carry it out: as of `counts`."""
        bulk = self._bulks.get(key)
        if bulk is None or bulk.is_ended(self._clock.now()):
            return False
        return any(_may_follow(each) for each in self._results(self._bulks.parts(bulk.key, limit=bulk.parts)))

    def _created(self, bulk: BulkCommand) -> None:
        count("BulkCommandCreated")
        logger.info("bulk.created", bulk_id=bulk.key.bulk_id, devices=bulk.total)
        send_lanes(self._queue, bulk.key, range(bulk.parts))

    def _made_before(self, user_id: UserId, request: RepeatableRequest) -> BulkCommand | None:
        made = self._bulks.made_by(user_id, request)
        if made is None:
            return None
        bulk = self._bulks.get(BulkKey(user_id, made))
        if bulk is None:
            raise no_longer(made)
        return bulk

    def _targets(self, user_id: UserId, order: BulkOrder, limit: BulkLimit) -> Sequence[DeviceId]:
        if order.tag is None:
            named = [DeviceId(each) for each in dict.fromkeys(order.device_ids)]
        else:
            named = self._tagged(user_id, order.tag)
            if not named:
                raise ValidationFailed.of("tag", "no device has this tag")
        if len(named) > limit.devices:
            raise too_many(limit.plan, limit.devices, len(named))
        return named

    def _tagged(self, user_id: UserId, tag: str) -> list[DeviceId]:
        found: list[DeviceId] = []
        after: DeviceId | None = None
        for _ in range(MAX_LOOKED_AT // MAX_OFFSET_ROWS):
            rows = self._devices.by_age(user_id, newest_first=True, limit=MAX_OFFSET_ROWS, after=after)
            found += [each.device.id for each in rows.devices if tag in each.device.tags]
            if not rows.more:
                return found
            after = rows.devices[-1].device.id
        raise InvalidRequest(
            f"Of more than {MAX_LOOKED_AT} devices those with a tag are not looked for; name them by device_ids",
            code="TOO_MANY_DEVICES",
        )

    def get(self, user_id: UserId, bulk_id: str) -> BulkCommand:
        """Return a bulk command: one read.

        Raises:
            NotFound: it does not exist, is another account's, or is no longer kept.
        """
        bulk = self._bulks.get(BulkKey(user_id, BulkId(bulk_id))) if is_id(bulk_id) else None
        if bulk is None or bulk.is_forgotten(self._clock.now()):
            raise NotFound(f"Bulk command {bulk_id} not found")
        return bulk

    def list(self, user_id: UserId, *, limit: int, after: str = "") -> tuple[Sequence[BulkCommand], str | None]:
        """Return an account's bulk commands, newest first, and the `after` of the next page; None: nothing follows."""
        return self._bulks.page(user_id, limit=limit, after=after, now_s=self._clock.now().timestamp())

    def results(self, bulk: BulkCommand, *, limit: int, after: int = 0) -> tuple[Sequence[BulkResult], int | None]:
        """Return what became of a bulk command's devices, in their order, by one query and one batch read.

        Args:
            bulk: as it was read.
            limit: devices at the most, 1 to 100.
            after: number of devices to pass over; the second of what is returned, None: nothing follows.
        """
        first, passed = divmod(after, PART_DEVICES)
        parts = self._bulks.parts(bulk.key, first=first, limit=-(-(passed + limit) // PART_DEVICES))
        found = self._results(parts)[passed : passed + limit]
        following = after + len(found)
        return found, following if found and following < bulk.total else None

    def counts(self, bulk: BulkCommand) -> Mapping[str, int]:
        """Count a bulk command's devices by what became of them: one query, and one batch read a hundred of them."""
        counts: dict[str, int] = {}
        for result in self._results(self._bulks.parts(bulk.key, limit=bulk.parts)):
            state = state_of(result)
            counts[state] = counts.get(state, 0) + 1
        return counts

    def _results(self, parts: Sequence[BulkPart]) -> Sequence[BulkResult]:
        wanted = [(device_id, command_id) for part in parts for device_id, command_id in part.sent.items()]
        commands = {each.device_id: each for each in self._commands.several(wanted)}
        return [
            BulkResult(
                device_id, commands.get(device_id), part.refused.get(device_id), is_open=part.stage is PartStage.OPEN
            )
            for part in parts
            for device_id in part.device_ids
        ]

    def cancel(self, user_id: UserId, bulk_id: str) -> BulkCommand:
        """Let no further command be sent, and have those cancelled in the background that no device was sent yet.

        A repeat changes nothing.

        Raises:
            NotFound: as of `get`.
            InvalidTransition: its end is over, and with it that of all its commands.
        """
        bulk, now = self.get(user_id, bulk_id), self._clock.now()
        if bulk.cancelled:
            return bulk
        if bulk.is_ended(now):
            raise InvalidTransition(f"Bulk command {bulk_id} is over: its end has passed")
        if self._bulks.cancel(bulk, at=now):
            count("BulkCommandCancelled")
            send_lanes(self._queue, bulk.key, range(bulk.parts))
        return self.get(user_id, bulk_id)


def _new(key: BulkKey, order: BulkOrder, total: int, *, at: datetime) -> BulkCommand:
    return BulkCommand(
        key=key,
        command=order.command,
        params=order.params,
        serial=order.serial,
        tag=order.tag,
        created_ms=epoch_ms(at),
        expires_ms=epoch_ms(at) + order.ttl_s * 1000,
        total=total,
        open_parts=-(-total // PART_DEVICES),
    )


def _may_follow(result: BulkResult) -> bool:
    return result.is_open if result.command is None else not result.command.finished


def send_lanes(queue: QueuedBulkParts, key: BulkKey, open_parts: Sequence[int]) -> None:
    """Enqueue the first open part of each lane; the others follow from it."""
    first: dict[int, int] = {}
    for number in open_parts:
        first.setdefault(number % LANES, number)
    for number in first.values():
        queue.leave(PartKey(key, number))
