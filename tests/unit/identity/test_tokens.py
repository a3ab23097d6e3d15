"""Access tokens that we signed name their user; all others are refused in one way."""

from __future__ import annotations

import base64
import json
from datetime import timedelta
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from karma.core.errors import Unauthenticated
from karma.core.ids import UserId, new_id
from karma.identity.sessions import tokens
from karma.identity.sessions.signing_keys import KeyRing
from tests.fakes.identity import RING, MovableClock

NOW = MovableClock().now()
USER = UserId(new_id())


def signed(
    claims: dict[str, Any], *, kid: str | None = "k2", key: str = RING.keys["k2"], algorithm: str = "HS256"
) -> str:
    defaults = {"iss": "karma", "sub": USER, "iat": int(NOW.timestamp()), "exp": int(NOW.timestamp()) + 60}
    claims = {name: value for name, value in {**defaults, **claims}.items() if value is not None}
    return jwt.encode(claims, key, algorithm=algorithm, headers={"kid": kid} if kid else None)


def assert_refused(token: str) -> None:
    with pytest.raises(Unauthenticated) as caught:
        tokens.Verifier().verify(token, ring=RING, now=NOW)
    assert caught.value.message == "Invalid authentication credentials"
    assert caught.value.headers == {"WWW-Authenticate": "Bearer"}


@pytest.mark.req("R-K-32", "R-K-33")
class TestATokenOfOurs:
    @pytest.mark.req("R-A-31")
    def test_names_its_user_for_thirty_minutes(self) -> None:
        token = tokens.issue(USER, ring=RING, now=NOW)
        assert tokens.Verifier().verify(token, ring=RING, now=NOW + timedelta(minutes=29, seconds=59)).user_id == USER
        with pytest.raises(Unauthenticated):
            tokens.Verifier().verify(token, ring=RING, now=NOW + timedelta(minutes=30))

    def test_that_is_known_still_dies_with_its_time_and_its_key(self) -> None:
        verifier = tokens.Verifier()
        token = tokens.issue(USER, ring=RING, now=NOW)
        for _ in range(2):
            assert verifier.verify(token, ring=RING, now=NOW)[:2] == (USER, NOW)
        for ring, now in (
            (RING, NOW + timedelta(minutes=30)),
            (KeyRing(current="k1", keys={"k1": RING.keys["k1"]}), NOW),
            (KeyRing(current="k2", keys={"k2": "another-key-under-the-same-name-as-before"}), NOW),
        ):
            with pytest.raises(Unauthenticated):
                verifier.verify(token, ring=ring, now=now)

    def test_names_the_key_that_signed_it(self) -> None:
        assert jwt.get_unverified_header(tokens.issue(USER, ring=RING, now=NOW)) == {
            "alg": "HS256",
            "kid": "k2",
            "typ": "JWT",
        }

    def test_outlives_a_rotation_of_the_key(self) -> None:
        old = KeyRing(current="k1", keys=RING.keys)
        assert tokens.Verifier().verify(tokens.issue(USER, ring=old, now=NOW), ring=RING, now=NOW).user_id == USER

    def test_dies_with_its_key(self) -> None:
        token = tokens.issue(USER, ring=KeyRing(current="k1", keys=RING.keys), now=NOW)
        with pytest.raises(Unauthenticated):
            tokens.Verifier().verify(token, ring=KeyRing(current="k2", keys={"k2": RING.keys["k2"]}), now=NOW)


@pytest.mark.req("R-K-32", "R-A-32")
class TestAForeignToken:
    @pytest.mark.parametrize(
        "token",
        [
            pytest.param("", id="empty"),
            pytest.param("a.b.c", id="not base64"),
            pytest.param("x" * 5000, id="too long"),
            pytest.param("é.é.é", id="not ascii"),
            pytest.param(signed({}, kid=None), id="no kid"),
            pytest.param(signed({}, kid="k9"), id="unknown kid"),
            pytest.param(signed({}, kid="k1"), id="kid of another key"),
            pytest.param(signed({}, key="somebody-else's-key-somebody-else's"), id="wrong key"),
            pytest.param(signed({}, algorithm="HS512", key=RING.keys["k2"] * 2), id="other algorithm"),
            pytest.param(signed({"sub": None}), id="no sub"),
            pytest.param(signed({"sub": "someone"}), id="sub is no id"),
            pytest.param(signed({"exp": None}), id="no exp"),
            pytest.param(signed({"iat": None}), id="no iat"),
            pytest.param(signed({"exp": int(NOW.timestamp()) - 1}), id="expired"),
            pytest.param(signed({"iat": int(NOW.timestamp()) + 60}), id="issued in the future"),
            pytest.param(signed({"nbf": int(NOW.timestamp()) + 60}), id="not before the future"),
            pytest.param(signed({"exp": True}), id="exp is a boolean"),
            pytest.param(signed({"exp": "soon"}), id="exp is text"),
            pytest.param(signed({"iss": "other"}), id="other issuer"),
        ],
    )
    def test_is_refused_in_one_way(self, token: str) -> None:
        assert_refused(token)

    @pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "nOnE"])
    def test_without_a_signature_is_refused(self, algorithm: str) -> None:
        def part(value: dict[str, object]) -> str:
            return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

        claims = {"iss": "karma", "sub": USER, "iat": int(NOW.timestamp()), "exp": int(NOW.timestamp()) + 60}
        for kid in ({}, {"kid": "k2"}):
            assert_refused(f"{part({'alg': algorithm, 'typ': 'JWT', **kid})}.{part(claims)}.")

    def test_with_a_header_nested_too_deep_is_refused(self) -> None:
        deep = base64.urlsafe_b64encode(b"[" * 1400).rstrip(b"=").decode()
        assert_refused(f"{deep}.e30.e30")

    @given(st.text(max_size=300))
    def test_of_any_text_is_refused(self, text: str) -> None:
        assert_refused(text)

    @given(st.integers(min_value=0), st.integers(min_value=1, max_value=255))
    def test_that_was_altered_is_refused(self, position: int, change: int) -> None:
        token = bytearray(tokens.issue(USER, ring=RING, now=NOW).encode())
        # The last character of a part carries unused bits: altering those leaves the same bytes.
        index = position % (len(token) - 1)
        token[index] ^= change
        altered = token.decode("latin-1")
        try:
            assert tokens.Verifier().verify(altered, ring=RING, now=NOW).user_id == USER
        except Unauthenticated:
            return
        head, claims, signature = altered.split(".")
        original = tokens.issue(USER, ring=RING, now=NOW).split(".")
        assert [_bytes(head), _bytes(claims), _bytes(signature)] == [_bytes(part) for part in original]


def _bytes(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
