"""Fires: what happens when a schedule is due.

    1. read           the schedule waits for another fire, or for none: nothing happens
    2. decide         which of the fires that are due goes first; those that are too late are missed
    3. judge          how the run before ended; whether it is still active; what rights the author has today
    4. begin          the run, or make the bulk command (commanding.py), in one transaction with the schedule's next
                      fire; or note why none began
    5. send           the next fire, where it comes before a sweep is sure to have found it (sweeps.py)

A process that dies in between leaves the schedule as it was, or as it is to be. Whatever may succeed later is raised,
and the message comes again; when it is given up the sweep sends another one. What nobody foresaw is raised as well, but
only for `TRIED_FOR`: then the fire has failed, so that its owner sees it and the schedule goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final, NamedTuple

from karma.conversations.domain import ThreadChanged, ThreadKey
from karma.core.clock import Clock
from karma.core.errors import AppError, Upstream
from karma.core.ids import RunId, ThreadId, UserId
from karma.core.observability import count, logger
from karma.identity.domain import Caller
from karma.identity.transactional import AccountGone
from karma.notices.domain import Notice, NoticeType
from karma.runs.domain import ACTIVE, Run, RunKey, RunStatus, ThreadBusy
from karma.runs.turns import has_waiting
from karma.schedules.domain import (
    MAX_FAILURES,
    MAX_MESSAGE_CHARS,
    MAX_OPEN_RUNS,
    FireAction,
    Fired,
    FireDecision,
    FireError,
    FireKey,
    FireOutcome,
    Overlap,
    Schedule,
    ScheduleChanged,
    decide,
)
from karma.schedules.limits import require_frequency
from karma.schedules.ports import FireCommands, Schedules
from karma.schedules.starting import request_of
from karma.schedules.sweeps import FireQueue, send_next

if TYPE_CHECKING:
    from karma.billing.plans import Plan
    from karma.runs.background import BackgroundRuns
    from karma.runs.ports import Also, Runs

EARLY: Final = timedelta(seconds=5)
"""Time by which the clock of the process that sent a fire may be ahead of ours."""
TRIED_FOR: Final = timedelta(minutes=3)
"""Time for which a fire is tried that errors of ours end: twice or thrice, by the messages of the sweep."""
_ATTEMPTS: Final = 4
_MINUTE: Final = timedelta(minutes=1)
INTERNAL: Final = AppError.code
"""Code of a fire that an error of ours ended."""
RUNS_FAILED: Final = "RUNS_FAILED"
"""Code of a fire that began no run since those before it had failed."""


class Before(NamedTuple):
    """The runs that a schedule began before."""

    open_run_ids: tuple[RunId, ...]
    """Those whose ends are still to be looked at, in the order of their fires."""
    failures: int
    """Failures in a row by now."""


class Fires:
    """Begins the runs of schedules, and sends their commands."""

    def __init__(
        self,
        store: Schedules,
        *,
        queue: FireQueue,
        runs: BackgroundRuns,
        started: Runs,
        commands: Callable[[], FireCommands],
        caller_by_now: Callable[[Schedule], Caller],
        plan_of: Callable[[UserId], Plan],
        clock: Clock,
    ) -> None:
        """Make it.

        Args:
            store: the schedules.
            queue: the queue of fires.
            runs: begins runs.
            started: the store of runs.
            commands: returns what sends the commands of schedules; it is asked for by fires of such alone.
            caller_by_now: returns the caller for whom a schedule acts, with the rights of today; raises Forbidden when
                none are left, and AccountGone.
            plan_of: reads the plan whose limits hold for an account now.
            clock: tells the time.
        """
        self._store = store
        self._queue = queue
        self._runs = runs
        self._started = started
        self._commands = commands
        self._caller_by_now = caller_by_now
        self._plan_of = plan_of
        self._clock = clock

    async def fire(self, key: FireKey) -> str:
        """Begin the run, or send the command, of a fire, or note why there is none; return what became of it in a word.

        Raises:
            Upstream, ThreadChanged, ScheduleChanged: nothing was done; it may be tried again.
        """
        attempt = 0
        while True:
            schedule = await asyncio.to_thread(self._store.get, key.user_id, key.schedule_id)
            if schedule is None or not schedule.enabled or schedule.next_fire_at != key.due_at:
                return "over"
            now = self._clock.now()
            if now < key.due_at - EARLY:
                return "early"
            try:
                fired = await self._fire(schedule, max(now, key.due_at))
            except ScheduleChanged:  # by its owner, who may have left this fire as it was, or by another delivery
                attempt += 1
                if attempt == _ATTEMPTS:
                    raise
                continue
            except AccountGone:
                return "gone"
            await self._over(fired, now - key.due_at)
            return fired.outcome.value

    async def give_up(self, key: FireKey) -> bool:
        """Note that a fire failed by an error of ours, if it was tried for `TRIED_FOR`; return whether it was noted.

        It reads nothing but the schedule: what failed may fail again.

        Raises:
            Upstream, ScheduleChanged: nothing was done; it may be tried again.
        """
        schedule = await asyncio.to_thread(self._store.get, key.user_id, key.schedule_id)
        if schedule is None or not schedule.enabled or schedule.next_fire_at != key.due_at:
            return False
        now = self._clock.now()
        if now - key.due_at < TRIED_FOR:
            return False
        before = Before(schedule.open_run_ids, schedule.failures)
        error = FireError(code=INTERNAL, message=f"An error of ours; our log has it under the run's id {key.run_id}")
        fired = _over(schedule, decide(schedule, now), before, now, FireOutcome.FAILED, error)
        await self._over(await self._settle(fired), now - key.due_at)
        return True

    async def _over(self, fired: Fired, late: timedelta) -> None:
        _tell(fired, late)
        await asyncio.to_thread(send_next, self._store, self._queue, fired, now=self._clock.now())

    async def _fire(self, schedule: Schedule, now: datetime) -> Fired:
        decision = decide(schedule, now)
        before = await asyncio.to_thread(self._before, schedule)
        if decision.due_at is None:
            return await self._settle(_over(schedule, decision, before, now, FireOutcome.MISSED))
        if before.failures >= MAX_FAILURES:
            error = FireError(code=RUNS_FAILED, message=f"The last {before.failures} fires or their runs failed")
            return await self._settle(_over(schedule, decision, before, now, FireOutcome.FAILED, error))
        is_full = len(before.open_run_ids) >= MAX_OPEN_RUNS
        skips = schedule.overlap is Overlap.SKIP
        if is_full or (skips and await asyncio.to_thread(self._is_busy, schedule, before)):
            return await self._settle(_over(schedule, decision, before, now, FireOutcome.SKIPPED))
        return await self._begin(schedule, decision, decision.due_at, before, now)

    def _require_plan(self, schedule: Schedule, decision: FireDecision) -> None:
        """Refuse a fire after which the next one comes earlier than its owner's plan of today allows.

        Fires that only a change of clocks brings so close together are allowed, as when the schedule was written.
        """
        if decision.due_at is not None and decision.next_fire_at is not None:
            plan, gap = self._plan_of(schedule.user_id), decision.next_fire_at - decision.due_at
            limit = timedelta(seconds=plan.limits.schedule_interval_s)
            if gap < limit and limit > _MINUTE:  # no cron expression comes below that
                require_frequency(plan, schedule.timing, now=decision.due_at - _MINUTE)

    async def _begin(
        self, schedule: Schedule, decision: FireDecision, due_at: datetime, before: Before, now: datetime
    ) -> Fired:
        key = FireKey(schedule.user_id, schedule.id, due_at)
        fired = _started(schedule, key, decision, before, now)
        try:
            caller = await asyncio.to_thread(self._caller_by_now, schedule)
            await asyncio.to_thread(self._require_plan, schedule, decision)
            if schedule.action is FireAction.COMMAND:
                is_new = await asyncio.to_thread(self._send, schedule, key, also=self._store.fired(fired))
            else:
                begun = await self._runs.begin(caller, request_of(schedule, key), also=self._store.fired(fired))
                is_new = begun.execution is not None
        except ThreadBusy:
            return await self._settle(_over(schedule, decision, before, now, FireOutcome.SKIPPED))
        except (ScheduleChanged, AccountGone, ThreadChanged, Upstream):
            raise
        except AppError as exc:
            if exc.retryable:
                raise
            error = FireError(code=exc.code, message=_told(exc))
            return await self._settle(_over(schedule, decision, before, now, FireOutcome.FAILED, error))
        if not is_new:
            # It waits for its turn, and its fire is over; or an earlier delivery began it, before its owner named the
            # same time again.
            try:
                await self._settle(fired)
            except ScheduleChanged:
                logger.debug("schedule.fire_noted", schedule_id=schedule.id)
        return fired

    def _send(self, schedule: Schedule, key: FireKey, *, also: Also) -> bool:
        return self._commands().begin(schedule, key, self._plan_of(schedule.user_id), also=also)

    async def _settle(self, fired: Fired) -> Fired:
        await asyncio.to_thread(self._store.settle, fired, notice=_notice(fired))
        if fired.stops:
            count("ScheduleStopped")
            logger.warning("schedule.stopped", schedule_id=fired.seen.id, code=fired.error.code if fired.error else "")
        return fired

    def _before(self, schedule: Schedule) -> Before:
        """Look at how the runs before have ended: each once, in the order of their fires as far as they have ended."""
        left: list[RunId] = []
        failures = schedule.failures
        for run_id in schedule.open_run_ids:
            run = self._started.run(RunKey(schedule.user_id, run_id))
            skips = schedule.overlap is Overlap.SKIP
            if run is not None and run.status is RunStatus.INTERRUPTED and skips:
                run = self._gone_on(run)
            if run is not None and (run.status in ACTIVE or (run.status is RunStatus.INTERRUPTED and skips)):
                left.append(run.key.run_id)
            elif run is not None and run.status is RunStatus.FAILED:
                failures += not schedule.forgives(run.finished_at)
            elif failures < MAX_FAILURES:
                failures = 0
        return Before(tuple(left), min(failures, MAX_FAILURES))

    def _gone_on(self, run: Run) -> Run | None:
        """Return the run that goes on for one that asked, or that one while it waits; None: its question is over."""
        goes_on: Run | None = run
        while goes_on is not None and goes_on.status is RunStatus.INTERRUPTED:
            asked = self._started.interrupts(run.key.user_id, goes_on.interrupt_ids).values()
            if any(each.is_waiting(self._clock.now()) for each in asked):
                return goes_on
            answers = sorted((each.answer for each in asked if each.answer), key=lambda answer: answer.at)
            by = self._started.run(RunKey(run.key.user_id, answers[-1].by)) if answers else None
            # A message that passed the question over is its user's own.
            goes_on = by if by is not None and by.schedule_id == run.schedule_id else None
        return goes_on

    def _is_busy(self, schedule: Schedule, before: Before) -> bool:
        if schedule.action is FireAction.COMMAND:
            return self._commands().is_at_work(schedule.user_id, schedule.last_bulk_id)
        if before.open_run_ids:
            return True
        thread_id = (schedule.run or {}).get("thread_id")
        if thread_id is None:
            return False
        turns = self._started.turns(ThreadKey(schedule.user_id, ThreadId(thread_id)))
        if turns.active is not None or turns.queue:
            return True
        return has_waiting(self._started, schedule.user_id, turns.interrupts, now=self._clock.now())


def _started(schedule: Schedule, key: FireKey, decision: FireDecision, before: Before, now: datetime) -> Fired:
    if schedule.action is FireAction.COMMAND:
        # What its devices do is told by their commands: the fire itself has succeeded.
        fired = _over(schedule, decision, Before((), 0), now, FireOutcome.STARTED)
        return replace(fired, bulk_id=key.bulk_id)
    return _over(schedule, decision, before, now, FireOutcome.STARTED, run_id=key.run_id)


def _over(
    schedule: Schedule,
    decision: FireDecision,
    before: Before,
    now: datetime,
    outcome: FireOutcome,
    error: FireError | None = None,
    *,
    run_id: RunId | None = None,
) -> Fired:
    fails = outcome is FireOutcome.FAILED and before.failures < MAX_FAILURES
    return Fired(
        seen=schedule,
        due_at=decision.due_at or schedule.next_fire_at or now,
        at=now,
        outcome=outcome,
        missed=decision.missed,
        next_fire_at=decision.next_fire_at,
        run_id=run_id,
        error=error,
        # Those that are still active are watched on, beside the next one.
        open_run_ids=tuple(dict.fromkeys((*before.open_run_ids, *([run_id] if run_id is not None else ())))),
        failures=before.failures + fails,
    )


def _tell(fired: Fired, late: timedelta) -> None:
    late_ms = int(late.total_seconds() * 1000)
    logger.info("schedule.fired", schedule_id=fired.seen.id, outcome=fired.outcome.value, late_ms=late_ms)
    count("ScheduleFired", outcome=fired.outcome.value)
    if fired.missed:
        count("ScheduleFireMissed", fired.missed)


def _told(exc: AppError) -> str:
    text = exc.message
    if isinstance(exc.details, list) and exc.details and isinstance(exc.details[0], dict):
        first = exc.details[0]
        text = f"{first.get('field', '')}: {first.get('message', '')}"
    return text[:MAX_MESSAGE_CHARS]


def _notice(fired: Fired) -> Notice | None:
    """Return the notice for the owner of a schedule that fires no more since it failed, or begins to rest."""
    after = fired.applied()
    if after.is_resting and not fired.seen.is_resting:
        data = {"schedule_id": fired.seen.id, "skips": str(after.skips)}
        return Notice(user_id=fired.seen.user_id, type=NoticeType.SCHEDULE_RESTS, created_at=fired.at, data=data)
    is_last = fired.next_fire_at is None and fired.outcome in {FireOutcome.FAILED, FireOutcome.MISSED}
    if not fired.stops and not is_last:
        return None
    code = fired.error.code if fired.error else "MISSED"
    return Notice(
        user_id=fired.seen.user_id,
        type=NoticeType.SCHEDULE_FAILED,
        created_at=fired.at,
        data={"schedule_id": fired.seen.id, "code": code},
    )
