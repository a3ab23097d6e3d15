"""Tells an account of its alarms by notices and mails: a consumer of the stream of the table, background.router.

Ids of notices and mails derive from alarm and state, so a record that comes again tells nothing new. Of a rule's alarms
of a minute, `STORM` are told one by one, and one notice tells that there were more. An alarm that is raised in a
silence is held: the sweep looks at it when that is over, and what is still the case then is told as if it were raised.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from karma.alarms.domain import MAILS_AN_HOUR, OPEN, STORM, Alarm, AlarmAction, AlarmRule, AlarmState
from karma.alarms.items import (
    DUE,
    AlarmMailsItem,
    HeldItem,
    StormItem,
    alarm_in,
    held_key,
    mails_key,
    storm_key,
)
from karma.alarms.repository.rules import AlarmRuleRepository
from karma.core.clock import epoch_ms, iso
from karma.core.dynamo.access import get, upsert
from karma.core.dynamo.failures import ConditionFailed
from karma.core.dynamo.transaction import Transaction
from karma.core.dynamo.work import due_pk, due_sk
from karma.core.errors import AlreadyExists, Conflict
from karma.core.ids import derived_id
from karma.core.observability import count
from karma.core.streams import StreamRecord
from karma.identity.transactional import AccountGone, require_account
from karma.mail.domain import Mail, MailKind
from karma.mail.transactional import add_mail
from karma.notices.domain import Notice, NoticeType
from karma.notices.transactional import add_notice

_KEPT = timedelta(days=30)
"""Time for which the alarms of a minute are remembered: one that lasts longer is cleared without a notice."""
_HOUR = timedelta(hours=1)
_MAILS = {NoticeType.ALARM_RAISED: MailKind.ALARM_RAISED, NoticeType.ALARM_CLEARED: MailKind.ALARM_CLEARED}


class _Storm(Conflict):
    """The rule has raised as many alarms in this minute as are told one by one."""


class _TooManyMails(Conflict):
    """The account has got as many mails in this hour as there are."""


class AlarmTelling:
    """Writes notices and mails of alarms that were raised or cleared."""

    def __init__(self, rules: AlarmRuleRepository, dispatch: Callable[[Sequence[Mail]], None]) -> None:
        """Build the consumer; `dispatch` enqueues mails that were stored (karma.mail.service.OutboxRelay)."""
        self._rules = rules
        self._dispatch = dispatch

    def take(self, records: Sequence[StreamRecord]) -> int:
        """Write what changes mean, and return of how many alarms was told; see karma.core.streams.

        Raises:
            StorageThrottled, StorageUnavailable: the database does not answer; the changes must be delivered again.
        """
        return sum(self._told(record) for record in records)

    def _told(self, record: StreamRecord) -> bool:
        old, new = record.change
        if new is None or new.get("type") != {"S": "alarm"}:
            return False
        alarm = alarm_in(new)
        before = AlarmState(old["state"]["S"]) if old is not None else None
        is_over = alarm.state is AlarmState.CLEARED and before in OPEN
        is_released = old is not None and "released_at" not in old and alarm.released_at is not None
        if not (before is None or is_over or is_released):
            return False
        rule = self._rules.get(alarm.user_id, alarm.rule_id)
        if rule is None or not rule.actions:
            return False
        try:
            if is_over:
                return self._cleared(rule, alarm)
            until = rule.silent_until(alarm.recorded_at) if before is None else None
            if until is not None:
                _hold(alarm, until)
                return False
            return self._raised(rule, alarm)
        except (AlreadyExists, AccountGone):
            return False  # told before, or nobody is there to be told

    def _raised(self, rule: AlarmRule, alarm: Alarm) -> bool:
        at, minute = alarm.tell_at, epoch_ms(alarm.tell_at) // 60_000
        storm = StormItem(*storm_key(rule.user_id, rule.id, minute))
        has_room = StormItem.alarms.does_not_exist() | (StormItem.told < STORM) | StormItem.alarms.contains(alarm.id)

        def begin() -> Transaction:
            tx = Transaction()
            require_account(tx, alarm.user_id)
            tx.upsert(
                storm,
                [
                    StormItem.alarms.add({alarm.id}),
                    StormItem.told.add(1),
                    StormItem.created_at.set(iso(at)),
                    StormItem.updated_at.set(iso(at)),
                    StormItem.expires_at.set(epoch_ms(at + _KEPT) // 1000),
                ],
                has_room,
                on_fail=_Storm(""),
            )
            return tx

        try:
            self._tell(rule, alarm, NoticeType.ALARM_RAISED, at, begin)
        except _Storm:
            count("AlarmStorm")
            return self._of_many(rule, alarm, minute)
        return True

    def _tell(
        self, rule: AlarmRule, alarm: Alarm, kind: NoticeType, at: datetime, begin: Callable[[], Transaction]
    ) -> None:
        """Write what the actions of a rule ask for; without its mail, where the account has got too many."""
        mail = Mail(
            id=derived_id(at, f"mail.{kind.value}", alarm.id), kind=_MAILS[kind], user_id=alarm.user_id, created_at=at
        )
        mails = [mail] if AlarmAction.MAIL in rule.actions else []
        while True:
            tx = begin()
            if AlarmAction.NOTICE in rule.actions:
                _add(tx, _notice(alarm, kind, at))
            for each in mails:
                _count_mail(tx, alarm, at)
                add_mail(tx, each, on_fail=AlreadyExists("The mail is there"))
            try:
                tx.commit()
            except _TooManyMails:
                count("AlarmMailDropped")
                mails = []
                if AlarmAction.NOTICE in rule.actions:
                    continue
                return
            except AlreadyExists:
                if mails:  # whoever stored it may have died before it was enqueued
                    self._dispatch(mails)
                raise
            if mails:
                self._dispatch(mails)
            return

    def _of_many(self, rule: AlarmRule, alarm: Alarm, minute: int) -> bool:
        if AlarmAction.NOTICE not in rule.actions:
            return False
        at = alarm.tell_at
        tx = Transaction()
        require_account(tx, alarm.user_id)
        _add(
            tx,
            Notice(
                id=derived_id(at.replace(second=0, microsecond=0), "alarm.storm", rule.id, str(minute)),
                user_id=rule.user_id,
                type=NoticeType.ALARMS_MANY,
                created_at=at,
                data={"rule_id": rule.id, "count": str(STORM)},
            ),
        )
        tx.commit()
        return True

    def _cleared(self, rule: AlarmRule, alarm: Alarm) -> bool:
        # Never a clear of what was not told: the notice of its raising is there, or was a storm's.
        minute = epoch_ms(alarm.tell_at) // 60_000
        storm = get(StormItem, storm_key(alarm.user_id, alarm.rule_id, minute), consistent=True)
        if storm is None or alarm.id not in (storm.alarms or ()):
            return False

        def begin() -> Transaction:
            tx = Transaction()
            require_account(tx, alarm.user_id)
            return tx

        self._tell(rule, alarm, NoticeType.ALARM_CLEARED, alarm.ended_at or alarm.recorded_at, begin)
        return True


def _hold(alarm: Alarm, until: datetime) -> None:
    """Have the sweep look at an alarm when a silence is over; one Update, which is harmless to repeat."""
    stamp = iso(alarm.recorded_at)
    actions = [
        HeldItem.user_id.set(alarm.user_id),
        HeldItem.rule_id.set(alarm.rule_id),
        HeldItem.device_id.set(alarm.device_id),
        HeldItem.alarm_id.set(alarm.id),
        HeldItem.created_at.set(stamp),
        HeldItem.updated_at.set(stamp),
        HeldItem.expires_at.set(epoch_ms(until + _KEPT) // 1000),
        HeldItem.gsi1pk.set(due_pk(DUE, alarm.id)),
        HeldItem.gsi1sk.set(due_sk(until, alarm.id)),
    ]
    try:
        upsert(HeldItem(*held_key(alarm.user_id, alarm.id)), actions, HeldItem.alarm_id.does_not_exist())
    except ConditionFailed:
        return  # held before, or looked at again by now


def _count_mail(tx: Transaction, alarm: Alarm, at: datetime) -> None:
    mails = AlarmMailsItem(*mails_key(alarm.user_id, int(at.timestamp()) // 3600))
    stamp = iso(at)
    tx.upsert(
        mails,
        [
            AlarmMailsItem.told.add(1),
            AlarmMailsItem.created_at.set(stamp),
            AlarmMailsItem.updated_at.set(stamp),
            AlarmMailsItem.expires_at.set(epoch_ms(at + 2 * _HOUR) // 1000),
        ],
        AlarmMailsItem.told.does_not_exist() | (AlarmMailsItem.told < MAILS_AN_HOUR),
        on_fail=_TooManyMails(""),
    )


def _add(tx: Transaction, notice: Notice) -> None:
    add_notice(tx, notice, on_fail=AlreadyExists("The notice is there"))


def _notice(alarm: Alarm, kind: NoticeType, at: datetime) -> Notice:
    return Notice(
        id=derived_id(at, kind.value, alarm.id),
        user_id=alarm.user_id,
        type=kind,
        created_at=at,
        data={"alarm_id": alarm.id, "rule_id": alarm.rule_id, "device_id": alarm.device_id},
    )
