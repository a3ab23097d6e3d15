"""Ports of schedules; the second implementation is in tests/fakes/schedules.py."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple, Protocol

from karma.core.ids import BulkId, UserId
from karma.core.requests import RepeatableRequest
from karma.notices.domain import Notice
from karma.runs.ports import Also
from karma.schedules.domain import Census, Fired, FireKey, Schedule, ScheduleId

if TYPE_CHECKING:
    from karma.billing.plans import Plan


class DueFire(NamedTuple):
    """A fire that is to be sent, with the moment at which it is looked for."""

    key: FireKey
    look_at: str = ""
    """"": at its own moment, since nobody has put it off."""


class Schedules(Protocol):
    """A store of schedules. All calls block; each write is one transaction."""

    def get(self, user_id: UserId, schedule_id: ScheduleId) -> Schedule | None:
        """Read one with its run, consistently; None when it is absent, deleted, or another account's.

        Raises:
            ScheduleChanged: it was being changed, and each of three reads saw part of that.
        """

    def made_by(self, user_id: UserId, request: RepeatableRequest) -> ScheduleId | None:
        """Return the id of the schedule that a request created, consistently; None: it created none within 25 hours.

        Raises:
            IdempotencyKeyReused: the request that created it asked for something else.
        """

    def census(self, user_id: UserId) -> Census:
        """Count the schedules of an account, consistently."""

    def create(self, schedule: Schedule, *, request: RepeatableRequest | None, seen: Census | None = None) -> None:
        """Store a new schedule, and the record of `request`; `seen` is the census by which there is room for it.

        Raises:
            AlreadyExists: a request with this key created a schedule within the last 25 hours; `made_by` names it.
            TooManySchedules: the account has MAX_SCHEDULES.
            ScheduleChanged: `seen` is not the census any more.
            AccountGone: its account is deleted.
        """

    def replace(self, old: Schedule, new: Schedule, *, seen: Census | None = None) -> None:
        """Store `new`, which has the next version, in place of `old`; `seen` as in `create`, where it is woken.

        Raises:
            ScheduleChanged: `old` is not the stored one any more, by its version or by the fire that it waits for, or
                `seen` is not the census.
        """

    def delete(self, schedule: Schedule) -> None:
        """Delete a schedule.

        Raises:
            ScheduleChanged: another request changed it since it was read; fires do not count.
        """

    def page(self, user_id: UserId, *, below: str, limit: int) -> list[Schedule]:
        """List schedules without their runs, newest first, whose ids are below `below`; "" is the first page."""

    def due(self, before: datetime, *, limit: int) -> Sequence[DueFire]:
        """List fires to look for before a moment, the earliest first in each of some parts; `limit` of each part."""

    def put_off(self, due: DueFire, *, until: datetime) -> bool:
        """Let a fire be looked for at a later moment; False: it is over, or another sweep was faster."""

    def fired(self, fired: Fired) -> Also:
        """Return what notes a fire in the transaction of another context: it waits for the next one from then on.

        That transaction raises ScheduleChanged when the schedule is not the one that was read, by its version or by the
        fire that it waits for.
        """

    def settle(self, fired: Fired, *, notice: Notice | None) -> None:
        """Note a fire that began no run, and a notice of it for its owner.

        Raises:
            ScheduleChanged: as `fired`.
        """


class FireCommands(Protocol):
    """Commands of schedules; the second implementation is in tests/unit/schedules/test_commands.py. All calls block."""

    def begin(self, schedule: Schedule, key: FireKey, plan: Plan, *, also: Also) -> bool:
        """Make the bulk command of a fire with what `also` writes; False: an earlier delivery made it.

        Raises:
            NotFound: its device was deleted, or is another account's by now.
            ValidationFailed: no device has its tag.
            QuotaExceeded: more devices have it than the plan allows; none is sent a command.
            InvalidRequest: TOO_MANY_DEVICES, as of a bulk command.
            AppError: what `also` refuses.
        """

    def is_at_work(self, user_id: UserId, bulk_id: BulkId | None) -> bool:
        """Tell whether a device may still carry out what the fire before has sent it; None: there was none."""
