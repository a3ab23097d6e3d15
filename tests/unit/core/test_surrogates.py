"""A lone surrogate in JSON is read as U+FFFD; pairs of surrogates, and all other characters, stay as they are."""

import json
from itertools import pairwise

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from karma.core import surrogates

pytestmark = pytest.mark.fault("F-03a")

# Drawn apart: among all characters there would be none in a hundred texts.
HALVES = st.text(st.characters(categories=["Cs"]), min_size=1, max_size=3)
ANY_TEXT = st.lists(st.text(max_size=5) | HALVES, max_size=4).map("".join)


@given(st.recursive(ANY_TEXT, lambda inner: st.lists(inner) | st.dictionaries(ANY_TEXT, inner), max_leaves=8))
def test_any_json_is_read_with_lone_surrogates_replaced(value: object) -> None:
    written = json.dumps(value)

    read = surrogates.loads(written)

    expected = json.loads(written.encode(), object_pairs_hook=lambda pairs: {mended(k): v for k, v in pairs})
    assert read == each_mended(expected)
    orjson.dumps(read)


def mended(text: str) -> str:
    return "".join("\ufffd" if "\ud800" <= char <= "\udfff" else char for char in text)


def each_mended(value: object) -> object:
    if isinstance(value, str):
        return mended(value)
    if isinstance(value, list):
        return [each_mended(each) for each in value]
    if isinstance(value, dict):
        return {name: each_mended(each) for name, each in value.items()}
    return value


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (rb'"\ud83d\ude00"', "\U0001f600"),
        (rb'"\ud83d"', "\ufffd"),
        (rb'"\ude00\ud83d"', "\ufffd\ufffd"),
        (rb'"\ud83d\ud83d\ude00"', "\ufffd\U0001f600"),
        (rb'"\\ud83d"', r"\ud83d"),
        (rb'"\\\ud83d\""', '\\\ufffd"'),
    ],
)
def test_only_lone_surrogates_are_replaced(written: bytes, read: str) -> None:
    assert surrogates.loads(b"[" + written + rb',"\ud800"]') == [read, "\ufffd"]


@pytest.mark.parametrize("broken", [b"", b'"\\ud800', b"{", b"NaN", b'"\xed\xa0\x80"', b'"\\ud8"'])
def test_a_text_that_is_no_json_is_refused(broken: bytes) -> None:
    with pytest.raises(orjson.JSONDecodeError):
        surrogates.loads(broken)


def halves(text: str) -> str:
    """Write a text as UTF-16 has it: each character beyond 16 bits as two halves."""
    return "".join(map(chr, memoryview(text.encode("utf-16", "surrogatepass")[2:]).cast("H")))


def cut(text: str, data: st.DataObject) -> list[str]:
    """Cut a text into pieces anywhere, also within a character."""
    units = halves(text)
    places = data.draw(st.lists(st.integers(0, len(units)), max_size=6).map(sorted))
    return [units[a:b] for a, b in pairwise([0, *places, len(units)])]


@pytest.mark.fault("F-03d")
@given(ANY_TEXT, st.data())
def test_the_pieces_of_a_text_that_was_cut_anywhere_are_joined_without_loss(text: str, data: st.DataObject) -> None:
    joiner = surrogates.Joiner()

    told = [joiner.add(piece) for piece in cut(text, data)] + [joiner.end()]

    assert "".join(told) == mended(as_joined(text))
    "".join(told).encode()
    assert all(each == surrogates.whole(each) for each in told), "no piece holds half a character"


def as_joined(text: str) -> str:
    """Return the text with halves that stand beside each other as one character."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")


@pytest.mark.fault("F-03d")
@given(st.recursive(ANY_TEXT, lambda inner: st.lists(inner) | st.dictionaries(ANY_TEXT, inner), max_leaves=8))
def test_pieces_are_read_with_their_halves(value: object) -> None:
    written = json.dumps(value).encode()

    read = surrogates.loads_in_pieces(written)

    assert read == json.loads(written)
    orjson.dumps(surrogates.whole(read))


@pytest.mark.fault("F-03d")
@pytest.mark.parametrize("broken", [b"", b'"\\ud800', b"{", b'[NaN,"\\ud800"]', b'"\xed\xa0\x80"', b'"\\ud8"'])
def test_pieces_that_are_no_json_are_refused(broken: bytes) -> None:
    with pytest.raises(orjson.JSONDecodeError):
        surrogates.loads_in_pieces(broken)
