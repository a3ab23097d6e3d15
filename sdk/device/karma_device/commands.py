import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TypeAlias

from karma_device.errors import CommandFailed, InvalidParams
from karma_device.link import IncomingRequest
from karma_device.messages import (
    Answer,
    Command,
    CommandStatus,
    Json,
    RequestInvalid,
    Topics,
    encode_answer,
    parse_request,
)
from karma_device.results import sendable
from karma_device.store import CommandState, StateStore

log = logging.getLogger(__name__)

Handler: TypeAlias = Callable[[Command], Mapping[str, Json] | None]


@dataclass(frozen=True)
class Reply:
    """A response that is to be sent."""

    command_id: str
    payload: bytes
    correlation: bytes
    final: bool


class CommandRunner:
    """Executes each request at most once, and stores its answer for repeats.

    A request is on disk before the broker may forget it, its intent is on disk before its handler starts, and its
    answer is on disk before it is sent. So after a crash at any point a redelivery either runs the command for the
    first time or repeats its stored answer, at worst `OUTCOME_UNKNOWN`.

    Args:
        topics: The device's topics; responses to any other topic are refused.
        store: The stored commands.
        device_id: The device that commands must be for; "": any.
        send: Takes responses; called on any thread.
        clock_ms: Unix time in ms.
        workers: Handlers that may run at the same time.
        max_waiting: Accepted commands beyond those running; more are rejected as `BUSY`.
    """

    def __init__(
        self,
        *,
        topics: Topics,
        store: StateStore,
        send: Callable[[Reply], None],
        clock_ms: Callable[[], int],
        workers: int,
        max_waiting: int,
        device_id: str = "",
    ) -> None:
        self._device_id = device_id
        self._topics = topics
        self._store = store
        self._send = send
        self._clock_ms = clock_ms
        self._workers = workers
        self._max_waiting = max_waiting
        self._handlers: dict[str, Handler] = {}
        self._waiting: queue.SimpleQueue[tuple[Command, bytes] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._running: set[str] = set()
        self._lock = threading.Lock()
        self._open = False

    def register(self, name: str, handler: Handler) -> None:
        """Set the handler of a command.

        Raises:
            ValueError: The command has a handler already.
        """
        if name in self._handlers:
            raise ValueError(f"command {name!r} has a handler already")
        self._handlers[name] = handler

    def start(self) -> None:
        """Answer or queue again the commands that the last process did not finish, then start the workers.

        Those of another device, as whose the state file was written, are left out, and forgotten. One whose end cannot
        be stored (a full disk, say) stays as it is, and is not answered: a later start settles it.
        """
        if self._device_id and (foreign := self._store.forget_others(self._device_id)):
            log.warning("command.foreign: %d unfinished of another device with this serial number are dropped", foreign)
        for reply in self._store.undelivered():
            if reply.answer is not None and self._is_ours(reply.command):
                self._send(Reply(reply.command.id, reply.answer, reply.correlation, final=True))
        self._open = True
        for left in self._store.unfinished():
            if left.command.id in self._running or not self._is_ours(left.command):
                continue
            if left.state is CommandState.STARTED:
                log.warning("command.outcome_unknown: %s was running when the process ended", left.command.id)
                unknown = "the device stopped while the command ran"
                refused = partial(Answer.refused, CommandStatus.FAILED, "OUTCOME_UNKNOWN", unknown)
                self._try_to_finish(left.command, left.correlation, refused)
            else:
                self._waiting.put((left.command, left.correlation))
        for number in range(self._workers):
            thread = threading.Thread(target=self._work, name=f"karma-command-{number}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self, *, timeout_s: float) -> bool:
        """Let running handlers finish; those that wait stay on disk for the next start. False if one still runs."""
        self._open = False
        while True:
            try:
                self._waiting.get_nowait()
            except queue.Empty:
                break
        for _ in self._threads:
            self._waiting.put(None)
        deadline = time.monotonic() + timeout_s
        others = [thread for thread in self._threads if thread is not threading.current_thread()]  # a handler may stop
        for thread in others:
            thread.join(max(0.0, deadline - time.monotonic()))
        finished = not any(thread.is_alive() for thread in others)
        self._threads = []
        return finished

    def receive(self, request: IncomingRequest) -> bool:
        """Accept one request from the network; True when it may be acknowledged.

        Unreadable and foreign requests are logged and dropped, as they cannot be answered. An expired one is answered
        as rejected, since this device's clock may be wrong, and only the answer tells its owner.
        """
        try:
            command = parse_request(request.payload)
        except RequestInvalid as exc:
            log.warning("command.invalid: %s (%d bytes)", exc, len(request.payload))
            return True
        if not self._is_ours(command):
            # Of a former owner's device with this serial number: whoever sent it cannot be answered from here.
            log.warning("command.foreign: %s is for the device %s", command.id, command.device_id or "(unnamed)")
            return True
        if request.response_topic not in (None, self._topics.response):
            log.warning("command.foreign_response_topic: %s wants its answer at %s", command.id, request.response_topic)
            return True
        correlation = command.id.encode() if request.correlation is None else request.correlation
        known = self._store.accept(command, correlation)
        if known is not None:
            log.info("command.repeated: %s is %s", command.id, known.state)
            if known.answer is not None:
                self._send(Reply(command.id, known.answer, correlation, final=True))
            else:
                self._acknowledge(command, correlation)
        elif (expired := self._expired(command)) is not None:
            # Remembered, so that a redelivery does not run it once the clock is right.
            self._finish(command, correlation, expired)
        elif command.name not in self._handlers:
            answer = Answer.refused(CommandStatus.REJECTED, "UNKNOWN_COMMAND", f"no command {command.name!r} here")
            self._finish(command, correlation, answer)
        elif self._waiting.qsize() >= self._max_waiting:
            answer = Answer.refused(CommandStatus.REJECTED, "BUSY", "too many commands are waiting")
            self._finish(command, correlation, answer)
        else:
            self._acknowledge(command, correlation)
            if self._open:
                self._waiting.put((command, correlation))
        return True

    def _is_ours(self, command: Command) -> bool:
        return self._device_id in ("", command.device_id)

    def _expired(self, command: Command) -> Answer | None:
        now_ms = self._clock_ms()
        if now_ms < command.expires_at:
            return None
        message = f"the command ended at {_time(command.expires_at)}; by this device's clock it was {_time(now_ms)}"
        log.warning("command.expired: %s, %s: %s", command.name, command.id, message)
        return Answer.refused(CommandStatus.REJECTED, "EXPIRED", message)

    def _acknowledge(self, command: Command, correlation: bytes) -> None:
        payload = encode_answer(command.id, Answer(CommandStatus.ACKNOWLEDGED), ts=self._clock_ms())
        self._send(Reply(command.id, payload, correlation, final=False))

    def _finish(self, command: Command, correlation: bytes, answer: Answer) -> None:
        payload = encode_answer(command.id, answer, ts=self._clock_ms())
        self._store.finish(command.id, payload)
        log.info("command.finished: %s, %s is %s", command.name, command.id, answer.status)
        self._send(Reply(command.id, payload, correlation, final=True))

    def _try_to_finish(self, command: Command, correlation: bytes, run: Callable[[], Answer]) -> None:
        try:
            self._finish(command, correlation, run())
        except Exception:
            # Edge of a thread (a full disk, say). The row stays as it is; the next start settles it.
            log.exception("command.not_recorded: the state file does not take the answer of %s", command.id)

    def _work(self) -> None:
        while (item := self._waiting.get()) is not None:
            command, correlation = item
            with self._lock:
                self._running.add(command.id)
            self._try_to_finish(command, correlation, partial(self._run, command))
            with self._lock:
                self._running.discard(command.id)

    def _run(self, command: Command) -> Answer:
        if (expired := self._expired(command)) is not None:
            return expired
        handler = self._handlers.get(command.name)
        if handler is None:  # accepted by an older release of the device's program
            message = f"no command {command.name!r} here"
            return Answer.refused(CommandStatus.REJECTED, "UNKNOWN_COMMAND", message)
        self._store.start(command.id)
        try:
            result = handler(command)
        except InvalidParams as exc:
            return Answer.refused(CommandStatus.REJECTED, "INVALID_PARAMS", _text(exc))
        except CommandFailed as exc:
            return Answer.refused(CommandStatus.FAILED, exc.code, _text(exc))
        except (Exception, SystemExit) as exc:
            log.exception("command.crashed: the handler of %s, %s", command.name, command.id)
            return Answer.refused(CommandStatus.FAILED, "HANDLER_CRASHED", f"{type(exc).__name__}: {_text(exc)}")
        return _succeeded(command, result)


def _succeeded(command: Command, result: object) -> Answer:
    """Make the answer of a command that succeeded; parts of the result that cannot be sent are replaced by marks."""
    if result is None:
        return Answer(CommandStatus.SUCCEEDED)
    body, changed = sendable(result)
    if changed:
        log.warning("command.result_changed: %s, %s: %s", command.name, command.id, changed)
    return Answer(CommandStatus.SUCCEEDED, result=body)


def _time(ms: int) -> str:
    try:
        return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds")
    except (ValueError, OverflowError, OSError):  # no time of the calendar
        return f"{ms} ms"


def _text(exc: BaseException) -> str:
    try:
        return str(exc).encode(errors="replace").decode()[:500]
    except Exception:  # noqa: BLE001  a class of the handler's own that cannot describe itself must not cost the answer
        return type(exc).__name__
