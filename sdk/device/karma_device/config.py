import hashlib
import os
import re
import ssl
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from karma_device.errors import CredentialsInvalid

_PEM_MARK = "-----BEGIN"
_THING_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_BOOT_ID = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
FIRMWARE_VERSION = re.compile(r"[\x20-\x7e]{1,50}")


@dataclass(frozen=True, kw_only=True)
class DeviceConfig:
    """Configuration of a device. `ca`, `certificate` and `private_key` are PEM text or paths to PEM files."""

    host: str
    thing_name: str
    """The serial; also the MQTT client id."""
    ca: str | Path
    certificate: str | Path
    private_key: str | Path = field(repr=False)
    device_id: str = ""
    """Id of the device, as the credentials name it; "": they are older. Commands of another device are dropped."""
    port: int = 8883
    """8883, or 443 (AWS IoT tells MQTT from HTTPS there by ALPN)."""
    basic_ingest_rule: str | None = None
    """Send telemetry straight to this IoT rule, without the broker's messaging charge; the credentials name it."""
    provisioning_template: str = ""
    """Template by which this device asks for a new certificate itself, as the credentials name it; "": never."""
    renew_before_days: float = 30.0
    """Days before the end of its certificate at which it does."""
    renew_after_days: float | None = None
    """Age in days at which it does, too: AWS IoT's certificates end in 2049. None: at no age."""
    state_dir: str | Path = "~/.karma-device"
    """Folder of the state file, on storage that survives a restart. `~` is the home of the process's user."""
    boot_id: str | None = None
    """Names one run of the device. None: a new one for this process."""
    firmware_version: str | None = None
    """Version that heartbeats tell; with a FirmwareUpdater they tell its `running_version` instead. None: none."""
    keepalive_s: int = 60
    """AWS IoT: 30 to 1200."""
    session_expiry_s: int = 3600
    """Seconds for which the broker keeps the subscription and queued commands after the connection broke."""
    connect_timeout_s: float = 15.0
    reconnect_min_s: float = 1.0
    reconnect_max_s: float = 60.0
    stable_after_s: float = 10.0
    """Seconds after which a connection resets the reconnect delay, so that two devices with one name slow down."""
    ack_timeout_s: float = 30.0
    """Seconds without PUBACK after which a connection counts as dead."""
    max_inflight: int = 20
    publish_rate_per_s: float = 50.0
    """AWS IoT cuts a connection above 100 publishes/s."""
    batch_max_bytes: int = 5 * 1024
    """Target for topic and payload together: AWS IoT bills per started 5 KB."""
    batch_max_samples: int = 500
    batch_max_age_s: float = 5.0
    buffer_max_bytes: int = 4 * 1024 * 1024
    """Bytes of telemetry kept in memory while offline; beyond it the oldest is dropped and counted."""
    heartbeat_interval_s: float = 60.0
    """Seconds; 0 turns the heartbeat off."""
    command_workers: int = 4
    """Commands that may run at the same time; 1 makes them strictly sequential."""
    max_waiting_commands: int = 100

    def __post_init__(self) -> None:
        if not _THING_NAME.fullmatch(self.thing_name):
            raise ValueError(f"thing_name {self.thing_name!r} is not 1 to 64 of A-Z a-z 0-9 _ -")
        if self.boot_id is not None and not _BOOT_ID.fullmatch(self.boot_id):
            raise ValueError(f"boot_id {self.boot_id!r} is not 1 to 64 of A-Z a-z 0-9 _ . : -")
        if self.firmware_version is not None and not FIRMWARE_VERSION.fullmatch(self.firmware_version):
            raise ValueError(f"firmware_version {self.firmware_version!r} is not 1 to 50 printable ASCII characters")
        if not 1 <= self.batch_max_samples <= 5000:
            raise ValueError("batch_max_samples is 1 to 5000")
        if not str(self.state_dir).strip():
            raise ValueError("state_dir is empty; it names a folder")
        if not 1 <= self.port <= 65535:
            raise ValueError(f"port {self.port} is not 1 to 65535")
        if self.renew_before_days < 0 or (self.renew_after_days is not None and self.renew_after_days <= 0):
            raise ValueError("renew_before_days is 0 or more, renew_after_days above 0 or None")
        if self.keepalive_s > 65535:
            raise ValueError(f"keepalive_s {self.keepalive_s} is above 65535")
        for name in ("connect_timeout_s", "ack_timeout_s", "publish_rate_per_s", "batch_max_age_s"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0")
        for name in ("keepalive_s", "max_inflight", "command_workers", "max_waiting_commands"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")

    @classmethod
    def from_credentials(cls, credentials: Mapping[str, Any], **overrides: Any) -> "DeviceConfig":
        """Build a configuration from the `credentials` object that creating a device answers.

        Args:
            credentials: `thing_name, certificate_pem, private_key, ca_pem, mqtt_host, mqtt_port`, and `device_id`.
            overrides: Any other field of this class.

        Raises:
            KeyError: The object lacks one of those; those of before there was a `device_id` may lack that.
        """
        return cls(
            host=str(credentials["mqtt_host"]),
            port=int(credentials["mqtt_port"]),
            thing_name=str(credentials["thing_name"]),
            ca=str(credentials["ca_pem"]),
            certificate=str(credentials["certificate_pem"]),
            private_key=str(credentials["private_key"]),
            **{
                "device_id": str(credentials.get("device_id", "")),
                "provisioning_template": str(credentials.get("provisioning_template", "")),
                **overrides,
            },
        )

    @property
    def identity(self) -> str:
        """Return what tells this device from another with its serial number: its id, else its certificate's digest.

        Raises:
            CredentialsInvalid: The file of the certificate cannot be read.
        """
        return self.device_id or hashlib.sha256(read_pem("certificate", self.certificate).encode()).hexdigest()

    @property
    def state_path(self) -> Path:
        """Return the path of this device's state file."""
        return Path(self.state_dir).expanduser() / f"{self.thing_name}.sqlite3"


def tls_context(config: DeviceConfig) -> ssl.SSLContext:
    """Build the mutual-TLS context.

    The standard library reads a client certificate from files only, so its PEM goes through two files that nobody
    else can read and that are gone when this returns.

    Raises:
        CredentialsInvalid: A file cannot be read, something is not PEM, or the key is another certificate's.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if config.port == 443:
        context.set_alpn_protocols(["x-amzn-mqtt-ca"])
    ca = read_pem("ca", config.ca)
    try:
        context.load_verify_locations(cadata=ca)
    except ssl.SSLError as exc:
        raise CredentialsInvalid(f"`ca` is not a certificate in PEM ({exc.reason or exc})") from exc
    certificate, private_key = read_pem("certificate", config.certificate), read_pem("private_key", config.private_key)
    with tempfile.TemporaryDirectory(prefix="karma-device-") as folder:
        try:
            context.load_cert_chain(
                certfile=_as_file(certificate, Path(folder) / "certificate.pem"),
                keyfile=_as_file(private_key, Path(folder) / "private.key"),
                password=_no_password,
            )
        except ssl.SSLError as exc:
            if exc.reason == "KEY_VALUES_MISMATCH":
                raise CredentialsInvalid("`private_key` does not belong to `certificate`") from exc
            told = "`certificate` or `private_key` is not what it should be in PEM"
            raise CredentialsInvalid(f"{told} ({exc.reason or exc})") from exc
    return context


def read_pem(field_name: str, value: str | Path) -> str:
    """Return PEM text, given as such or as the path of a file."""
    if isinstance(value, str) and _PEM_MARK in value:
        return value
    try:
        text = Path(value).expanduser().read_text(encoding="ascii")
    except UnicodeDecodeError as exc:
        raise CredentialsInvalid(f"`{field_name}` names {value}, which is not PEM text") from exc
    except OSError as exc:
        why = exc.strerror or type(exc).__name__
        raise CredentialsInvalid(f"`{field_name}` names the file {value}, which cannot be read: {why}") from exc
    if _PEM_MARK not in text:
        raise CredentialsInvalid(f"`{field_name}` names {value}, which is not PEM text")
    return text


def _no_password() -> str:
    # Without this OpenSSL would ask at the terminal, and a service would wait there for ever.
    raise CredentialsInvalid("`private_key` is encrypted; give one without a password, readable by its owner only")


def _as_file(text: str, target: Path) -> Path:
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    return target
