"""Firmware jobs as the updater carries them out: installed, reported after the restart, refused, rolled back."""

import base64
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from karma_device.config import DeviceConfig
from karma_device.device import Device
from karma_device.firmware import Manifest
from karma_device.updates import FirmwareUpdater
from karma_device_testing.cloud import Broker, wait_until
from karma_device_testing.firmware import DATA, KEY, OTHER, Shop, text_of

TRUSTED = [base64.b64encode(KEY.public_key().public_bytes_raw()).decode()]


class Cloud:
    """Keeps what the device sends, and answers as AWS IoT Jobs."""

    def __init__(self, shop: Shop, *, by: Any = KEY, **changed: Any) -> None:
        text = text_of(**changed)
        self.document = {
            "operation": "firmware",
            "manifest": text,
            "signature": base64.b64encode(by.sign(text.encode())).decode(),
            "url": shop.url,
        }
        self.shop = shop
        self.ended: dict[str, Any] | None = None
        self.changed = threading.Event()
        self.updater: FirmwareUpdater | None = None
        self.loses = 0
        """Number of questions whose answers are lost next."""
        self.refuses = 0
        """Number of reports that are refused next."""
        self.reports: list[dict[str, Any]] = []

    def send(self, topic: str, payload: bytes) -> None:
        assert self.updater is not None
        body, base = json.loads(payload), "$aws/things/EOS-1/jobs"
        if topic == f"{base}/start-next":
            if self.loses:
                self.loses -= 1
                return
            execution = {} if self.ended else {"execution": {"jobId": "j1", "jobDocument": self.document}}
            self.updater.receive(f"{topic}/accepted", json.dumps(execution).encode())
        elif topic == f"{base}/j1/get":
            fresh = {**self.document, "url": self.shop.url.replace("link", "fresh")}
            answer = {"execution": {"jobId": "j1", "jobDocument": fresh}}
            self.updater.receive(f"{topic}/accepted", json.dumps(answer).encode())
        else:
            assert topic == f"{base}/j1/update"
            self.reports.append(body)
            if self.refuses:
                self.refuses -= 1
                return
            self.ended = body
            self.changed.set()


Boot = Callable[..., tuple[list[Any], threading.Event]]


@pytest.fixture
def boot(tmp_path: Path) -> Boot:
    def start(cloud: Cloud, running: str, *, fails: bool = False) -> tuple[list[Any], threading.Event]:
        installed: list[bytes] = []
        tried: list[Path] = []
        restarted = threading.Event()

        def install(path: Path, manifest: Manifest) -> None:
            assert manifest.version == "2.0.0"
            if fails:
                tried.append(path)
                raise OSError("the slot\nis worn\x00 out" + "!" * 2_000)
            installed.append(path.read_bytes())

        cloud.updater = FirmwareUpdater(
            folder=tmp_path / "updates",
            model="EOS-3A",
            keys=TRUSTED,
            running_version=running,
            install=install,
            restart=restarted.set,
        )
        cloud.updater.attach("EOS-1", cloud.send)
        cloud.updater.connected()
        return (tried if fails else installed), restarted

    return start


def test_it_installs_restarts_and_reports_after_the_restart(shop: Shop, boot: Boot) -> None:
    cloud = Cloud(shop)
    installed, restarted = boot(cloud, "1.0.0")
    assert restarted.wait(20)
    assert (installed, cloud.ended) == ([DATA], None)
    again, _ = boot(cloud, "2.0.0")
    assert cloud.changed.wait(20)
    assert cloud.ended == {"status": "SUCCEEDED", "statusDetails": {}}
    assert again == []


def test_one_that_went_back_reports_it_and_installs_nothing_again(shop: Shop, boot: Boot) -> None:
    cloud = Cloud(shop)
    _, restarted = boot(cloud, "1.0.0")
    assert restarted.wait(20)
    again, _ = boot(cloud, "1.0.0")
    assert cloud.changed.wait(20)
    assert cloud.ended is not None
    assert (cloud.ended["status"], cloud.ended["statusDetails"]["code"], again) == ("FAILED", "ROLLED_BACK", [])


def test_what_nobody_trusted_has_signed_is_rejected(shop: Shop, boot: Boot) -> None:
    cloud = Cloud(shop, by=OTHER)
    installed, _ = boot(cloud, "1.0.0")
    assert cloud.changed.wait(20)
    assert cloud.ended is not None
    assert (cloud.ended["status"], cloud.ended["statusDetails"]["code"]) == ("REJECTED", "SIGNATURE")
    assert (installed, shop.ranges) == ([], [])


def test_an_installer_that_fails_is_reported(shop: Shop, boot: Boot) -> None:
    cloud = Cloud(shop)
    boot(cloud, "1.0.0", fails=True)
    assert cloud.changed.wait(20)
    assert cloud.ended is not None
    assert (cloud.ended["status"], cloud.ended["statusDetails"]["code"]) == ("FAILED", "INSTALL")


@pytest.mark.fault("F-43d")
def test_a_report_that_is_refused_comes_again_in_other_words_and_nothing_is_done_twice(shop: Shop, boot: Boot) -> None:
    cloud = Cloud(shop)
    cloud.refuses = 2
    tried, _ = boot(cloud, "1.0.0", fails=True)
    wait_until(lambda: len(cloud.reports) == 2, what="the report again")
    assert cloud.updater is not None
    assert cloud.updater.turn(0.0) > time.monotonic(), "and not at once"
    assert cloud.updater.turn(time.monotonic() + 100) > 0
    assert cloud.changed.wait(20)
    first, again, bare = cloud.reports
    assert (again, bare) == (first, {"status": "FAILED"})
    message = first["statusDetails"]["message"]
    assert message.startswith("OSError: the slot is worn out!")
    assert len(message) <= 1_024, "AWS takes no more"
    assert message.isprintable(), "nor anything that controls"
    assert len(tried) == 1


@pytest.mark.fault("F-43e")
def test_a_question_whose_answer_was_lost_is_asked_again(shop: Shop, boot: Boot) -> None:
    cloud = Cloud(shop)
    cloud.loses = 1
    _, restarted = boot(cloud, "1.0.0")
    assert cloud.updater is not None
    soon = cloud.updater.turn(time.monotonic())
    assert 0 < soon - time.monotonic() <= 60
    cloud.updater.turn(soon)
    assert restarted.wait(20)
    assert cloud.updater.turn(time.monotonic()) - time.monotonic() > 3_600, "news that is lost is found some time"


def test_a_link_that_has_ended_is_asked_for_again(shop: Shop, boot: Boot) -> None:
    shop.forbids = {"/link"}
    installed, restarted = boot(Cloud(shop), "1.0.0")
    assert restarted.wait(20)
    assert installed == [DATA]


def test_a_device_over_mqtt_and_tls_carries_out_a_job_of_the_service(
    shop: Shop, broker: Broker, credentials: dict[str, Any], tmp_path: Path
) -> None:
    """The real client against the engine's broker and jobs, with the policy that devices have."""
    iot, thing = broker.client("iot"), credentials["thing_name"]
    arn = iot.describe_thing(thingName=thing)["thingArn"]
    installed: list[bytes] = []

    def device(running: str, restart: Callable[[], None]) -> Device:
        updater = FirmwareUpdater(
            folder=tmp_path / "updates",
            model="EOS-3A",
            keys=TRUSTED,
            running_version=running,
            install=lambda path, _: installed.append(path.read_bytes()),
            restart=restart,
        )
        config = DeviceConfig.from_credentials(credentials, state_dir=tmp_path / "state", firmware_version=running)
        return Device(config, updater=updater)

    def state() -> str:
        return str(iot.describe_job_execution(jobId=f"job-{thing}", thingName=thing)["execution"]["status"])

    restarted = threading.Event()
    shop.cut_after = 4 * 1024 * 1024
    with device("1.0.0", restarted.set) as first:
        assert first.wait_ready(20)
        # It hears of the job while it is connected.
        iot.create_job(jobId=f"job-{thing}", targets=[arn], document=json.dumps(Cloud(shop).document))
        assert restarted.wait(30)
        assert (state(), installed) == ("IN_PROGRESS", [DATA])
    with device("2.0.0", restarted.clear) as second:
        assert second.wait_ready(20)
        wait_until(lambda: state() == "SUCCEEDED", what="the report after the restart")
    assert shop.ranges == ["", "bytes=4194304-"]
