"""A cursor gives back the position that it was made from, to its own caller only."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from karma.core.cursors import CursorSigner
from karma.core.errors import InvalidRequest

KEYS = {"k1": "a" * 32, "k2": "b" * 32}


@given(st.dictionaries(st.text(max_size=20), st.text(max_size=50) | st.integers(), max_size=5))
def test_a_cursor_gives_back_the_position_it_was_made_from(position: dict[str, object]) -> None:
    signer = CursorSigner(current="k1", keys=KEYS)
    assert signer.decode(signer.encode(position, scope="devices:u1"), scope="devices:u1") == position


def test_a_cursor_of_another_caller_is_refused() -> None:
    signer = CursorSigner(current="k1", keys=KEYS)
    cursor = signer.encode({"pk": "USER#1"}, scope="devices:u1")
    with pytest.raises(InvalidRequest) as failure:
        signer.decode(cursor, scope="devices:u2")
    assert failure.value.code == "INVALID_CURSOR"


def test_a_cursor_signed_before_a_rotation_is_read_until_its_key_is_retired() -> None:
    old = CursorSigner(current="k1", keys=KEYS).encode({"a": 1}, scope="s")
    assert CursorSigner(current="k2", keys=KEYS).decode(old, scope="s") == {"a": 1}
    with pytest.raises(InvalidRequest):
        CursorSigner(current="k2", keys={"k2": KEYS["k2"]}).decode(old, scope="s")


@given(st.text(max_size=100) | st.binary(max_size=60).map(lambda b: b.decode("latin-1")))
def test_no_text_makes_the_reader_fail_in_another_way(text: str) -> None:
    with pytest.raises(InvalidRequest):
        CursorSigner(current="k1", keys=KEYS).decode(text, scope="s")


@given(st.data())
def test_one_changed_character_is_refused(data: st.DataObject) -> None:
    signer = CursorSigner(current="k1", keys=KEYS)
    cursor = signer.encode({"pk": "USER#1", "sk": "DEVICE#9"}, scope="s")
    at = data.draw(st.integers(0, len(cursor) - 2))
    other = data.draw(st.sampled_from("ABCxyz019-_."))
    changed = cursor[:at] + other + cursor[at + 1 :]
    if changed != cursor:
        with pytest.raises(InvalidRequest):
            signer.decode(changed, scope="s")
