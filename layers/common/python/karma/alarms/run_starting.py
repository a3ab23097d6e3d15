"""Begins the run of an alarm, once; called at least once, late, and side by side.

    1. read      the alarm and its rule; one whose run, or refusal, is noted is passed over
    2. judge     whether the rule raises too many; what rights the rule's author has now
    3. begin     the run, whose id derives from the alarm: a repeat finds the one that is there
    4. note      the run in the alarm; or why there is none, with a notice, as also where an error of ours stands in
                 the way for as long as it is tried

A process that dies before 4 leaves a run that the next delivery finds. What may succeed later is raised, and the
message comes again. The run acts for the rule's owner, within the limits and budgets of the account.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import orjson

from karma.alarms.domain import STORM, Alarm, AlarmAction, AlarmRule, AlarmRun, AlarmRunRefusal, AlarmState
from karma.alarms.items import StormItem, storm_key
from karma.alarms.repository.alarms import AlarmRepository
from karma.alarms.repository.rules import AlarmRuleRepository
from karma.alarms.run_requests import AlarmKey
from karma.conversations.domain import ThreadChanged
from karma.core.clock import Clock, epoch_ms
from karma.core.dynamo.access import get
from karma.core.errors import AppError
from karma.core.ids import RunId, derived_id
from karma.core.observability import count, logger
from karma.identity.domain import Caller
from karma.identity.transactional import AccountGone
from karma.notices.domain import Notice, NoticeType
from karma.runs.domain import RunKey

if TYPE_CHECKING:
    from karma.runs.background import BackgroundRuns
    from karma.runs.ports import Runs
    from karma.runs.requests import RunInput

TOO_LATE: Final = timedelta(days=1)
"""Time after which an alarm begins no run any more: its message was lost, or came from a dead-letter queue."""
INTERNAL: Final = AppError.code
"""Code of an alarm whose run an error of ours has prevented."""
_MANY: Final = AlarmRunRefusal("TOO_MANY_ALARMS", f"The rule raised more than {STORM} alarms within a minute")


TRIED_FOR: Final = timedelta(minutes=3)
"""Time for which an alarm is tried again where an error of ours stands in the way; its queue does so a while longer."""


class AlarmRunStarter:
    """Begins the runs of alarms."""

    def __init__(
        self,
        alarms: AlarmRepository,
        rules: AlarmRuleRepository,
        *,
        runs: BackgroundRuns,
        started: Runs,
        caller_by_now: Callable[[AlarmRule, AlarmRun], Caller],
        clock: Clock,
    ) -> None:
        """Make it.

        Args:
            alarms: the alarms.
            rules: their rules.
            runs: begins runs.
            started: the store of runs.
            caller_by_now: returns the caller for whom a rule acts; raises Forbidden and AccountGone.
            clock: tells the time.
        """
        self._alarms = alarms
        self._rules = rules
        self._runs = runs
        self._started = started
        self._caller_by_now = caller_by_now
        self._clock = clock

    async def start(self, key: AlarmKey) -> str:
        """Begin the run of an alarm, or note why there is none; return what became of it in a word.

        Raises:
            Upstream, ThreadChanged: nothing was noted; it may be tried again.
        """
        alarm = await asyncio.to_thread(self._alarms.stored, key.device_id, key.alarm_id)
        if alarm is None:
            return "gone"
        if alarm.run_id is not None or alarm.run_refusal is not None or alarm.state is AlarmState.SUPERSEDED:
            return "over"
        rule = await asyncio.to_thread(self._rules.get, alarm.user_id, alarm.rule_id)
        if rule is None or rule.run is None or AlarmAction.RUN not in rule.actions:
            return "over"
        if self._clock.now() > alarm.tell_at + TOO_LATE:
            return "late"
        if await asyncio.to_thread(_is_of_many, alarm):
            return await asyncio.to_thread(self._refused, alarm, _MANY, told=False)
        run_id = run_of(alarm)
        try:
            caller = await asyncio.to_thread(self._caller_by_now, rule, rule.run)
            await self._runs.begin(caller, request_of(rule.run, alarm, run_id))
        except AccountGone:
            return "gone"
        except ThreadChanged:
            raise
        except AppError as exc:
            if exc.retryable:
                raise
            refusal = AlarmRunRefusal(exc.code, exc.message)
            return await asyncio.to_thread(self._refused, alarm, refusal, told=True)
        if await asyncio.to_thread(self._alarms.note_run, alarm, run_id, now=self._clock.now()):
            count("AlarmRunStarted")
        return "started"

    async def give_up(self, key: AlarmKey) -> bool:
        """Note that an error of ours prevents an alarm's run, if it was tried for `TRIED_FOR`; tell whether it is.

        It reads the alarm, and whether its run has begun after all: what failed may fail again.

        Raises:
            Upstream: nothing was noted; it may be tried again.
        """
        alarm = await asyncio.to_thread(self._alarms.stored, key.device_id, key.alarm_id)
        if alarm is None or alarm.run_id is not None or alarm.run_refusal is not None:
            return False
        if alarm.state is AlarmState.SUPERSEDED or self._clock.now() - alarm.tell_at < TRIED_FOR:
            return False
        run_id = run_of(alarm)
        if await asyncio.to_thread(self._started.run, RunKey(alarm.user_id, run_id)) is not None:
            await asyncio.to_thread(self._alarms.note_run, alarm, run_id, now=self._clock.now())
            return False
        refusal = AlarmRunRefusal(INTERNAL, f"An error of ours; our log has it under the alarm's id {alarm.id}")
        return await asyncio.to_thread(self._refused, alarm, refusal, told=True) == "refused"

    def _refused(self, alarm: Alarm, refusal: AlarmRunRefusal, *, told: bool) -> str:
        now = self._clock.now()
        notice = _notice(alarm, refusal) if told else None
        try:
            if self._alarms.refuse_run(alarm, refusal, notice=notice, now=now):
                count("AlarmRunRefused")
                logger.info("alarm.run_refused", alarm_id=alarm.id, code=refusal.code)
        except AccountGone:
            return "gone"
        return "refused"


def run_of(alarm: Alarm) -> RunId:
    """Return the id of the run of an alarm, which is also that of its thread."""
    return RunId(derived_id(alarm.recorded_at, "alarm.run", alarm.id))


def request_of(run: AlarmRun, alarm: Alarm, run_id: RunId) -> RunInput:
    """Return the request for the run of an alarm: what its rule says, and the alarm as `GET /alarms/{id}` has it."""
    # Late: messages that begin nothing need neither.
    from karma.alarms.answers import alarm_view
    from karma.runs.requests import parse_run_input

    facts = {name: value for name, value in alarm_view(alarm).items() if name not in ("run_id", "run_refusal")}
    content = f"{run.message}\n\nAlarm: {orjson.dumps(facts).decode()}"
    asked = {
        "threadId": run_id,
        "runId": run_id,
        "protocolVersion": "1.0",
        "state": None,
        "messages": [{"id": run_id, "role": "user", "content": content}],
        "context": [],
        "forwardedProps": {"agent_id": run.agent_id},
    }
    return parse_run_input(orjson.dumps(asked))


def _is_of_many(alarm: Alarm) -> bool:
    """Tell whether its rule had raised as many alarms in its minute as are told one by one (telling.py)."""
    minute = epoch_ms(alarm.tell_at) // 60_000
    storm = get(StormItem, storm_key(alarm.user_id, alarm.rule_id, minute), consistent=True)
    return storm is not None and int(storm.told) >= STORM and alarm.id not in (storm.alarms or ())


def _notice(alarm: Alarm, refusal: AlarmRunRefusal) -> Notice:
    return Notice(
        id=derived_id(alarm.tell_at, NoticeType.ALARM_RUN_REFUSED.value, alarm.id),
        user_id=alarm.user_id,
        type=NoticeType.ALARM_RUN_REFUSED,
        created_at=alarm.tell_at,
        data={"alarm_id": alarm.id, "rule_id": alarm.rule_id, "device_id": alarm.device_id, "code": refusal.code},
    )
