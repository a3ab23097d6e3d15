"""A device from the factory: it has the claim of its batch, and makes itself one of its owner's over TLS."""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.reasoncodes import ReasonCode

from karma_device.config import tls_context
from karma_device.device import Device
from karma_device.errors import ProvisioningRefused
from karma_device.provisioning import ClaimConfig, provision

from .conftest import DEADLINE_S, User

pytestmark = pytest.mark.needs("iot")

Eventually = Callable[..., Any]
MAC = "02:00:00:00:00:01"


@pytest.fixture
def serials() -> list[str]:
    return [f"FAB-{secrets.token_hex(6)}" for _ in range(2)]


@pytest.fixture
def claim(user: User, serials: list[str]) -> dict[str, Any]:
    body = {"name": "Batch 7", "model": "EOS-3B", "tags": ["batch-7"], "serial_numbers": serials, "max_devices": 1}
    made: dict[str, Any] = user.api.call("POST", "/provisioning-claims", body)
    return made


@pytest.fixture
def factory(claim: dict[str, Any], tmp_path: Path) -> Callable[[str], ClaimConfig]:
    def config(serial: str) -> ClaimConfig:
        return ClaimConfig.from_credentials(
            claim["credentials"], serial_number=serial, mac=MAC, state_dir=tmp_path / serial, timeout_s=DEADLINE_S
        )

    return config


@pytest.fixture
def start() -> Iterator[Callable[[ClaimConfig], Device]]:
    started: list[Device] = []

    def run(claim: ClaimConfig) -> Device:
        device = Device(provision(claim, give_up_after_s=DEADLINE_S, batch_max_age_s=0.2))
        started.append(device)
        device.start()
        assert device.wait_ready(DEADLINE_S), "the device did not get through to the broker"
        return device

    yield run
    for each in started:
        each.close()


@pytest.mark.fault("F-42a")
@pytest.mark.req("R-K-11")
def test_a_factory_device_becomes_its_owners_and_its_claim_makes_no_other(
    user: User,
    claim: dict[str, Any],
    serials: list[str],
    factory: Callable[[str], ClaimConfig],
    start: Callable[[ClaimConfig], Device],
    eventually: Eventually,
) -> None:
    device = start(factory(serials[0]))
    device.record({"temp_c": 41.5})
    device.flush()

    def shown() -> dict[str, Any] | None:
        [found] = user.api.call("GET", "/devices")["devices"]
        return found if found["status"] == "online" and "temp_c" in found["latest"] else None

    made = eventually(shown, "the device online with its reading")
    assert (made["serial_number"], made["model"], made["mac"]) == (serials[0], "EOS-3B", MAC)
    assert (made["tags"], made["certificates"]) == (["batch-7"], 1)
    path = f"/provisioning-claims/{claim['provisioning_claim']['id']}"
    listed = user.api.call("GET", f"{path}/serial-numbers")["serial_numbers"]
    assert [(each["serial_number"], each["device_id"]) for each in listed] == [
        (serials[0], made["id"]),
        (serials[1], None),
    ]

    for refused in (serials[1], f"FAB-{secrets.token_hex(6)}"):
        with pytest.raises(ProvisioningRefused) as error:
            provision(factory(refused))
        assert error.value.code == "AccessDenied"
    view = user.api.call("GET", path)["provisioning_claim"]
    assert (view["status"], view["devices"], view["last_refusal"]["reason"]) == ("exhausted", 1, "EXHAUSTED")

    # Another one that says it is the first, which has spoken by now.
    stolen = factory(serials[0])
    (stolen.folder / "credentials.json").unlink()
    with pytest.raises(ProvisioningRefused):
        provision(stolen)
    assert user.api.call("GET", f"/devices/{made['id']}/certificates")["certificates"][0]["is_new"] is False
    user.api.call("DELETE", path)
    with pytest.raises(OSError, match=r"."):
        provision(factory(serials[1]), give_up_after_s=0)


@pytest.mark.fault("F-42f")
def test_a_device_renews_its_certificate_by_itself(
    user: User, serials: list[str], factory: Callable[[str], ClaimConfig], eventually: Eventually
) -> None:
    claim = factory(serials[0])
    config = provision(claim, give_up_after_s=DEADLINE_S, connect_timeout_s=DEADLINE_S)
    [made] = user.api.call("GET", "/devices")["devices"]
    path = f"/devices/{made['id']}/certificates"
    [first] = user.api.call("GET", path)["certificates"]
    # A certificate of any age is too old, so it asks before it connects first.
    with Device(replace(config, renew_after_days=1e-9)) as device:
        assert device.wait_ready(DEADLINE_S)

        def changed() -> bool:
            found = user.api.call("GET", path)["certificates"]
            return len(found) == 1 and found[0]["id"] != first["id"]

        eventually(changed, "the new certificate alone")
        assert (claim.folder.parent / f"{serials[0]}.certificates" / "current.pem").exists()


def test_a_claim_may_do_nothing_but_ask(factory: Callable[[str], ClaimConfig], serials: list[str]) -> None:
    """Neither is a device's client id its own, nor a device's topic."""
    config = factory(serials[0])
    answers: dict[str, Any] = {}
    came = threading.Event()

    def connect(client_id: str) -> mqtt.Client:
        client = mqtt.Client(
            CallbackAPIVersion.VERSION2, client_id=client_id, protocol=mqtt.MQTTv5, reconnect_on_failure=False
        )
        client.tls_set_context(tls_context(config.as_device()))
        came.clear()

        def told(what: str, code: ReasonCode) -> None:
            answers[what] = code.value
            came.set()

        client.on_connect = lambda _c, _d, _f, code, _p: told("connected", code)
        client.on_publish = lambda _c, _d, _m, code, _p: told("published", code)
        client.connect(config.host, config.port)
        client.loop_start()
        assert came.wait(DEADLINE_S)
        return client

    client = connect(serials[0])
    client.loop_stop()
    assert answers["connected"] == 0x87
    client = connect(f"claim:{serials[0]}")
    assert answers["connected"] == 0
    came.clear()
    client.publish(f"dt/karma/{serials[0]}/telemetry", json.dumps({"boot": "b", "seq": 1, "samples": []}), qos=1)
    assert came.wait(DEADLINE_S)
    assert answers["published"] == 0x87
    client.disconnect()
    client.loop_stop()
