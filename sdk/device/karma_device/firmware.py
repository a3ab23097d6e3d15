"""Fetches a release of firmware that a signed manifest names, so that a cut of power costs what was not on disk yet.

    manifest = read_manifest(document["manifest"], document["signature"], keys=KEYS, model="EOS-3A", installed_index=3)
    path = FirmwareDownload(folder, manifest).fetch(document["url"], renew=ask_for_the_document_again)

`document` is that of a job of AWS IoT (docs/api.md, Firmware). Nothing is fetched that no trusted key has signed, and
`path` holds exactly the bytes of the manifest: they are hashed from the disk, whole, when the last of them has come.

In `folder`, which must survive a restart, are `<sha256>.part`, `<sha256>.json` (how much of it is safe on disk, and
of which object), and in the end `<sha256>.bin`. Of several releases only the one that is fetched now is kept.
"""

import base64
import binascii
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from karma_device.errors import TransferRefused, TransferUnfinished
from karma_device.fetching import TIMEOUT_S, Fetch

_SHA256_DIGITS = 64

Verify = Callable[[bytes, bytes, bytes], bool]
"""Tells whether a key (32 bytes) has signed a message: key, message, signature."""


class FirmwareRefused(TransferRefused):
    """The release must not be installed; `code` and the text are for the job's answer (REJECTED)."""


class FirmwareUnfetched(TransferUnfinished):
    """The release could not be fetched in time; what came is kept, and the next try goes on behind it."""


@dataclass(frozen=True)
class Manifest:
    """Signed facts about a release."""

    version: str
    models: tuple[str, ...]
    size: int
    sha256: str
    rollback_index: int


def ed25519(key: bytes, message: bytes, signature: bytes) -> bool:
    """Verify by PyNaCl, or by cryptography where that is installed; PyNaCl takes 6 MB less of memory.

    Raises:
        FirmwareRefused: neither is installed.
    """
    try:
        from nacl.exceptions import BadSignatureError  # type: ignore[import-not-found, unused-ignore]
        from nacl.signing import VerifyKey  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        return _by_cryptography(key, message, signature)
    try:
        VerifyKey(key).verify(message, signature)
    except (BadSignatureError, ValueError):
        return False
    return True


def _by_cryptography(key: bytes, message: bytes, signature: bytes) -> bool:
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    except ImportError as exc:
        raise FirmwareRefused("NO_VERIFIER", "install karma-device[firmware]: nothing here verifies Ed25519") from exc
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def read_manifest(
    text: str, signature: str, *, keys: Sequence[str], model: str, installed_index: int, verify: Verify = ed25519
) -> Manifest:
    """Read a manifest that one of the trusted keys has signed.

    Args:
        text: The very text that was signed.
        signature: In base64.
        keys: Trusted public keys, in base64; two while a key is being changed. They come with the device's software,
            and never from the service.
        model: Model of this device.
        installed_index: Highest rollback index of what was installed here.
        verify: Checks one key.

    Raises:
        FirmwareRefused: No trusted key has signed it, it is another model's, too old, or unreadable.
    """
    signed = _decoded(signature)
    if not any(verify(_decoded(key), text.encode(), signed) for key in keys):
        raise FirmwareRefused("SIGNATURE", "no key that this device trusts has signed the manifest")
    try:
        said = json.loads(text, object_pairs_hook=_unrepeated)
        manifest = Manifest(
            version=str(said["version"]),
            models=tuple(said["models"]),
            size=int(said["size"]),
            sha256=str(said["sha256"]),
            rollback_index=int(said["rollback_index"]),
        )
    except (ValueError, TypeError, KeyError) as exc:
        raise FirmwareRefused("MANIFEST", "the manifest cannot be read") from exc
    if len(manifest.sha256) != _SHA256_DIGITS or not set(manifest.sha256) <= set("0123456789abcdef"):
        raise FirmwareRefused("MANIFEST", "the manifest has no SHA-256")
    if model not in manifest.models:
        raise FirmwareRefused("MODEL", f"it is for {', '.join(manifest.models)}, and this device is {model}")
    if manifest.rollback_index < installed_index:
        raise FirmwareRefused("ROLLBACK", f"its rollback index {manifest.rollback_index} is below {installed_index}")
    return manifest


def _unrepeated(members: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse a member that stands twice: of such, readers take one or the other."""
    found = dict(members)
    if len(found) < len(members):
        raise ValueError("a member stands twice")
    return found


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return b""


class FirmwareDownload:
    """The bytes of one release on the disk of this device."""

    def __init__(self, folder: str | Path, manifest: Manifest, *, timeout_s: float = TIMEOUT_S) -> None:
        """Make it; `timeout_s` is the time without a byte after which a connection counts as dead."""
        self._folder = Path(folder)
        self._manifest = manifest
        self._fetch = Fetch(
            self._folder / f"{manifest.sha256}.part",
            self._folder / f"{manifest.sha256}.bin",
            size=manifest.size,
            sha256=manifest.sha256,
            timeout_s=timeout_s,
            refused=FirmwareRefused,
            unfinished=FirmwareUnfetched,
        )

    def fetch(self, url: str, *, renew: Callable[[], str], within_s: float = 3_600.0) -> Path:
        """Fetch what is missing, and return the path of the whole, verified.

        Args:
            url: Link to the bytes.
            renew: Returns another link; asked when the service refuses one, whose time is over.
            within_s: Seconds for all of it, whatever happens.

        Raises:
            FirmwareRefused: The disk is too full, the bytes are not those of the manifest, or there are none.
            FirmwareUnfetched: It took longer; the next call goes on.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        self._forget_others()
        return self._fetch.fetch(url, renew=renew, within_s=within_s)

    def _forget_others(self) -> None:
        for path in self._folder.iterdir():
            is_ours = path.suffix in {".part", ".json", ".bin", ".new"} and len(path.stem) == _SHA256_DIGITS
            if is_ours and path.stem != self._manifest.sha256:
                path.unlink(missing_ok=True)
