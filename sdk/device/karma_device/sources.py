"""Opens what is to be sent, so that size, hash and bytes are those of one and the same content.

A file that is as long as it says is sent from where it stands. One that says another size than can be read, as those of
`/proc` (0 bytes) and many of `/sys` (4,096), or one that becomes shorter, is copied first. What is no file, such as a
pipe, a socket or a disk, has no end and is refused.
"""

import errno
import hashlib
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from karma_device.errors import FileRefused

COPY_BYTES = 8 * 1024 * 1024
"""Bytes that are copied at the most of what has no size of its own."""
_CHUNK_BYTES = 64 * 1024
_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
"""Without O_NONBLOCK, opening a pipe waits until somebody writes into it."""


@dataclass(frozen=True)
class Source:
    """Content that is to be sent."""

    file: BinaryIO
    size: int
    sha256: str
    """In hexadecimal."""


def name_of(source: str | Path, name: str | None) -> str:
    """Return the name under which a file is sent.

    Raises:
        FileRefused: NAME, it is no text in UTF-8, as of a disk whose names are in Latin-1.
    """
    found = Path(source).name if name is None else name
    try:
        found.encode()
    except UnicodeEncodeError:
        raise FileRefused("NAME", f"{str(source)!r}: {found!r} is no text in UTF-8; give it another `name`") from None
    return found


@contextmanager
def opened(source: str | Path, folder: Path, *, require_time: Callable[[], object]) -> Iterator[Source]:
    """Open a file as it is now.

    Args:
        source: its path.
        folder: where a copy is made, if one is needed.
        require_time: raises when no time is left; called between the chunks.

    Raises:
        FileRefused: NOT_A_FILE, it is a pipe, a socket or a device, or has more than `COPY_BYTES` and no size.
        OSError: it cannot be read, or is a directory.
    """
    fd = os.open(source, _FLAGS)
    with os.fdopen(fd, "rb") as file:
        found = os.fstat(fd)
        if stat.S_ISDIR(found.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(source))
        if not stat.S_ISREG(found.st_mode):
            raise FileRefused("NOT_A_FILE", f"{str(source)!r} is a pipe, a socket or a device, and has no end")
        size, sha256 = _digest(file, found.st_size, require_time)
        if size == found.st_size and (size or not file.read(1)):
            yield Source(file, size, sha256)
            return
        with _copy(source, file, folder, require_time) as copy:
            size, sha256 = _digest(copy, COPY_BYTES, require_time)
            yield Source(copy, size, sha256)


def _digest(file: BinaryIO, most: int, require_time: Callable[[], object]) -> tuple[int, str]:
    """Return how many bytes of at most so many can be read, and their SHA-256."""
    digest, left = hashlib.sha256(), most
    while left and (chunk := file.read(min(_CHUNK_BYTES, left))):
        require_time()
        digest.update(chunk)
        left -= len(chunk)
    return most - left, digest.hexdigest()


def _copy(source: str | Path, file: BinaryIO, folder: Path, require_time: Callable[[], object]) -> BinaryIO:
    folder.mkdir(parents=True, exist_ok=True)
    file.seek(0)
    copy, left = tempfile.TemporaryFile(dir=folder), COPY_BYTES  # noqa: SIM115  the caller closes it
    try:
        while chunk := file.read(_CHUNK_BYTES):
            require_time()
            left -= len(chunk)
            if left < 0:
                raise FileRefused(
                    "NOT_A_FILE", f"{str(source)!r} says another size than it has, and has more than {COPY_BYTES} bytes"
                )
            copy.write(chunk)
        copy.seek(0)
    except BaseException:
        copy.close()
        raise
    return copy
