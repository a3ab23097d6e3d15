"""The first start of a device from the factory, through cuts of the power and a service that does not answer."""

import json
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from karma_device import private_files
from karma_device.certificates import make_request
from karma_device.config import DeviceConfig, tls_context
from karma_device.errors import ProvisioningRefused
from karma_device.provisioning import Asks, ClaimConfig, own_config, provision
from karma_device_testing.authority import Authority

pytestmark = pytest.mark.fault("F-42b")


class PowerCut(BaseException):
    """The device stops here."""


class Service:
    """AWS IoT, as far as a claim may ask it."""

    def __init__(self) -> None:
        self.authority = Authority()
        self.keys: list[bytes] = []
        self.registered: list[dict[str, Any]] = []
        self.fails = 0
        self.refuses = False

    @contextmanager
    def connect(self, claim: ClaimConfig) -> Iterator[Asks]:
        assert claim.client_id_prefix == "claim:"
        if self.fails:
            self.fails -= 1
            raise OSError("it does not answer")
        yield self.answer

    def answer(self, topic: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        if topic == "$aws/certificates/create-from-csr/json":
            csr = body["certificateSigningRequest"]
            self.keys.append(x509.load_pem_x509_csr(csr.encode()).public_key().public_numbers().x.to_bytes(32, "big"))  # type: ignore[union-attr]
            pem = self.authority.sign(csr)
            return {"certificateId": "c1", "certificatePem": pem, "certificateOwnershipToken": "token"}
        assert topic == "$aws/provisioning-templates/karma-fleet/provision/json"
        if self.refuses:
            raise ProvisioningRefused("AccessDenied", "Access Denied")
        self.registered.append(dict(body["parameters"]))
        configuration = {"device_id": "d1", "basic_ingest_rule": "rule"}
        return {"thingName": body["parameters"]["SerialNumber"], "deviceConfiguration": configuration}


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
def claim(service: Service, tmp_path: Path) -> ClaimConfig:
    key, csr = make_request("claim")
    pem = service.authority.sign(csr)
    credentials = {
        "certificate_pem": pem,
        "private_key": key,
        "ca_pem": pem,
        "mqtt_host": "localhost",
        "mqtt_port": 8883,
        "template_name": "karma-fleet",
        "client_id_prefix": "claim:",
    }
    return ClaimConfig.from_credentials(
        credentials, serial_number="EOS-1", mac="AA:BB:CC:00:11:22", state_dir=tmp_path, firmware_version="1.2"
    )


def start(claim: ClaimConfig, service: Service, pauses: list[float] | None = None) -> DeviceConfig:
    def pause(seconds: float) -> None:
        assert pauses is not None
        pauses.append(seconds)

    return provision(claim, connects=service.connect, pause=pause)


def test_it_gets_its_own_certificate_once(claim: ClaimConfig, service: Service) -> None:
    assert own_config(claim) is None
    config = start(claim, service)
    assert (config.thing_name, config.device_id, config.firmware_version) == ("EOS-1", "d1", "1.2")
    tls_context(config)
    assert service.registered == [
        {"SerialNumber": "EOS-1", "MacAddress": "AA:BB:CC:00:11:22", "FirmwareVersion": "1.2"}
    ]
    assert [each.name for each in claim.folder.iterdir()] == ["credentials.json"]
    assert stat.S_IMODE((claim.folder / "credentials.json").stat().st_mode) == 0o600
    assert stat.S_IMODE(claim.folder.stat().st_mode) == 0o700
    assert start(claim, service) == config
    assert len(service.registered) == 1


def test_a_service_that_does_not_answer_is_asked_again(claim: ClaimConfig, service: Service) -> None:
    service.fails, pauses = 3, list[float]()
    start(claim, service, pauses)
    assert len(pauses) == 3
    assert pauses[0] < pauses[2]


def test_it_gives_up_after_a_time(claim: ClaimConfig, service: Service) -> None:
    service.fails, pauses = 10_000, list[float]()
    with pytest.raises(OSError, match="does not answer"):
        start(claim, service, pauses)
    assert 300 < sum(pauses) <= 600


def test_who_is_refused_keeps_its_key_for_the_next_start(claim: ClaimConfig, service: Service) -> None:
    service.refuses = True
    for _ in range(2):
        with pytest.raises(ProvisioningRefused):
            start(claim, service)
    service.refuses = False
    start(claim, service)
    assert len(set(service.keys)) == 1


@pytest.mark.parametrize("cut", range(8))
def test_a_cut_of_the_power_leaves_a_device_that_begins_anew(
    claim: ClaimConfig, service: Service, monkeypatch: pytest.MonkeyPatch, cut: int
) -> None:
    """Before each step that changes the disk, and before each request and behind its answer."""
    steps = iter(range(100))

    def step() -> None:
        if next(steps) == cut:
            raise PowerCut

    answer, write, sync = service.answer, Path.replace, private_files.sync_folder

    def answered(topic: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        step()
        said = answer(topic, body)
        step()
        return said

    def replaced(self: Path, target: Path) -> Path:
        step()
        return write(self, target)

    def synced(folder: Path) -> None:
        sync(folder)
        step()

    with monkeypatch.context() as patch:
        patch.setattr(service, "answer", answered)
        patch.setattr(Path, "replace", replaced)
        patch.setattr(private_files, "sync_folder", synced)
        with pytest.raises(PowerCut):
            start(claim, service)
    config = start(claim, service)
    tls_context(config)
    stored = json.loads((claim.folder / "credentials.json").read_text())
    assert stored["private_key"] == config.private_key
    assert {each.name for each in claim.folder.iterdir()} <= {"credentials.json", "next.key"}
