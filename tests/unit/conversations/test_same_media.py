"""A client's copy of a medium is the stored one only if both stand for the same bytes, or for the same file."""

from __future__ import annotations

import base64
import hashlib
from itertools import product
from typing import Any

import pytest

from karma.conversations.copies import is_same_content

BYTES = [b"one", b"two"]
VALUES = [
    *(base64.b64encode(data).decode() for data in BYTES),
    *(f"attachments/{hashlib.sha256(data).hexdigest()}" for data in BYTES),
    "devices/d1/files/f1",
    "devices/d1/files/f2",
]
KINDS = ("data", "file", "url")


def part(kind: str, value: str) -> dict[str, Any]:
    return {"type": "document", "source": {"type": kind, "value": value, "mimeType": "text/plain"}}


def meant(kind: str, value: str) -> object:
    """Return the meaning of a source: bytes, the name of a file, or nothing that can be stored."""
    kept = {f"attachments/{hashlib.sha256(data).hexdigest()}": data for data in BYTES}
    if kind == "file":
        return kept.get(value, value)
    data = value.removeprefix("data:text/plain;base64,")
    if kind == "url" and data == value:
        return None
    try:
        return base64.b64decode(data, validate=True)
    except ValueError:
        return None


@pytest.mark.fault("F-01h")
def test_a_part_is_a_copy_of_a_stored_one_only_if_both_name_the_same_bytes_or_file() -> None:
    stored = [(kind, value) for kind, value in product(("data", "file"), VALUES) if meant(kind, value) is not None]
    given = [*product(KINDS, VALUES), *(("url", f"data:text/plain;base64,{value}") for value in VALUES)]

    wrong = [
        (held, copy)
        for held, copy in product(stored, given)
        if is_same_content([part(*held)], [part(*copy)]) != (meant(*held) == meant(*copy) is not None)
    ]

    assert len(stored) * len(given) > 100
    assert wrong == []


@pytest.mark.fault("F-01h", "F-02e")
def test_all_parts_of_a_copy_may_be_spelled_as_they_were_sent_or_as_they_are_stored() -> None:
    url = "https://example.com/one"
    fetched = {**part("data", VALUES[0]), "url_sha256": hashlib.sha256(url.encode()).hexdigest()}
    named, words = part("file", "devices/d1/files/f1"), "[document devices/d1/files/f1]"
    stored = [{"type": "text", "text": "see"}, fetched, named]
    for medium, file in product((part("url", url), part("data", VALUES[0])), (named, {"type": "text", "text": words})):
        assert is_same_content(stored, [{"type": "text", "text": "see"}, medium, file])
        assert not is_same_content(stored, [{"type": "text", "text": "see"}, file, medium])
        assert not is_same_content(stored, [medium, file])
    assert not is_same_content(words, [named])
    assert not is_same_content([part("data", VALUES[0])], [part("url", url)])
    assert is_same_content("see", [{"type": "text", "text": "see"}])
