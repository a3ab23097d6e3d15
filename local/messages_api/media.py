"""Checks images and PDFs of a request: type and size.

Written independently of the backend's own checks, by other properties of the formats where possible, so that a mistake
there is not repeated here.
"""

from __future__ import annotations

import base64
import binascii
import struct
import zlib

_NOT_READABLE = "Could not process image"


def image_problem(data: str, media_type: str) -> tuple[str | None, tuple[int, int]]:
    """Return why an image in base64 is refused (None: it is accepted), and its sides in pixels."""
    try:
        raw = base64.b64decode(data, validate=True)
    except binascii.Error:
        return "invalid base64 data", (0, 0)
    found = _kind(raw)
    if found is None:
        return _NOT_READABLE, (0, 0)
    if found != media_type:
        return f"The image was specified using the {media_type} media type, but it appears to be {found}", (0, 0)
    try:
        sides = {"image/png": _png, "image/gif": _gif, "image/jpeg": _jpeg, "image/webp": _webp}[found](raw)
    except (struct.error, IndexError, zlib.error, ValueError):
        return _NOT_READABLE, (0, 0)
    if min(sides) < 1:
        return _NOT_READABLE, (0, 0)
    return None, sides


def pdf_problem(data: object) -> str | None:
    """Return why a PDF in base64 is refused (None: it is accepted)."""
    if not isinstance(data, str):
        return "Field required"
    try:
        raw = base64.b64decode(data, validate=True)
    except binascii.Error:
        return "invalid base64 data"
    if not raw.startswith(b"%PDF-") or b"%%EOF" not in raw[-1024:]:
        return "The PDF specified was not valid"
    return "The PDF specified is password protected" if b"/Encrypt" in raw else None


def _kind(raw: bytes) -> str | None:
    if raw[:8] == b"\x89PNG\r\n\x1a\n":
        return "image/png"
    if raw[:2] == b"\xff\xd8":
        return "image/jpeg"
    if raw[:6] in (b"GIF87a", b"GIF89a"):
        return "image/gif"
    return "image/webp" if raw[:4] == b"RIFF" and raw[8:12] == b"WEBP" else None


def _png(raw: bytes) -> tuple[int, int]:
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", raw[16:29])
    pixels, at = zlib.decompressobj(), 8
    lines = 0
    while raw[at + 4 : at + 8] != b"IEND":
        size = struct.unpack(">I", raw[at : at + 4])[0]
        if raw[at + 4 : at + 8] == b"IDAT" and not pixels.eof:
            lines += len(pixels.decompress(raw[at + 8 : at + 8 + size], 64 * 1024 * 1024))
        at += 12 + size
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour] if colour in (0, 2, 3, 4, 6) else 0
    expected = height * (1 + (width * depth * channels + 7) // 8)
    if channels == 0 or (not interlaced and expected <= 32 * 1024 * 1024 and lines < expected):
        raise ValueError(_NOT_READABLE)
    return width, height


def _gif(raw: bytes) -> tuple[int, int]:
    if b"\x2c" not in raw or not raw.rstrip(b"\0").endswith(b"\x3b"):
        raise ValueError(_NOT_READABLE)
    width, height = struct.unpack("<HH", raw[6:10])
    return width, height


def _jpeg(raw: bytes) -> tuple[int, int]:
    at = 2
    while True:
        marker = raw[at + 1]
        if raw[at] != 0xFF or marker in (0xDA, 0xD9):
            raise ValueError(_NOT_READABLE)
        if marker == 0xFF:
            at += 1
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", raw[at + 5 : at + 9])
            if b"\xff\xda" not in raw[at:] or b"\xff\xd9" not in raw[at:]:
                raise ValueError(_NOT_READABLE)
            return width, height
        at += 2 + int(struct.unpack(">H", raw[at + 2 : at + 4])[0])


def _webp(raw: bytes) -> tuple[int, int]:
    if struct.unpack("<I", raw[4:8])[0] + 8 > len(raw):
        raise ValueError(_NOT_READABLE)
    kind = raw[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(raw[24:27], "little"), 1 + int.from_bytes(raw[27:30], "little")
    if kind == b"VP8L":
        bits = struct.unpack("<I", raw[21:25])[0]
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind != b"VP8 ":
        raise ValueError(_NOT_READABLE)
    width, height = struct.unpack("<HH", raw[26:30])
    return width & 0x3FFF, height & 0x3FFF
