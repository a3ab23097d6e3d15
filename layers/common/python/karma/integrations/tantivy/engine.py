"""Segments of Tantivy as one piece of bytes: a line that names its files and their sizes, and these, compressed."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Final

import orjson

from karma.core.ids import UserId
from karma.integrations.tantivy.building import build
from karma.integrations.tantivy.segment import TantivySegment
from karma.search.domain import SearchRow
from karma.search.segments.ports import PackedSegment, SegmentUnusable

FORMAT: Final = 1
"""Raised whenever segments that were made before cannot be read, or would answer otherwise."""
_TRIES: Final = 5
_LEVEL: Final = 1
"""Half of the size for a tenth of the time that the best compression takes."""


class TantivyEngine:
    """Makes segments, and opens them; see SegmentEngine."""

    def build(self, rows: Sequence[SearchRow]) -> PackedSegment:
        """See SegmentEngine."""
        with _folder() as folder:
            build(rows, folder)
            return _packed(folder)

    def open(self, owner: UserId, data: bytes) -> TantivySegment:
        """See SegmentEngine. Its files have no names any more when it is open: they go with it."""
        try:
            with _folder() as folder:
                _unpack(data, folder)
                return TantivySegment(owner, folder)
        except (OSError, KeyError, TypeError, ValueError, zlib.error) as exc:
            raise SegmentUnusable from exc


@contextmanager
def _folder() -> Iterator[Path]:
    """Make a folder of our own, and remove it."""
    made = Path(mkdtemp(prefix="karma-segment-"))
    try:
        yield made
    finally:
        for _ in range(_TRIES):
            # A thread of Tantivy's that looks after new indexes makes a file of a lock once, maybe just now.
            rmtree(made, ignore_errors=True)
            if not made.exists():
                break


def _packed(folder: Path) -> PackedSegment:
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    compressor = zlib.compressobj(_LEVEL)
    files = [(path.relative_to(folder).as_posix(), path.stat().st_size) for path in paths]
    pieces = [orjson.dumps({"format": FORMAT, "files": files}), b"\n"]
    pieces += [compressor.compress(path.read_bytes()) for path in paths]
    return PackedSegment(b"".join((*pieces, compressor.flush())), sum(size for _, size in files))


def _unpack(data: bytes, folder: Path) -> None:
    head, _, body = data.partition(b"\n")
    told = orjson.loads(head)
    if told["format"] != FORMAT:
        raise ValueError("another format")
    content = zlib.decompress(body)
    at = 0
    for name, size in told["files"]:
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content[at : at + size])
        at += size
    if at != len(content):
        raise ValueError("another size")
