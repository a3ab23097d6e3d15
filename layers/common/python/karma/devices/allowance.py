"""Limits of one device an hour: of dead letters that are kept, of write units of telemetry, and of other messages.

What a device asks of its files is counted in the table at each ask, which costs more calls anyway.

A device publishes as fast as its broker lets it, and no plan counts its messages. Messages beyond a limit are refused,
counted, and reported in one dead letter an hour (DeadLetterRepository.sum_up), so that a flood costs little.

Telemetry and messages are counted in portions: a process lets a device have the first of an hour by itself, and asks
the table for each that follows. So an ordinary message costs no call, and no number of processes lets a device have
much more.
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
WORDS_AN_HOUR: Final = 7_200
"""Heartbeats, events, `ready` and connections of one device an hour, two a second; the SDK's are some 60."""
ANSWERS_AN_HOUR: Final = 7_200
"""Answers of one device an hour: one command a second, acknowledged and answered.

They are apart from the others, so that a device that connects over and over is heard when it has done something.
"""
MESSAGES_PORTION: Final = 120
REPORTS_AN_HOUR: Final = 120
"""Reports of settings of one device that are kept an hour, and told; its settings themselves are always the newest."""
REPORTS_PORTION: Final = 30
FILE_UNITS_AN_HOUR: Final = 1_200
"""Asks of one device for its files an hour, and links of uploads beyond the first of an answer, 8 MiB each: 9 GiB."""
FILE_REFUSALS_AN_HOUR: Final = 60
"""Asks beyond them that are answered an hour."""
_UNIT_BYTES: Final = 1_024
_MAX_KNOWN: Final = 10_000


def units_of(batches: tuple[Batch, ...]) -> int:
    """Return the write units that batches cost, each an item: one for each begun kilobyte."""
    return sum(-(-len(each.samples_json) // _UNIT_BYTES) for each in batches)


class HourlyAllowance:
    """Counts the cost of devices by the hour in which the broker received a message."""

    def __init__(self, hours: HourRepository) -> None:
        self._hours = hours
        self._left: dict[tuple[DeviceId, int, Cost], int] = {}
        """The part of its portions that this process has left for a device in an hour."""
        self._over: set[tuple[DeviceId, int, Cost]] = set()

    def take_letter(self, device_id: DeviceId, *, received_ms: int) -> bool:
        """Tell whether one more dead letter may be kept; one write, none in an hour that is known to be used up."""
        return self._take(device_id, Cost.LETTERS, 1, hour=hour_of(received_ms), most=LETTERS_AN_HOUR)

    def take_units(self, device_id: DeviceId, units: int, *, received_ms: int) -> bool:
        """Tell whether so many more units of telemetry may be stored; one write a portion, none for the first."""
        return self._take_part(device_id, Cost.UNITS, units, PORTION, received_ms=received_ms, most=UNITS_AN_HOUR)

    def take_word(self, device_id: DeviceId, *, received_ms: int) -> bool:
        """Tell whether one more heartbeat, event, `ready` or connection may be taken; costs as `take_units` does."""
        return self._take_part(device_id, Cost.WORDS, 1, MESSAGES_PORTION, received_ms=received_ms, most=WORDS_AN_HOUR)

    def take_answer(self, device_id: DeviceId, *, received_ms: int) -> bool:
        """Tell whether one more answer to a command may be taken; costs as `take_units` does."""
        most = ANSWERS_AN_HOUR
        return self._take_part(device_id, Cost.ANSWERS, 1, MESSAGES_PORTION, received_ms=received_ms, most=most)

    def take_report(self, device_id: DeviceId, *, received_ms: int) -> bool:
        """Tell whether one more report of settings may be kept; costs as `take_units` does."""
        return self._take_part(
            device_id, Cost.REPORTS, 1, REPORTS_PORTION, received_ms=received_ms, most=REPORTS_AN_HOUR
        )

    def take_file_units(self, device_id: DeviceId, units: int, *, received_ms: int) -> bool:
        """Tell whether a device may have so many more asks for its files, or links; one write."""
        return self._take(device_id, Cost.FILES, units, hour=hour_of(received_ms), most=FILE_UNITS_AN_HOUR)

    def take_file_refusal(self, device_id: DeviceId, *, received_ms: int) -> bool:
        """Tell whether one more ask that is refused for its number may be answered; costs as `take_letter` does."""
        return self._take(device_id, Cost.FILE_REFUSALS, 1, hour=hour_of(received_ms), most=FILE_REFUSALS_AN_HOUR)

    def give_back(self, device_id: DeviceId, units: int, *, received_ms: int) -> None:
        """Take units back of a message that could not be stored: it is delivered again, and asks for them again."""
        place = (device_id, hour_of(received_ms), Cost.UNITS)
        self._left[place] = self._left.get(place, 0) + units

    def _take_part(
        self, device_id: DeviceId, cost: Cost, amount: int, portion: int, *, received_ms: int, most: int
    ) -> bool:
        place = (device_id, hour_of(received_ms), cost)
        left = self._left.get(place, portion)
        if left < amount and self._take(device_id, cost, portion, hour=place[1], most=most):
            left += portion
        if len(self._left) >= _MAX_KNOWN:
            self._left.clear()
        self._left[place] = left - amount if left >= amount else left
        return left >= amount

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
