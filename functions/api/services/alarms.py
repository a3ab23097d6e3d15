"""Rules of alarms, and alarms."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from api.services import billing
from api.services.process import clock

if TYPE_CHECKING:
    from karma.alarms.service import AlarmRuleService, AlarmService
    from karma.alarms.trial import RuleTrial


@cache
def rules() -> AlarmRuleService:
    """Create, show, change and delete rules."""
    from karma.alarms.repository.alarms import AlarmRepository
    from karma.alarms.repository.rules import AlarmRuleRepository
    from karma.alarms.service import AlarmRuleService
    from karma.devices.lookup import DeviceLookup
    from karma.devices.repository.devices import DeviceRepository

    lookup = DeviceLookup(DeviceRepository())
    return AlarmRuleService(
        AlarmRuleRepository(),
        AlarmRepository(),
        clock(),
        require_device=lookup.require,
        plan_of=lambda user_id: billing.subscriptions().plan(user_id),
    )


@cache
def trial() -> RuleTrial:
    """Try rules on stored samples."""
    from api.services import telemetry
    from karma.alarms.trial import RuleTrial
    from karma.devices.repository.devices import DeviceRepository

    return RuleTrial(telemetry.reader(), DeviceRepository(), clock())


@cache
def alarms() -> AlarmService:
    """Show and acknowledge alarms."""
    from karma.alarms.repository.alarms import AlarmRepository
    from karma.alarms.service import AlarmService

    return AlarmService(AlarmRepository(), clock())
