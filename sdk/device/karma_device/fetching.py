"""Fetches bytes of a known size and hash by HTTPS, so that a cut of power costs what was not on the disk yet.

    Fetch(part, whole, size=size, sha256=sha256).fetch(url, renew=ask_for_another_link)

`part` and its note beside it (`.json`: how much of it is safe on the disk, and of which object) stand until all has
come. Then the whole is hashed from the disk, and takes the name `whole` in one step; so what stands there is whole.
"""

import hashlib
import http.client
import json
import logging
import os
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from karma_device.backoff import Backoff
from karma_device.errors import TransferRefused, TransferUnfinished

log = logging.getLogger(__name__)

_CHUNK_BYTES = 64 * 1024
_SAFE_EVERY_BYTES = 1024 * 1024
"""Bytes after which what came is forced to the disk and noted: at the most, a cut of power costs so many."""
TIMEOUT_S = 30.0
_REFUSALS = 8
"""Links without a byte between them that the service refuses, fresh ones, until there is nothing behind them: a minute
or so. Storage answers 403 also for what is not there any more."""
_LINK_REFUSED = frozenset({403, 404, 410})


class Fetch:
    """The bytes of one object on the disk of this device."""

    def __init__(
        self,
        part: Path,
        whole: Path,
        *,
        size: int,
        sha256: str,
        timeout_s: float = TIMEOUT_S,
        refused: type[TransferRefused] = TransferRefused,
        unfinished: type[TransferUnfinished] = TransferUnfinished,
    ) -> None:
        """Make it.

        Args:
            part: Path for what has come, in the folder of `whole`, which must survive a restart.
            whole: Path for the verified bytes; what stands there is replaced.
            size: Bytes.
            sha256: In hexadecimal.
            timeout_s: Seconds without a byte after which a connection counts as dead.
            refused: Error to raise when the bytes must not be taken.
            unfinished: Error to raise when the time is over.
        """
        self._part = part
        self._note = part.with_suffix(".json")
        self._whole = whole
        self._size = size
        self._sha256 = sha256
        self._timeout_s = timeout_s
        self._refused = refused
        self._unfinished = unfinished

    def fetch(self, url: str, *, renew: Callable[[], str], within_s: float = 3_600.0) -> Path:
        """Fetch what is missing, and return the path of the whole, verified.

        Args:
            url: Link to the bytes.
            renew: Returns another link; asked when the service refuses one, whose time is over.
            within_s: Seconds for all of it, whatever happens.

        Raises:
            TransferRefused: The disk is too full, the bytes are others, or there are none; or what `renew` raises.
            TransferUnfinished: It took longer; the next call goes on.
        """
        if self._whole.is_file() and digest_of(self._whole) == self._sha256:
            return self._whole
        ends_at, backoff = time.monotonic() + within_s, Backoff(base_s=0.5, cap_s=30.0)
        anew, refused = False, 0
        while True:
            self._require_space()
            came = self._safe()[0]
            try:
                is_whole = (came == self._size and self._part.exists()) or self._go_on(url, ends_at)
            except urllib.error.HTTPError as exc:
                exc.close()
                log.warning("fetch.refused: the service answers %d", exc.code)
                is_whole = False
                if exc.code == 416:
                    self._start_over()
                elif exc.code in _LINK_REFUSED:
                    refused += 1
                    if refused >= _REFUSALS:
                        raise self._refused("LINK", f"{refused} links to it were refused ({exc.code})") from exc
                    url = renew()
            except (OSError, http.client.HTTPException) as exc:
                log.warning("fetch.cut: after %d of %d bytes: %s", self._safe()[0], self._size, exc)
                is_whole = False
            if is_whole:
                if digest_of(self._part) == self._sha256:
                    return self._keep()
                self._start_over()
                if anew:
                    raise self._refused("HASH", "the SHA-256 of what came is not the one that was said")
                anew = True  # a disk that was cut off may hold other bytes than it was given
                continue
            if self._safe()[0] > came:
                refused = 0
                backoff.reset()
            pause_s = backoff.next_delay_s()
            if time.monotonic() + pause_s >= ends_at:
                raise self._unfinished(f"{self._safe()[0]} of {self._size} bytes came in time")
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
                        if at + len(chunk) > self._size:
                            raise self._refused("SIZE", f"more than the {self._size} bytes that were said came")
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
        return at == self._size

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
        write_safely(self._note, json.dumps({"offset": offset, "etag": tag}))

    def _keep(self) -> Path:
        self._part.replace(self._whole)
        self._note.unlink(missing_ok=True)
        secure_folder(self._whole.parent)
        return self._whole

    def _start_over(self) -> None:
        for path in (self._note, self._part):
            path.unlink(missing_ok=True)

    def _require_space(self) -> None:
        needed = self._size - self._safe()[0]
        free = shutil.disk_usage(self._part.parent).free
        if free < needed:
            raise self._refused("DISK_FULL", f"{needed} bytes are needed, and {free} are free")


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal; it takes no memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_safely(path: Path, text: str) -> None:
    """Write a small file whole or not at all, also if the power is cut; the folder exists."""
    beside = path.with_suffix(".new")
    with beside.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    secure_folder(path.parent)


def secure_folder(folder: Path) -> None:
    """Force the names in a folder to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
