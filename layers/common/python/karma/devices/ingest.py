"""Ingest of devices' messages. Delivered at least once, in any order; every step may be repeated.

The messages of a batch are handled in the order in which the broker received them. Between batches the first that is
recorded counts: an end that was shown, and after which the next serial command was sent, is not taken back.

message                        effect
unknown topic, unknown or deleted thing, certificate not the row's     dropped and counted (IngestRejected, reason)
unreadable payload, key taken by another body                          the owner's dead letter, counted
message, or sample, of before the device changed hands                 dropped and counted (BEFORE_TRANSFER)
heartbeat or event that the device dates before that        LATEST: that the device is there; counted the same way
what is beyond a device's hour      refused (TOO_FAST), or counted in one letter; `ready` is heard once a minute
member that may be left out and cannot be kept                         named in a dead letter; the rest is taken
telemetry       one conditional put an hour of samples; newest values into LATEST, with what a watcher keeps beside
                them; what cannot be taken is named in a dead letter
heartbeat, event, ready        LATEST; heartbeat publishes what is still queued, ready all that was not acknowledged
response        the command moves by the table of transitions; an end lets the next serial command go; what comes
                after the end is kept beside it
wake-up         from ourselves: overdue commands end, and what waited behind them is published
presence        PRESENCE

LATEST and PRESENCE are written once a device a batch, LATEST without a read where there are values alone. Where a batch
has several messages of telemetry, one call stores all of them, and one writes the newest values of all devices; what
these leave out is written message by message and device by device. A message is
reported back for another delivery only when the database or IoT did not answer, or by a bug; then it goes to the
dead-letter queue after five tries, alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Final

from karma.core.clock import Clock, epoch_ms, monotonic
from karma.core.dynamo.failures import ConditionFailed
from karma.core.errors import Upstream
from karma.core.ids import DeviceId
from karma.core.observability import count, logger
from karma.devices.allowance import HourlyAllowance, hour_of
from karma.devices.dispatch import AT_ONCE, READY_EVERY_S, SLOW_READY_EVERY_S, Dispatcher
from karma.devices.domain import DeviceState, Latest, is_connected, is_final
from karma.devices.hearing import DeviceMessage, HeardFacts, Rejected, Said
from karma.devices.measuring import Measured, Measuring
from karma.devices.payloads import (
    Refused,
    Unreadable,
    read_event,
    read_heartbeat,
    read_presence,
    read_ready,
    read_response,
    said_ms,
)
from karma.devices.ports import Watch, Watcher
from karma.devices.repository.dead_letters import DeadLetterRepository
from karma.devices.repository.device_mapping import SerialClaim
from karma.devices.repository.devices import DeviceRepository
from karma.devices.repository.telemetry import TelemetryRepository
from karma.devices.showing import shown_to_owner
from karma.devices.topics import read_topic
from karma.devices.wake_ups import WakeUp

CLAIM_MAX_AGE_S: Final = 30.0
"""Seconds for which a process caches a device's row; a deleted device's data is swept only after that."""
_SUSPECT_MAX_AGE_S: Final = 5.0
"""Seconds for which it is not read again for a certificate that seemed not to be its own."""
_MAX_CLAIMS: Final = 10_000
_TURNS: Final = 3
"""Times that a batch's messages of a device are taken which becomes another account's meanwhile."""


def _when(message: DeviceMessage) -> tuple[int, int]:
    """Return the order of a batch, which the queue shuffles: the broker's time; for answers then the device's."""
    return message.received_ms, said_ms(message.payload) if message.topic.endswith("/response") else 0


def _alive(at_ms: int) -> tuple[Latest, tuple[Refused, ...]]:
    """Return what counts of a message that the device dates before it changed hands: that it is there now."""
    count("IngestRejected", reason="BEFORE_TRANSFER")
    return Latest(last_seen_ms=at_ms), ()


_Attempt = Callable[[Iterable[str], Callable[[], None]], None]
"""Makes a step of the messages with these ids, and keeps what became of them."""


class _ChangedHands(Exception):
    """The device has become another account's since its owner was cached: its messages are taken once more, at once.

    To give them back to the queue would hold an answer back beyond its command's time.
    """


class IngestService:
    """Handles batches of messages."""

    def __init__(
        self,
        *,
        devices: DeviceRepository,
        telemetry: TelemetryRepository,
        dead_letters: DeadLetterRepository,
        dispatcher: Dispatcher,
        allowance: HourlyAllowance,
        clock: Clock,
        watcher: Watcher | None = None,
    ) -> None:
        self._devices = devices
        self._measuring = Measuring(telemetry, allowance)
        self._dead_letters = dead_letters
        self._dispatcher = dispatcher
        self._allowance = allowance
        self._clock = clock
        self._watcher = watcher
        self._claims: dict[str, tuple[float, SerialClaim | None]] = {}
        self._suspects: dict[tuple[str, str], float] = {}
        """Times at which a thing was read anew for a certificate that seemed not to be its own."""

    def take(self, messages: Sequence[DeviceMessage], wake_ups: Sequence[WakeUp] = ()) -> list[str]:
        """Handle messages and wake-ups, each by itself; return the ids of those that must be delivered again."""
        failed: dict[str, None] = {}
        changed: dict[str, None] = {}
        rejected: Counter[str] = Counter()

        def attempt(ids: Iterable[str], step: Callable[[], None]) -> None:
            try:
                step()
            except Rejected as exc:
                rejected[exc.reason] += 1
            except _ChangedHands:
                changed.update(dict.fromkeys(ids))
            except (Upstream, ConditionFailed) as exc:
                logger.warning("ingest.retry", cause=type(exc).__name__)
                failed.update(dict.fromkeys(ids))
            except Exception:  # noqa: BLE001  one message's bug must not hold back the others of its batch
                logger.exception("ingest.failed")
                failed.update(dict.fromkeys(ids))

        left = sorted(messages, key=_when)
        for _ in range(_TURNS):
            self._take_all(left, rejected, attempt)
            left = [message for message in left if message.id in changed and message.id not in failed]
            changed.clear()
            if not left:
                break
        failed.update(dict.fromkeys(message.id for message in left))
        for call in wake_ups:
            attempt([call.id], lambda call=call: self._wake_up(call))  # type: ignore[misc]
        for reason, times in rejected.items():
            count("IngestRejected", times, reason=reason)
        logger.info("ingest.batch", messages=len(messages), rejected=rejected.total(), failed=len(failed))
        return list(failed)

    def _take_all(self, messages: Sequence[DeviceMessage], rejected: Counter[str], attempt: _Attempt) -> None:
        heard: dict[DeviceId, HeardFacts] = {}
        measured: list[Measured] = []
        for message in messages:
            attempt([message.id], lambda message=message: self._take_one(message, heard, rejected, measured))  # type: ignore[misc]
        # What these two do not write, for whatever reason, the steps of each message and device do.
        attempt((), lambda: self._measuring.store_new(measured))
        for each in measured:
            taken = partial(self._measuring.take, each)
            attempt([each.message.id], partial(self._hear, each.message, each.device, rejected, taken))
        attempt((), lambda: self._freshen(heard.values()))
        for device in heard.values():
            attempt(device.told_by, lambda device=device: self._tell(device))  # type: ignore[misc]
            for hour, ids in device.unkept.items():
                attempt(ids, lambda device=device, hour=hour, ids=ids: self._sum_up(device, hour, len(ids)))  # type: ignore[misc]
        for device in heard.values():
            # After LATEST says `ready`: a command queued meanwhile is seen here, or its sender sees the device.
            if device.ready_by:
                attempt(device.ready_by, lambda device=device: self._take_ready(device))  # type: ignore[misc]
            elif device.nudged_by:
                attempt(device.nudged_by, lambda device=device: self._dispatch(device))  # type: ignore[misc]

    def _take_one(
        self,
        message: DeviceMessage,
        heard: dict[DeviceId, HeardFacts],
        rejected: Counter[str],
        measured: list[Measured],
    ) -> None:
        """Handle a message; of telemetry only what is done before it is stored."""
        source = read_topic(message.topic)
        if source is None:
            raise Rejected("TOPIC")
        if source.kind == "presence":
            self._take_presence(message, source.thing, heard)
            return
        claim = self._speaker(source.thing, message.certificate_id, received_ms=message.received_ms)
        if message.received_ms < claim.since_ms:
            raise Rejected("BEFORE_TRANSFER")
        device = heard.setdefault(claim.device_id, HeardFacts(claim))
        device.repeated |= message.repeated

        def take() -> Said:
            if source.kind == "telemetry":
                measured.append(self._measuring.read(message, device))
                return None, ()
            return self._take_body(source.kind, message, device)

        self._hear(message, device, rejected, take)

    def _hear(
        self, message: DeviceMessage, device: HeardFacts, rejected: Counter[str], take: Callable[[], Said]
    ) -> None:
        """Note what a message says, and keep what cannot be taken of it as a dead letter."""
        try:
            said, refused = take()
        except Unreadable as exc:
            said, refused = None, exc.refused
        if refused:
            rejected[refused[0].reason] += 1
            self._keep(message, device, refused, taken=said is not None)
        if said is None:
            return
        device.latest = device.latest.merge(said)
        device.told_by.append(message.id)

    def _keep(self, message: DeviceMessage, device: HeardFacts, refused: Sequence[Refused], *, taken: bool) -> None:
        device_id, at_ms = device.claim.device_id, message.received_ms
        if not self._allowance.take_letter(device_id, received_ms=at_ms):
            device.unkept.setdefault(hour_of(at_ms), []).append(message.id)
            return
        shown = shown_to_owner(
            message.payload,
            refused,
            topic=message.topic,
            since_ms=device.claim.since_ms,
            # Another answer may tell what the owner before has asked for, whenever it comes.
            is_own_answer=message.id in device.answers,
        )
        self._dead_letters.store(device_id, **shown._asdict(), taken=taken, topic=message.topic, received_ms=at_ms)

    def _sum_up(self, device: HeardFacts, hour: int, more: int) -> None:
        self._dead_letters.sum_up(device.claim.device_id, hour=hour, more=more)
        count("DeadLetterNotKept", more)

    def _take_body(self, kind: str, message: DeviceMessage, device: HeardFacts) -> Said:
        device_id, at = device.claim.device_id, message.received_ms
        if kind == "response":
            if not self._allowance.take_answer(device_id, received_ms=at):
                raise Unreadable("TOO_FAST", "")
            return Latest(last_seen_ms=at), self._take_answer(message, device)
        if not self._allowance.take_word(device_id, received_ms=at):
            device.too_fast = True
            if kind != "ready":
                raise Unreadable("TOO_FAST", "")
        return self._take_word(kind, message, device)

    def _take_word(self, kind: str, message: DeviceMessage, device: HeardFacts) -> tuple[Latest, Sequence[Refused]]:
        at, since_ms = message.received_ms, device.claim.since_ms
        match kind:
            case "heartbeat":
                beat = read_heartbeat(message.payload)
                # Publishes what a failed publish, or an expired serial command, has left in the queue.
                device.nudged_by.append(message.id)
                if beat.ts < since_ms:
                    return _alive(at)
                return Latest.told(at, ip=beat.ip, firmware_version=beat.firmware_version), beat.refused
            case "event":
                event = read_event(message.payload)
                if event.ts < since_ms:
                    return _alive(at)
                if event.condition is None:
                    return Latest(last_seen_ms=at), event.refused
                return Latest(last_seen_ms=at, condition_ms=at, condition=event.condition), event.refused
            case _:
                read_ready(message.payload)
                device.ready_by.append(message.id)
                device.ready_ms = max(device.ready_ms, at)
                return Latest(last_seen_ms=at, ready_ms=at), ()

    def _take_answer(self, message: DeviceMessage, device: HeardFacts) -> Sequence[Refused]:
        answer = read_response(message.payload)
        outcome = self._dispatcher.take_answer(device.claim.device_id, answer, received_ms=message.received_ms)
        count("CommandAnswered", outcome=answer.status if outcome == "moved" else outcome)
        if outcome != "unknown":
            device.answers.add(message.id)
        if is_final(answer.status):
            # Also when nothing moved: the delivery before this one may have died just here.
            device.nudged_by.append(message.id)
        return answer.refused

    def _take_presence(self, message: DeviceMessage, thing: str, heard: dict[DeviceId, HeardFacts]) -> None:
        try:
            lifecycle = read_presence(message.payload)
        except Unreadable as exc:
            raise Rejected(f"PRESENCE_{exc.reason}") from exc
        if lifecycle is None:
            return
        # The end of a connection is the certificate's last word, and comes after it was removed.
        received_ms = message.received_ms if lifecycle.event.connected else 0
        claim = self._speaker(thing, lifecycle.certificate_id, received_ms=received_ms)
        device = heard.setdefault(claim.device_id, HeardFacts(claim))
        # Counted, and taken all the same: the broker bounds connections, and the owner sees whether there is one.
        device.too_fast |= not self._allowance.take_word(claim.device_id, received_ms=message.received_ms)
        device.events.append(lifecycle.event)
        device.told_by.append(message.id)

    def _freshen(self, heard: Iterable[HeardFacts]) -> None:
        """Write the newest values of all devices at once; what is more than that, or alone, `_tell` writes."""
        quick = [device for device in heard if device.latest != Latest() and self._watch(device) is None]
        if len(quick) < 2:
            return
        facts = [(device.claim, device.latest) for device in quick]
        for device, is_fresh in zip(quick, self._devices.freshen_each(facts, now=self._clock.now()), strict=True):
            device.is_fresh, device.is_tried = is_fresh, True

    def _tell(self, device: HeardFacts) -> None:
        now = self._clock.now()
        known = True
        if device.latest != Latest() and not device.is_fresh:
            watch = self._watch(device)
            known = self._devices.merge_latest(
                device.claim, device.latest, now=now, watch=watch, is_tried=device.is_tried
            )
        if known and device.events:
            known = self._devices.merge_presence(device.claim, device.events, now=now) is not None
        if not known:
            # Consistently: an older item would name the giver's device, and the receiver's messages be a deleted one's.
            now_of = self._read_claim(device.claim.serial_number, consistent=True)
            if now_of is not None and now_of.state is DeviceState.ACTIVE and now_of.device_id != device.claim.device_id:
                raise _ChangedHands
            raise Rejected("DELETED")

    def _watch(self, device: HeardFacts) -> Watch | None:
        if self._watcher is None or not device.stored:
            return None
        return self._watcher.watch(device.claim.user_id, device.claim.device_id, device.stored)

    def _take_ready(self, device: HeardFacts) -> None:
        every_s = SLOW_READY_EVERY_S if device.too_fast else READY_EVERY_S
        claim = device.claim
        # What a delivery that died has recorded as sent, it recorded after the message.
        ready_ms = epoch_ms(self._clock.now()) if device.repeated else device.ready_ms
        self._dispatcher.take_ready(claim.user_id, claim.device_id, ready_ms=ready_ms, every_s=every_s)

    def _dispatch(self, device: HeardFacts) -> None:
        again_ms = epoch_ms(self._clock.now()) if device.repeated else 0
        self._dispatcher.dispatch(device.claim.device_id, again_ms=again_ms, at_most=AT_ONCE)

    def _wake_up(self, call: WakeUp) -> None:
        # As after the put of a command: consistently, and only a device that listens is told.
        current = self._devices.current(call.user_id, call.device_id, consistent=True)
        if current is None:
            return
        if is_connected(current.presence, current.latest):
            again_ms = epoch_ms(self._clock.now()) if call.repeated else call.again_ms
            self._dispatcher.dispatch(call.device_id, again_ms=again_ms, at_most=AT_ONCE)
        else:
            self._dispatcher.unfinished(call.device_id)

    def _speaker(self, thing: str, certificate_id: str, *, received_ms: int) -> SerialClaim:
        """Return the device with this name whose certificate sent the message.

        Raises:
            Rejected: there is no such device, or it had another certificate then.
        """
        began, who = monotonic(), (thing, certificate_id)
        claim = self._known(thing, since=began - CLAIM_MAX_AGE_S)
        if (
            claim is None
            or claim.state is not DeviceState.ACTIVE
            or not claim.takes(certificate_id, received_ms=received_ms)
        ):
            # The device may be seconds old, or have a new certificate: it is read anew, but not for each message.
            asked = self._suspects.get(who, began - _SUSPECT_MAX_AGE_S) > began - _SUSPECT_MAX_AGE_S
            claim = self._known(thing, since=began - _SUSPECT_MAX_AGE_S if asked else began)
            if not asked:
                if len(self._suspects) >= _MAX_CLAIMS:
                    self._suspects.clear()
                self._suspects[who] = began
        if claim is None or claim.state is not DeviceState.ACTIVE:
            raise Rejected("UNKNOWN_DEVICE")
        if not claim.takes(certificate_id, received_ms=received_ms):
            raise Rejected("CERTIFICATE")
        if certificate_id == claim.next_certificate_id:
            self._settle_certificate(claim, received_ms=received_ms)
        return claim

    def _settle_certificate(self, claim: SerialClaim, *, received_ms: int) -> None:
        """End a rotation, since its new certificate has connected."""
        from karma.devices.repository.rotations import RotationRepository  # local: it is seldom that there is one
        from karma.devices.rotation import RotationOutcome

        [old] = claim.certificate_ids - {claim.next_certificate_id}
        if RotationRepository().end(
            claim, removed=old, outcome=RotationOutcome.CONNECTED, removed_ms=received_ms, now=self._clock.now()
        ):
            count("CertificateRotated")
            logger.info("device.certificate_rotated", device_id=claim.device_id)
        self._claims.pop(claim.serial_number, None)

    def _known(self, thing: str, *, since: float) -> SerialClaim | None:
        cached = self._claims.get(thing)
        if cached is not None and cached[0] >= since:
            return cached[1]
        return self._read_claim(thing)

    def _read_claim(self, thing: str, *, consistent: bool = False) -> SerialClaim | None:
        now = monotonic()
        claim = self._devices.claim_of(thing, consistent=consistent)
        if len(self._claims) >= _MAX_CLAIMS:
            self._claims.clear()
        self._claims[thing] = (now, claim)
        return claim
