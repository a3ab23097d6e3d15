"""Settings of this device: what its owner wants of it, by the shadow `settings` at the service.

    @device.settings.on_change
    def apply(wanted):                          # {"interval_s": 30}: what is wanted and not reported so
        if wanted["interval_s"] < 1:
            raise SettingsRefused("interval_s is at least 1")
        return {"interval_s": 30}               # what it has now; None: all that was wanted

What is wanted is asked for at each connection, and told while connected. It is handed over one after the other, on a
thread of its own, and reported then; what was reported is handed over no more, whatever comes twice. A report that the
service does not know at a connection was lost, and is sent again.
"""

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from karma_device.backoff import Backoff
from karma_device.errors import SettingsRefused
from karma_device.messages import Json, encode_json

log = logging.getLogger(__name__)

Send = Callable[[str, bytes], None]
Settings = dict[str, Any]
Handler = Callable[[Settings], Mapping[str, Json] | None]
_ANSWER_S = 15.0
"""Seconds without an answer after which settings are asked for again, the first time."""
_ANSWER_MAX_S = 600.0


class DeviceSettings:
    """Applies what is wanted of one device, and reports what it has; `device.settings` of a Device."""

    def __init__(self, thing: str, *, send: Send) -> None:
        """Make it; `send` sends a message to a topic, by this connection or the next one."""
        self._base = f"$aws/things/{thing}/shadow/name/settings"
        self._send = send
        self._handler: Handler | None = None
        self._changed = threading.Condition()
        self._reported: Settings = {}
        self._own: Settings = {}
        """Settings that this program reported, null: removed. They count beside the service's: a report may be lost."""
        self._waiting: tuple[int, Settings] | None = None
        """The newest version that was told, with what of it is not reported."""
        self._seen = 0
        self._busy = False
        self._closed = False
        self._ask_at = 0.0
        self._backoff = Backoff(base_s=_ANSWER_S, cap_s=_ANSWER_MAX_S)
        self._thread: threading.Thread | None = None
        self._refusal: Settings | None = None
        """Settings that were refused last: they are not tried again until something else is wanted."""

    def on_change(self, handler: Handler) -> Handler:
        """Set who applies settings, before the device starts.

        It gets what is wanted and was not reported so. What it returns is reported, None: all that was wanted. With
        SettingsRefused, or any other exception, nothing is, and the owner goes on seeing the difference.
        """
        self._handler = handler
        return handler

    def report(self, values: Mapping[str, Json]) -> None:
        """Report what the device has, also without being asked, such as a setting that was changed by a button."""
        with self._changed:
            self._own = _patched(self._own, values)
            self._reported = _merged(self._reported, values)
        self._send_report(values)

    @property
    def reported(self) -> Settings:
        """Return what was reported, or read from the service, last."""
        with self._changed:
            return dict(self._reported)

    # For the device

    @property
    def filters(self) -> list[str]:
        """Return the topics that are to be subscribed to; none where nobody applies settings."""
        if self._handler is None:
            return []
        return [f"{self._base}/{each}" for each in ("get/accepted", "get/rejected", "update/delta")]

    def connected(self) -> None:
        """Ask for everything that is wanted and reported: after each SUBACK, as what was told meanwhile is lost.

        Where nobody applies settings, what was reported is reported again: whether it came is not asked.
        """
        if self._handler is None:
            with self._changed:
                own = dict(self._own)
            if own:
                self._send_report(own)
            return
        self._ask_at = time.monotonic() + self._backoff.next_delay_s()
        self._send(f"{self._base}/get", b"{}")

    def turn(self, now: float) -> float:
        """Ask again if there was no answer; return the moment, by `time.monotonic`, of the next turn."""
        if self._ask_at and now >= self._ask_at:
            self.connected()
        return self._ask_at or now + _ANSWER_MAX_S

    def is_for(self, topic: str) -> bool:
        """Tell whether a message is of the settings."""
        return topic.startswith(f"{self._base}/")

    def receive(self, topic: str, payload: bytes) -> None:
        """Take a message of one of the `filters`; it never waits."""
        try:
            body = json.loads(payload)
        except (ValueError, RecursionError):
            return
        if not isinstance(body, dict):
            return
        if topic.endswith("/get/rejected"):
            if body.get("code") == 404:  # nobody has wanted or reported anything yet, or it was deleted
                self._answered()
                self._take(0, {}, {})
            return
        version, state = body.get("version"), body.get("state")
        if not isinstance(version, int) or not isinstance(state, dict):
            return
        if topic.endswith("/get/accepted"):
            self._answered()
            self._take(version, state.get("delta") or {}, state.get("reported") or {})
        else:
            self._take(version, state, None)

    def close(self) -> None:
        """End the thread, when it has applied what it is at."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _answered(self) -> None:
        self._ask_at = 0.0
        self._backoff.reset()

    def _take(self, version: int, delta: Settings, reported: Settings | None) -> None:
        with self._changed:
            # An equal version is taken: a delta and the answer to `get` have the same, and either may come first. A
            # whole answer counts whatever its version: a shadow that was made anew begins at a lower one.
            if reported is None and version < self._seen:
                return
            self._seen = version
            lost: Settings = {}
            if reported is not None:
                lost = _unknown(self._own, reported)
                self._reported = _merged(reported, self._own)
                delta = _missing(delta, self._reported)
            self._waiting = (version, delta) if delta else None
            if self._waiting is not None and self._thread is None:
                self._thread = threading.Thread(target=self._work, name="karma-settings", daemon=True)
                self._thread.start()
            self._changed.notify_all()
        if lost:
            self._send_report(lost)

    def _send_report(self, values: Mapping[str, Json]) -> None:
        self._send(f"{self._base}/update", encode_json({"state": {"reported": dict(values)}}))

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._waiting is not None)
                if self._closed or self._waiting is None:
                    return
                (version, told), self._waiting = self._waiting, None
                wanted = _missing(told, self._reported)
            if not wanted:
                # It has them already, and the report is on its way.
                self.report(_of(told, self.reported))
            elif wanted != self._refusal:
                self._apply(version, wanted)

    def _apply(self, version: int, wanted: Settings) -> None:
        handler = self._handler
        if handler is None:
            return
        try:
            has = handler(dict(wanted))
        except SettingsRefused as exc:
            log.warning("settings.refused: version %d: %s", version, exc)
            self._refusal = wanted
            return
        except Exception:
            log.exception("settings.crashed: version %d is not applied", version)
            self._refusal = wanted
            return
        self._refusal = None
        log.info("settings.applied: version %d: %s", version, ", ".join(sorted(wanted)))
        self.report(wanted if has is None else dict(has))
        left = _missing(wanted, self.reported)
        with self._changed:
            # What the handler left out, or has otherwise, would come again with each report.
            self._refusal = left or None


def _merged(before: Settings, patch: Mapping[str, Any]) -> Settings:
    after = dict(before)
    for name, value in patch.items():
        if value is None:
            after.pop(name, None)
        elif isinstance(value, Mapping):
            inner = after.get(name)
            after[name] = _merged(inner if isinstance(inner, dict) else {}, value)
        else:
            after[name] = value
    return after


def _patched(before: Settings, patch: Mapping[str, Any]) -> Settings:
    """Return the patch that does what two do, one after the other."""
    after = dict(before)
    for name, value in patch.items():
        inner = after.get(name)
        after[name] = _patched(inner, value) if isinstance(value, Mapping) and isinstance(inner, dict) else value
    return after


def _unknown(patch: Settings, has: Settings) -> Settings:
    """Return what of a patch would change `has`."""
    gone = {name: None for name, value in patch.items() if value is None and name in has}
    left: Settings = {**_missing({name: value for name, value in patch.items() if value is not None}, has), **gone}
    for name, value in patch.items():
        inner = has.get(name)
        if isinstance(value, dict) and isinstance(inner, dict):
            left.pop(name, None)
            if deeper := _unknown(value, inner):
                left[name] = deeper
    return left


def _missing(wanted: Settings, has: Settings) -> Settings:
    """Return what of `wanted` the device has not, or has otherwise."""
    missing: Settings = {}
    for name, value in wanted.items():
        mine = has.get(name)
        if isinstance(value, dict) and isinstance(mine, dict):
            inner = _missing(value, mine)
            if inner:
                missing[name] = inner
        elif name not in has or value != mine or isinstance(value, bool) is not isinstance(mine, bool):
            missing[name] = value
    return missing


def _of(names: Settings, values: Settings) -> Settings:
    """Return the part of `values` that `names` names."""
    return {
        name: _of(each, values[name]) if isinstance(each, dict) and isinstance(values[name], dict) else values[name]
        for name, each in names.items()
        if name in values
    }
