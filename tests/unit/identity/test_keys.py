"""Signing keys of a secret: all are accepted, one signs."""

from __future__ import annotations

import pytest

from karma.identity.sessions.signing_keys import KeyRing, KeyRings, KeysUnusable

KEY = "k" * 32


def test_every_kid_is_accepted_and_one_signs() -> None:
    ring = KeyRing.parse({"current": "b", "a": KEY, "b": KEY + "b"})
    assert ring.current == "b"
    assert ring.keys == {"a": KEY, "b": KEY + "b"}


@pytest.mark.parametrize(
    "secret",
    [
        {},
        {"current": "a"},
        {"current": "a", "b": KEY},
        {"current": 1, "a": KEY},
        {"current": "a", "a": "short"},
        {"current": "a", "a": KEY, "b": ""},
    ],
)
def test_a_secret_without_good_keys_stops_the_function(secret: dict[str, object]) -> None:
    with pytest.raises(KeysUnusable) as caught:
        KeyRing.parse(secret)
    assert KEY not in str(caught.value)


def test_a_secret_is_read_once_and_another_one_is_read_again() -> None:
    rings = KeyRings()
    secret: dict[str, object] = {"current": "a", "a": KEY}
    assert rings.of(secret) is rings.of(secret)
    rotated: dict[str, object] = {"current": "b", "a": KEY, "b": KEY}
    assert rings.of(rotated).current == "b"
    with pytest.raises(KeysUnusable):
        rings.of({})
    assert rings.of(secret).current == "a"
