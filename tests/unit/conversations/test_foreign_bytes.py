"""Whatever bytes a medium has, its parsers answer or refuse by name; what they do not know is refused as well."""

from __future__ import annotations

import base64
import os
import random
import struct
import zlib
from collections.abc import Callable, Iterable
from importlib import import_module

import pytest

from karma.conversations.media import Medium, UnreadableMedia, inflate, of_bytes
from karma.core import pdf_pages
from karma.models.pdf_tokens import most_tokens
from tests.support.media import gif, jpeg, pdf, png, webp
from tests.support.pdfs import written_pdf

pytestmark = pytest.mark.fault("F-25s")

FILES = int(os.environ.get("FOREIGN_FILES", "80"))
"""Files of each kind that a test damages."""
DIGITS = b"9" * 400
NUMBERS = (
    DIGITS, DIGITS + b".0", b"-" + DIGITS, b"-" + DIGITS + b".5", b"." + DIGITS, b"0" * 5000 + b"1", b"9" * 5000,
    b"1e999", b"--1", b"+.", b"9223372036854775807", b"18446744073709551616", b"-1", b"0", b"3.7",
)  # fmt: skip
WORDS = (
    b"null", b"true", b"R", b"1 0 R", b"2 0 R", b"9999999999 0 R", b"<<", b">>", b"[", b"]", b"(", b")", b"<", b">",
    b"%", b"[" * 70, b"<<" * 70, b"/Kids[2 0 R]", b"/Contents[2 0 R 2 0 R]", b"/Type/Page", b"/Count ",
    b"/Resources 2 0 R",
    b"/Annots[[1 0 R]]", b"/AP<</N 2 0 R>>", b"/Filter[/FlateDecode]", b"/DecodeParms<</Predictor 12>>", b"endobj",
    b"stream\r\n", b"endstream", b"obj", b"1 0 obj", b"\0", b"#00", b"/#", b"/N 3/First 9", b"/Length -1",
    b"/Extends 1 0 R",
)  # fmt: skip
SIZES = (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\0\0", b"\xff\xff", b"\xff", b"\0")
WHOLE: dict[str, Callable[[random.Random], bytes]] = {
    "png": lambda dice: png(dice.randint(1, 9), dice.randint(1, 9)),
    "jpeg": lambda dice: jpeg(dice.randint(1, 9), dice.randint(1, 9)),
    "gif": lambda dice: gif(dice.randint(1, 9), dice.randint(1, 9)),
    "webp": lambda dice: webp(dice.randint(1, 9), dice.randint(1, 9)),
    "pdf": lambda dice: pdf() if dice.random() < 0.1 else written_pdf(dice.getrandbits(32)),
    "text": lambda dice: "".join(map(chr, dice.choices((9, 10, 65, 233, 0x20AC, 0x1F600), k=60))).encode(),
}


def numbers_replaced(raw: bytes, dice: random.Random) -> bytes:
    """Put other numbers in places where a PDF has some."""
    parts = raw.split(b" ")
    for _ in range(dice.randint(1, 3)):
        at = dice.randrange(len(parts))
        parts[at] = parts[at].rstrip(b"0123456789") + dice.choice(NUMBERS)
    return b" ".join(parts)


def damaged(kind: str, raw: bytes, dice: random.Random) -> bytes:
    """Return a file with a few places changed; the checksums of a PNG are made to fit, so that its content is read."""
    if kind == "pdf" and dice.random() < 0.4:
        raw = numbers_replaced(raw, dice)
    out = bytearray(raw)
    for _ in range(dice.randint(1, 4)):
        at = dice.randrange(len(out) + 1)
        new = dice.choice((*SIZES, dice.randbytes(3), *((*WORDS, *NUMBERS) if kind == "pdf" else ())))
        upto = at + dice.choice((0, len(new), dice.randrange(40)))
        out[at:upto] = dice.choice((new, new, bytes(out[upto : upto + 30]), b""))
    return checked(bytes(out)) if kind == "png" and dice.random() < 0.8 else bytes(out)


def checked(raw: bytes) -> bytes:
    out, at = raw[:8], 8
    while at + 12 <= len(raw):
        size = min(struct.unpack_from(">I", raw, at)[0], len(raw) - at - 12)
        body = raw[at + 4 : at + 8 + size]
        out += struct.pack(">I", size) + body + struct.pack(">I", zlib.crc32(body))
        at += 12 + size
    return out


def is_taken(raw: bytes) -> bool:
    """Tell whether a medium is taken; nothing but the documented refusal is raised."""
    try:
        assert isinstance(of_bytes("document", raw, inflates=False), Medium)
        inflate(raw)
    except UnreadableMedia:
        return False
    return True


def unknown_faults(told: str) -> list[str]:
    return [line for line in told.splitlines() if "ParserFailed" in line]


@pytest.mark.parametrize("kind", WHOLE)
def test_a_damaged_medium_is_taken_or_refused_by_name(kind: str, seed: int, capsys: pytest.CaptureFixture[str]) -> None:
    dice = random.Random(seed)
    for _ in range(FILES):
        raw = damaged(kind, WHOLE[kind](dice), dice)
        if kind == "pdf":  # so that it is read whatever became of its end
            raw = b"%PDF-1.7\n" + raw + b"\nstartxref\n0\n%%EOF\n"
        is_taken(raw)
        most = most_tokens(base64.b64encode(raw).decode())
        assert most is None or 0 <= most < 2**200
        assert not unknown_faults(capsys.readouterr().out), raw


@pytest.mark.parametrize("number", NUMBERS, ids=lambda each: f"{each[:4].decode()}x{len(each)}")
@pytest.mark.parametrize("place", ["Count", "Length", "First", "N", "number", "Predictor", "index"])
def test_a_number_of_any_size_stands_anywhere_in_a_pdf(
    place: str, number: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    packed = zlib.compress(b"5 0 6 %s <</A 1>> 7" % (number if place == "index" else b"9"))
    head = b"/Type/ObjStm/N %s/First %s/Length %s/Filter/FlateDecode/DecodeParms<</Predictor %s>>" % tuple(
        number if place == each else usual
        for each, usual in (("N", b"2"), ("First", b"8"), ("Length", b"%d" % len(packed)), ("Predictor", b"1"))
    )
    count = number if place == "Count" else b"1"
    objects = (
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Count %s/Kids[4 0 R 5 0 R 6 0 R]>>" % count,
        b"<<%s>>\nstream\n%s\nendstream" % (head, packed),
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 %s 9]>>" % (number if place == "number" else b"9"),
    )
    body = b"".join(b"%d 0 obj\n%s\nendobj\n" % (n, each) for n, each in enumerate(objects, 1))
    raw = b"%PDF-1.7\n" + body + b"startxref\n0\n%%EOF\n"

    is_taken(raw)
    most_tokens(base64.b64encode(raw).decode())

    assert not unknown_faults(capsys.readouterr().out)
    if place == "Count" and number in {DIGITS, DIGITS + b".0", b"9" * 5000}:
        with pytest.raises(UnreadableMedia, match="pages; at most 100"):
            of_bytes("document", raw)


class _Unforeseen(Exception):
    pass


UNFORESEEN: Iterable[type[Exception]] = (
    OverflowError, RecursionError, MemoryError, ZeroDivisionError, AssertionError, KeyError, TypeError,
    UnicodeDecodeError, _Unforeseen,
)  # fmt: skip


@pytest.mark.parametrize("unforeseen", UNFORESEEN)
@pytest.mark.parametrize("parser", ["pdf", "png", "inflate"])
def test_what_a_parser_does_not_foresee_is_refused_logged_and_counted(
    parser: str, unforeseen: type[Exception], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import_module("karma.core.observability")  # it is told where this is loaded, as in each function

    def broken(*_: object) -> object:
        raise unforeseen(*(("utf-8", b"", 0, 1, "") if unforeseen is UnicodeDecodeError else ("of a stranger",)))

    raw = (pdf() if parser == "pdf" else png(7, 3)) + b"x"
    if parser == "inflate":
        monkeypatch.setattr(zlib, "decompressobj", broken)
    else:
        monkeypatch.setattr(*{"pdf": (pdf_pages, "Objects"), "png": (zlib, "crc32")}[parser], broken)

    assert not is_taken(raw)

    assert len(unknown_faults(capsys.readouterr().out)) == 1
    if parser == "pdf":
        assert most_tokens(base64.b64encode(raw).decode()) is None
