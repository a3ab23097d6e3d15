"""MIME types of files by their first bytes, and the `type` of a file by its name.

The table holds the formats that a browser or a player acts upon, with the signatures of their specifications.
Libraries were looked at and not taken: filetype has had no release since 2022, puremagic guesses by confidence and
reads a table of 300 KB for it.
"""

from __future__ import annotations

import mimetypes
from typing import Final

HEAD_BYTES: Final = 4096
"""Number of bytes at the start of a file that `mime_type_of` looks at."""
BINARY: Final = "application/octet-stream"

_SIGNATURES: Final[tuple[tuple[int, bytes, str], ...]] = (
    (0, b"\x89PNG\r\n\x1a\n", "image/png"),
    (0, b"\xff\xd8\xff", "image/jpeg"),
    (0, b"GIF87a", "image/gif"),
    (0, b"GIF89a", "image/gif"),
    (8, b"WEBP", "image/webp"),
    (0, b"BM", "image/bmp"),
    (0, b"II*\x00", "image/tiff"),
    (0, b"MM\x00*", "image/tiff"),
    (0, b"\x00\x00\x01\x00", "image/vnd.microsoft.icon"),
    (4, b"ftypavif", "image/avif"),
    (4, b"ftypheic", "image/heic"),
    (4, b"ftypmif1", "image/heif"),
    (4, b"ftypqt  ", "video/quicktime"),
    (4, b"ftypM4A ", "audio/mp4"),
    (4, b"ftyp", "video/mp4"),
    (8, b"AVI ", "video/x-msvideo"),
    (8, b"WAVE", "audio/wav"),
    (0, b"ID3", "audio/mpeg"),
    (0, b"\xff\xfb", "audio/mpeg"),
    (0, b"fLaC", "audio/flac"),
    (0, b"OggS", "application/ogg"),
    (0, b"%PDF-", "application/pdf"),
    (0, b"{\\rtf", "application/rtf"),
    (0, b"\x1f\x8b", "application/gzip"),
    (0, b"BZh", "application/x-bzip2"),
    (0, b"\xfd7zXZ\x00", "application/x-xz"),
    (0, b"\x28\xb5\x2f\xfd", "application/zstd"),
    (0, b"7z\xbc\xaf\x27\x1c", "application/x-7z-compressed"),
    (0, b"Rar!\x1a\x07", "application/vnd.rar"),
    (257, b"ustar", "application/x-tar"),
    (0, b"SQLite format 3\x00", "application/vnd.sqlite3"),
    (0, b"\x7fELF", "application/x-elf"),
    (0, b"MZ", "application/vnd.microsoft.portable-executable"),
    (0, b"\x00asm", "application/wasm"),
    (0, b"PAR1", "application/vnd.apache.parquet"),
)
_RIFF = frozenset({"image/webp", "video/x-msvideo", "audio/wav"})
_OFFICE = "application/vnd.openxmlformats-officedocument."
_ZIP_CONTENTS: Final[tuple[tuple[bytes, str], ...]] = (
    (b"word/", f"{_OFFICE}wordprocessingml.document"),
    (b"xl/", f"{_OFFICE}spreadsheetml.sheet"),
    (b"ppt/", f"{_OFFICE}presentationml.presentation"),
    (b"mimetypeapplication/epub+zip", "application/epub+zip"),
)
_TEXT_TYPES: Final = {
    "css": "text/css",
    "csv": "text/csv",
    "html": "text/html",
    "js": "text/javascript",
    "json": "application/json",
    "md": "text/markdown",
    "svg": "image/svg+xml",
    "toml": "application/toml",
    "xml": "application/xml",
    "yaml": "application/yaml",
    "yml": "application/yaml",
}
_BY_TYPE: Final = {"image": "image", "video": "video", "audio": "audio", "text": "document"}
_ARCHIVES = ("zip", "tar", "gzip", "bzip2", "-xz", "zstd", "7z", "rar")


def mime_type_of(head: bytes, extension: str | None) -> str:
    """Tell the MIME type of a file.

    Args:
        head: its first `HEAD_BYTES`, or all of it.
        extension: tells kinds of text apart, such as CSV from JSON; ignored for all other bytes.
    """
    if head[:4] == b"\x1a\x45\xdf\xa3":
        return "video/webm" if b"webm" in head[:64] else "video/x-matroska"
    if head[:4] == b"PK\x03\x04":
        return next((kind for mark, kind in _ZIP_CONTENTS if mark in head), "application/zip")
    for offset, signature, kind in _SIGNATURES:
        if head.startswith(signature, offset) and (kind not in _RIFF or head[:4] == b"RIFF"):
            return kind
    return _TEXT_TYPES.get(extension or "", "text/plain") if head and _is_text(head) else BINARY


def _is_text(head: bytes) -> bool:
    try:
        text = head.decode()
    except UnicodeDecodeError as exc:
        # The last character may be cut where the head ends.
        if len(head) < HEAD_BYTES or exc.start < len(head) - 3:
            return False
        text = head[: exc.start].decode()
    return all(char >= " " or char in "\t\n\r\f" for char in text)


def type_of(name: str) -> str:
    """Guess the `type` of a file whose owner names none: document, image, video, audio, archive or other."""
    guessed, encoding = mimetypes.guess_type(name, strict=False)
    if encoding is not None or (guessed and any(mark in guessed for mark in _ARCHIVES)):
        return "archive"
    if guessed is None:
        return "other"
    main = guessed.partition("/")[0]
    document = any(mark in guessed for mark in ("pdf", "document", "word", "sheet", "excel", "presentation", "json"))
    return _BY_TYPE.get(main, "document" if document else "other")
