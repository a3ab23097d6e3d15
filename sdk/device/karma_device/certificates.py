"""A new certificate beside the old one, on the disk of this device, until it has connected.

| command | this device |
|---|---|
| `certificate.request` | makes a key, keeps it, and answers `{"csr": …}`: its signing request |
| `certificate.install` `{"certificate_pem": …}` | keeps the certificate of that key, answers, and connects by it |

In the folder, `<state_dir>/<thing>.certificates`, for its user alone (0700, files 0600), are

    next.key       the key of a request, which has no certificate yet
    next.pem       key and certificate that have not connected yet
    current.pem    those that have: they stand in the place of the configured ones

Each is one file that a rename makes, so a cut of the power leaves the former or the new one. `next.pem` becomes
`current.pem` when the service has acknowledged `ready` over a connection of its own; until then the former ones are
used in turn with it, and where they connect several times and it does not, it is given up. All of them say which
configured certificate they replace: another one, put there by hand, comes before them.
"""

import hashlib
import logging
import math
import os
import shutil
import ssl
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from karma_device.config import DeviceConfig, read_pem
from karma_device.errors import CommandFailed, DeviceError, InvalidParams
from karma_device.exchange import SIGN, register_topic
from karma_device.messages import Command, Json
from karma_device.private_files import sync_folder, write_private
from karma_device.validity import validity

log = logging.getLogger(__name__)

MakeRequest = Callable[[str], tuple[str, str]]
"""Makes a key and its signing request, both in PEM, for the name of a thing."""

_MAX_PEM_CHARS = 32 * 1024
_GIVEN_UP_AFTER = 3
"""Times that the former certificate connects directly behind a failure of the new one."""
_TRIED_AGAIN_AFTER_S = 60.0
_RENEWED_AGAIN_AFTER_S = 3600.0
_DAY_S = 86_400.0


def make_request(thing: str) -> tuple[str, str]:
    """Make a key (P-256) and its signing request by cryptography, or by the program `openssl` where there is none.

    Raises:
        CommandFailed: There is neither.
    """
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ec
    except ImportError:
        return _by_openssl(thing)
    made = ec.generate_private_key(ec.SECP256R1())
    private = made.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    key = private.decode()
    return key, request_of(key, thing)


def request_of(key: str, thing: str) -> str:
    """Return a signing request in PEM of a key in PEM, for the name of a thing.

    Raises:
        ValueError: The key cannot be read, as of a file that is not whole.
        CommandFailed: Nothing here signs requests.
    """
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.x509.oid import NameOID
    except ImportError:
        return _signed_by_openssl(key, thing)
    private = serialization.load_pem_private_key(key.encode(), None)
    if not isinstance(private, ec.EllipticCurvePrivateKey):
        raise ValueError("it is no key of an elliptic curve")  # noqa: TRY004  what a file has is no type
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, thing)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(private, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode()


def _by_openssl(thing: str) -> tuple[str, str]:
    key = _openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:prime256v1")
    return key, _signed_by_openssl(key, thing)


def _signed_by_openssl(key: str, thing: str) -> str:
    with tempfile.TemporaryDirectory(prefix="karma-device-") as folder:
        path = Path(folder) / "key"
        write_private(path, key)
        return _openssl("req", "-new", "-key", str(path), "-subj", f"/CN={thing}")


def _openssl(*arguments: str) -> str:
    program = shutil.which("openssl")
    if program is None:
        raise CommandFailed("NO_KEY_MAKER", "install cryptography or openssl: nothing here makes keys")
    made = subprocess.run([program, *arguments], check=False, capture_output=True, timeout=60)
    if made.returncode:
        raise CommandFailed("NO_KEY_MAKER", f"openssl: {made.stderr.decode(errors='replace').strip()[-200:]}")
    return made.stdout.decode()


class Certificates:
    """The certificates of one device, and by which of them it connects next."""

    def __init__(
        self,
        config: DeviceConfig,
        *,
        make: MakeRequest = make_request,
        steady_s: Callable[[], float] = time.monotonic,
        time_s: Callable[[], float] = time.time,
    ) -> None:
        """Make it; nothing is read yet. `steady_s` is a clock that nobody sets, `time_s` tells Unix time."""
        self._config = config
        self._make = make
        self._steady_s = steady_s
        self._time_s = time_s
        self._folder = Path(config.state_dir).expanduser() / f"{config.thing_name}.certificates"
        self._key, self._next, self._current = (self._folder / name for name in ("next.key", "next.pem", "current.pem"))
        self._by_next = False
        self._failed = False
        self._refusals = 0
        self._try_at = 0.0
        self._renew_at = 0.0
        self._due_s: float | None = None

    # For the commands

    def request(self, _command: Command) -> Mapping[str, Json]:
        """Make a key, which stays here in the place of one without a certificate, and return its signing request.

        Raises:
            CommandFailed: Nothing here makes keys.
        """
        key, csr = self._make(self._config.thing_name)
        self._write(self._key, key)
        return {"csr": csr}

    def install(self, command: Command) -> Mapping[str, Json]:
        """Keep a certificate beside its key; the device connects by it when this was answered.

        Raises:
            InvalidParams: It is none, or not the key's of the last request.
        """
        self._keep(command.params.get("certificate_pem"))
        return {"installed": True}

    def _keep(self, pem: object) -> None:
        if not isinstance(pem, str) or not pem.isascii() or len(pem) > _MAX_PEM_CHARS:
            raise InvalidParams("certificate_pem must be a certificate in PEM")
        if not self._stands(self._key):
            raise InvalidParams("no certificate was asked for: send certificate.request first")
        both = self._key.read_text() + pem
        self._require_pair(both)
        write_private(self._next, both)
        self._key.unlink(missing_ok=True)
        self._failed, self._refusals, self._try_at = False, 0, 0.0

    def _require_pair(self, both: str) -> None:
        with tempfile.TemporaryDirectory(prefix="karma-device-") as folder:
            pair = Path(folder) / "pair.pem"
            with os.fdopen(os.open(pair, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(both)
            try:
                ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(pair)
            except ssl.SSLError as exc:
                raise InvalidParams(f"the certificate is not that of the last request ({exc.reason or exc})") from exc

    # For its renewal

    @property
    def wants_renewal(self) -> bool:
        """Tell whether the certificate of this device is near its end, and a new one may be asked for now."""
        if not self._config.provisioning_template or self._steady_s() < self._renew_at or self._next.exists():
            return False
        if self._due_s is None:
            self._due_s = self._due()
        return self._time_s() >= self._due_s

    def renew(self, ask: Callable[[str, Mapping[str, Any]], Mapping[str, Any]]) -> None:
        """Ask for a certificate of a key that is made here, and keep it for the next connection.

        One that fails is logged, and tried again after an hour: as long goes the service's trial of one that was lost.

        Args:
            ask: Sends a request over a connection by the present certificate (`karma_device.exchange.Exchange`).
        """
        self._renew_at = self._steady_s() + _RENEWED_AGAIN_AFTER_S
        thing = self._config.thing_name
        try:
            key, csr = self._make(thing)
            self._write(self._key, key)
            signed = ask(SIGN, {"certificateSigningRequest": csr})
            body = {
                "certificateOwnershipToken": signed["certificateOwnershipToken"],
                "parameters": {"SerialNumber": thing},
            }
            ask(register_topic(self._config.provisioning_template), body)
            self._keep(signed["certificatePem"])
        except (DeviceError, KeyError, OSError, ValueError) as exc:
            log.warning("certificate.renewal_failed: %s; it is tried again in an hour", exc)
        else:
            log.info("certificate.renewed: %s connects by it next", thing)

    def _due(self) -> float:
        """Return the Unix time at which the certificate is to be renewed."""
        path = self._current if self._stands(self._current) else self._config.certificate
        try:
            begin_s, end_s = validity(read_pem("certificate", path))
        except (OSError, ValueError) as exc:
            log.warning("certificate.unreadable: when it ends is not known, so it is not renewed (%s)", exc)
            return math.inf
        due_s = end_s - self._config.renew_before_days * _DAY_S
        if self._config.renew_after_days is not None:
            due_s = min(due_s, begin_s + self._config.renew_after_days * _DAY_S)
        return due_s

    # For the connection

    def config(self) -> DeviceConfig:
        """Return the configuration of the next connection, with the certificate by which it is tried.

        Raises:
            CredentialsInvalid: The configured certificate cannot be read.
        """
        is_next = self._stands(self._next)
        self._by_next = is_next and not self._failed and self._steady_s() >= self._try_at
        if self._by_next:
            return replace(self._config, certificate=self._next, private_key=self._next)
        if self._stands(self._current):
            return replace(self._config, certificate=self._current, private_key=self._current)
        return self._config

    @property
    def wants_change(self) -> bool:
        """Tell whether a certificate waits that this connection does not use, and may be tried now."""
        return not self._by_next and self._steady_s() >= self._try_at and self._next.exists()

    def worked(self) -> None:
        """Take the end of a trial: the service has acknowledged `ready` over this connection."""
        if self._by_next:
            self._next.replace(self._current)
            self._due_s = None
            sync_folder(self._folder)
            self._by_next = False
            self._refusals = 0
            log.info("certificate.rotated: %s connects by its new certificate", self._config.thing_name)
        elif self._failed:
            self._refusals += 1
            self._try_at = self._steady_s() + _TRIED_AGAIN_AFTER_S
            if self._refusals >= _GIVEN_UP_AFTER:
                self._next.unlink(missing_ok=True)
                self._refusals = 0
                log.error("certificate.given_up: the former certificate connects, and the new one never did")
        self._failed = False

    def ended(self) -> None:
        """Take the end of a connection that did not work: the other certificate is tried next."""
        self._failed = self._by_next
        self._by_next = False

    # Files

    def _replaces(self) -> str:
        configured = hashlib.sha256(read_pem("certificate", self._config.certificate).encode()).hexdigest()
        return f"# replaces {configured}\n"

    def _stands(self, path: Path) -> bool:
        """Tell whether a file is there and replaces what is configured; one that does not is removed."""
        try:
            text = path.read_text()
        except OSError:
            return False
        if text.startswith(self._replaces()):
            return True
        log.warning("certificate.superseded: other credentials are configured than those that %s replaces", path)
        path.unlink(missing_ok=True)
        return False

    def _write(self, path: Path, pem: str) -> None:
        write_private(path, self._replaces() + pem)
