"""Devices and commands: states, limits, and the one table of command transitions.

Device   provisioning -> active -> deleting -> (gone)        lifecycle, never shown
         offline | online | error | updating                 status, derived from presence and events of the device
Command  queued -> sent -> acknowledged -> succeeded | failed | rejected | timed_out
         queued | sent -> expired        queued | sent | acknowledged -> cancelled
         A state without an arrow out of it is final: a later answer of the device is stored as `late_result`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import field
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, NamedTuple

import orjson

from karma.core.ids import CommandId, DeviceId, UserId
from karma.core.records import Record

SERIAL: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
SERIAL_FORM: Final = "1 to 64 letters of ASCII, digits, _ or -"
MAC: Final = re.compile(r"[0-9A-Fa-f]{2}([:-][0-9A-Fa-f]{2}){5}")
COMMAND_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.:-]{0,63}")
COMMAND_FORM: Final = "a letter of ASCII, then up to 63 letters, digits or _.:-"

MAX_NAME_CHARS: Final = 255
MAX_TAGS: Final = 50
MAX_TAG_CHARS: Final = 50
MAX_OBJECT_BYTES: Final = 8 * 1024
"""Largest capabilities, hardware, network and location, each in bytes of JSON."""
MAX_COMMAND_UNITS: Final = 14_400
"""Kilobytes of commands of one device an hour, each rounded up: four commands a second, as much as of telemetry."""
MAX_PARAMS_BYTES: Final = 16 * 1024
MIN_TTL_S: Final = 1
MAX_TTL_S: Final = 7 * 24 * 3600
DEFAULT_TTL_S: Final = 60
MAX_WAIT_S: Final = 20
MAX_PENDING_COMMANDS: Final = 100
COMMAND_RETENTION_S: Final = 30 * 24 * 3600

RAW_RETENTION_S: Final = 30 * 24 * 3600
RAW_STORED_S: Final = RAW_RETENTION_S + 4 * 24 * 3600
"""Time for which raw telemetry stands in the database: days longer than samples are taken, in which it is archived."""
"""Seconds for which raw telemetry is kept; older samples are refused when they arrive."""
MAX_FUTURE_S: Final = 10 * 60
"""Seconds: a sample from further ahead than this has a wrong clock, and is refused."""
DEAD_LETTER_RETENTION_S: Final = 14 * 24 * 3600

PRESENCE_WINDOW_MS: Final = 4 * 60 * 1000
_EVIDENCE_GRACE_MS: Final = 2_000
"""Milliseconds: a message this much later than the last disconnect proves a connection that presence has not shown yet.
"""


class DeviceModel(StrEnum):
    """Hardware model of a device."""

    EOS_3A = "EOS-3A"
    EOS_3B = "EOS-3B"
    EOS_3C = "EOS-3C"


class DeviceStatus(StrEnum):
    """Status of a device as its owner sees it."""

    ONLINE = "online"
    OFFLINE = "offline"
    ERROR = "error"
    UPDATING = "updating"


class DeviceState(StrEnum):
    """State of a device's row; only `active` ones are shown."""

    PROVISIONING = "provisioning"
    ACTIVE = "active"
    DELETING = "deleting"


class CommandStatus(StrEnum):
    """State of a command."""

    QUEUED = "queued"
    SENT = "sent"
    ACKNOWLEDGED = "acknowledged"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    REJECTED = "rejected"
    TIMED_OUT = "timed_out"
    EXPIRED = "expired"
    CANCELLED = "cancelled"


_S = CommandStatus
_ANSWERS = frozenset({_S.ACKNOWLEDGED, _S.SUCCEEDED, _S.FAILED, _S.REJECTED})

# A queued command may be answered: the publish precedes the write that says `sent`, and the answer can be quicker.
TRANSITIONS: Final[Mapping[CommandStatus, frozenset[CommandStatus]]] = {
    _S.QUEUED: _ANSWERS | {_S.SENT, _S.EXPIRED, _S.CANCELLED},
    _S.SENT: _ANSWERS | {_S.EXPIRED, _S.CANCELLED},
    _S.ACKNOWLEDGED: frozenset({_S.SUCCEEDED, _S.FAILED, _S.REJECTED, _S.TIMED_OUT, _S.CANCELLED}),
    _S.SUCCEEDED: frozenset(),
    _S.FAILED: frozenset(),
    _S.REJECTED: frozenset(),
    _S.TIMED_OUT: frozenset(),
    _S.EXPIRED: frozenset(),
    _S.CANCELLED: frozenset(),
}
ANSWERS: Final = _ANSWERS
"""States that an answer of a device may give a command."""
FINAL_ANSWERS: Final = _ANSWERS - {_S.ACKNOWLEDGED}


def sources_of(target: CommandStatus) -> frozenset[CommandStatus]:
    """Return the states from which a command may go to `target`."""
    return frozenset(source for source, targets in TRANSITIONS.items() if target in targets)


def is_final(status: CommandStatus) -> bool:
    """Tell whether a command in this state changes no more."""
    return not TRANSITIONS[status]


class CertificateOverlap(Record, kw_only=True):
    """Time in which a device has two certificates, as its row shows it."""

    certificate_id: str
    """The new certificate."""
    began_ms: int
    ends_ms: int
    is_renewal: bool = False
    """True: the device asked for it, and if it has not connected by it at the end, the new one is removed."""


class Device(Record, kw_only=True):
    """A device as its owner described it."""

    id: DeviceId
    user_id: UserId
    name: str
    model: DeviceModel
    mac: str
    serial_number: str
    state: DeviceState
    ip: str | None
    firmware_version: str | None
    capabilities: Mapping[str, Any]
    hardware: Mapping[str, Any]
    network: Mapping[str, Any]
    location: Mapping[str, Any] | None
    tags: tuple[str, ...]
    version: int
    created_at: str
    updated_at: str
    overlap: CertificateOverlap | None = None
    """Time in which it has two certificates; None: it has one."""
    is_bare: bool = False
    """True: it has had no certificate yet."""
    first_id: DeviceId | None = None
    """The id that it was made under, where another account had it before; None: its id."""

    @property
    def addressee(self) -> DeviceId:
        """Return the id by which the device knows itself: it stands in its credentials, and in each request to it."""
        return self.first_id or self.id

    @property
    def certificates(self) -> int:
        """Return the number of certificates by which it may connect."""
        return 0 if self.is_bare else 1 if self.overlap is None else 2


class Reading(Record):
    """The newest value of one metric."""

    value: float
    ts: int
    """Milliseconds since 1970, by the device's clock."""


class Latest(Record):
    """Newest facts that the device sent. Two of these merge in any order to the same result."""

    readings: Mapping[str, Reading] = field(default_factory=dict)
    last_seen_ms: int = 0
    """Broker's time of the last message in milliseconds; 0: there was none."""
    ready_ms: int = 0
    """Broker's time in milliseconds of the last `ready`, after which the device takes commands; 0: none."""
    ip_ms: int = 0
    """Broker's time in milliseconds of the last message with an address; one without it takes nothing back."""
    ip: str | None = None
    firmware_ms: int = 0
    firmware_version: str | None = None
    condition_ms: int = 0
    condition: str = ""
    """`error` or `updating`, as the device said last; "": neither."""

    MAX_METRICS = 200

    @classmethod
    def told(cls, at_ms: int, *, ip: str | None, firmware_version: str | None) -> Latest:
        """Return the facts of a heartbeat; None: it does not have the value."""
        return cls(
            last_seen_ms=at_ms,
            ip_ms=at_ms if ip is not None else 0,
            ip=ip,
            firmware_ms=at_ms if firmware_version is not None else 0,
            firmware_version=firmware_version,
        )

    def merge(self, other: Latest) -> Latest:
        """Take the newer of each fact; at equal times the greater value, so that order does not matter."""
        readings = dict(self.readings)
        for name, new in other.readings.items():
            old = readings.get(name)
            if old is None or (new.ts, new.value) > (old.ts, old.value):
                readings[name] = new
        if len(readings) > self.MAX_METRICS:
            kept = sorted(readings.items(), key=lambda pair: (pair[1].ts, pair[0]))[-self.MAX_METRICS :]
            readings = dict(kept)
        placed = max(self, other, key=lambda one: (one.ip_ms, one.ip or ""))
        flashed = max(self, other, key=lambda one: (one.firmware_ms, one.firmware_version or ""))
        state = max(self, other, key=lambda one: (one.condition_ms, one.condition))
        return Latest(
            readings=readings,
            last_seen_ms=max(self.last_seen_ms, other.last_seen_ms),
            ready_ms=max(self.ready_ms, other.ready_ms),
            ip_ms=placed.ip_ms,
            ip=placed.ip,
            firmware_ms=flashed.firmware_ms,
            firmware_version=flashed.firmware_version,
            condition_ms=state.condition_ms,
            condition=state.condition,
        )


class PresenceEvent(NamedTuple):
    """One lifecycle event of one client id."""

    ts: int
    """Milliseconds since 1970, by the broker's clock."""
    version: int
    connected: bool
    session: str

    @property
    def rank(self) -> tuple[int, bool, int, str]:
        """Return the order within the window: version, then disconnected over connected; the rest makes it total."""
        return (self.version, not self.connected, self.ts, self.session)


class PresenceState(Record):
    """Connection of a device, decided from lifecycle events that arrive late, twice, and in any order.

    Rules (AWS documents duplicates and re-ordering of lifecycle events):
    1. Timestamps more than four minutes apart decide: the later event is true.
    2. Within four minutes the higher `versionNumber` is true; versions restart at 0 after a broker's reset.
    3. At equal version `disconnected` is true, so a closed session does not reopen by a late or repeated `connected`.
       A session is (sessionIdentifier, versionNumber): a persistent session keeps its identifier over reconnects.

    "More than four minutes" is not transitive, so folding events pairwise would make the result depend on their
    order. Instead the state keeps every event that may still win, and the winner is computed from that set: of all
    events within four minutes of the newest, the highest by rule 2 and 3. An event is dropped when it can never win
    again: it is out of the window, or an event at least as new ranks above it. What remains is nearly always one.
    """

    events: tuple[PresenceEvent, ...] = ()
    """Events that may still decide, newest first."""

    @property
    def winner(self) -> PresenceEvent | None:
        """Return the event that decides now; None: there was none."""
        return max(self.events, key=lambda event: event.rank) if self.events else None

    @property
    def connected(self) -> bool:
        """Tell whether the device has a connection, as far as lifecycle events show."""
        winner = self.winner
        return winner is not None and winner.connected

    @property
    def changed_ms(self) -> int:
        """Return the broker's time in milliseconds of the event that decides now; 0: there was none."""
        winner = self.winner
        return winner.ts if winner is not None else 0

    def after(self, *new: PresenceEvent) -> PresenceState:
        """Return the state after these events too; the same whatever their order or number of repeats."""
        return PresenceState(_undecided((*self.events, *new)))


def _undecided(events: Iterable[PresenceEvent]) -> tuple[PresenceEvent, ...]:
    newest_first = sorted(set(events), key=lambda event: (event.ts, event.rank), reverse=True)
    kept: list[PresenceEvent] = []
    for event in newest_first:
        if event.ts < newest_first[0].ts - PRESENCE_WINDOW_MS:
            break
        # All that were kept are at least as new; the last of them ranks highest.
        if not kept or event.rank > kept[-1].rank:
            kept.append(event)
    return tuple(kept)


def is_connected(presence: PresenceState, latest: Latest) -> bool:
    """Tell whether the device has a connection: presence shows it, or a message came after its last disconnect."""
    if presence.connected:
        return True
    seen = max(latest.last_seen_ms, latest.ready_ms)
    return seen > 0 and seen > presence.changed_ms + _EVIDENCE_GRACE_MS


def status_of(presence: PresenceState, latest: Latest) -> DeviceStatus:
    """Return the status that the owner sees."""
    if not is_connected(presence, latest):
        return DeviceStatus.OFFLINE
    return DeviceStatus(latest.condition) if latest.condition else DeviceStatus.ONLINE


class CurrentDevice(Record):
    """A device with its newest facts and presence."""

    device: Device
    latest: Latest
    presence: PresenceState

    @property
    def status(self) -> DeviceStatus:
        """Return the status that the owner sees."""
        return status_of(self.presence, self.latest)


class LateResult(Record, kw_only=True):
    """First final answer that came after the command had ended otherwise; it changes nothing else."""

    status: CommandStatus
    result: Mapping[str, Any] | None
    error: Mapping[str, Any] | None
    received_ms: int
    """Broker's time in milliseconds."""


class Command(Record, kw_only=True):
    """One request to one device."""

    id: CommandId
    device_id: DeviceId
    user_id: UserId
    serial_number: str
    command: str
    params: Mapping[str, Any]
    status: CommandStatus
    serial: bool
    """True: it is sent alone; no other command is sent to the device until this one has ended."""
    issued_ms: int
    expires_ms: int
    requested_by: str = ""
    sent_ms: int = 0
    acknowledged_ms: int = 0
    finished_ms: int = 0
    result: Mapping[str, Any] | None = None
    error: Mapping[str, Any] | None = None
    late_result: LateResult | None = None

    @property
    def finished(self) -> bool:
        """Tell whether its state is final."""
        return is_final(self.status)

    @property
    def units(self) -> int:
        """Return the kilobytes of its params, rounded up."""
        return -(-len(orjson.dumps(self.params)) // 1_024)

    def is_forgotten(self, now: datetime) -> bool:
        """Tell whether its retention is over, though the database may not have deleted it yet."""
        return now.timestamp() >= self.expires_ms // 1000 + COMMAND_RETENTION_S

    def is_overdue(self, now: datetime) -> bool:
        """Tell whether its time is over and the end is not recorded yet."""
        return not self.finished and now.timestamp() * 1000 >= self.expires_ms

    def is_news(self, answer: LateResult) -> bool:
        """Tell whether a final answer differs from how the command ended; a repeat of its end does not."""
        said = (answer.status, answer.result, answer.error)
        return self.finished and said != (self.status, self.result, self.error)
