"""Small images and documents, made here byte by byte, whole and broken."""

import base64
import struct
import zlib


def png(width: int = 2, height: int = 2) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    pixels = zlib.compress(b"\0" * (height * (1 + 3 * width)))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def jpeg(width: int = 2, height: int = 2) -> bytes:
    def segment(marker: int, data: bytes) -> bytes:
        return b"\xff" + bytes([marker]) + struct.pack(">H", len(data) + 2) + data

    frame = struct.pack(">BHHB", 8, height, width, 1) + b"\x01\x11\x00"
    tables = segment(0xDB, b"\0" + b"\x01" * 64) + segment(0xC4, b"\0" + b"\x01" + b"\0" * 15 + b"\0")
    return (
        b"\xff\xd8" + tables + segment(0xC0, frame) + segment(0xDA, b"\x01\x01\0\0\x3f\0") + b"\x2a" * 8 + b"\xff\xd9"
    )


def gif(width: int = 2, height: int = 2) -> bytes:
    screen = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    return screen + b"\x2c" + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x02\x02\x44\x01\0" + b"\x3b"


def webp(width: int = 2, height: int = 2) -> bytes:
    data = b"\x2f" + struct.pack("<I", (width - 1) | (height - 1) << 14) + b"\0" * 7
    body = b"WEBP" + b"VP8L" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", len(body)) + body


def pdf() -> bytes:
    return b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n2 0 obj<</Type/Pages/Kids[]/Count 0>>endobj\n" + (
        b"trailer<</Root 1 0 R>>\nstartxref\n9\n%%EOF\n"
    )


def b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


IMAGES = {"image/png": png, "image/jpeg": jpeg, "image/gif": gif, "image/webp": webp}
