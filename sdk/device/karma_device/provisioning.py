"""The first start of a device that has only a claim, the same as all devices of its batch: it gets its own certificate.

    claim = ClaimConfig.from_credentials(credentials, serial_number="EOS-1", mac="AA:BB:CC:00:11:22", state_dir="state")
    with Device(provision(claim)) as device:
        ...

1. A key is made here, and kept: `<state_dir>/<serial number>.provisioned/next.key`. It never leaves the device.
2. Over a connection by the claim's certificate AWS IoT signs its request, and registers the device with it.
3. Key, certificate and names become `credentials.json` beside it, in one rename; from then on the claim is not used.

A cut of the power before 3 leaves a device that begins anew with the same key: the service gives it another certificate
in the place of the one that was lost, as long as it has never spoken by that.
"""

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from karma_device.backoff import Backoff
from karma_device.certificates import MakeRequest, make_request, request_of
from karma_device.config import DeviceConfig
from karma_device.errors import CredentialsInvalid
from karma_device.exchange import SIGN, Exchange, register_topic
from karma_device.private_files import write_private

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ClaimConfig:
    """Configuration from the factory. `ca`, `certificate` and `private_key` are PEM text or paths to PEM files."""

    serial_number: str
    """On the claim's list; it becomes the name of the thing."""
    mac: str
    host: str
    ca: str | Path
    certificate: str | Path
    private_key: str | Path = field(repr=False)
    template_name: str
    client_id_prefix: str = "claim:"
    port: int = 8883
    state_dir: str | Path = "~/.karma-device"
    """Folder of the device's own credentials, on storage that survives a restart."""
    firmware_version: str | None = None
    timeout_s: float = 15.0
    """Time for a connection, and for each answer."""

    @classmethod
    def from_credentials(
        cls, credentials: Mapping[str, Any], *, serial_number: str, mac: str, **overrides: Any
    ) -> "ClaimConfig":
        """Build a configuration from the `credentials` object that making a claim answers.

        Raises:
            KeyError: The object lacks one of its members.
        """
        return cls(
            serial_number=serial_number,
            mac=mac,
            host=str(credentials["mqtt_host"]),
            port=int(credentials["mqtt_port"]),
            ca=str(credentials["ca_pem"]),
            certificate=str(credentials["certificate_pem"]),
            private_key=str(credentials["private_key"]),
            template_name=str(credentials["template_name"]),
            client_id_prefix=str(credentials["client_id_prefix"]),
            **overrides,
        )

    @property
    def folder(self) -> Path:
        """Return the folder of this device's own credentials."""
        return Path(self.state_dir).expanduser() / f"{self.serial_number}.provisioned"

    def as_device(self) -> DeviceConfig:
        """Return a configuration for the connection by the claim.

        Raises:
            ValueError: The serial number is not 1 to 64 of A-Z a-z 0-9 _ -.
        """
        return DeviceConfig(
            host=self.host,
            port=self.port,
            thing_name=self.serial_number,
            ca=self.ca,
            certificate=self.certificate,
            private_key=self.private_key,
        )


class Asks(Protocol):
    """A connection by a claim."""

    def __call__(self, topic: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """Send a request; return what is accepted, or raise ProvisioningRefused, OSError."""
        ...


Connects = Callable[[ClaimConfig], AbstractContextManager[Asks]]


def provision(
    claim: ClaimConfig,
    *,
    give_up_after_s: float = 600.0,
    connects: Connects | None = None,
    make: MakeRequest = make_request,
    pause: Callable[[float], None] = time.sleep,
    **overrides: Any,
) -> DeviceConfig:
    """Return the configuration of this device: at once where it has its own credentials, else after it got them.

    Args:
        claim: What it has from its factory.
        give_up_after_s: Seconds for which a service that does not answer is asked again, with pauses that grow.
        connects: Opens a connection by the claim; None: over MQTT.
        make: Makes a key and its signing request.
        pause: Waits.
        overrides: Fields of `DeviceConfig`.

    Raises:
        ProvisioningRefused: The service gives it none: the claim is revoked, over or used up, or does not list this
            serial number, or the device has spoken before. Its owner sees which.
        OSError: The service did not answer in time.
        CredentialsInvalid: The claim's certificate cannot be read.
    """
    config = own_config(claim, **overrides)
    if config is not None:
        return config
    waits, left_s = Backoff(base_s=1.0, cap_s=60.0), give_up_after_s
    while True:
        try:
            _provision(claim, connects or _over_mqtt, make)
            break
        except CredentialsInvalid:
            raise
        except OSError as exc:
            delay_s = waits.next_delay_s()
            left_s -= delay_s
            if left_s <= 0:
                raise
            log.warning("provisioning.failed: %s; it is tried again in %.0f s", exc, delay_s)
            pause(delay_s)
    made = own_config(claim, **overrides)
    if made is None:
        raise OSError(f"what was written to {claim.folder} cannot be read again")
    log.info("provisioning.done: %s has a certificate of its own", claim.serial_number)
    return made


def own_config(claim: ClaimConfig, **overrides: Any) -> DeviceConfig | None:
    """Return the configuration by this device's own credentials; None: it has none yet."""
    try:
        stored = json.loads((claim.folder / "credentials.json").read_text())
    except (OSError, ValueError):
        return None
    given = {"state_dir": claim.state_dir, "firmware_version": claim.firmware_version, **overrides}
    # By its factory's configuration, which may have another address by now.
    address = {"ca_pem": str(claim.ca), "mqtt_host": claim.host, "mqtt_port": claim.port}
    address["provisioning_template"] = claim.template_name
    return DeviceConfig.from_credentials({**stored, **address}, **given)


def _provision(claim: ClaimConfig, connects: Connects, make: MakeRequest) -> None:
    key, csr = _request(claim, make)
    with connects(claim) as ask:
        signed = ask(SIGN, {"certificateSigningRequest": csr})
        parameters = {"SerialNumber": claim.serial_number, "MacAddress": claim.mac}
        if claim.firmware_version is not None:
            parameters["FirmwareVersion"] = claim.firmware_version
        registered = ask(
            register_topic(claim.template_name),
            {"certificateOwnershipToken": signed["certificateOwnershipToken"], "parameters": parameters},
        )
    told = registered.get("deviceConfiguration") or {}
    stored = {
        "thing_name": registered["thingName"],
        "device_id": told.get("device_id", ""),
        "basic_ingest_rule": told.get("basic_ingest_rule", ""),
        "certificate_id": signed["certificateId"],
        "certificate_pem": signed["certificatePem"],
        "private_key": key,
    }
    write_private(claim.folder / "credentials.json", json.dumps(stored))
    (claim.folder / "next.key").unlink(missing_ok=True)


def _request(claim: ClaimConfig, make: MakeRequest) -> tuple[str, str]:
    """Return the key that waits for its certificate, and a signing request of it; it is made where none waits."""
    path = claim.folder / "next.key"
    try:
        key = path.read_text()
        return key, request_of(key, claim.serial_number)
    except (OSError, ValueError):
        key, csr = make(claim.serial_number)
        write_private(path, key)
        return key, csr


@contextmanager
def _over_mqtt(claim: ClaimConfig) -> Iterator[Asks]:
    exchange = Exchange(
        claim.as_device(),
        client_id=f"{claim.client_id_prefix}{claim.serial_number}",
        template=claim.template_name,
        timeout_s=claim.timeout_s,
        clean_start=True,
    )
    try:
        exchange.open()
        yield exchange
    finally:
        exchange.close()
