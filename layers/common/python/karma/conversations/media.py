"""Media that a model reads, checked by their bytes: the structure decides the type, not the name.

The Messages API takes PNG, JPEG, GIF and WebP images, PDF documents and plain text; one wrong attachment makes it
refuse the whole conversation. So everything is checked twice: before it is stored, and again when it is sent, since the
store may have media that an older release accepted.

Structure is checked to the end (a truncated file has no end); colours are not decoded. The pixels of a PNG alone are
inflated, no further than its header announces, and not again when the image's hash is known; a caller with several
images asks first for the number of bytes (`bytes_to_inflate`), to limit their sum. A PDF is checked by
its header, its end, and that it is not encrypted, and its pages are counted (karma.core.pdf_pages).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import NamedTuple

MAX_MEDIA_CHARS = 5 * 1024 * 1024
"""Characters of one image or document in base64, as the API limits images."""
MAX_TEXT_BYTES = 1024 * 1024
"""Bytes of a document of plain text."""
MAX_SIDE_PX = 8000
MAX_INFLATED_BYTES = 256 * 1024 * 1024
"""Bytes of the pixels of all media of one request; a PNG of the largest sides with 8 bits a channel is within it."""
MAX_PDF_PAGES = 100
TAKEN = "PNG, JPEG, GIF and WebP images, PDF and plain text documents"

_UNREAD = "cannot be read here; another program may save it in a way that can"
_PIECE_BYTES = 16 * 1024
_INFLATED_BYTES = 256 * 1024
_MAX_CHECKED = 1024
_PNG = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Channels of each colour type of a PNG."""
_MAX_HEAD_CHARS = 1024
"""Characters of a `data:` URL before its data."""
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""First column and row of each pass of an interlaced PNG, and the steps between them."""
_PDF = "application/pdf"
_TEXT = "text/plain"
_TEXT_TYPES = re.compile(r"text/.+|application/(?:json|xml|x?yaml|x-yaml|toml|csv|x-ndjson|javascript)")
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")
_PAGE = re.compile(rb"/Type\s*/Page(?![a-zA-Z])")


class UnreadableMedia(ValueError):
    """The model would not accept the medium; the message says why."""


class Medium(NamedTuple):
    """A checked medium, as it is stored and sent."""

    kind: str
    """`image` or `document`."""
    media_type: str
    """MIME type, one that the API accepts, whatever the client called it."""
    data: str
    """Base64."""

    def text(self) -> str:
        """Return a plain text document's text."""
        return base64.b64decode(self.data).decode("utf-8-sig")

    def part(self) -> dict[str, object]:
        """Return the AG-UI content part."""
        return {"type": self.kind, "source": {"type": "data", "mimeType": self.media_type, "value": self.data}}


def of_base64(kind: str, value: str, media_type: str, *, inflates: bool = True) -> Medium:
    """Check a medium that a client sends as text: base64, or a `data:` URL; `inflates` as in `of_bytes`.

    Raises:
        UnreadableMedia: the text is not base64, or `of_bytes` refuses the medium.
    """
    if len(value) > MAX_MEDIA_CHARS + _MAX_HEAD_CHARS:
        raise UnreadableMedia(f"must be at most {MAX_MEDIA_CHARS} characters of base64")
    if value[:5].lower() == "data:":
        head, comma, _ = value[:_MAX_HEAD_CHARS].partition(",")
        if not comma or not head.lower().endswith(";base64"):
            raise UnreadableMedia("must be a data: URL in base64")
        value, media_type = value[len(head) + 1 :], head[5:].partition(";")[0] or media_type
    if len(value) > MAX_MEDIA_CHARS:
        raise UnreadableMedia(f"must be at most {MAX_MEDIA_CHARS} characters of base64")
    try:
        raw = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise UnreadableMedia("must be base64") from None
    return of_bytes(kind, raw, media_type, encoded=value, inflates=inflates)


def of_bytes(kind: str, raw: bytes, media_type: str = "", *, encoded: str = "", inflates: bool = True) -> Medium:
    """Check the bytes of a medium; the type they have counts, not the one they are said to have.

    Args:
        kind: the part's type: image, document, audio or video.
        raw: the bytes.
        media_type: MIME type that the client names; decides only the reason in a refusal.
        encoded: the bytes in base64; "" when not known.
        inflates: check pixels, too; else `inflate` has to be called before the medium is used.

    Raises:
        UnreadableMedia: the medium is not one of `TAKEN`, broken, or too large; nothing else is raised.
    """
    with _parsing():
        return _judged(kind, raw, media_type, encoded=encoded, inflates=inflates)


def _parsing() -> AbstractContextManager[None]:
    from karma.core.foreign import parsing  # few conversations have media

    return parsing("media", UnreadableMedia, _UNREAD)


def _judged(kind: str, raw: bytes, media_type: str, *, encoded: str, inflates: bool) -> Medium:
    if kind not in ("image", "document"):
        raise UnreadableMedia(f"is {kind}; {TAKEN} are taken")
    if not raw:
        raise UnreadableMedia("must not be empty")
    if len(raw) * 4 > MAX_MEDIA_CHARS * 3:
        raise UnreadableMedia(f"must be at most {MAX_MEDIA_CHARS * 3 // 4} bytes")
    for signature, offset, found, sides in _IMAGES:
        if raw.startswith(signature, offset):
            _check_image(raw, found, sides)
            if inflates:
                inflate(raw)
            return Medium("image", found, encoded or base64.b64encode(raw).decode())
    if raw.startswith(b"%PDF-"):
        _check_pdf(raw)
        return Medium("document", _PDF, encoded or base64.b64encode(raw).decode())
    plain = media_type.partition(";")[0].strip().lower()
    if kind == "document" and plain != _PDF and (not plain or _TEXT_TYPES.fullmatch(plain) or _is_text(raw)):
        _check_text(raw)
        return Medium("document", _TEXT, encoded or base64.b64encode(raw).decode())
    named = f" (it is called {plain[:64]})" if plain else ""
    raise UnreadableMedia(f"is none of {TAKEN}{named}")


def of_stored(part: Mapping[str, object]) -> Medium:
    """Check a stored part that contains its medium as data.

    Raises:
        UnreadableMedia: the part has no data, or the model would not accept it.
    """
    source = part.get("source")
    if not isinstance(source, Mapping) or source.get("type") != "data":
        raise UnreadableMedia("has no data")
    value, media_type = source.get("value"), source.get("mimeType")
    if not isinstance(value, str) or not isinstance(media_type, str | None):
        raise UnreadableMedia("has no data")
    return of_base64(str(part.get("type")), value, media_type or "")


def _check_image(raw: bytes, media_type: str, sides: Callable[[bytes], tuple[int, int]]) -> None:
    try:
        width, height = sides(raw)
    except (struct.error, IndexError):
        raise UnreadableMedia(f"is a broken {media_type}: it ends too early") from None
    if not (1 <= width <= MAX_SIDE_PX and 1 <= height <= MAX_SIDE_PX):
        raise UnreadableMedia(f"is {width} x {height} pixels; at most {MAX_SIDE_PX} a side are taken")


def _broken(media_type: str) -> UnreadableMedia:
    return UnreadableMedia(f"is a broken {media_type}")


def _png(raw: bytes) -> tuple[int, int]:
    """Read the chunks to IEND, each with its checksum, and return width and height; there must be pixels."""
    kinds: set[bytes] = set()
    sides = (0, 0)
    for kind, data, checksum in _chunks(raw):
        if zlib.crc32(kind + data) != checksum or (not kinds and kind != b"IHDR") or (kinds and kind == b"IHDR"):
            raise _broken("image/png")
        if kind == b"IHDR":
            width, height, depth, colour, method, filtering, interlace = struct.unpack(">IIBBBBB", data)
            if colour not in _CHANNELS or depth not in (1, 2, 4, 8, 16) or method or filtering or interlace > 1:
                raise _broken("image/png")
            sides = (width, height)
            if not (1 <= width <= MAX_SIDE_PX and 1 <= height <= MAX_SIDE_PX):
                return sides
        kinds.add(kind)
    if b"IDAT" not in kinds:
        raise _broken("image/png")
    return sides


def _chunks(raw: bytes) -> Iterator[tuple[bytes, bytes, int]]:
    """Yield the kind, data and checksum of each chunk of a PNG up to IEND."""
    at, kind = 8, b""
    while kind != b"IEND":
        (size,), kind = struct.unpack_from(">I", raw, at), raw[at + 4 : at + 8]
        (checksum,) = struct.unpack_from(">I", raw, at + 8 + size)
        yield kind, raw[at + 8 : at + 8 + size], checksum
        at += 12 + size


def bytes_to_inflate(raw: bytes) -> int:
    """Return how many bytes `inflate` makes of a medium whose structure was checked; 0 when it need not be inflated."""
    if not raw.startswith(_PNG) or raw in _CHECKED:
        return 0
    width, height, depth, colour, _, _, interlace = struct.unpack_from(">IIBBBBB", raw, 16)
    return _size_of_pixels(width, height, depth * _CHANNELS[colour], is_interlaced=bool(interlace))


def inflate(raw: bytes) -> None:
    """Check that the pixels of a PNG are as many as its header announces; its structure was checked.

    Raises:
        UnreadableMedia: there are more or fewer pixels, or they are damaged.
    """
    with _parsing():
        size = bytes_to_inflate(raw)
        if not size:
            return
        pixels = _Pixels(size)
        for kind, data, _ in _chunks(raw):
            if kind == b"IDAT":
                pixels.take(data)
        if not pixels.are_whole:
            raise _broken("image/png")
    _CHECKED.add(raw)


def _size_of_pixels(width: int, height: int, bits: int, *, is_interlaced: bool) -> int:
    """Return how many bytes the pixels inflate to; an interlaced image consists of seven, each with rows of its own."""
    passes = _ADAM7 if is_interlaced else ((0, 0, 1, 1),)
    size = 0
    for left, top, across, down in passes:
        columns, rows = -(-(width - left) // across), -(-(height - top) // down)
        if columns > 0 and rows > 0:
            size += rows * (1 + (columns * bits + 7) // 8)
    return size


class _Pixels:
    """Inflates the pixels of an image to as many bytes as its header announces, and not further."""

    def __init__(self, announced: int) -> None:
        self._left = announced
        self._stream = zlib.decompressobj()

    def take(self, data: bytes) -> None:
        """Inflate one chunk, in pieces, so that the bytes zlib has not read yet are never copied as a whole.

        Raises:
            UnreadableMedia: the chunk is damaged, or there are more pixels than the header announces.
        """
        for at in range(0, len(data), _PIECE_BYTES):
            piece = data[at : at + _PIECE_BYTES]
            is_more = True
            while is_more and not self._stream.eof:
                most = min(self._left + 1, _INFLATED_BYTES)  # one byte too many shows that there are more
                try:
                    inflated = len(self._stream.decompress(piece, most))
                except zlib.error:
                    raise _broken("image/png") from None
                self._left -= inflated
                if self._left < 0:
                    raise _broken("image/png")
                piece = self._stream.unconsumed_tail
                is_more = bool(piece) or inflated == most  # zlib may hold back what did not fit

    @property
    def are_whole(self) -> bool:
        """Tell whether the pixels were exactly as many as the header announces."""
        return self._stream.eof and not self._left


class _Checked:
    """Hashes of the latest images whose pixels this process has inflated and found complete."""

    def __init__(self) -> None:
        self._hashes: dict[bytes, None] = {}

    def __contains__(self, raw: bytes) -> bool:
        return hashlib.sha256(raw).digest() in self._hashes

    def add(self, raw: bytes) -> None:
        """Remember an image, and forget the oldest when there are too many."""
        self._hashes[hashlib.sha256(raw).digest()] = None
        for oldest in list(self._hashes)[:-_MAX_CHECKED]:
            self._hashes.pop(oldest, None)


_CHECKED = _Checked()


def trust(raw: bytes) -> None:
    """Mark an image as checked; for attachments, which are checked before they are stored."""
    _CHECKED.add(raw)


def _jpeg(raw: bytes) -> tuple[int, int]:
    """Read the segments to the first scan and return width and height; the scan must be followed by the image's end."""
    at, sides = 2, (0, 0)
    while True:
        while raw[at] == 0xFF and raw[at + 1] == 0xFF:
            at += 1
        marker = raw[at + 1]
        if raw[at] != 0xFF or marker in (0x00, 0xD8, 0xD9):
            raise _broken("image/jpeg")
        (size,) = struct.unpack_from(">H", raw, at + 2)
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            if sides != (0, 0):
                raise _broken("image/jpeg")
            height, width = struct.unpack_from(">HH", raw, at + 5)
            sides = (width, height)
            if not width or not height:
                break
        at += 2 + size
        if marker == 0xDA:
            break
    if marker == 0xDA and (sides == (0, 0) or size < 2 or raw.rfind(b"\xff\xd9") < at):
        raise _broken("image/jpeg")
    return sides


def _gif(raw: bytes) -> tuple[int, int]:
    """Read the blocks to the trailer and return width and height; there must be an image among them."""
    width, height, flags = struct.unpack_from("<HHB", raw, 6)
    at, images = 13 + _colours(flags), 0
    while raw[at] != 0x3B:
        if raw[at] == 0x21:
            at += 2
        elif raw[at] == 0x2C:
            images += 1
            at += 11 + _colours(raw[at + 9])
        else:
            raise _broken("image/gif")
        while raw[at]:
            at += 1 + raw[at]
        at += 1
    if not images:
        raise _broken("image/gif")
    return width, height


def _colours(flags: int) -> int:
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _webp(raw: bytes) -> tuple[int, int]:
    """Read the RIFF container and return width and height; it must be as long as it says, and contain an image."""
    (length,) = struct.unpack_from("<I", raw, 4)
    if raw[:4] != b"RIFF" or length + 8 > len(raw):
        raise _broken("image/webp")
    at, sides = 12, (0, 0)
    kinds: set[bytes] = set()
    while at + 8 <= length + 8:
        kind, (size,) = raw[at : at + 4], struct.unpack_from("<I", raw, at + 4)
        if at + 8 + size > length + 8:
            raise _broken("image/webp")
        if sides == (0, 0):
            sides = _webp_sides(kind, raw[at + 8 : at + 8 + size])
        kinds.add(kind)
        at += 8 + size + size % 2
    if not kinds & {b"VP8 ", b"VP8L", b"ANMF"}:
        raise _broken("image/webp")
    return sides


def _webp_sides(kind: bytes, data: bytes) -> tuple[int, int]:
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[4:7], "little"), 1 + int.from_bytes(data[7:10], "little")
    if kind == b"VP8L" and data[:1] == b"\x2f":
        (bits,) = struct.unpack_from("<I", data, 1)
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 " and data[3:6] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", data, 6)
        return width & 0x3FFF, height & 0x3FFF
    raise _broken("image/webp")


_IMAGES: tuple[tuple[bytes, int, str, Callable[[bytes], tuple[int, int]]], ...] = (
    (_PNG, 0, "image/png", _png),
    (b"\xff\xd8\xff", 0, "image/jpeg", _jpeg),
    (b"GIF87a", 0, "image/gif", _gif),
    (b"GIF89a", 0, "image/gif", _gif),
    (b"WEBP", 8, "image/webp", _webp),
)


def _check_pdf(raw: bytes) -> None:
    if b"%%EOF" not in raw[-1024:] or b"startxref" not in raw[-2048:]:
        raise UnreadableMedia("is a broken PDF: it ends too early")
    if b"/Encrypt" in raw:
        raise UnreadableMedia("is an encrypted PDF; send it without a password")
    from karma.core.pdf_pages import content_of  # few conversations have any

    content = content_of(raw)
    pages = content.pages if content else len(_PAGE.findall(raw))
    if pages > MAX_PDF_PAGES:
        raise UnreadableMedia(f"is a PDF of {pages} pages; at most {MAX_PDF_PAGES} are taken")


def _is_text(raw: bytes) -> bool:
    """Tell whether bytes are text, whatever their MIME type, which clients guess from file names."""
    try:
        return _CONTROL.search(raw.decode("utf-8-sig")) is None
    except UnicodeDecodeError:
        return False


def _check_text(raw: bytes) -> None:
    if len(raw) > MAX_TEXT_BYTES:
        raise UnreadableMedia(f"must be at most {MAX_TEXT_BYTES} bytes of text")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UnreadableMedia("must be text in UTF-8") from None
    if "\0" in text:
        raise UnreadableMedia("must be text, not binary data")
    if not text.strip():
        raise UnreadableMedia("must not be blank")
