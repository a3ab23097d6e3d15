"""Events of alarms that webhooks tell: each change of an alarm's state, whoever makes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from karma.core.happenings import Happening, HappeningSource, HappeningType, ItemChange

_TOLD: Final[Mapping[str, str]] = {
    "raised": "A rule raised an alarm on a device; `data.state` is `cleared` where it was over when it came.",
    "acknowledged": "Somebody acknowledged an alarm.",
    "cleared": "An alarm was cleared by its device's samples or messages.",
    "superseded": "An alarm ended since its rule was changed, paused or deleted.",
}


_LEFT_OUT: Final = frozenset({"id", "metric", "run_id", "run_refusal"})


class AlarmHappenings:
    """Changes of alarms."""

    types: Sequence[HappeningType] = tuple(
        HappeningType(name=f"alarm.{state}", meaning=meaning) for state, meaning in _TOLD.items()
    )

    table = "devices"
    items: Sequence[str] = ("alarm",)

    def happened(self, change: ItemChange) -> Happening | None:
        """Return the change of an alarm's state by which its item has changed."""
        new = change.new
        if new is None or new.get("type") != {"S": "alarm"}:
            return None
        state = new["state"]["S"]
        if change.old is None:
            name = "raised"
        elif change.old["state"]["S"] in ("raised", "acknowledged") and change.old["state"]["S"] != state:
            name = state
        else:
            return None
        # Late: a route that only names the types needs none of these.
        from karma.alarms.answers import alarm_view
        from karma.alarms.items import alarm_in
        from karma.core.ids import derived_id

        alarm = alarm_in(new)
        at = alarm.recorded_at if name == "raised" else alarm.ended_at or alarm.acknowledged_at or alarm.recorded_at
        view = alarm_view(alarm)
        return Happening(
            id=derived_id(at, "alarm", alarm.id, name),
            user_id=alarm.user_id,
            type=f"alarm.{name}",
            at=at,
            data={"alarm_id": alarm.id, **{key: value for key, value in view.items() if key not in _LEFT_OUT}},
        )


def source() -> HappeningSource:
    """Return what alarms declare."""
    return AlarmHappenings()
