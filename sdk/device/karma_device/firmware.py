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
import hashlib
import http.client
import json
import logging
import os
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from karma_device.backoff import Backoff
from karma_device.errors import DeviceError

log = logging.getLogger(__name__)

_CHUNK_BYTES = 64 * 1024
_SAFE_EVERY_BYTES = 1024 * 1024
"""Bytes after which what came is forced to the disk and noted: at the most, a cut of power costs so many."""
_TIMEOUT_S = 30.0
_REFUSALS = 8
"""Links without a byte between them that the service refuses, fresh ones, until there is nothing behind them: a minute
or so. Storage answers 403 also for what is not there any more."""
_LINK_REFUSED = frozenset({403, 404, 410})
_SHA256_DIGITS = 64

Verify = Callable[[bytes, bytes, bytes], bool]
"""Tells whether a key (32 bytes) has signed a message: key, message, signature."""


class FirmwareRefused(DeviceError):
    """The release must not be installed; `code` and the text are for the job's answer (REJECTED)."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class FirmwareUnfetched(DeviceError):
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
        said = json.loads(text)
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


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return b""


class FirmwareDownload:
    """The bytes of one release on the disk of this device."""

    def __init__(self, folder: str | Path, manifest: Manifest, *, timeout_s: float = _TIMEOUT_S) -> None:
        """Make it; `timeout_s` is the time without a byte after which a connection counts as dead."""
        self._folder = Path(folder)
        self._manifest = manifest
        self._timeout_s = timeout_s
        self._part = self._folder / f"{manifest.sha256}.part"
        self._note = self._folder / f"{manifest.sha256}.json"
        self._whole = self._folder / f"{manifest.sha256}.bin"

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
        if self._whole.exists() and self._digest(self._whole) == self._manifest.sha256:
            return self._whole
        ends_at, backoff = time.monotonic() + within_s, Backoff(base_s=0.5, cap_s=30.0)
        anew, refused = False, 0
        while True:
            self._require_space()
            came = self._safe()[0]
            try:
                is_whole = came == self._manifest.size or self._go_on(url, ends_at)
            except urllib.error.HTTPError as exc:
                exc.close()
                log.warning("firmware.refused: the service answers %d", exc.code)
                is_whole = False
                if exc.code == 416:
                    self._start_over()
                elif exc.code in _LINK_REFUSED:
                    refused += 1
                    if refused >= _REFUSALS:
                        raise FirmwareRefused("LINK", f"{refused} links to it were refused ({exc.code})") from exc
                    url = renew()
            except (OSError, http.client.HTTPException) as exc:
                log.warning("firmware.cut: after %d of %d bytes: %s", self._safe()[0], self._manifest.size, exc)
                is_whole = False
            if is_whole:
                if self._digest(self._part) == self._manifest.sha256:
                    return self._keep()
                self._start_over()
                if anew:
                    raise FirmwareRefused("HASH", "the SHA-256 of what came is not that of the manifest")
                anew = True  # a disk that was cut off may hold other bytes than it was given
                continue
            if self._safe()[0] > came:
                refused = 0
                backoff.reset()
            pause_s = backoff.next_delay_s()
            if time.monotonic() + pause_s >= ends_at:
                raise FirmwareUnfetched(f"{self._safe()[0]} of {self._manifest.size} bytes came in time")
            time.sleep(pause_s)

    def _go_on(self, url: str, ends_at: float) -> bool:
        """Read until the end, or the connection's; True: all has come."""
        offset, tag = self._safe()
        headers = {"Range": f"bytes={offset}-", **({"If-Range": tag} if tag else {})} if offset else {}
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=self._timeout_s) as answer:  # noqa: S310  links of the service
            if answer.status != 206:
                offset = 0  # another object, or a server without ranges
            tag = answer.headers.get("ETag") or ""
            with self._part.open("r+b" if self._part.exists() else "w+b") as file:
                file.truncate(offset)
                file.seek(offset)
                at = noted = offset
                try:
                    # What is there, and not so many bytes: who sends one a minute must not keep us beyond the deadline.
                    while chunk := answer.read1(_CHUNK_BYTES):
                        if at + len(chunk) > self._manifest.size:
                            raise FirmwareRefused("SIZE", f"more than the manifest's {self._manifest.size} bytes came")
                        file.write(chunk)
                        at += len(chunk)
                        if at - noted >= _SAFE_EVERY_BYTES:
                            self._secure(file, at, tag)
                            noted = at
                        if time.monotonic() >= ends_at:
                            break
                finally:
                    # Also of a connection that was reset: a line that is never whole for a megabyte gets on by it.
                    self._secure(file, at, tag)
        return at == self._manifest.size

    def _safe(self) -> tuple[int, str]:
        """Return how many bytes are safe on the disk, and the tag of the object that they are of."""
        try:
            noted = json.loads(self._note.read_text())
            offset, tag = int(noted["offset"]), str(noted["etag"])
            return (offset, tag) if self._part.stat().st_size >= offset >= 0 else (0, "")
        except (OSError, ValueError, KeyError, TypeError):
            return 0, ""

    def _secure(self, file: BinaryIO, offset: int, tag: str) -> None:
        file.flush()
        os.fsync(file.fileno())
        beside = self._note.with_suffix(".new")
        with beside.open("w") as note:
            json.dump({"offset": offset, "etag": tag}, note)
            note.flush()
            os.fsync(note.fileno())
        beside.replace(self._note)
        self._secure_folder()

    def _keep(self) -> Path:
        self._part.replace(self._whole)
        self._note.unlink(missing_ok=True)
        self._secure_folder()
        return self._whole

    def _secure_folder(self) -> None:
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _start_over(self) -> None:
        for path in (self._note, self._part):
            path.unlink(missing_ok=True)

    def _forget_others(self) -> None:
        for path in self._folder.iterdir():
            is_ours = path.suffix in {".part", ".json", ".bin", ".new"} and len(path.stem) == _SHA256_DIGITS
            if is_ours and path.stem != self._manifest.sha256:
                path.unlink(missing_ok=True)

    def _require_space(self) -> None:
        needed = self._manifest.size - self._safe()[0]
        free = shutil.disk_usage(self._folder).free
        if free < needed:
            raise FirmwareRefused("DISK_FULL", f"{needed} bytes are needed, and {free} are free")

    @staticmethod
    def _digest(path: Path) -> str:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
