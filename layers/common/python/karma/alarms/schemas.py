"""Bodies of the routes of alarm rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Final

from pydantic import Field, StringConstraints

from karma.alarms.domain import (
    ABSENCES,
    MAX_ABSENT_S,
    MAX_BOUND,
    MAX_DURATION_S,
    MAX_NAME_CHARS,
    MAX_RUN_MESSAGE_CHARS,
    MAX_SILENCES,
    MIN_ABSENT_S,
    AlarmAction,
    AlarmRule,
    AlarmRun,
    AlarmSeverity,
    Silence,
    Trigger,
)
from karma.core.errors import ValidationFailed
from karma.core.ids import is_id
from karma.core.schemas import COMPOSED, Body, Moment, Number, Version, Whole, judged, left_out, line
from karma.core.wording import form
from karma.devices.domain import MAX_TAG_CHARS
from karma.devices.samples import MAX_METRIC_CHARS
from karma.schedules.timing import MAX_ZONE_CHARS, zone_of


def _id(text: str) -> None:
    if not is_id(text):
        raise ValidationFailed.of("device_id", "must be the id of a device")


_TIME: Final = form(r"^([01][0-9]|2[0-3]):[0-5][0-9]$", "must be a time of day, HH:MM")
_MOST: Final = 64
RuleName = Annotated[str, line(MAX_NAME_CHARS)]
Bound = Annotated[Number, Field(ge=-MAX_BOUND, le=MAX_BOUND)]
Metric = Annotated[str, line(MAX_METRIC_CHARS)]
Named = Annotated[str, Field(max_length=_MOST), judged(_id)]
Tag = Annotated[str, Field(min_length=1, max_length=MAX_TAG_CHARS), COMPOSED]
Duration = Annotated[Whole, Field(ge=0, le=MAX_ABSENT_S)]
Keep = Annotated[Whole, Field(ge=0, le=MAX_DURATION_S)]
Zone = Annotated[str, Field(min_length=1, max_length=MAX_ZONE_CHARS), judged(zone_of)]
TimeOfDay = Annotated[str, StringConstraints(pattern=_TIME)]
Weekday = Annotated[Whole, Field(ge=1, le=7)]


class SilenceBody(Body):
    """A time of the week in which nobody is told."""

    days: Annotated[list[Weekday], Field(min_length=1, max_length=7)]
    """Days on which it begins, 1 for Monday to 7 for Sunday."""
    from_time: TimeOfDay
    """Time of day at which it begins, `22:00`, in the rule's time zone."""
    to_time: TimeOfDay
    """Time of day at which it ends; on the next day, where it is not after the begin."""

    def silence(self) -> Silence:
        """Return it in the domain's words."""
        return Silence(days=tuple(sorted(set(self.days))), begins=minutes(self.from_time), ends=minutes(self.to_time))


def minutes(time: str) -> int:
    """Return the minutes after midnight of `HH:MM`."""
    return int(time[:2]) * 60 + int(time[3:])


class _Described(Body):
    @classmethod
    def across(cls, given: Mapping[str, Any]) -> Sequence[tuple[str, str]]:
        """Return the rules on target and trigger, where they are broken."""
        if given.get("device_id") is not None and given.get("tag") is not None:
            return [("tag", "must not be given beside device_id")]
        return []


class _Judging(_Described):
    """Members of a rule by which it judges."""

    device_id: Named | None = None
    tag: Tag | None = None
    trigger: Trigger
    """`above` and `rate` need `high`, `below` needs `low`, `outside` both; `no_data` and `offline` need `for_s`."""
    metric: Metric | None = None
    """Left out: any message, of `no_data`; and with `offline`."""
    low: Bound | None = None
    high: Bound | None = None
    """Of `rate`: the largest change a second, up or down."""
    margin: Annotated[Bound, Field(ge=0)] = 0.0
    """Distance by which a value must be within the bounds to clear an alarm."""
    for_s: Duration = 0
    """Seconds for which samples must be bad; of `no_data` and `offline`, seconds of absence."""
    keep_s: Keep = 0
    """Seconds for which samples must be good before an alarm is cleared."""


class AlarmRunBody(Body):
    """A run of an agent that the rule begins for each of its alarms, for whoever writes this."""

    agent_id: Annotated[str, Field(min_length=1, max_length=_MOST)]
    message: Annotated[str, Field(min_length=1, max_length=MAX_RUN_MESSAGE_CHARS)]
    """Said to the agent, with the alarm's facts behind it as JSON."""

    def run(self) -> AlarmRun:
        """Return it in the domain's words."""
        return AlarmRun(agent_id=self.agent_id, message=self.message)


class CreateAlarmRuleBody(_Judging):
    """A new rule of the caller's: for `device_id`, or for all of the caller's devices with `tag`."""

    name: RuleName
    severity: AlarmSeverity = AlarmSeverity.WARNING
    actions: Annotated[list[AlarmAction], Field(max_length=3)] = Field(default_factory=lambda: [AlarmAction.NOTICE])
    run: AlarmRunBody | None = None
    """The run that the action `run` begins."""
    silences: Annotated[list[SilenceBody], Field(max_length=MAX_SILENCES)] = Field(default_factory=list)
    time_zone: Zone = "UTC"
    enabled: bool = Field(default=True, strict=True)

    def fields(self) -> Mapping[str, Any]:
        """Return what the body says, in the domain's words."""
        return _fields({name: getattr(self, name) for name in type(self).model_fields})


class TestAlarmRuleBody(_Judging):
    """A rule that is tried on what its device has sent, or the newest ten devices with its tag; nothing is stored."""

    __test__ = False  # no test of pytest's

    begins_at: Moment | None = None
    """Null: a day before `ends_at`."""
    ends_at: Moment | None = None
    """Not part of the range; null: now. The range is at most seven days."""

    def fields(self) -> Mapping[str, Any]:
        """Return what the body says of the rule, in the domain's words."""
        return {name: getattr(self, name) for name in _Judging.model_fields}


class ChangeAlarmRuleBody(_Described):
    """Changes of a rule; a member that is left out stays as it is. What it judges by ends the alarms that are open."""

    name: RuleName = left_out()
    device_id: Named = left_out()
    tag: Tag = left_out()
    trigger: Trigger = left_out()
    metric: Metric | None = None
    low: Bound | None = None
    high: Bound | None = None
    margin: Annotated[Bound, Field(ge=0)] = left_out()
    for_s: Duration = left_out()
    keep_s: Keep = left_out()
    severity: AlarmSeverity = left_out()
    actions: Annotated[list[AlarmAction], Field(max_length=3)] = left_out()
    run: AlarmRunBody | None = None
    silences: Annotated[list[SilenceBody], Field(max_length=MAX_SILENCES)] = left_out()
    time_zone: Zone = left_out()
    enabled: Annotated[bool, Field(strict=True)] = left_out()
    version: Version | None = None

    def changes(self) -> Mapping[str, Any]:
        """Return what the body says, in the domain's words."""
        given = _fields({name: getattr(self, name) for name in self.model_fields_set - {"version"}})
        if "device_id" in given:
            return {**given, "tag": None}
        return {**given, "device_id": None} if "tag" in given else given


def _fields(given: dict[str, Any]) -> dict[str, Any]:
    if "actions" in given:
        given["actions"] = tuple(sorted(set(given["actions"])))
    if given.get("run") is not None:
        given["run"] = given["run"].run()
    if "silences" in given:
        given["silences"] = tuple(each.silence() for each in given["silences"])
    return given


def require_whole(rule: AlarmRule) -> None:
    """Check what the members of a rule say together.

    Raises:
        ValidationFailed: one entry for each member that is wrong.
    """
    wrong: dict[str, str] = {}
    if (rule.device_id is None) == (rule.tag is None):
        wrong["device_id"] = "must be given, or tag"
    if AlarmAction.RUN in rule.actions and rule.run is None:
        wrong["run"] = "must be given with the action run"
    if rule.is_absence:
        if not MIN_ABSENT_S <= rule.for_s <= MAX_ABSENT_S:
            wrong["for_s"] = f"must be {MIN_ABSENT_S} to {MAX_ABSENT_S} for {rule.trigger.value}"
        if rule.trigger is Trigger.OFFLINE and rule.metric is not None:
            wrong["metric"] = "must not be given for offline"
        unwanted = {"low", "high", "margin", "keep_s"}
    else:
        if rule.metric is None:
            wrong["metric"] = f"must be given for {rule.trigger.value}"
        if rule.for_s > MAX_DURATION_S:
            wrong["for_s"] = f"must be at most {MAX_DURATION_S}"
        unwanted = _judge_bounds(rule, wrong)
    for name in sorted(unwanted):
        if getattr(rule, name):
            wrong[name] = f"must not be given for {rule.trigger.value}"
    if wrong:
        ValidationFailed.together(*(partial(_refuse, field, text) for field, text in wrong.items()))


def _refuse(field: str, text: str) -> None:
    raise ValidationFailed.of(field, text)


_BOUNDS: Final[Mapping[Trigger, frozenset[str]]] = {
    Trigger.ABOVE: frozenset({"high"}),
    Trigger.BELOW: frozenset({"low"}),
    Trigger.OUTSIDE: frozenset({"low", "high"}),
    Trigger.RATE: frozenset({"high"}),
    **dict.fromkeys(ABSENCES, frozenset()),
}


def _judge_bounds(rule: AlarmRule, wrong: dict[str, str]) -> set[str]:
    needed = _BOUNDS[rule.trigger]
    for name in sorted(needed):
        if getattr(rule, name) is None:
            wrong[name] = f"must be given for {rule.trigger.value}"
    if rule.trigger is Trigger.RATE and rule.high is not None and rule.high <= rule.margin:
        wrong["high"] = "must be greater than 0 and than margin"
    if rule.trigger is Trigger.OUTSIDE and rule.low is not None and rule.high is not None:
        if rule.low >= rule.high:
            wrong["high"] = "must be greater than low"
        elif 2 * rule.margin > rule.high - rule.low:
            wrong["margin"] = "must be at most half of the distance between low and high: no value would be good"
    return {"low", "high"} - needed
