"""The program that opens one hostile file: it runs alone, in a process that ends with it (preview_process.py).

    python -I -S preview_child.py <folder of packages>… -- image|pdf <bytes of memory> <seconds of a processor>

The file is its standard input. It writes parts to its standard output, each one line of JSON and then as many bytes as
the line says: `{"part": "thumbnail", "bytes": 5120, "width": 512, "height": 384}`, or a refusal,
`{"part": "text", "bytes": 0, "reason": "encrypted"}`. A part that was written whole counts, whatever comes then.

It limits itself before it imports anything that reads files: memory, processor time, bytes written. Before it reads the
file it gives up opening anything: no file, no socket, no program. It has no environment, so no credentials. Nothing of
ours is imported, and whoever reads its output believes nothing of it.
"""

from __future__ import annotations

import codecs
import io
import json
import os
import resource
import sys
from typing import Any, BinaryIO, Final

MAX_OUTPUT_BYTES: Final = 6 * 1024**2
SIDE: Final = 512
"""Longest side of a thumbnail, in pixels."""
MAX_PIXELS: Final = 50_000_000
MAX_WEBP_PIXELS: Final = 24_000_000
"""Its decoder takes 16 bytes a pixel."""
MAX_PAGES: Final = 200
"""Pages of a document whose text is read."""
MAX_CHARACTERS: Final = 1_000_000
FORMATS: Final = ("JPEG", "PNG", "WEBP", "GIF")
_HIGH_BYTES: Final = [value >> 8 for value in range(65536)]
_ENCRYPTED: Final = (4, 5)
"""PDFium's errors that say that a password is missing, or that the protection is one that it does not know."""


class RefusedPart(Exception):
    """The file gives no such part, for a reason that is a member of karma.files.previews.Refusal."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def main(arguments: list[str]) -> None:
    """Write the parts of the file at standard input."""
    at = arguments.index("--")
    kind = arguments[at + 1]
    limit(memory_bytes=int(arguments[at + 2]), cpu_s=int(arguments[at + 3]))
    sys.path[:0] = arguments[:at]
    load(kind)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))
    with os.fdopen(0, "rb") as source:
        if kind == "pdf":
            write_document(source)
        else:
            write_part("thumbnail", lambda: thumbnail_of_picture(source))


def limit(*, memory_bytes: int, cpu_s: int) -> None:
    """Bound memory, processor time, bytes written and processes; beyond them the kernel ends the process."""
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 1))
    resource.setrlimit(resource.RLIMIT_FSIZE, (MAX_OUTPUT_BYTES, MAX_OUTPUT_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def load(kind: str) -> None:
    """Open a small picture of each format, and a document: what they import by need is there then."""
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None  # ours is smaller, and refuses
    Image.preinit()
    exif = Image.Exif()
    exif[0x0112] = 6
    for image_format, mode in zip(FORMATS, ("CMYK", "I;16", "RGBA", "P"), strict=True):
        sample = io.BytesIO()
        Image.new(mode, (8, 4)).save(sample, image_format, **({} if image_format == "GIF" else {"exif": exif}))
        thumbnail_of_picture(sample)
    if kind == "pdf":
        import pypdfium2

        document = pypdfium2.PdfDocument.new()
        document.new_page(8, 4)
        thumbnail_of_page(document)
        document[0].get_textpage().get_text_range()
        codecs.lookup("utf-16-le")
        document.close()


def write_part(name: str, make: Any) -> None:
    """Write a part, or why there is none. What nothing catches ends the process, and is told by its status."""
    try:
        facts, data = make()
    except RefusedPart as refused:
        facts, data = {"reason": refused.reason}, b""
    except MemoryError:
        facts, data = {"reason": "too_much_memory"}, b""
    line = json.dumps({"part": name, "bytes": len(data), **facts}).encode()
    rest = memoryview(line + b"\n" + data)
    while rest:
        rest = rest[os.write(1, rest) :]


# Pictures


def thumbnail_of_picture(source: BinaryIO) -> tuple[dict[str, Any], bytes]:
    """Return the size and the bytes of a picture's thumbnail, turned as its camera was; of an animation the first."""
    from PIL import Image

    try:
        with Image.open(source, formats=FORMATS) as picture:
            if picture.width * picture.height > (MAX_WEBP_PIXELS if picture.format == "WEBP" else MAX_PIXELS):
                raise RefusedPart("too_many_pixels")
            return shrink(picture)
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, ZeroDivisionError) as exc:
        # What Pillow raises for bytes that are cut off, or not what they begin as.
        raise RefusedPart("damaged") from exc


def shrink(picture: Any) -> tuple[dict[str, Any], bytes]:
    """Return the size and the bytes of a picture's thumbnail: WebP without metadata, transparent where it was."""
    from PIL import ImageOps

    if picture.mode in ("P", "PA"):
        picture = picture.convert("RGBA" if picture.has_transparency_data else "RGB")
    elif picture.mode.startswith("I"):
        # Sixteen bits a pixel: `convert` to eight would cut off instead of scaling.
        picture = picture.convert("I").point(_HIGH_BYTES, "L")
    picture.thumbnail((SIDE, SIDE))
    picture = ImageOps.exif_transpose(picture)
    picture = picture.convert("RGBA" if picture.has_transparency_data else "RGB")
    made = io.BytesIO()
    picture.save(made, "WEBP", quality=80, method=4, exif=b"", icc_profile=b"", xmp=b"")
    return {"width": picture.width, "height": picture.height}, made.getvalue()


# Documents


def write_document(source: BinaryIO) -> None:
    """Write the thumbnail of a document's first page, and then its text."""
    import pypdfium2

    try:
        document = pypdfium2.PdfDocument(source)
    except pypdfium2.PdfiumError as exc:
        reason = "encrypted" if exc.err_code in _ENCRYPTED else "damaged"
        for part in ("thumbnail", "text"):
            write_part(part, lambda: refuse(reason))
        return
    write_part("thumbnail", lambda: thumbnail_of_page(document))
    write_part("text", lambda: text_of(document))
    # The process ends here; closing what it holds would be one more chance for PDFium to fail.
    os._exit(0)


def refuse(reason: str) -> tuple[dict[str, Any], bytes]:
    """Raise the refusal of a part."""
    raise RefusedPart(reason)


def thumbnail_of_page(document: Any) -> tuple[dict[str, Any], bytes]:
    """Return the size and the bytes of the first page's thumbnail; its scale follows from the page, however large."""
    import pypdfium2

    try:
        if len(document) == 0:
            raise RefusedPart("no_pages")
        page = document[0]
        width, height = page.get_size()
        if not 0 < width * height < float("inf"):
            raise RefusedPart("damaged")
        longest = max(width, height)
        if min(width, height) * SIDE < longest:
            raise RefusedPart("too_narrow")
        return shrink(page.render(scale=SIDE / longest).to_pil())
    except pypdfium2.PdfiumError as exc:
        raise RefusedPart("damaged") from exc


def text_of(document: Any) -> tuple[dict[str, Any], bytes]:
    """Return the number of pages and the text of the first `MAX_PAGES` of them, up to `MAX_CHARACTERS`."""
    import pypdfium2

    pieces: list[str] = []
    left, pages = MAX_CHARACTERS, len(document)
    for number in range(min(pages, MAX_PAGES)):
        if left <= 0:
            break
        try:
            page = document[number]
            text = page.get_textpage().get_text_range(errors="replace")
        except pypdfium2.PdfiumError:
            # One bad page is no reason to lose the others.
            continue
        pieces.append(text[:left])
        left -= len(text)
    whole = "\n".join(pieces).replace("\r\n", "\n").replace("\x00", "").replace("\ufffe", "-").strip()
    if not whole:
        raise RefusedPart("no_text")
    is_truncated = pages > MAX_PAGES or left < 0
    return {"pages": pages, "characters": len(whole), "is_truncated": is_truncated}, whole.encode(errors="replace")


if __name__ == "__main__":
    main(sys.argv[1:])
