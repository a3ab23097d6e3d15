"""Types of files, as their bytes and names tell them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from karma.files.media import BINARY, HEAD_BYTES, mime_type_of, type_of
from karma.files.verification import digest
from karma.integrations.s3 import attachment


@pytest.mark.parametrize(
    ("head", "extension", "kind"),
    [
        (b"\x89PNG\r\n\x1a\n", "txt", "image/png"),
        (b"\xff\xd8\xff\xe0", None, "image/jpeg"),
        (b"RIFF\x00\x00\x00\x00WEBPVP8 ", None, "image/webp"),
        (b"RIFF\x00\x00\x00\x00WAVEfmt ", None, "audio/wav"),
        (b"XXXX\x00\x00\x00\x00WEBP\xff", None, BINARY),
        (b"\x00\x00\x00\x18ftypmp42", None, "video/mp4"),
        (b"\x00\x00\x00\x18ftypqt  ", None, "video/quicktime"),
        (b"%PDF-1.7", "exe", "application/pdf"),
        (
            b"PK\x03\x04....word/document.xml",
            None,
            "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
        ),
        (b"PK\x03\x04....readme", "docx", "application/zip"),
        (b"\x1a\x45\xdf\xa3....webm", None, "video/webm"),
        (b"\x1a\x45\xdf\xa3....", None, "video/x-matroska"),
        (b"\x00" * 257 + b"ustar\x00", None, "application/x-tar"),
        (b'{"a": 1}', "json", "application/json"),
        (b"<html>", "html", "text/html"),
        ("grün".encode(), "exe", "text/plain"),
        (b"a\x00b", "txt", BINARY),
        (b"\xff\xfe", "txt", BINARY),
        (b"", "txt", BINARY),
        (b"a" * (HEAD_BYTES - 1) + "ü".encode()[:1], "md", "text/markdown"),
        (b"a" * 10 + "ü".encode()[:1], "md", BINARY),
    ],
)
def test_the_type_of_a_file_is_told_from_its_first_bytes_then_its_name(
    head: bytes, extension: str | None, kind: str
) -> None:
    assert mime_type_of(head, extension) == kind


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.PNG", "image"), ("a.mp4", "video"), ("a.mp3", "audio"), ("a.txt", "document"), ("a.pdf", "document"),
     ("a.tar.gz", "archive"), ("a.zip", "archive"), ("a.docx", "document"), ("a", "other"), ("a.bin", "other")],
)  # fmt: skip
def test_the_kind_of_a_file_is_told_from_its_name(name: str, kind: str) -> None:
    assert type_of(name) == kind


@given(st.lists(st.binary(max_size=3000), max_size=6))
def test_a_stream_is_digested_alike_however_it_is_cut(chunks: list[bytes]) -> None:
    assert digest(chunks, extension=None) == digest([b"".join(chunks)], extension=None)


@given(st.text(min_size=1, max_size=300).filter(lambda text: text.isprintable()))
def test_a_name_in_a_header_is_ascii_of_one_line(name: str) -> None:
    value = attachment(name)
    assert value.isascii()
    assert value.isprintable()
    assert value.count('"') == 2
