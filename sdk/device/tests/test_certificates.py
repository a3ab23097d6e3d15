"""Rotation of the certificate at the device: by commands, over a real broker, and through cuts of the power."""

import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from karma_device import certificates
from karma_device.certificates import Certificates, make_request
from karma_device.config import DeviceConfig, tls_context
from karma_device.errors import CommandFailed, InvalidParams
from karma_device.messages import Command
from karma_device_testing.authority import Authority
from karma_device_testing.cloud import POLICY, Broker, Cloud, MakeDevice, wait_until

pytestmark = pytest.mark.fault("F-31ad")


def ask(name: str = "certificate.request", **params: Any) -> Command:
    return Command(id="c", name=name, params=params, issued_at=0, expires_at=0)


class World:
    """A device's certificates on a disk, with a clock that stands still."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority()
        self.now = 0.0
        self.time_s = datetime(2026, 2, 1, tzinfo=UTC).timestamp()
        key, csr = make_request("EOS-1")
        pem = self.authority.sign(csr)
        self.config = DeviceConfig(
            host="localhost", thing_name="EOS-1", ca=pem, certificate=pem, private_key=key, state_dir=folder
        )
        self.folder = folder / "EOS-1.certificates"
        self.restart()

    def wants_renewal(self) -> bool:
        """Ask, as a call, whose answer differs from one moment to the next."""
        return self.certificates.wants_renewal

    def restart(self) -> None:
        self.certificates = Certificates(self.config, steady_s=lambda: self.now, time_s=lambda: self.time_s)

    def renew(self) -> str:
        csr = str(self.certificates.request(ask())["csr"])
        pem = self.authority.sign(csr)
        self.certificates.install(ask("certificate.install", certificate_pem=pem))
        return pem

    def connects(self, *, accepted: Callable[[DeviceConfig], bool] = lambda _: True) -> DeviceConfig:
        """Open a connection, which ends as the broker has it; return the configuration by which it was tried."""
        config = self.certificates.config()
        tls_context(config)
        if accepted(config):
            self.certificates.worked()
        self.certificates.ended()
        return config

    def waits(self) -> bool:
        return self.certificates.wants_change

    @property
    def names(self) -> list[str]:
        return sorted(each.name for each in self.folder.iterdir()) if self.folder.exists() else []


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_the_new_one_takes_the_place_of_the_old_one_when_it_has_connected(world: World) -> None:
    world.renew()
    assert world.names == ["next.pem"]
    assert world.waits()
    assert world.connects().certificate == world.folder / "next.pem"
    assert world.names == ["current.pem"]
    world.restart()
    assert not world.waits()
    assert world.connects().certificate == world.folder / "current.pem"
    for each in world.folder.iterdir():
        assert stat.S_IMODE(each.stat().st_mode) == 0o600
    assert stat.S_IMODE(world.folder.stat().st_mode) == 0o700
    world.renew()
    world.connects()
    assert world.names == ["current.pem"]


def test_one_that_never_connects_is_given_up_and_the_old_one_goes_on(world: World) -> None:
    def old_only(config: DeviceConfig) -> bool:
        return config.certificate == world.config.certificate

    world.renew()
    for _ in range(3):
        assert world.connects(accepted=old_only).certificate == world.folder / "next.pem"
        assert world.connects(accepted=old_only).certificate == world.config.certificate
        assert not world.waits(), "it is not tried again at once"
        assert world.connects().certificate == world.config.certificate
        world.now += 61
    assert world.names == []
    assert world.connects().certificate == world.config.certificate


def test_a_broker_that_is_away_costs_no_certificate(world: World) -> None:
    world.renew()
    for _ in range(20):
        world.connects(accepted=lambda _: False)
    assert world.names == ["next.pem"]
    tried = {str(world.connects(accepted=lambda _: False).certificate) for _ in range(2)}
    assert tried == {str(world.folder / "next.pem"), str(world.config.certificate)}


def test_credentials_that_are_put_there_by_hand_come_first(world: World, tmp_path: Path) -> None:
    world.renew()
    world.connects()
    other = World(tmp_path)
    assert other.connects().certificate == other.config.certificate
    assert other.names == []


@pytest.mark.parametrize("pem", ["", "x", 7, None, "another"], ids=["empty", "text", "number", "none", "another key's"])
def test_what_is_no_certificate_of_its_key_is_rejected(world: World, pem: Any) -> None:
    world.certificates.request(ask())
    if pem == "another":
        pem = world.authority.sign(make_request("EOS-1")[1])
    with pytest.raises(InvalidParams):
        world.certificates.install(ask("certificate.install", certificate_pem=pem))
    assert world.names == ["next.key"]


def test_a_certificate_that_nobody_asked_for_is_rejected(world: World) -> None:
    pem = world.authority.sign(make_request("EOS-1")[1])
    with pytest.raises(InvalidParams, match=r"certificate\.request"):
        world.certificates.install(ask("certificate.install", certificate_pem=pem))


def test_openssl_makes_keys_where_cryptography_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    key, csr = certificates._by_openssl("EOS-1")
    assert x509.load_pem_x509_csr(csr.encode()).is_signature_valid
    assert "PRIVATE KEY" in key
    monkeypatch.setenv("PATH", "")
    with pytest.raises(CommandFailed):
        certificates._by_openssl("EOS-1")


class PowerCut(BaseException):
    """The device stops here."""


def test_a_cut_of_the_power_at_any_step_leaves_a_certificate_that_connects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its files are whole, whichever of the steps was the last; a repeat of the command then goes on."""
    cuts = 0
    for step in range(1, 60):
        world = World(tmp_path / str(step))
        left = step

        def cut(real: Callable[..., Any]) -> Callable[..., Any]:
            def instead(*args: Any, **kwargs: Any) -> Any:
                nonlocal left
                left -= 1
                if left == 0:
                    raise PowerCut
                return real(*args, **kwargs)

            return instead

        with monkeypatch.context() as patched:
            for name in ("open", "fsync", "replace", "unlink", "close"):
                patched.setattr(os, name, cut(getattr(os, name)))
            try:
                world.renew()
                world.connects()
            except PowerCut:
                cuts += 1
            else:
                break
        world.restart()
        tls_context(world.certificates.config())
        world.certificates.ended()
        world.renew()
        world.connects()
        assert world.names == ["current.pem"], step
    assert cuts > 8


def answer(cloud: Cloud, command_id: str) -> dict[str, Any]:
    def final() -> dict[str, Any] | None:
        said = [each.body for each in cloud.on("response") if each.body["id"] == command_id]
        return next((each for each in said if each["status"] != "acknowledged"), None)

    wait_until(final)
    found = final()
    assert found is not None
    return found


def test_a_device_goes_over_to_a_certificate_of_its_own_key(
    broker: Broker, credentials: dict[str, Any], cloud: Cloud, make_device: MakeDevice, tmp_path: Path
) -> None:
    iot = broker.client("iot")
    folder = tmp_path / "state" / f"{credentials['thing_name']}.certificates"
    with make_device() as device:
        assert device.wait_ready(20)
        csr = answer(cloud, cloud.command("certificate.request"))["result"]["csr"]
        signed = iot.create_certificate_from_csr(certificateSigningRequest=csr, setAsActive=True)
        # It is not the device's yet: the broker refuses it, and the device goes on by the old one.
        installed = answer(cloud, cloud.command("certificate.install", {"certificate_pem": signed["certificatePem"]}))
        assert (installed["status"], installed["result"]) == ("succeeded", {"installed": True})
        wait_until(lambda: device.stats.last_failure is not None, what="the new one is refused")
        wait_until(lambda: device.stats.connected, what="the old one connects")
        assert (folder / "next.pem").exists()
        iot.attach_policy(policyName=POLICY, target=signed["certificateArn"])
        iot.attach_thing_principal(thingName=credentials["thing_name"], principal=signed["certificateArn"])
        iot.update_certificate(certificateId=credentials["certificate_id"], newStatus="INACTIVE")
    with make_device() as device:
        assert device.wait_ready(20)
        wait_until((folder / "current.pem").exists, what="the new one has connected")
        device.record({"temp_c": 1.0})
        wait_until(lambda: cloud.on("telemetry"))
    assert not (folder / "next.pem").exists()


class Renewal:
    """AWS IoT, as far as a device may ask it for a certificate by its own."""

    def __init__(self, authority: Authority) -> None:
        self.authority = authority
        self.fails = False
        self.asked: list[str] = []

    def __call__(self, topic: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        self.asked.append(topic)
        if self.fails:
            raise OSError("it does not answer")
        if topic == "$aws/certificates/create-from-csr/json":
            pem = self.authority.sign(body["certificateSigningRequest"])
            return {"certificatePem": pem, "certificateOwnershipToken": "token"}
        assert body["parameters"] == {"SerialNumber": "EOS-1"}
        return {"thingName": "EOS-1"}


@pytest.fixture
def renewing(world: World) -> Renewal:
    world.config = replace(world.config, provisioning_template="karma-fleet", renew_after_days=365)
    world.restart()
    return Renewal(world.authority)


@pytest.mark.fault("F-42f")
def test_it_renews_itself_near_the_end_and_by_age(world: World, renewing: Renewal) -> None:
    assert not world.wants_renewal()
    world.time_s = datetime(2027, 1, 2, tzinfo=UTC).timestamp()
    assert world.wants_renewal()
    world.certificates.renew(renewing)
    assert world.names == ["next.pem"]
    assert not world.wants_renewal()
    assert world.connects().certificate == world.folder / "next.pem"
    assert world.names == ["current.pem"]
    world.config = replace(world.config, renew_after_days=None)
    world.now = 3_600.0
    world.restart()
    assert not world.wants_renewal()
    world.time_s = datetime(2049, 12, 2, tzinfo=UTC).timestamp()
    world.restart()
    assert world.wants_renewal()
    assert renewing.asked[1] == "$aws/provisioning-templates/karma-fleet/provision/json"


@pytest.mark.fault("F-42f")
def test_a_renewal_that_fails_costs_nothing_and_is_tried_again_after_an_hour(world: World, renewing: Renewal) -> None:
    world.time_s = datetime(2027, 1, 2, tzinfo=UTC).timestamp()
    renewing.fails = True
    world.certificates.renew(renewing)
    assert not world.wants_renewal()
    assert world.connects().certificate == world.config.certificate
    world.now = 3_600.0
    assert world.wants_renewal()
    renewing.fails = False
    world.certificates.renew(renewing)
    assert world.names == ["next.pem"]


def test_a_device_without_a_template_never_asks(world: World) -> None:
    world.time_s = datetime(2060, 1, 1, tzinfo=UTC).timestamp()
    assert not world.wants_renewal()


@pytest.mark.fault("F-42f")
@pytest.mark.parametrize("cut", range(6))
def test_a_cut_of_the_power_while_it_renews_leaves_one_that_connects(
    world: World, renewing: Renewal, monkeypatch: pytest.MonkeyPatch, cut: int
) -> None:
    world.time_s = datetime(2027, 1, 2, tzinfo=UTC).timestamp()
    steps = iter(range(100))

    def step() -> None:
        if next(steps) == cut:
            raise PowerCut

    def asked(topic: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        step()
        return renewing(topic, body)

    replaced = Path.replace

    def replacing(self: Path, target: Path) -> Path:
        step()
        made = replaced(self, target)
        step()
        return made

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", replacing)
        with pytest.raises(PowerCut):
            world.certificates.renew(asked)
    world.restart()
    world.connects()
    if world.certificates.wants_renewal:
        world.certificates.renew(renewing)
        world.connects()
    assert "current.pem" in world.names
