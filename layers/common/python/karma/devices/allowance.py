"""Limits of one device an hour: of dead letters that are kept, and of write units of telemetry.

A device publishes as fast as its broker lets it, and no plan counts its messages. Messages beyond a limit are refused,
counted, and reported in one dead letter an hour (DeadLetterRepository.sum_up), so that a flood costs little.

Telemetry is counted in portions: a process lets a device have the first of an hour by itself, and asks the table for
each that follows. So an ordinary message costs no call, and no number of processes lets a device have much more.
"""

from __future__ import annotations

from typing import Final

from karma.core.ids import DeviceId
from karma.devices.repository.hours import HOUR_S, Cost, HourRepository
from karma.devices.samples import Batch

LETTERS_AN_HOUR: Final = 60
"""Largest number of dead letters of one device that are kept an hour, each with a payload of up to 128 KB."""
UNITS_AN_HOUR: Final = 14_400
"""Write units of telemetry of one device an hour, 4 KB a second: three times what the SDK keeps of a time offline."""
PORTION: Final = 600
_UNIT_BYTES: Final = 1_024
_MAX_KNOWN: Final = 10_000


def units_of(batches: tuple[Batch, ...]) -> int:
    """Return the write units that batches cost, each an item: one for each begun kilobyte."""
    return sum(-(-len(each.samples_json) // _UNIT_BYTES) for each in batches)


class Allowance:
    """Counts the cost of devices by the hour in which the broker received a message."""

    def __init__(self, hours: HourRepository) -> None:
        self._hours = hours
        self._left: dict[tuple[DeviceId, int], int] = {}
        """Units of portions that this process has left for a device in an hour."""
        self._over: set[tuple[DeviceId, int, Cost]] = set()

    def take_letter(self, device_id: DeviceId, *, received_ms: int) -> bool:
        """Tell whether one more dead letter may be kept; one write, none in an hour that is known to be used up."""
        return self._take(device_id, Cost.LETTERS, 1, hour=hour_of(received_ms), most=LETTERS_AN_HOUR)

    def take_units(self, device_id: DeviceId, units: int, *, received_ms: int) -> bool:
        """Tell whether so many more units of telemetry may be stored; one write a portion, none for the first."""
        place = (device_id, hour_of(received_ms))
        left = self._left.get(place, PORTION)
        if left < units and self._take(device_id, Cost.UNITS, PORTION, hour=place[1], most=UNITS_AN_HOUR):
            left += PORTION
        if len(self._left) >= _MAX_KNOWN:
            self._left.clear()
        self._left[place] = left - units if left >= units else left
        return left >= units

    def give_back(self, device_id: DeviceId, units: int, *, received_ms: int) -> None:
        """Take units back of a message that could not be stored: it is delivered again, and asks for them again."""
        place = (device_id, hour_of(received_ms))
        self._left[place] = self._left.get(place, 0) + units

    def _take(self, device_id: DeviceId, cost: Cost, amount: int, *, hour: int, most: int) -> bool:
        place = (device_id, hour, cost)
        if place in self._over:
            return False
        if self._hours.take(device_id, cost, amount, hour=hour, most=most):
            return True
        if len(self._over) >= _MAX_KNOWN:
            self._over.clear()
        self._over.add(place)
        return False


def hour_of(moment_ms: int) -> int:
    """Return the hour of a moment, counted from 1970."""
    return moment_ms // (HOUR_S * 1_000)
