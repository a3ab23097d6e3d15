"""Rules of alarms over DynamoDB; items.py has their keys."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from karma.alarms.domain import MAX_RULES, AlarmRule, AlarmRuleChanged, AlarmRuleId, TooManyAlarmRules
from karma.alarms.items import (
    DUE,
    AlarmRuleCountItem,
    AlarmRuleItem,
    AlarmRuleRequestItem,
    AlarmsItem,
    ClosingItem,
    LookItem,
    closing_key,
    count_key,
    look_key,
    owner_pk,
    rule_item,
    rule_key,
    rule_of,
)
from karma.core.clock import iso
from karma.core.dynamo.access import get, query_by_id
from karma.core.dynamo.partitions import empty
from karma.core.dynamo.requests import note_request, noted, request_key
from karma.core.dynamo.transaction import Transaction
from karma.core.dynamo.work import due_pk, due_sk
from karma.core.ids import UserId
from karma.core.purge import PurgeAttempt
from karma.core.requests import RepeatableRequest
from karma.identity.transactional import require_account

AGAIN: Final = timedelta(seconds=90)
"""Time after which alarms of a rule's earlier revisions are superseded: ingest knows its rules for 30 s."""


class AlarmRuleRepository:
    """Rules over DynamoDB."""

    name = "alarms"
    """Of its step in the deletion of an account."""

    def get(self, user_id: UserId, rule_id: AlarmRuleId) -> AlarmRule | None:
        """See AlarmRules; one Get."""
        item = get(AlarmRuleItem, rule_key(user_id, rule_id), consistent=True)
        return rule_of(item) if item else None

    def made_by(self, user_id: UserId, request: RepeatableRequest) -> AlarmRuleId | None:
        """See AlarmRules; one Get."""
        made = noted(AlarmRuleRequestItem, request_key(owner_pk(user_id), request), request)
        return AlarmRuleId(made) if made else None

    def create(self, rule: AlarmRule, *, request: RepeatableRequest | None, most: int = MAX_RULES) -> None:
        """See AlarmRules; a check and two items, one for a key, and one for an absence."""
        tx = Transaction()
        require_account(tx, rule.user_id)
        if request is not None:
            item = AlarmRuleRequestItem(*request_key(owner_pk(rule.user_id), request))
            note_request(tx, item, request, rule.id)
        tx.put(rule_item(rule))
        has_room = AlarmRuleCountItem.value.does_not_exist() | (AlarmRuleCountItem.value < most)
        tx.upsert(_count(rule), [AlarmRuleCountItem.value.add(1)], has_room, on_fail=TooManyAlarmRules())
        _look(tx, rule)
        tx.commit()

    def replace(self, old: AlarmRule, new: AlarmRule) -> None:
        """See AlarmRules; one item, one for a new revision, and one for an absence."""
        tx = Transaction()
        item = rule_item(new)
        item.version = old.version
        tx.put(item, on_fail=_changed(old))
        if new.revision != old.revision:
            _close(tx, old, below=new.revision, now=new.updated_at)
        _look(tx, new)
        tx.commit()

    def delete(self, rule: AlarmRule, *, now: datetime) -> None:
        """See AlarmRules; three items."""
        tx = Transaction()
        item = AlarmRuleItem(*rule_key(rule.user_id, rule.id))
        item.version = rule.version
        tx.delete(item, locked=True, on_fail=_changed(rule))
        tx.update(_count(rule), [AlarmRuleCountItem.value.add(-1)], AlarmRuleCountItem.value > 0)
        _close(tx, rule, below=rule.version + 1, now=now)
        tx.commit()

    def page(self, user_id: UserId, *, below: str, limit: int) -> list[AlarmRule]:
        """See AlarmRules; one Query a megabyte, eventually consistent."""
        return query_by_id(AlarmRuleItem, rule_key(user_id, ""), below, rule_of, limit=limit)

    def purge_account(self, purge: PurgeAttempt) -> bool:
        """Remove an account's rules; True when it is done. Alarms go with their devices.

        None is made behind it: a new one checks for the account.
        """
        return empty(AlarmsItem, owner_pk(purge.user_id), purge)


def _changed(rule: AlarmRule) -> AlarmRuleChanged:
    return AlarmRuleChanged(f"Alarm rule {rule.id} was changed by another request; read it again")


def _count(rule: AlarmRule) -> AlarmRuleCountItem:
    return AlarmRuleCountItem(*count_key(rule.user_id))


def _look(tx: Transaction, rule: AlarmRule) -> None:
    """Have the account's devices looked at, where a rule is about what is absent."""
    if not (rule.is_absence and rule.enabled):
        return
    place = [LookItem.gsi1pk.set(due_pk(DUE, rule.user_id)), LookItem.gsi1sk.set(due_sk(rule.updated_at, "LOOK"))]
    stamp = iso(rule.updated_at)
    named = [LookItem.user_id.set(rule.user_id), LookItem.created_at.set(stamp), LookItem.updated_at.set(stamp)]
    tx.upsert(LookItem(*look_key(rule.user_id)), [*place, *named])


def _close(tx: Transaction, rule: AlarmRule, *, below: int, now: datetime) -> None:
    stamp = iso(now)
    actions = [
        ClosingItem.user_id.set(rule.user_id),
        ClosingItem.rule_id.set(rule.id),
        ClosingItem.below.set(below),
        ClosingItem.created_at.set(stamp),
        ClosingItem.updated_at.set(stamp),
        ClosingItem.gsi1pk.set(due_pk(DUE, rule.id)),
        ClosingItem.gsi1sk.set(due_sk(now + AGAIN, rule.id)),
    ]
    tx.upsert(ClosingItem(*closing_key(rule.user_id, rule.id)), actions)
