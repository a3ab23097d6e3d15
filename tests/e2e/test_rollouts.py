"""Firmware to real devices over MQTT and TLS, through a deployed stage. ROLLOUT=50 has as many devices, 6 bad ones."""

from __future__ import annotations

import base64
import json
import os
import random
import secrets
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from karma.firmware.repository.rollouts import RolloutRepository
from karma.firmware.service import SignedManifest
from local.api_client import ApiRefused
from local.conversation import sell
from local.deployment import Deployment
from local.waiting import until
from tests.support.firmware import KEY, manifest_of, signed
from tests.support.seeds import dice
from tests.support.updating_devices import OLD, RESTARTS, CuttingProxy, UpdatingDevice

from .conftest import User

Eventually = Callable[..., Any]
DEVICES = max(5, int(os.environ.get("ROLLOUT") or 5))
BAD = max(1, round(DEVICES * 0.12))
WITHIN_S = 120 + 6 * DEVICES
KEYS = [base64.b64encode(KEY.public_key().public_bytes_raw()).decode()]
OTHER_KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
NEW = "2.0.0"
NOBODY = (422, "ROLLOUT_TO_NOBODY")
_MEGABYTE = 1024 * 1024

pytestmark = [pytest.mark.needs("iot"), pytest.mark.needs("local-stage")]


class Stage:
    """The stage as the owner of a fleet uses it."""

    def __init__(self, user: User, deployment: Deployment, folder: Path) -> None:
        self.user = user
        self.deployment = deployment
        self.folder = folder
        self.devices: dict[str, UpdatingDevice] = {}
        """By serial number."""
        self.ids: dict[str, str] = {}

    def call(self, method: str, path: str, body: object = None, **query: str | int) -> dict[str, Any]:
        return self.user.api.call(method, f"/firmware{path}", body, **query)

    def add(self, number: int, *, tag: str = "fleet") -> list[UpdatingDevice]:
        """Make devices; they are switched off."""
        made = []
        for _ in range(number):
            serial = f"ROLL-{secrets.token_hex(5)}"
            mac = ":".join(["02", *(f"{byte:02x}" for byte in secrets.token_bytes(5))])
            body = {"name": serial, "model": "EOS-3A", "mac": mac, "serial_number": serial, "tags": [tag]}
            body["firmware_version"] = OLD
            data = self.user.api.call("POST", "/devices", body)
            device = UpdatingDevice(data["credentials"], self.folder / serial, KEYS)
            self.devices[serial], self.ids[serial] = device, data["device"]["id"]
            made.append(device)
        return made

    def release(self, version: str, data: bytes, *, key: Ed25519PrivateKey = KEY) -> dict[str, Any]:
        """Create, upload and publish a release."""
        made = signed(manifest_of(data, version=version), key)
        draft = self.call("POST", "/releases", made._asdict())
        path = f"/releases/{draft['release']['id']}"
        upload = self.call("POST", f"{path}/upload")["upload"]
        sent = httpx.put(upload["url"], content=data, headers=upload["headers"], trust_env=False)
        assert sent.status_code == 200, sent.text
        released: dict[str, Any] = self.call("POST", f"{path}/publish")["release"]
        return released

    def refused(self, method: str, path: str, body: object = None) -> tuple[int, str]:
        """Return status and code with which a call is refused."""
        with pytest.raises(ApiRefused) as caught:
            self.call(method, path, body)
        return caught.value.status, caught.value.code

    def begin(self, release: dict[str, Any], **plan: Any) -> str:
        target = plan if {"tag", "device_ids", "all"} & set(plan) else {"tag": "fleet", **plan}
        return str(self.call("POST", "/rollouts", {"release_id": release["id"], **target})["rollout"]["id"])

    def shown(self, rollout: str) -> tuple[str, dict[str, int]]:
        """Return state and numbers of a rollout."""
        told = self.call("GET", f"/rollouts/{rollout}")
        return told["rollout"]["state"], {name: number for name, number in told["progress"].items() if number}

    def targets(self, rollout: str, **query: str) -> list[dict[str, Any]]:
        return list(self.call("GET", f"/rollouts/{rollout}/devices", None, limit=100, **query)["devices"])

    def look(self) -> None:
        """Let the sweep look after every rollout now, in place of within a minute."""
        store, now = RolloutRepository(), datetime.now(UTC)
        for look in store.due(before=now + timedelta(minutes=5), limit=50):
            store.take(look, again_at=now - timedelta(minutes=1))
        client = self.deployment.adapter.client("lambda")
        name = self.deployment.outputs["FunctionBackgroundSweepsFirmware"]

        def swept() -> bool:
            try:
                answer = client.invoke(FunctionName=name, Payload=json.dumps({"sweep": "rollouts"}))
            except client.exceptions.TooManyRequestsException:
                return False  # the schedule's own call is under way
            told = json.loads(answer["Payload"].read())
            assert "changed" in told, told
            return True

        until(lambda: swept() or None, deadline_s=60, what="a sweep", pause_s=0.2)

    def follow(self, rollout: str, is_there: Callable[[str, dict[str, int]], bool], what: str) -> dict[str, int]:
        """Look until a rollout is somewhere; return its numbers."""

        def there() -> tuple[str, dict[str, int]] | None:
            self.look()
            state, numbers = self.shown(rollout)
            seen[:] = [state, numbers]
            return (state, numbers) if is_there(state, numbers) else None

        seen: list[Any] = []
        try:
            _, numbers = until(there, deadline_s=WITHIN_S, what=what, pause_s=0.5)
        except Exception as exc:
            raise AssertionError(f"{what}: {seen}") from exc
        return numbers

    def ended(self, rollout: str, state: str = "completed") -> dict[str, int]:
        return self.follow(rollout, lambda now, _: now == state, f"the rollout {state}")


class ThroughProxy(urllib.request.ProxyHandler):
    """Goes through a proxy to this machine, too."""

    def __init__(self, proxy: CuttingProxy) -> None:
        super().__init__({"http": proxy.url})
        self._host = proxy.url.removeprefix("http://")

    def proxy_open(self, req: urllib.request.Request, proxy: str, type: str) -> None:  # noqa: A002  the name that it has
        req.set_proxy(self._host, "http")


@pytest.fixture
def owner(user: User, storage: Deployment, eventually: Eventually) -> User:
    """Somebody whose plan has room for a fleet."""
    sell(storage.stripe, user.id, user.email, plan="karma_team_month")
    eventually(lambda: user.api.call("GET", "/subscriptions/current")["subscription"]["plan"] == "team", "the plan")
    return user


@pytest.fixture
def proxy(owner: User, monkeypatch: pytest.MonkeyPatch) -> Iterator[CuttingProxy]:
    """The network of all devices of this process: it cuts each download once. `owner` has been to Stripe before."""
    draw = dice("cuts of downloads", DEVICES)
    proxy = CuttingProxy(lambda: draw.randrange(200_000, 2 * _MEGABYTE))
    monkeypatch.setattr(urllib.request, "_opener", urllib.request.build_opener(ThroughProxy(proxy)))
    yield proxy
    proxy.close()


@pytest.fixture
def stage(owner: User, storage: Deployment, proxy: CuttingProxy, tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(owner, storage, tmp_path)
    yield stage
    for each in stage.devices.values():
        each.stop()


class PowerCut:
    """A device in a process of its own, whose power is cut in the middle of a download."""

    def __init__(self, folder: Path, credentials: dict[str, Any]) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "credentials.json").write_text(json.dumps(credentials))
        (folder / "keys.json").write_text(json.dumps(KEYS))
        self.proxy = CuttingProxy(lambda: 3 * _MEGABYTE // 2)
        self.proxy.holds.set()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def version(self) -> str:
        """Return the version in its slot."""
        return (self.folder / "slot").read_text()

    def start(self) -> None:
        """Switch it on."""
        given = {"http_proxy": self.proxy.url, "no_proxy": "", "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-m", "tests.support.updating_devices", str(self.folder)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, env={**os.environ, **given})

    def restarted(self) -> None:
        """Wait until it restarts into what it has installed, and let it."""
        assert self._process is not None
        assert self._process.wait(WITHIN_S) == RESTARTS
        self._kill()
        self.start()

    def cut(self) -> None:
        """Cut the power once a megabyte is safe; what was not forced to the disk may be anything."""

        def offset() -> int:
            notes = list((self.folder / "updates").glob("*.json"))
            return int(json.loads(notes[0].read_text())["offset"]) if notes else 0

        until(lambda: offset() >= _MEGABYTE or None, deadline_s=WITHIN_S, what="a megabyte on the disk", pause_s=0.05)
        self._kill()
        [part] = (self.folder / "updates").glob("*.part")
        with part.open("r+b") as file:
            file.seek(offset())
            file.write(b"\0" * 1000)

    def close(self) -> None:
        """Switch it off for good."""
        self._kill()
        self.proxy.close()

    def _kill(self) -> None:
        if self._process is not None:
            with self._process as process:  # which closes its input, too
                process.kill()


@pytest.mark.req("R-K-12")
@pytest.mark.fault("F-43a", "F-43f")
def test_a_rollout_to_devices_of_which_some_fail(stage: Stage, proxy: CuttingProxy) -> None:
    """It aborts, the rest keep what they have, it resumes; the failed ones are mended and retried; all go back."""
    stage.add(DEVICES)
    release = stage.release(NEW, random.Random(2).randbytes(2 * _MEGABYTE + 1))
    waves = [20 if DEVICES > 20 else 60, 100]
    rollout = stage.begin(release, waves=waves, abort_percent=20, abort_min_finished=3)
    first, rest = (
        [each["serial_number"] for each in stage.targets(rollout) if each["wave"] == wave] for wave in (1, 2)
    )
    bad = {*first[: (BAD + 1) // 2], *rest[: BAD // 2]}
    for serial in bad:
        stage.devices[serial].is_bad = True
    cut_off = stage.devices.pop(first[-1])
    power = PowerCut(stage.folder / "cut" / cut_off.serial, cut_off.credentials)
    with closing(power):
        _abort_and_resume(stage, rollout, power, rest=[*rest, *bad])
        assert stage.ended(rollout) == {"succeeded": DEVICES - BAD, "failed": BAD}
        begins = [each for each in proxy.ranges if not each]
        assert len(proxy.ranges) >= 2 * len(begins) - 1, "each download was cut, and went on"
        notes = {each["note"] for each in stage.targets(rollout, state="failed")}
        assert notes == {"INSTALL: OSError: the slot is worn out"}

        for serial in bad:
            stage.devices[serial].is_bad = False
        stage.call("POST", f"/rollouts/{rollout}/retry")
        assert stage.ended(rollout) == {"succeeded": DEVICES}
        assert {each.version for each in stage.devices.values()} == {NEW} == {power.version}

        old = stage.release(OLD, b"old" * 1_000)
        back = stage.call("POST", f"/rollouts/{rollout}/rollback", {"release_id": old["id"]})["rollout"]["id"]
        stage.look()
        power.restarted()
        assert stage.ended(back) == {"succeeded": DEVICES}
        assert {each.version for each in stage.devices.values()} == {OLD} == {power.version}


def _abort_and_resume(stage: Stage, rollout: str, power: PowerCut, *, rest: Sequence[str]) -> None:
    for device in stage.devices.values():
        device.start()
    power.start()
    stage.look()
    power.cut()
    stage.follow(rollout, lambda _, numbers: numbers.get("failed", 0) >= 1, "failures")
    power.start()
    power.restarted()
    assert power.proxy.ranges[0] == ""
    assert all(each.startswith("bytes=") for each in power.proxy.ranges[1:]), "it goes on"

    def is_quiet(state: str, numbers: dict[str, int]) -> bool:
        return state == "aborted" and not numbers.keys() & {"queued", "in_progress"}

    numbers = stage.follow(rollout, is_quiet, "the rollout aborted, and quiet")
    assert numbers["waiting"] >= DEVICES * 2 // 5
    assert all(stage.devices[serial].version == OLD for serial in rest), "the rest keep the old version"
    stage.call("POST", f"/rollouts/{rollout}/resume")


@pytest.mark.fault("F-43g")
def test_what_somebody_else_has_or_nobody_has_is_given_nothing(stage: Stage, make_user: Callable[[], User]) -> None:
    """One device is deleted, one changes hands, one is switched on at last; all while they are offered a release."""
    kept, given, deleted = stage.add(3)
    release = stage.release(NEW, b"firmware" * 1_000)
    rollout = stage.begin(release, waves=[100])
    stage.look()
    assert stage.shown(rollout)[1] == {"queued": 3}
    receiver = make_user()
    offer = {"user_id": receiver.id, "current_password": stage.user.password}
    stage.user.api.call("POST", f"/devices/{stage.ids[given.serial]}/transfer", offer)
    receiver.api.call("POST", f"/devices/{stage.ids[given.serial]}/transfer/accept")
    stage.user.api.call("DELETE", f"/devices/{stage.ids[deleted.serial]}")
    stage.follow(rollout, lambda _, numbers: numbers.get("removed") == 2, "both removed")
    for device in (kept, given):
        device.start()
        assert device.wait_ready(WITHIN_S)
    assert stage.ended(rollout) == {"succeeded": 1, "removed": 2}
    assert (kept.version, given.version) == (NEW, OLD)


def test_a_release_that_is_not_what_was_signed_is_not_published(stage: Stage) -> None:
    def published(manifest: SignedManifest, data: bytes | None) -> tuple[int, str]:
        path = f"/releases/{stage.call('POST', '/releases', manifest._asdict())['release']['id']}"
        if data is not None:
            upload = stage.call("POST", f"{path}/upload")["upload"]
            httpx.put(upload["url"], content=data, headers=upload["headers"], trust_env=False)
        return stage.refused("POST", f"{path}/publish")

    data = b"firmware" * 1_000
    assert published(signed(manifest_of(data, version="3.0.0")), None) == (409, "FIRMWARE_NOT_UPLOADED")
    # S3 itself refuses other bytes by the signed checksum: what was sent is not there, or is other bytes.
    wrong = published(signed(manifest_of(data, version="3.0.1")), b"x" * len(data))
    assert wrong in {(409, "FIRMWARE_MISMATCH"), (409, "FIRMWARE_NOT_UPLOADED")}
    forged = signed(manifest_of(data))._replace(signature=signed(manifest_of(data), OTHER_KEY).signature)
    assert stage.refused("POST", "/releases", forged._asdict()) == (422, "VALIDATION_ERROR")


def test_rollouts_that_can_come_to_no_good_are_refused_by_the_stage_or_by_the_device(
    stage: Stage, eventually: Eventually
) -> None:
    data = b"firmware" * 1_000
    good, distrusting, deceived = stage.add(3)
    release, forged, changed = (
        stage.release(version, data, key=key) for version, key in ((NEW, KEY), ("4.0.0", OTHER_KEY), ("5.0.0", KEY))
    )
    assert stage.refused("POST", "/rollouts", {"release_id": release["id"], "tag": "nobody-has-it"}) == NOBODY

    def begin(made: dict[str, Any], device: UpdatingDevice) -> str:
        try:
            return stage.begin(made, device_ids=[stage.ids[device.serial]], waves=[100])
        except ApiRefused as refused:
            return refused.code

    with ThreadPoolExecutor(2) as pool:
        one, other = sorted(pool.map(begin, [release, changed], [good, good]))
    assert (other, one == "DEVICES_IN_ROLLOUT") == ("DEVICES_IN_ROLLOUT", False), "two at once to one device"
    if stage.call("GET", f"/rollouts/{one}")["rollout"]["release_id"] != release["id"]:
        stage.call("POST", f"/rollouts/{one}/cancel")
        one = begin(release, good)
    assert stage.refused("DELETE", f"/releases/{release['id']}") == (409, "RELEASE_IN_USE")
    assert stage.call("POST", f"/rollouts/{one}/retry")["rollout"]["version"] == 1, "it waits, and has not failed"

    # Whoever holds the account and its bucket signs with another key, or puts other bytes in the place of signed ones.
    two, three = begin(forged, distrusting), begin(changed, deceived)
    bucket, key = stage.deployment.outputs["BucketName"], f"firmware/{stage.user.id}/{changed['id']}"
    stage.deployment.adapter.client("s3").put_object(Bucket=bucket, Key=key, Body=b"x" * len(data))
    for device in (good, distrusting, deceived):
        device.start()
    assert stage.ended(one) == {"succeeded": 1}
    assert [stage.ended(each) for each in (two, three)] == [{"rejected": 1}, {"rejected": 1}]
    notes = [each["note"].partition(":")[0] for rollout in (two, three) for each in stage.targets(rollout)]
    assert notes == ["SIGNATURE", "HASH"]
    assert [each.version for each in (good, distrusting, deceived)] == [NEW, OLD, OLD]

    def reported() -> str:
        return str(stage.user.api.call("GET", f"/devices/{stage.ids[good.serial]}")["device"]["firmware_version"])

    eventually(lambda: reported() == NEW, "the version that it runs")
    again = {"release_id": release["id"], "device_ids": [stage.ids[good.serial]]}
    assert stage.refused("POST", "/rollouts", again) == NOBODY


@pytest.mark.late
@pytest.mark.needs("state")
def test_a_pause_and_a_restart_of_the_engine_lose_nobody(stage: Stage, deployment: Deployment) -> None:
    """Paused while one device is in the middle, which goes on; the engine restarts; resumed, the rest follow."""
    fleet = stage.add(3)
    data = random.Random(3).randbytes(_MEGABYTE)
    rollout = stage.begin(stage.release(NEW, data), waves=[100])
    first = fleet[0]
    first.may_install.clear()
    first.start()
    stage.follow(rollout, lambda _, numbers: numbers.get("in_progress") == 1, "one begun")
    stage.call("POST", f"/rollouts/{rollout}/pause")
    for device in fleet[1:]:
        device.start()
        assert device.wait_ready(WITHIN_S)
    stage.look()
    assert stage.shown(rollout) == ("paused", {"in_progress": 1, "waiting": 2})
    deployment.restart_engine()
    stage.user.api.log_in(stage.user.email, stage.user.password)
    first.may_install.set()
    stage.follow(rollout, lambda _, numbers: numbers == {"succeeded": 1, "waiting": 2}, "the one that had begun ended")
    assert [each.version for each in fleet] == [NEW, OLD, OLD]
    stage.call("POST", f"/rollouts/{rollout}/resume")
    assert stage.ended(rollout) == {"succeeded": 3}
