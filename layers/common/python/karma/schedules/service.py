"""Use cases of schedules: create, list, read, change, delete."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from karma.core.addresses import shown_address
from karma.core.clock import Clock
from karma.core.errors import AlreadyExists, Forbidden, NotFound, StaleVersion, StorageThrottled, ValidationFailed
from karma.core.ids import DeviceId, UserId, is_id, new_id
from karma.core.observability import count, logger
from karma.core.records import Record
from karma.core.repeat import repeat
from karma.core.requests import IdempotencyKey, no_longer, repeatable
from karma.identity.domain import Caller
from karma.schedules.domain import (
    Author,
    CatchUp,
    Census,
    FireAction,
    Overlap,
    Schedule,
    ScheduleChanged,
    ScheduleId,
    TooManySchedules,
)
from karma.schedules.limits import require_frequency, require_place, require_room
from karma.schedules.ports import Schedules
from karma.schedules.rights import PERMISSION
from karma.schedules.starting import require_run
from karma.schedules.timing import Timing

if TYPE_CHECKING:
    from karma.billing.plans import Plan

_MET = (StorageThrottled, ScheduleChanged)
"""Another write came first: it is made again on what is stored now."""
_TIMES = ("cron", "time_zone", "at", "end_at")
_HARMLESS = frozenset({"name", "enabled"})
"""Changes after which a schedule does nothing that it did not do before, unless they enable it."""


class SchedulePage(Record, kw_only=True):
    """A page of schedules, newest first, without their runs."""

    schedules: tuple[Schedule, ...]
    next_below: ScheduleId | None
    """Ids of the next page are below this one; None at the end."""


class NewSchedule(Record, kw_only=True):
    """A schedule as somebody describes it."""

    name: str
    timing: Timing
    run: Mapping[str, Any]
    overlap: Overlap
    catch_up: CatchUp
    catch_up_window_s: int
    enabled: bool


class NewCommandSchedule(NewSchedule, kw_only=True):
    """A schedule of commands as somebody describes it; its `run` is empty."""

    command: Mapping[str, Any]


class ScheduleService:
    """Use cases of schedules. Each raises NotFound for a schedule of another account."""

    def __init__(
        self,
        store: Schedules,
        clock: Clock,
        *,
        agent_id_of: Callable[[str], str],
        device_id_of: Callable[[UserId, str, str], DeviceId],
        require_receiver: Callable[[UserId, str], None],
        plan_of: Callable[[UserId], Plan],
    ) -> None:
        """Make the service.

        Args:
            store: the schedules.
            clock: tells the time.
            agent_id_of: returns an agent's id by its id or name, and raises NotFound for none.
            device_id_of: returns the id of a device, by its id or serial number, to which an account may send a command
                of this name, and raises NotFound or Forbidden.
            require_receiver: refuses an address that cannot be told of the ends of an account's runs.
            plan_of: reads the plan whose limits hold for an account now.
        """
        self._store = store
        self._clock = clock
        self._agent_id_of = agent_id_of
        self._device_id_of = device_id_of
        self._require_receiver = require_receiver
        self._plan_of = plan_of

    def get(self, user_id: UserId, schedule_id: str) -> Schedule:
        """Read one schedule.

        Raises:
            NotFound: absent or deleted.
        """
        schedule = self._store.get(user_id, ScheduleId(schedule_id)) if is_id(schedule_id) else None
        if schedule is None:
            raise NotFound(f"Schedule {schedule_id} not found")
        return schedule

    def page(self, user_id: UserId, *, below: str, limit: int) -> SchedulePage:
        """Return a page by age, from below an id on; "" is the newest."""
        # One more than shown tells whether another page follows.
        found = self._store.page(user_id, below=below, limit=limit + 1)
        shown = found[:limit]
        return SchedulePage(schedules=tuple(shown), next_below=shown[-1].id if len(found) > limit else None)

    def active(self, user_id: UserId) -> int:
        """Return the number of schedules of an account that wait for a fire, which its plan limits; two reads."""
        return self._store.census(user_id).active

    def create(self, caller: Caller, wanted: NewSchedule, *, idempotency_key: IdempotencyKey | None = None) -> Schedule:
        """Store a new schedule; a repeat with the same `idempotency_key` returns the one that the first made.

        Raises:
            Forbidden: the caller may not run agents, or its address is not verified; of a command, it may send none.
            NotFound: the agent, or the device, is none.
            ValidationFailed: the times, the run or the command are wrong; the code says which.
            Conflict: SIGNING_SECRET_MISSING: nothing can sign what goes to the run's `webhook`.
            TooManySchedules: the account has as many as one may have.
            QuotaExceeded: the plan has fewer active ones, or they fire less often.
            Gone: that one was deleted meanwhile.
            IdempotencyKeyReused: the first asked for another schedule.
            AccountGone: the account is deleted.
        """
        action, body = FireAction.RUN, wanted.run
        if isinstance(wanted, NewCommandSchedule):
            action, body = FireAction.COMMAND, wanted.command
        _require_right(caller, action)
        now, user_id = self._clock.now(), caller.user_id
        request = repeatable(idempotency_key, wanted, at=now)
        if request is not None and (made := self._store.made_by(user_id, request)) is not None:
            return self._earlier(user_id, made)  # before its times are judged, which may have passed by now
        wanted.timing.require(now=now)
        schedule = Schedule(
            id=ScheduleId(new_id()),
            user_id=user_id,
            name=wanted.name,
            timing=wanted.timing,
            action=action,
            run=None,
            overlap=wanted.overlap,
            catch_up=wanted.catch_up,
            catch_up_window_s=wanted.catch_up_window_s,
            enabled=wanted.enabled,
            author=_author(caller),
            next_fire_at=wanted.timing.after(now) if wanted.enabled else None,
            created_at=now,
            updated_at=now,
            version=1,
        )
        schedule = _doing(schedule, self._judged(user_id, action, body, wanted.overlap))

        def once() -> None:
            seen = self._store.census(user_id)
            require_place(seen)
            if schedule.next_fire_at is not None:
                self._require_plan(schedule, seen)
            self._store.create(schedule, request=request, seen=seen)

        try:
            repeat(once, on=_MET)
        except TooManySchedules:
            raise
        except AlreadyExists:  # by the same request, sent twice at once
            return self._earlier(user_id, self._store.made_by(user_id, request) if request else None)
        count("ScheduleCreated")
        logger.info("schedule.created", schedule_id=schedule.id)
        return schedule

    def change(
        self, caller: Caller, schedule_id: str, changes: Mapping[str, Any], *, version: int | None = None
    ) -> Schedule:
        """Change a schedule; the same again changes nothing.

        What it runs has the caller's rights from then on, unless it was only named, or paused.

        Raises:
            NotFound: as `get`.
            StaleVersion: `version` is not the stored one.
            Forbidden, ValidationFailed, QuotaExceeded: as `create`.
        """

        def once() -> Schedule:
            old = self._of_version(caller.user_id, schedule_id, version)
            new = self._changed(caller, old, changes)
            if new == old:
                return old
            at_version = old.version + 1
            new = replace(new, updated_at=self._clock.now(), version=at_version)
            if new.body != old.body:
                new = replace(new, run_version=at_version)
            seen = None
            if new.next_fire_at is not None and (old.next_fire_at is None or new.timing != old.timing):
                seen = self._store.census(old.user_id)
                self._require_plan(new, seen, is_active=old.next_fire_at is not None)
            self._store.replace(old, new, seen=seen)
            return new

        return repeat(once, on=_MET)

    def delete(self, user_id: UserId, schedule_id: str, *, version: int | None = None) -> None:
        """Delete a schedule; runs that it has begun go on.

        Raises:
            NotFound, StaleVersion: as `change`.
        """

        def once() -> None:
            schedule = self._of_version(user_id, schedule_id, version)
            self._store.delete(schedule)
            count("ScheduleDeleted")
            logger.info("schedule.deleted", schedule_id=schedule.id)

        repeat(once, on=_MET)

    def _changed(self, caller: Caller, old: Schedule, changes: Mapping[str, Any]) -> Schedule:
        now = self._clock.now()
        plain = {name: value for name, value in changes.items() if name not in {*_TIMES, *FireAction}}
        timing = _timing(old.timing, changes)
        new = replace(old, **plain, timing=timing)
        _require_action(old.action, changes)
        if old.action in changes or "overlap" in changes:
            body = _with_whole_address(old, changes.get(old.action, old.body))
            new = _doing(new, self._judged(old.user_id, old.action, body, new.overlap))
        wakes = new.enabled and (not old.enabled or timing != old.timing)
        if wakes or timing != old.timing:
            timing.require(now=now)
        if wakes:
            # No fire comes twice, also where the clock of this process is behind that of the last fire's.
            latest = max(now, old.last_fire.due_at) if old.last_fire else now
            new = replace(new, next_fire_at=timing.after(latest), skips=0, skipped_since=None)
            if not old.enabled:
                # Its runs that are active stay watched: they count for `overlap`, and fail by themselves.
                new = replace(new, stopped=False, failures=0, resumed_at=now)
        elif not new.enabled:
            new = replace(new, next_fire_at=None, stopped=old.stopped and "enabled" not in changes)
        if new != old and (wakes or changes.keys() - _HARMLESS):
            _require_right(caller, new.action)
            new = replace(new, author=_author(caller))
        return new

    def _require_plan(self, schedule: Schedule, seen: Census, *, is_active: bool = False) -> None:
        """Check that the plan of the account allows a schedule that fires; one that `is_active` already is counted."""
        plan = self._plan_of(schedule.user_id)
        require_frequency(plan, schedule.timing, now=self._clock.now())
        if not is_active:
            require_room(plan, seen)

    def _judged(
        self, user_id: UserId, action: FireAction, body: Mapping[str, Any] | None, overlap: Overlap
    ) -> Mapping[str, Any]:
        if action is FireAction.COMMAND:
            return self._judged_command(user_id, dict(body or {}), overlap)
        return self._judged_run(user_id, dict(body or {}), overlap)

    def _judged_command(self, user_id: UserId, command: dict[str, Any], overlap: Overlap) -> Mapping[str, Any]:
        if overlap is Overlap.QUEUE:
            raise ValidationFailed.of("overlap", "must be skip or allow: commands wait at their device anyway")
        if (device := command.get("device_id")) is not None:
            try:
                command["device_id"] = self._device_id_of(user_id, device, command["command"])
            except NotFound as exc:
                raise NotFound(f"command.device_id: {exc.message}") from None
        return command

    def _judged_run(self, user_id: UserId, run: dict[str, Any], overlap: Overlap) -> Mapping[str, Any]:
        if (agent := run.get("agent_id")) is not None:
            try:
                run["agent_id"] = self._agent_id_of(agent)
            except NotFound as exc:
                raise NotFound(f"run.agent_id: {exc.message}") from None
        require_run(run, overlap)
        if (webhook := run.get("webhook")) is not None:
            self._require_receiver(user_id, webhook)
        return run

    def _earlier(self, user_id: UserId, made: ScheduleId | None) -> Schedule:
        stored = self._store.get(user_id, made) if made else None
        if stored is None:
            raise no_longer(made)
        return stored

    def _of_version(self, user_id: UserId, schedule_id: str, version: int | None) -> Schedule:
        schedule = self.get(user_id, schedule_id)
        if version is not None and schedule.version != version:
            raise StaleVersion(f"Schedule {schedule.id} has version {schedule.version}")
        return schedule


def _doing(schedule: Schedule, body: Mapping[str, Any]) -> Schedule:
    return replace(schedule, run=body) if schedule.action is FireAction.RUN else replace(schedule, command=body)


def _with_whole_address(old: Schedule, run: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """Return a new run of a schedule; the address that was shown of the old one, without its query, means all of it."""
    stored = (old.run or {}).get("webhook")
    if run and stored and run.get("webhook") == shown_address(stored):
        return {**run, "webhook": stored}
    return run


def _timing(old: Timing, changes: Mapping[str, Any]) -> Timing:
    given: dict[str, Any] = {name: changes[name] for name in _TIMES if name in changes}
    if "cron" in given:
        given["at"] = None
    elif "at" in given:
        given["cron"] = None
    return replace(old, **given)


def _require_right(caller: Caller, action: FireAction) -> None:
    """Check that a caller may do itself what it schedules.

    Raises:
        Forbidden: it lacks the permission, or, for runs, its address is not verified.
    """
    if not caller.may(PERMISSION[action]):
        raise Forbidden.lacking(PERMISSION[action])
    if action is FireAction.RUN:
        caller.require_verified()


def _require_action(action: FireAction, changes: Mapping[str, Any]) -> None:
    """Check that a change leaves a schedule of runs one of runs, and one of commands one of commands."""
    for other in FireAction:
        if other is not action and other in changes:
            raise ValidationFailed.of(other.value, f"must not be given: each fire has a {action.value}")


def _author(caller: Caller) -> Author:
    key = caller.credential.api_key_id if caller.credential is not None and caller.method == "api_key" else None
    return Author(api_key_id=key)
