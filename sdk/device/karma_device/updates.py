"""Carries out the service's firmware jobs: checks, fetches, hands over to an installer, restarts, and reports.

    updater = FirmwareUpdater(folder="updates", model="EOS-3A", keys=KEYS, running_version="2.0.0",
                              install=write_the_other_slot, restart=reboot)
    device = Device(config, updater=updater)

A job is asked for at each connection and whenever the service has news; it is the same one until it has ended, so that
a cut of the power, or a report that was lost, repeats what is not done and nothing else:

| this device | does |
|---|---|
| runs the job's version | reports SUCCEEDED: also a job that was installed before a restart |
| has installed the job's release and runs another version | reports FAILED, `ROLLED_BACK`: its boot loader went back |
| must not install it (`FirmwareRefused`) | reports REJECTED with the code |
| neither | fetches what is missing, installs, restarts |
| has reported the end of a job that comes again | reports it again, and does nothing else |

An answer that was lost is asked for again, and news that was lost is found by asking now and then.
"""

import json
import logging
import os
import random
import threading
import time
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from karma_device.backoff import Backoff
from karma_device.config import FIRMWARE_VERSION
from karma_device.firmware import (
    FirmwareDownload,
    FirmwareRefused,
    FirmwareUnfetched,
    Manifest,
    Verify,
    ed25519,
    read_manifest,
)
from karma_device.messages import Json, encode_json

log = logging.getLogger(__name__)

Send = Callable[[str, bytes], None]
"""Sends a message to a topic, at the next connection if there is none now."""
_RENEW_WITHIN_S = 60.0
_ANSWERS_WITHIN_S = 60.0
"""Seconds after which a question counts as lost: that the broker has acknowledged it says nothing of an answer."""
_MAX_WORDS = 500
"""Characters of what is said of a failure; AWS takes 1,024, and none that controls anything, such as a line's end."""


class FirmwareUpdater:
    """Carries out one job after the other, on a thread of its own."""

    def __init__(
        self,
        *,
        folder: str | Path,
        model: str,
        keys: Sequence[str],
        running_version: str,
        install: Callable[[Path, Manifest], None],
        restart: Callable[[], None],
        verify: Verify = ed25519,
        fetch_within_s: float = 3_600.0,
        ask_every_s: float = 6 * 3_600.0,
    ) -> None:
        """Make it.

        Args:
            folder: Folder for downloads and what was installed, on storage that survives a restart.
            model: Model of this device.
            keys: Trusted public keys, in base64; they come with the device's software.
            running_version: Version of the software that runs now, 1 to 50 printable characters of ASCII; heartbeats
                tell it, so that a rollout of this version leaves the device out.
            install: Writes the release where the next start finds it, such as the other slot; may be called again.
            restart: Restarts into it. What is running then must say its own version.
            verify: Checks a signature.
            fetch_within_s: Seconds for a download; what has come is kept for the next try.
            ask_every_s: Seconds, give or take a quarter, after which a connected device asks for jobs that it was not
                told of.

        Raises:
            ValueError: `running_version` is none that a heartbeat can tell.
        """
        if not FIRMWARE_VERSION.fullmatch(running_version):
            raise ValueError(f"running_version {running_version!r} is not 1 to 50 printable ASCII characters")
        self.running_version = running_version
        self._folder = Path(folder)
        self._model = model
        self._keys = tuple(keys)
        self._install = install
        self._restart = restart
        self._verify = verify
        self._fetch_within_s = fetch_within_s
        self._send: Send = _nowhere
        self._thing = ""
        self._lock = threading.Lock()
        self._working = False
        self._restarting = False
        self._ask_every_s = ask_every_s
        self._ask_at = 0.0
        self._backoff = Backoff(base_s=_ANSWERS_WITHIN_S / 4, cap_s=max(ask_every_s, _ANSWERS_WITHIN_S))
        self._ended: dict[str, list[dict[str, Json]]] = {}
        """Reports that are left to be tried of the job that ended here last, of which the last is tried for good."""
        self._renewed = threading.Condition()
        self._fresh: dict[str, str] = {}

    # For the device

    def attach(self, thing: str, send: Send) -> None:
        """Say whose jobs they are, and how messages are sent."""
        self._thing, self._send = thing, send

    @property
    def filters(self) -> list[str]:
        """Return the topics that are to be subscribed to."""
        return [self._topic(each) for each in ("notify-next", "start-next/accepted", "+/get/accepted")]

    def connected(self) -> None:
        """Ask for the next job: after each SUBACK."""
        self._ask_at = time.monotonic() + _ANSWERS_WITHIN_S
        self._send(self._topic("start-next"), b"{}")

    def turn(self, now: float) -> float:
        """Ask again if it is time, while connected; return the moment, by `time.monotonic`, of the next turn."""
        if now >= self._ask_at:
            self.connected()
        return self._ask_at

    def receive(self, topic: str, payload: bytes) -> None:
        """Take a message of one of the `filters`; it never waits."""
        try:
            body = json.loads(payload)
        except ValueError:
            return
        execution = body.get("execution") if isinstance(body, dict) else None
        if topic.endswith("/start-next/accepted"):
            self._ask_at = time.monotonic() + random.uniform(0.75, 1.25) * self._ask_every_s  # noqa: S311  no secret
        if not isinstance(execution, dict) or "jobId" not in execution:
            return
        if topic.endswith("/notify-next"):
            self.connected()
        elif topic.endswith("/get/accepted"):
            with self._renewed:
                self._fresh[str(execution["jobId"])] = str(_document(execution).get("url", ""))
                self._renewed.notify_all()
        else:
            self._begin(str(execution["jobId"]), _document(execution))

    # The work

    def _begin(self, job: str, document: dict[str, Any]) -> None:
        if document.get("operation") != "firmware":
            log.warning("firmware.unknown_job: %s", job)
            return
        with self._lock:
            if self._working:
                return
            if (reports := self._ended.get(job)) is not None:
                # The service does not know of its end: the report was lost, is under way, or was refused.
                self._send(
                    self._topic(f"{job}/update"), encode_json(reports.pop(0) if len(reports) > 1 else reports[0])
                )
                self._ask_at = time.monotonic() + self._backoff.next_delay_s()
                return
            self._working = True
        threading.Thread(target=self._work, args=(job, document), name="karma-firmware", daemon=True).start()

    def _work(self, job: str, document: dict[str, Any]) -> None:
        try:
            self._carry_out(job, document)
        except FirmwareRefused as exc:
            self._report(job, "REJECTED", code=exc.code, message=str(exc))
        except FirmwareUnfetched as exc:
            log.warning("firmware.unfetched: %s: %s", job, exc)  # the next connection, or news, goes on
        except Exception as exc:
            log.exception("firmware.failed: %s", job)
            self._report(job, "FAILED", code="INSTALL", message=f"{type(exc).__name__}: {exc}")
        if self._restarting:
            return  # whatever comes until the process ends is the next one's
        with self._lock:
            self._working = False
        # What came meanwhile was left; what was not fetched goes on.
        self.connected()

    def _carry_out(self, job: str, document: dict[str, Any]) -> None:
        known = self._state()
        manifest = read_manifest(
            str(document.get("manifest", "")),
            str(document.get("signature", "")),
            keys=self._keys,
            model=self._model,
            installed_index=int(known.get("index", 0)),
            verify=self._verify,
        )
        if self.running_version == manifest.version:
            self._note({"index": max(int(known.get("index", 0)), manifest.rollback_index)})
            self._report(job, "SUCCEEDED")
            return
        if known.get("installed") == job:
            self._note({"index": int(known.get("index", 0))})
            message = f"{manifest.version} was installed, and {self.running_version} runs"
            self._report(job, "FAILED", code="ROLLED_BACK", message=message)
            return
        download = FirmwareDownload(self._folder, manifest)
        path = download.fetch(
            str(document.get("url", "")), renew=lambda: self._renew(job), within_s=self._fetch_within_s
        )
        log.info("firmware.fetched: %s", manifest.version)
        self._install(path, manifest)
        self._note({**known, "installed": job})
        self._restarting = True
        self._restart()

    def _renew(self, job: str) -> str:
        """Ask for the document again, whose link is fresh."""
        with self._renewed:
            self._fresh.pop(job, None)
            self._send(self._topic(f"{job}/get"), b'{"includeJobDocument":true}')
            if not self._renewed.wait_for(lambda: job in self._fresh, timeout=_RENEW_WITHIN_S):
                raise FirmwareUnfetched("the service did not give another link")
            return self._fresh[job]

    def _report(self, job: str, status: str, *, code: str = "", message: str = "") -> None:
        words = {name: text for name, said in (("code", code), ("message", message)) if (text := _printable(said))}
        details: dict[str, Json] = {**words}
        body: dict[str, Json] = {"status": status, "statusDetails": details}
        log.log(logging.INFO if status == "SUCCEEDED" else logging.ERROR, "firmware.%s: %s %s", status, code, message)
        self._backoff.reset()
        self._ended = {job: [body, {"status": status}]}
        self._send(self._topic(f"{job}/update"), encode_json(body))

    def _state(self) -> dict[str, Any]:
        try:
            found = json.loads((self._folder / "installed").read_text())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _note(self, state: dict[str, Any]) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        beside = self._folder / "installed.new"
        with beside.open("w") as file:
            json.dump(state, file)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(self._folder / "installed")

    def _topic(self, rest: str) -> str:
        return f"$aws/things/{self._thing}/jobs/{rest}"


def _printable(text: str) -> str:
    shown = (" " if unicodedata.category(each).startswith("C") else each for each in text)
    return " ".join("".join(shown).split())[:_MAX_WORDS]


def _document(execution: dict[str, Any]) -> dict[str, Any]:
    document = execution.get("jobDocument", {})
    if isinstance(document, str):
        try:
            document = json.loads(document)
        except ValueError:
            return {}
    return document if isinstance(document, dict) else {}


def _nowhere(topic: str, _payload: bytes) -> None:
    raise RuntimeError(f"no device sends to {topic} yet: give the updater to Device(config, updater=…)")
