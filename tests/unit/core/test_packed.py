"""Bytes of items that are compressed in the table alone."""

import zlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from karma.conversations.items import MessagesItem
from karma.core.dynamo.items import Item
from karma.core.dynamo.packed import pack, unpack
from karma.runs.items import SegmentItem

LINES = b'{"type":"TEXT_MESSAGE_CONTENT","messageId":"m1","delta":"and so on"}\n' * 200


@given(st.binary(max_size=2_000) | st.binary(max_size=20).map(lambda part: part * 100))
def test_what_is_packed_is_unpacked_to_the_same_and_never_larger_but_by_some_bytes(data: bytes) -> None:
    packed = pack(data)
    assert unpack(packed) == data
    assert len(packed) <= len(data) + 20


@given(st.text(max_size=500).map(str.encode), st.integers(0, 40))
@example(b"0x" + b"xf" * 400, 1)
@example(zlib.compress(b"")[:2] + LINES, 0)
@example("\u00bf\U0010ffff".encode(), 1)
def test_what_an_earlier_release_cut_anywhere_is_read_as_it_is(text: bytes, at: int) -> None:
    assert unpack(text[at:]) == text[at:]


def test_data_that_begin_as_packed_ones_are_told_apart() -> None:
    for data in (b"\xff", b"\xff\xfe", b"x", b"xyz", pack(LINES), pack(pack(LINES))):
        assert unpack(pack(data)) == data


def test_packed_bytes_never_become_more_than_are_packed() -> None:
    most = b" " * 1024 * 1024
    assert unpack(pack(most)) == most
    assert pack(most + b" ") == most + b" "
    with pytest.raises(ValueError, match="more than"):
        unpack(b"\xff" + zlib.compress(most + b" "))


@pytest.mark.parametrize("broken", [pack(LINES)[:-3], b"\xff" + LINES], ids=["cut", "not packed"])
def test_broken_bytes_are_not_taken_for_data(broken: bytes) -> None:
    with pytest.raises(ValueError, match="packed bytes are"):
        unpack(broken)


@pytest.mark.parametrize(
    ("item", "name"),
    [
        (SegmentItem("pk", "sk", writer="w", epoch=1, lease_until_ms=1, events=LINES), "events"),
        (MessagesItem("pk", "sk", messages=LINES), "messages"),
    ],
    ids=["events", "messages"],
)
def test_an_attribute_is_small_in_the_table_and_whole_in_the_process(item: Item, name: str) -> None:
    stored = item.serialize()
    assert len(stored[name]["B"]) < len(LINES) / 10
    assert getattr(Item.from_raw_data(stored), name) == LINES
    assert getattr(Item.from_raw_data({**stored, name: {"B": LINES}}), name) == LINES
