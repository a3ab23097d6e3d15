"""Opening hostile files in a process of their own, bounded by the kernel (preview_child.py is what runs in it).

The child has the file as its standard input, an empty environment and no credentials; it can open nothing and talk to
nobody. It ends by its answer, by a limit or by a signal, and what it wrote is believed no more than the file: a part
counts when it is whole, and of its form.
"""

from __future__ import annotations

import ctypes
import importlib.util
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import IO, Any, Final

import orjson

from karma.core.settings import library_path
from karma.files.ports import Rendering
from karma.files.previews import MAX_SIDE, DocumentText, PreviewStatus, Refusal, Thumbnail

CPU_S: Final = 8
"""Time of a processor that a child may use; the slowest honest file that was measured takes 1.2 s (ADR 0063)."""
WALL_S: Final = 25
"""Time after which a child is killed, whatever it does; `CPU_S` take 14 s at this function's share of a processor."""
PICTURE_MEMORY: Final = 600 * 1024**2
"""Address space: 50 million pixels with an alpha channel take 395 MB of it, 24 million of WebP as many (ADR 0063)."""
DOCUMENT_MEMORY: Final = 300 * 1024**2
_MAX_LINE: Final = 1024
_CHILD: Final = Path(__file__).with_name("preview_child.py")
_PACKAGES: Final = ("PIL", "pypdfium2", "pypdfium2_raw")
_PR_SET_DUMPABLE: Final = 4
_Part = tuple[Mapping[str, Any], bytes]


class ChildRenderer:
    """Renders each file in a new process."""

    def render(self, source: IO[bytes], *, is_document: bool) -> Rendering:
        """Make the thumbnail of a picture, or of a document's first page, and its text.

        Raises:
            OSError: no process could be started, which says nothing of the file.
        """
        with tempfile.TemporaryFile() as written:
            ended_by = self._run(source, written, is_document=is_document)
            written.seek(0)
            parts = parts_of(written)
        return Rendering(**_thumbnail(parts.get("thumbnail"), ended_by), **_text(parts.get("text"), ended_by))

    def _run(self, source: IO[bytes], written: IO[bytes], *, is_document: bool) -> Refusal:
        """Run the child to its end; return what is to be said of parts that it did not write."""
        hide_memory()
        source.seek(0)
        kind, memory = ("pdf", DOCUMENT_MEMORY) if is_document else ("image", PICTURE_MEMORY)
        command = [sys.executable, "-I", "-S", str(_CHILD), *package_folders(), "--", kind, str(memory), str(CPU_S)]
        child = subprocess.Popen(
            command, stdin=source, stdout=written, stderr=subprocess.DEVNULL, env=library_path(), start_new_session=True
        )
        try:
            status = child.wait(timeout=WALL_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
            return Refusal.TOO_SLOW
        return Refusal.TOO_SLOW if status in (-signal.SIGXCPU, -signal.SIGKILL) else Refusal.PARSER_KILLED


@cache
def package_folders() -> list[str]:
    """Return the folders in which the child's packages are, without importing them."""
    found = [importlib.util.find_spec(name) for name in _PACKAGES]
    return sorted({str(Path(spec.origin).parent.parent) for spec in found if spec and spec.origin})


@cache
def hide_memory() -> None:
    """Keep other processes of this user from reading this one's memory and environment, where its credentials are."""
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def parts_of(written: IO[bytes]) -> dict[str, _Part]:
    """Read the whole parts that a child has written, and stop at the first that is none."""
    parts: dict[str, _Part] = {}
    while line := written.readline(_MAX_LINE):
        try:
            facts = orjson.loads(line)
            name, size = facts["part"], facts["bytes"]
        except (orjson.JSONDecodeError, KeyError, TypeError):
            break
        if name not in ("thumbnail", "text") or not isinstance(size, int) or size < 0:
            break
        data = written.read(size)
        if len(data) != size:
            break
        parts.setdefault(name, (facts, data))
    return parts


def _thumbnail(part: _Part | None, ended_by: Refusal) -> dict[str, Any]:
    facts, data = part or ({"reason": ended_by}, b"")
    width, height = facts.get("width"), facts.get("height")
    if _is_webp(data) and _is_between(width, 1, MAX_SIDE) and _is_between(height, 1, MAX_SIDE):
        return {"thumbnail": Thumbnail(status=PreviewStatus.READY, width=width, height=height), "picture": data}
    return {"thumbnail": Thumbnail(status=PreviewStatus.REFUSED, reason=_reason(facts))}


def _text(part: _Part | None, ended_by: Refusal) -> dict[str, Any]:
    facts, data = part or ({"reason": ended_by}, b"")
    pages, characters = facts.get("pages"), facts.get("characters")
    if data and _is_text(data) and _is_between(pages, 1, 2**31) and _is_between(characters, 1, len(data)):
        truncated = facts.get("is_truncated") is True
        ready = DocumentText(status=PreviewStatus.READY, pages=pages, characters=characters, is_truncated=truncated)
        return {"text": ready, "words": data}
    return {"text": DocumentText(status=PreviewStatus.REFUSED, reason=_reason(facts))}


def _reason(facts: Mapping[str, Any]) -> Refusal:
    try:
        return Refusal(str(facts.get("reason")))
    except ValueError:
        return Refusal.PARSER_KILLED


def _is_webp(data: bytes) -> bool:
    return data[:4] == b"RIFF" and data[8:12] == b"WEBP"


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _is_between(value: object, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most
