"""Steps the rules of a device on as ingest writes its newest values: see karma.devices.ports.Watcher.

The rules of an account are known for `KNOWN_S` seconds, and so are the tags of a device where a rule asks for them: who
has no rules costs ingest one Query an account, process and half a minute.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

import orjson

from karma.alarms.domain import MAX_RULES, AlarmRule, alarm_id, raised_alarm
from karma.alarms.engine import NEVER, EpisodeChange, WatchState, absorb
from karma.core.clock import epoch_ms, monotonic
from karma.core.ids import DeviceId, UserId
from karma.core.observability import count
from karma.devices.ports import Stepped

if TYPE_CHECKING:
    from karma.alarms.repository.rules import AlarmRuleRepository
    from karma.core.dynamo.transaction import Transaction
    from karma.devices.domain import Latest
    from karma.devices.repository.devices import DeviceRepository
    from karma.devices.samples import Batch

K = TypeVar("K")
V = TypeVar("V")

KNOWN_S: Final = 30.0
_MAX_KNOWN: Final = 10_000
_MAX_WRITES: Final = 49
"""Alarms that one transaction writes, of two items each; DynamoDB takes 100."""


class _Known(Generic[K, V]):
    """Values that a process knows for `KNOWN_S` seconds."""

    def __init__(self, read: Callable[[K], V]) -> None:
        self._read = read
        self._known: dict[K, tuple[float, V]] = {}

    def get(self, key: K, *, max_age_s: float = KNOWN_S) -> V:
        now = monotonic()
        known = self._known.get(key)
        if known is not None and now - known[0] < max_age_s:
            return known[1]
        if len(self._known) >= _MAX_KNOWN:
            self._known.clear()
        value = self._read(key)
        self._known[key] = (now, value)
        return value


class AlarmWatcher:
    """Watches devices by the rules of their accounts."""

    def __init__(self, rules: AlarmRuleRepository, devices: DeviceRepository) -> None:
        def read_rules(user_id: UserId) -> tuple[AlarmRule, ...]:
            found = rules.page(user_id, below="", limit=MAX_RULES)
            return tuple(sorted((each for each in found if not each.is_absence), key=lambda rule: rule.id))

        def read_tags(device: tuple[UserId, DeviceId]) -> tuple[str, ...]:
            row = devices.row(*device)
            return row.tags if row is not None else ()

        self._rules = _Known(read_rules)
        self._tags = _Known(read_tags)

    def watch(self, user_id: UserId, device_id: DeviceId, batches: Sequence[Batch]) -> DeviceWatch | None:
        """See karma.devices.ports.Watcher."""
        read = partial(self._concerning, user_id, device_id)
        return DeviceWatch(device_id, read, batches) if read() else None

    def _concerning(self, user_id: UserId, device_id: DeviceId, *, max_age_s: float = KNOWN_S) -> list[AlarmRule]:
        rules = [rule for rule in self._rules.get(user_id, max_age_s=max_age_s) if rule.enabled]
        asks = any(rule.tag is not None for rule in rules)
        tags = self._tags.get((user_id, device_id)) if asks else ()
        return [rule for rule in rules if rule.concerns(device_id, tags)]


class DeviceWatch:
    """Steps the rules of one device on by samples; what it keeps is `{rule: [revision, state]}`."""

    def __init__(self, device_id: DeviceId, rules: Callable[..., list[AlarmRule]], batches: Sequence[Batch]) -> None:
        self._device_id = device_id
        self._rules = rules
        self._batches = batches
        self._samples: dict[str, list[tuple[int, float]]] | None = None

    def step(self, beside: Mapping[str, Any], before: Latest, *, now: datetime) -> Stepped:
        """See karma.devices.ports.Watch."""
        rules = self._rules()
        if any(beside[rule.id][0] > rule.revision for rule in rules if rule.id in beside):
            rules = self._rules(max_age_s=0.0)  # another process knows a later revision
        kept: dict[str, Any] = {}
        changes: list[tuple[AlarmRule, EpisodeChange]] = []
        more = False
        for rule in rules:
            state = self._state(rule, beside, before)
            outcome = absorb(rule.condition, state, self._of(rule.metric_name))
            if len(changes) + len(outcome.changes) > _MAX_WRITES:
                kept[rule.id], more = [rule.revision, state.stored()], True
                continue
            kept[rule.id] = [rule.revision, outcome.state.stored()]
            changes += [(rule, change) for change in outcome.changes]
            if outcome.late:
                count("AlarmSampleLate", outcome.late)
            if outcome.dropped:
                count("AlarmDropped", outcome.dropped)
        join = partial(self._join, changes, now) if changes else None
        return Stepped(kept, join, more)

    def _state(self, rule: AlarmRule, beside: Mapping[str, Any], before: Latest) -> WatchState:
        stored = beside.get(rule.id)
        if stored is not None and stored[0] == rule.revision:
            return WatchState.read(stored[1])
        newest = before.readings.get(rule.metric_name)
        return WatchState(floor=max(epoch_ms(rule.revised_at) - 1, newest.ts if newest is not None else -1))

    def _of(self, metric: str) -> list[tuple[int, float]]:
        if self._samples is None:
            self._samples = {}
            for batch in self._batches:
                for ts, values in orjson.loads(batch.samples_json):
                    for name, value in values.items():
                        self._samples.setdefault(name, []).append((ts, value))
        return self._samples.get(metric, [])

    def _join(self, changes: Sequence[tuple[AlarmRule, EpisodeChange]], now: datetime, tx: Transaction) -> None:
        from karma.alarms.repository.alarms import join_end, join_new

        for rule, change in changes:
            episode = change.episode
            cleared_ms = 0 if episode.cleared == NEVER else episode.cleared
            if change.is_new:
                alarm = raised_alarm(
                    rule,
                    self._device_id,
                    since_ms=episode.since,
                    raised_ms=episode.raised,
                    value=episode.value,
                    cleared_ms=cleared_ms,
                    now=now,
                )
                join_new(tx, alarm)
                count("AlarmRaised", severity=rule.severity.value)
            else:
                found = alarm_id(rule, self._device_id, episode.raised)
                join_end(tx, rule, self._device_id, found, cleared_ms=cleared_ms, now=now)
