"""The device: its connection, the queue of telemetry, and commands.

One file of more than 450 lines: the threads of the MQTT client, the sender and the handlers share one lock, and whoever
changes one of them reads all.
"""

import logging
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from types import TracebackType
from typing import Self

from karma_device.asking import Asking
from karma_device.backoff import Backoff
from karma_device.batching import Batcher, MetricValue, Sieve, TelemetryBuffer, encode_sample
from karma_device.certificates import Certificates
from karma_device.clock import SteppedClock, is_possible, steady_ms
from karma_device.commands import CommandRunner, Handler, Reply
from karma_device.config import DeviceConfig
from karma_device.errors import SampleInvalid
from karma_device.exchange import Exchange
from karma_device.files import DeviceFiles
from karma_device.link import Link
from karma_device.messages import Json, Topics, encode_json
from karma_device.reasons import why_not_opened, why_not_published, why_unanswered, why_unconfirmed
from karma_device.report import DeviceStats, Unsent
from karma_device.settings import DeviceSettings
from karma_device.store import StateStore
from karma_device.updates import FirmwareUpdater

log = logging.getLogger(__name__)

_RETRYABLE_REFUSALS = frozenset({0x80, 0x83, 0x91, 0x97})
"""MQTT 5 PUBACK codes of temporary failures: unspecified, implementation specific, packet id in use, quota exceeded."""

_CLOSE_MARGIN_S = 5.0
"""Seconds to disconnect from the broker, beyond the time that `stop` was given for sending."""


class _Kind(Enum):
    READY = "ready"
    HEARTBEAT = "heartbeat"
    REPLY = "reply"
    JOB = "job"
    ASK = "ask"
    SETTINGS = "settings"
    TELEMETRY = "telemetry"


@dataclass(frozen=True)
class _InFlight:
    kind: _Kind
    sent_at: float
    seq: int = 0
    reply: Reply | None = None


class Device:
    """An EOS device: records telemetry and executes commands over one connection to the service.

    One thread of its own owns the connection and publishes; handlers run on worker threads; `record` may be called
    from any thread and never waits for the network.

        with Device(config) as device:
            device.record({"temp_c": 41.2})

    Args:
        config: Name, credentials and addresses.
        updater: Carries out firmware jobs; None: the device takes none.
        clock_ms: Unix time in ms.
        steady: ms of a clock that nobody sets.

    Raises:
        StateFileBusy: Another process already runs this device.
        StateFileUnusable: The state file cannot be opened; on a full or broken disk the device goes on without it.
    """

    def __init__(
        self,
        config: DeviceConfig,
        *,
        updater: FirmwareUpdater | None = None,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        steady: Callable[[], int] = steady_ms,
    ) -> None:
        self._config = config
        self._clock_ms = clock_ms
        self._topics = Topics(config.thing_name, config.basic_ingest_rule)
        self.boot = config.boot_id or uuid.uuid4().hex
        """Names this run in its messages; (boot, seq) is unique. Another name stands in for it while no numbers can be
        reserved in the state file."""
        self._store = StateStore(config.state_path)
        self._commands = CommandRunner(
            topics=self._topics,
            store=self._store,
            send=self._enqueue_reply,
            clock_ms=clock_ms,
            workers=config.command_workers,
            max_waiting=config.max_waiting_commands,
            device_id=config.device_id,
        )
        self._certificates = Certificates(config, time_s=lambda: clock_ms() / 1000)
        self._commands.register("certificate.request", self._certificates.request)
        self._commands.register("certificate.install", self._certificates.install)
        self._lock = threading.Lock()  # guards sieve, clock, batcher and buffer
        self._clock = SteppedClock(clock_ms, steady)
        self._batcher = self._new_batcher()
        self._buffer = TelemetryBuffer(max_bytes=config.buffer_max_bytes)
        self._sieve = Sieve()
        self._replies: deque[Reply] = deque()
        self._messages: deque[tuple[_Kind, str, bytes]] = deque()
        self._updater = updater
        self._firmware_version = _version_told(config, updater)
        if updater is not None:
            updater.attach(config.thing_name, lambda *said: self._enqueue(_Kind.JOB, *said))
        self._asking = Asking(
            config.thing_name, send=lambda *said: self._enqueue(_Kind.ASK, *said), wait_ready=self.wait_ready
        )
        self.files = DeviceFiles(config.state_path.with_suffix(".uploads"), self._asking)
        """Sends and fetches files of this device."""
        self.settings = DeviceSettings(config.thing_name, send=lambda *said: self._enqueue(_Kind.SETTINGS, *said))
        """Applies what the owner wants of this device, and reports what it has."""
        self._inflight: dict[int, _InFlight] = {}
        self._wake = threading.Event()
        self._ready = threading.Event()
        self._life = threading.RLock()
        """Held by the thread that starts, stops or closes it."""
        self._thread: threading.Thread | None = None
        self._stop_at: float | None = None
        self._reconnect_after: float | None = None
        self._connections = 0
        self._published = 0
        self._last_failure: str | None = None
        self._left: Unsent | None = None
        self._next_heartbeat = 0.0
        self._tokens = float(config.max_inflight)
        self._tokens_at = 0.0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _value: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def stats(self) -> DeviceStats:
        """Return the counters so far."""
        with self._lock:
            return DeviceStats(
                connected=self._ready.is_set(),
                connections=self._connections,
                published_batches=self._published,
                buffered_batches=len(self._buffer),
                buffered_bytes=self._buffer.size_bytes,
                dropped_batches=self._buffer.dropped_batches,
                dropped_samples=self._buffer.dropped_samples,
                dropped_metrics=self._sieve.dropped,
                state_failure=self._store.failure,
                last_failure=self._last_failure,
            )

    def command(self, name: str) -> Callable[[Handler], Handler]:
        """Register the decorated function as the handler of command `name`; do it before `start`.

        The handler takes a `Command` and returns the result object or None. It runs on a worker thread. Raise
        `InvalidParams` to reject, `CommandFailed` to fail with a code; anything else counts as a crash of the handler.
        """

        def register(handler: Handler) -> Handler:
            self._commands.register(name, handler)
            return handler

        return register

    def start(self) -> None:
        """Start connecting, in the background and for as long as it takes.

        Raises:
            RuntimeError: It runs already.
        """
        with self._life:
            self._start()

    def _start(self) -> None:
        if self._thread is not None:
            if self._stop_at is None:
                raise RuntimeError("the device runs already")
            self._thread.join()  # the last stop left it in a connection attempt that could not be interrupted
        self._stop_at = None
        for _ in range(len(self._replies)):
            # Final answers that were left are read from the state file again.
            if not (reply := self._replies.popleft()).final:
                self._replies.append(reply)
        self._commands.start()
        self._thread = threading.Thread(target=self._run, name="karma-device", daemon=True)
        self._thread.start()

    def stop(self, *, timeout_s: float = 10.0) -> Unsent:
        """Let running handlers finish, send what is buffered, disconnect; return, and log, what is left unsent.

        What could not be sent within `timeout_s` stays in memory for the next `start`; answers also stay on disk. A
        call on another thread waits for this one, and finds it stopped.
        """
        with self._life:
            return self._stop(timeout_s)

    def _stop(self, timeout_s: float) -> Unsent:
        if self._thread is None or self._stop_at is not None:
            return self._unsent()
        deadline = time.monotonic() + timeout_s
        if not self._commands.stop(timeout_s=timeout_s / 2):
            log.warning("stop.handler_still_running: its answer follows when it is done and the device runs again")
        self.flush()
        self._stop_at = deadline
        self._wake.set()
        self._thread.join(max(0.0, deadline - time.monotonic()) + _CLOSE_MARGIN_S)
        if self._thread.is_alive():
            log.warning("stop.still_connecting: the attempt cannot be interrupted and ends by itself")
        else:
            self._thread = None
        unsent = self._unsent()
        log.log(logging.WARNING if unsent else logging.INFO, "device.stopped: %s", unsent)
        return unsent

    def close(self) -> Unsent:
        """Stop and release the state file; the object is of no use afterwards, and its unsent samples are lost."""
        self._asking.close()  # at once, so that a handler's call ends for which another thread's `stop` waits
        with self._life:
            if self._left is None:
                self.settings.close()
                self._left = self.stop()
                self._store.close()
                if self._left.samples:
                    log.warning("device.closed: %d samples that could not be sent are lost", self._left.samples)
            return self._left

    def _unsent(self) -> Unsent:
        if self._left is not None:
            return self._left
        with self._lock:
            samples = self._buffer.samples + self._batcher.samples
        answers, commands = len(self._store.undelivered()), len(self._store.unfinished())
        return Unsent(samples, answers, commands, self._config.state_path)

    def wait_ready(self, timeout_s: float | None = None) -> bool:
        """Wait until the broker has this connection's `ready`; False on time-out."""
        return self._ready.wait(timeout_s)

    def reconnect(self, *, after_s: float = 0.0) -> None:
        """Drop the connection in an orderly way and connect again."""
        self._reconnect_after = after_s
        self._wake.set()

    def record(self, metrics: Mapping[str, MetricValue], ts: int | None = None) -> None:
        """Take one telemetry sample; it is sent with the next message.

        A value that is no finite number, as of a sensor without one, costs its metric: that is logged when it
        begins and counted in `stats.dropped_metrics`. The others go; where none is left, nothing is sent.

        Args:
            metrics: Finite numbers or bools by name.
            ts: Unix time in ms; None means now. Up to 29 days ago: the service keeps raw telemetry for 30.

        Raises:
            SampleInvalid: A name that no metric can have, more than 64 metrics, or a `ts` that is no time in ms, too
                long ago or in the future.
        """
        with self._lock:
            good, fresh = self._sieve.take(metrics)
        if fresh:
            log.warning("telemetry.metric_dropped: %s", "; ".join(fresh))
        if not good:
            return
        with self._lock:
            now_ms = self._time()
            sample = encode_sample(
                good, now_ms if ts is None else ts, max_bytes=self._batcher.max_sample_bytes, own_time=ts is None
            )
            if not is_possible(sample.ts, now_ms=now_ms):
                raise SampleInvalid(
                    f"ts {sample.ts} is more than 29 days ago or 5 minutes ahead of this device's clock"
                )
            opens = self._batcher.due_at is None
            if full := not self._batcher.fits(sample):
                self._seal()
            self._batcher.add(sample, now=time.monotonic())
            if self._batcher.is_full():
                full = True
                self._seal()
        if opens or full:
            self._wake.set()

    def flush(self) -> None:
        """Seal the open message, so that it goes out without waiting for more samples."""
        with self._lock:
            self._seal()
        self._wake.set()

    def _seal(self) -> None:
        if self._batcher.due_at is None:
            return
        batch = self._batcher.seal(self._store.next_number(self.boot))
        if batch is not None:
            self._buffer.push(batch)

    def _time(self) -> int:
        """Return the time; if the clock was set since the last call, first correct what was recorded by it."""
        now_ms, by = self._clock.step()
        if by:
            changed = self._batcher.set_by(by, now_ms=now_ms)
            written, lost = self._buffer.set_by(by, now_ms=now_ms)
            log.log(
                logging.WARNING if lost > 0 else logging.INFO,
                "clock.set: by %+.1f s: %d samples have their times by the new one, %d were sent with impossible times"
                " and are lost",
                by / 1000,
                changed + written,
                max(0, lost),
            )
        return now_ms

    def _new_batcher(self) -> Batcher:
        config = self._config
        return Batcher(
            boot=self.boot,
            target_bytes=max(1, config.batch_max_bytes - len(self._topics.telemetry.encode())),
            max_samples=config.batch_max_samples,
            max_age_s=config.batch_max_age_s,
        )

    def _enqueue_reply(self, reply: Reply) -> None:
        self._replies.append(reply)
        self._wake.set()

    def _enqueue(self, kind: _Kind, topic: str, payload: bytes) -> None:
        self._messages.append((kind, topic, payload))
        self._wake.set()

    def _receive(self, topic: str, payload: bytes) -> None:
        if topic == self._asking.answer_topic:
            self._asking.receive(payload)
        elif self.settings.is_for(topic):
            self.settings.receive(topic, payload)
        elif self._updater is not None:
            self._updater.receive(topic, payload)

    # The methods below run on the device's own thread.

    def _run(self) -> None:
        backoff = Backoff(base_s=self._config.reconnect_min_s, cap_s=self._config.reconnect_max_s)
        while self._stop_at is None:
            opened_at = time.monotonic()
            try:
                self._serve()
            except Exception:
                # Edge of the thread: a device that cannot connect now must go on trying for ever.
                log.exception("connection.crashed: this is a fault of this package; the device connects again")
            if self._reconnect_after is not None:
                pause_s, self._reconnect_after = self._reconnect_after, None
            else:
                if time.monotonic() - opened_at >= self._config.stable_after_s:
                    backoff.reset()
                pause_s = backoff.next_delay_s()
            self._pause(pause_s)

    def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while self._stop_at is None and (now := time.monotonic()) < until:
            self._seal_if_due(now)
            self._wait(until)

    def _serve(self) -> None:
        """Open one connection and work until it ends."""
        try:
            config = self._certificates.config()
        except OSError as exc:
            self._failed(why_not_opened(exc, self._config))
            return
        if self._certificates.wants_renewal:
            self._renew(config)
            config = self._certificates.config()
        link = Link(
            config,
            on_request=self._commands.receive,
            wake=self._wake,
            filters=[
                self._asking.answer_topic,
                *self.settings.filters,
                *(self._updater.filters if self._updater is not None else ()),
            ],
            on_other=self._receive,
        )
        try:
            identity = self._config.identity
            # The client id is the serial number, under which the broker may keep a former owner's commands.
            clean_start = identity != self._store.session_of()
            link.open(clean_start=clean_start)
        except (OSError, UnicodeError) as exc:
            self._failed(why_not_opened(exc, self._config))
            self._certificates.ended()
            return
        try:
            failure = self._pump(link, begun=identity if clean_start else "")
            if failure is not None:
                self._failed(failure)
        finally:
            link.abort()
            self._take_back(link)
            self._certificates.ended()

    def _failed(self, reason: str) -> None:
        self._last_failure = reason
        log.warning("connection.failed: %s", reason)

    def _pump(self, link: Link, *, begun: str) -> str | None:
        """Work until the connection ends; return why, unless this end wanted it.

        `begun` is the identity for which the broker begins its session anew; "": it goes on.
        """
        deadline = time.monotonic() + self._config.connect_timeout_s
        announced = False
        while not link.closed:
            now = time.monotonic()
            self._seal_if_due(now)
            if not link.connected:
                if self._stop_at is not None:
                    return None
                if now >= deadline:
                    return why_unanswered(self._config)
                self._wait(deadline)
                continue
            if link.subscribed and not announced:
                announced = True
                if begun:
                    self._store.begin_session(begun)
                self._connections += 1
                self._next_heartbeat = now
                body = encode_json({"boot": self.boot, "ts": self._clock_ms()})
                self._publish(link, self._topics.ready, body, _Kind.READY)
                # What was meant for an earlier connection is asked for, or reported, again.
                self._messages.clear()
                self._asking.connected()
                self.settings.connected()
                if self._updater is not None:
                    self._updater.connected()
            if (deferred := self._settle(link)) is not None:
                return deferred
            self._publish_waiting(link, now)
            if self._overdue(now):
                return why_unconfirmed(self._config)
            renews = self._certificates.wants_change or self._certificates.wants_renewal
            if renews and self._ready.is_set() and not self._replies and not self._inflight:
                # What was said is acknowledged; the next connection is by the new one, or asks for one first.
                self._reconnect_after = 0.0
            if self._reconnect_after is not None or self._finished(now):
                link.close()
                return None
            self._wait(self._next_turn(link, now))
        return link.reason

    def _renew(self, config: DeviceConfig) -> None:
        """Ask for a new certificate over a connection of its own, under this device's name and session."""
        exchange = Exchange(
            config,
            client_id=config.thing_name,
            template=config.provisioning_template,
            timeout_s=config.connect_timeout_s,
            clean_start=False,
        )
        try:
            exchange.open()
        except OSError as exc:
            # The service may be away: the connection that follows tells.
            log.warning("certificate.renewal_unanswered: %s", exc)
        else:
            self._certificates.renew(exchange)
        finally:
            exchange.close()

    def _finished(self, now: float) -> bool:
        if self._stop_at is None:
            return False
        with self._lock:
            idle = not len(self._buffer)
        return (idle and not self._replies and not self._inflight) or now >= self._stop_at

    def _wait(self, until: float) -> None:
        self._wake.wait(max(0.0, until - time.monotonic()))
        self._wake.clear()

    def _next_turn(self, link: Link, now: float) -> float:
        turns = [now + 60.0]
        with self._lock:
            due = self._batcher.due_at
        if due is not None:
            turns.append(due)
        if self._heartbeats(link) and len(self._inflight) < self._config.max_inflight:
            turns.append(self._next_heartbeat)
        if self._inflight:
            turns.append(min(item.sent_at for item in self._inflight.values()) + self._config.ack_timeout_s)
        if self._stop_at is not None:
            turns.append(self._stop_at)
        if self._updater is not None and link.subscribed:
            turns.append(self._updater.turn(now))
        if link.subscribed:
            turns.append(self.settings.turn(now))
        if self._tokens < 1:
            turns.append(now + 1 / self._config.publish_rate_per_s)
        return min(turns)

    def _seal_if_due(self, now: float) -> None:
        with self._lock:
            self._time()
            if (due := self._batcher.due_at) is not None and now >= due:
                self._seal()

    def _publish_waiting(self, link: Link, now: float) -> None:
        self._tokens = min(
            float(self._config.max_inflight),
            self._tokens + (now - self._tokens_at) * self._config.publish_rate_per_s,
        )
        self._tokens_at = now
        while len(self._inflight) < self._config.max_inflight and self._tokens >= 1:
            if not self._publish_next(link, now):
                return

    def _publish_next(self, link: Link, now: float) -> bool:
        """Publish the most important waiting message; False when nothing waits."""
        if self._replies:
            reply = self._replies.popleft()
            self._publish(
                link, self._topics.response, reply.payload, _Kind.REPLY, reply=reply, correlation=reply.correlation
            )
            return True
        if self._messages and link.subscribed:
            kind, topic, payload = self._messages.popleft()
            self._publish(link, topic, payload, kind)
            return True
        if self._heartbeats(link) and now >= self._next_heartbeat:
            self._next_heartbeat = now + self._config.heartbeat_interval_s
            self._publish(link, self._topics.heartbeat, self._heartbeat(link), _Kind.HEARTBEAT)
            return True
        with self._lock:
            self._time()
            batch = self._buffer.take()
        if batch is None:
            return False
        self._publish(link, self._topics.telemetry, batch.payload, _Kind.TELEMETRY, seq=batch.seq)
        return True

    def _publish(
        self,
        link: Link,
        topic: str,
        payload: bytes,
        kind: _Kind,
        *,
        seq: int = 0,
        reply: Reply | None = None,
        correlation: bytes | None = None,
    ) -> None:
        self._tokens -= 1
        mid = link.publish(topic, payload, correlation=correlation)
        self._inflight[mid] = _InFlight(kind=kind, sent_at=time.monotonic(), seq=seq, reply=reply)

    def _heartbeats(self, link: Link) -> bool:
        return link.subscribed and self._config.heartbeat_interval_s > 0

    def _heartbeat(self, link: Link) -> bytes:
        number = self._store.next_number(self.boot)
        body: dict[str, Json] = {"boot": number.boot, "seq": number.seq, "ts": self._clock_ms()}
        if link.local_address is not None:
            body["ip"] = link.local_address
        if self._firmware_version is not None:
            body["firmware_version"] = self._firmware_version
        return encode_json(body)

    def _settle(self, link: Link) -> str | None:
        """Process the broker's acknowledgements; return the reason for a pause, if one is needed."""
        while link.acknowledgements:
            acknowledgement = link.acknowledgements.popleft()
            item = self._inflight.get(acknowledgement.mid)
            if item is None:
                continue
            if acknowledgement.code in _RETRYABLE_REFUSALS:
                # The item stays in flight and is taken back with the connection; the backoff is the pause.
                return why_not_published(acknowledgement.code, item.kind.value)
            del self._inflight[acknowledgement.mid]
            refused = acknowledgement.code >= 0x80
            if refused:
                log.error("publish.refused: %s", why_not_published(acknowledgement.code, item.kind.value))
            self._settle_item(item, refused=refused)
        return None

    def _settle_item(self, item: _InFlight, *, refused: bool) -> None:
        if item.kind is _Kind.TELEMETRY:
            with self._lock:
                if refused:
                    self._buffer.reject(item.seq)
                else:
                    self._buffer.confirm(item.seq)
                    self._published += 1
        elif refused:
            return
        elif item.kind is _Kind.READY:
            self._ready.set()
            self._certificates.worked()
            log.info("connection.ready: %s, boot %s", self._config.thing_name, self.boot)
        elif item.reply is not None and item.reply.final:
            self._store.delivered(item.reply.command_id)

    def _overdue(self, now: float) -> bool:
        oldest = min((item.sent_at for item in self._inflight.values()), default=now)
        return now - oldest >= self._config.ack_timeout_s

    def _take_back(self, link: Link) -> None:
        """After the end of a connection, let everything unconfirmed wait for the next one, oldest first."""
        self._ready.clear()
        self._settle(link)
        unconfirmed = [item.reply for item in self._inflight.values() if item.reply is not None]
        self._replies.extendleft(reversed(unconfirmed))
        self._inflight.clear()
        with self._lock:
            self._buffer.release_all()


def _version_told(config: DeviceConfig, updater: FirmwareUpdater | None) -> str | None:
    """Return the version that heartbeats tell: the one that the updater compares jobs with, if there is one."""
    if updater is None:
        return config.firmware_version
    running, configured = updater.running_version, config.firmware_version
    if configured not in (None, running):
        log.warning(
            "firmware.two_versions: heartbeats tell the updater's %s, not the configured %s", running, configured
        )
    return running
