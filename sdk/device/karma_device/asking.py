"""Asks the service for files by MQTT, and waits for its answers.

    file/karma/<thing>/ask      out  {"id", "op", ...}     docs/mqtt.md has the members of each operation
    file/karma/<thing>/answer   in   {"id", "status": "ok" | "refused", ...}

An ask without an answer is asked again under its id, at the next connection or some seconds later; the service does
nothing twice for it. What the service cannot do now is asked again when it says so.
"""

import json
import logging
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from karma_device.backoff import Backoff
from karma_device.errors import FileRefused, FileUnfinished
from karma_device.messages import Json, encode_json

log = logging.getLogger(__name__)

Send = Callable[[str, bytes], None]
_ANSWER_S = 10.0
"""Seconds without an answer after which an ask is asked again, the first time."""
_ANSWER_MAX_S = 60.0


class Asking:
    """Asks of one device, from any number of threads."""

    def __init__(self, thing: str, *, send: Send, wait_ready: Callable[[float | None], bool]) -> None:
        """Make it.

        Args:
            thing: Name of the thing.
            send: Sends a message to a topic by this connection.
            wait_ready: Waits for a connection; False on time-out.
        """
        self.ask_topic = f"file/karma/{thing}/ask"
        self.answer_topic = f"file/karma/{thing}/answer"
        self._send = send
        self._wait_ready = wait_ready
        self._changed = threading.Condition()
        self._answers: dict[str, dict[str, Any] | None] = {}
        self._connections = 0
        self._closed = False

    def connected(self) -> None:
        """Ask again what was asked of an earlier connection."""
        with self._changed:
            self._connections += 1
            self._changed.notify_all()

    def receive(self, payload: bytes) -> None:
        """Take an answer; it never waits. One that nobody waits for, as of a device of before, is dropped."""
        try:
            body = json.loads(payload)
        except (ValueError, RecursionError):
            return
        ask_id = body.get("id") if isinstance(body, dict) else None
        with self._changed:
            if isinstance(ask_id, str) and ask_id in self._answers:
                self._answers[ask_id] = body
                self._changed.notify_all()

    def close(self) -> None:
        """End every call that waits, with FileUnfinished."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def ask(self, operation: str, members: Mapping[str, Json], ends_at: float, *, ask_id: str = "") -> dict[str, Any]:
        """Ask until there is an answer, and return it.

        Args:
            operation: Name of what is asked.
            members: Its members.
            ends_at: Moment of the monotonic clock.
            ask_id: Id of an ask that may have been asked before; "": a new one.

        Raises:
            FileRefused: The answer is no; or VALIDATION_ERROR, a member cannot be written as JSON, such as NaN in
                metadata or a path that is no text in UTF-8.
            FileUnfinished: There was none in time, or the device was closed.
        """
        ask_id = ask_id or uuid.uuid4().hex
        try:
            payload = encode_json({"id": ask_id, "op": operation, **members})
        except (ValueError, TypeError) as exc:
            raise FileRefused("VALIDATION_ERROR", f"{operation} cannot be asked: {exc}") from exc
        waits, again = Backoff(base_s=2 * _ANSWER_S, cap_s=_ANSWER_MAX_S), Backoff(base_s=1.0, cap_s=_ANSWER_MAX_S)
        with self._changed:
            self._answers[ask_id] = None
        try:
            while True:
                answer = self._once(ask_id, payload, waits.next_delay_s(), ends_at)
                if answer is None:
                    continue
                if answer.get("status") == "ok":
                    return answer
                error = answer.get("error") or {}
                if not error.get("retryable"):
                    raise FileRefused(str(error.get("code")), str(error.get("message")), error.get("details"))
                log.warning("file.refused: %s: %s: asked again", error.get("code"), error.get("message"))
                self.pause(max(float(error.get("retry_after_s") or 0), again.next_delay_s()), ends_at)
        finally:
            with self._changed:
                del self._answers[ask_id]

    def _once(self, ask_id: str, payload: bytes, wait_s: float, ends_at: float) -> dict[str, Any] | None:
        """Ask at the next moment at which there is a connection; None: there was no answer to it."""
        if not self._wait_ready(min(1.0, self.require_time(ends_at))):
            return None
        with self._changed:
            self._answers[ask_id], connection = None, self._connections
            self._send(self.ask_topic, payload)
            self._changed.wait_for(
                lambda: self._answers[ask_id] is not None or self._closed or self._connections != connection,
                timeout=min(wait_s, self.require_time(ends_at)),
            )
            return self._answers[ask_id]

    def pause(self, seconds: float, ends_at: float) -> None:
        """Wait, unless that takes longer than there is time.

        Raises:
            FileUnfinished: It does, or the device was closed.
        """
        if seconds >= self.require_time(ends_at):
            raise FileUnfinished("it would take longer than there is time")
        with self._changed:
            self._changed.wait_for(lambda: self._closed, timeout=seconds)

    def require_time(self, ends_at: float) -> float:
        """Return the seconds that are left.

        Raises:
            FileUnfinished: None are, or the device was closed.
        """
        left = ends_at - time.monotonic()
        if self._closed:
            raise FileUnfinished("the device was closed")
        if left <= 0:
            raise FileUnfinished("the time was over first")
        return left
