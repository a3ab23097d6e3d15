"""A password matches however a keyboard composes its letters."""

from __future__ import annotations

import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from karma.audit.domain import NOWHERE
from karma.core.errors import Unauthenticated, ValidationFailed
from karma.core.ratelimit import LocalBuckets
from karma.identity.domain import MAX_PASSWORD_CHARS, ProfileChange, WrongPassword
from karma.identity.passwords.hashes import DUMMY_HASH, Argon2Passwords
from karma.identity.passwords.policy import require_acceptable
from karma.identity.passwords.spelling import MAX_SPELLED_CHARS, spelled
from karma.identity.schemas import GivenPassword, Password
from karma.identity.sessions.logins import LoginThrottle
from karma.identity.sessions.service import SessionService
from tests.fakes.accounts import AccountWorld, caller_of
from tests.fakes.identity import RING

pytestmark = pytest.mark.fault("F-21e")

EMAIL = "ada@example.com"
COMPOSED = "Käse-Brücke über Fluß 7Q"
SPELLINGS = [
    COMPOSED,
    unicodedata.normalize("NFD", COMPOSED),
    COMPOSED.replace(" ", "\N{NO-BREAK SPACE}"),
    unicodedata.normalize("NFD", COMPOSED).replace(" ", "\N{IDEOGRAPHIC SPACE}"),
]
FULL_WIDTH = COMPOSED.replace("7", "\N{FULLWIDTH DIGIT SEVEN}")
OTHERS = [COMPOSED.swapcase(), f" {COMPOSED}", FULL_WIDTH, COMPOSED.replace("ü", "u")]
texts = st.text(st.characters(codec="utf-8"), max_size=40)


def sessions(world: AccountWorld) -> SessionService:
    return SessionService(
        accounts=world.identities,
        sessions=world.identities,
        throttle=LoginThrottle(buckets=LocalBuckets(), networks=world.identities, clock=world.clock),
        passwords=world.passwords,
        dummy_hash="now:nobody's",
        key_ring=lambda: RING,
        clock=world.clock,
        on_change=world.changed.append,
    )


class TestTheOneSpelling:
    @given(text=texts)
    def test_is_that_of_every_equivalent_text(self, text: str) -> None:
        one = spelled(text)
        assert spelled(one) == one
        assert {spelled(unicodedata.normalize(form, text)) for form in ("NFC", "NFD")} == {one}
        assert len(unicodedata.normalize("NFD", one)) <= 4 * len(one) <= len(one) * MAX_SPELLED_CHARS

    @pytest.mark.parametrize("other", OTHERS)
    def test_leaves_apart_what_looks_different(self, other: str) -> None:
        assert spelled(other) != COMPOSED

    @pytest.mark.parametrize("text", SPELLINGS)
    def test_is_composed_with_ascii_spaces(self, text: str) -> None:
        assert spelled(text) == COMPOSED


@pytest.mark.parametrize("first", SPELLINGS[:2])
@pytest.mark.parametrize("then", SPELLINGS)
class TestEveryUse:
    def test_takes_any_spelling(self, first: str, then: str) -> None:
        world = AccountWorld()
        user = world.accounts.register(email=EMAIL, password=first, name="Ada")
        sessions(world).log_in(email=EMAIL, password=then, source=NOWHERE)
        world.accounts.change_profile(
            caller_of(user), ProfileChange(email="new@example.com", current_password=then), source=NOWHERE
        )
        world.password_changes.change(caller_of(user), current_password=then, password=f"{first}!", source=NOWHERE)
        sessions(world).log_in(email=EMAIL, password=f"{then}!", source=NOWHERE)
        world.clock.pass_(seconds=1)
        world.password_changes.forgot(email=EMAIL)
        world.password_changes.reset(token=world.token_for(EMAIL), password=then, source=NOWHERE)
        sessions(world).log_in(email=EMAIL, password=first, source=NOWHERE)

    def test_refuses_another_password(self, first: str, then: str) -> None:
        world = AccountWorld()
        user = world.accounts.register(email=EMAIL, password=first, name="Ada")
        with pytest.raises(Unauthenticated):
            sessions(world).log_in(email=EMAIL, password=f" {then}", source=NOWHERE)
        with pytest.raises(WrongPassword):
            world.password_changes.change(
                caller_of(user), current_password=then.swapcase(), password=first, source=NOWHERE
            )


class TestHashes:
    passwords = Argon2Passwords()

    def test_are_of_the_one_spelling(self) -> None:
        made = self.passwords.hash(SPELLINGS[3])
        assert self.passwords.verify(made, COMPOSED)
        assert self.passwords.verify(made, SPELLINGS[1])
        assert not self.passwords.outdated(made, SPELLINGS[1])
        assert not self.passwords.verify(made, FULL_WIDTH)

    def test_of_a_text_as_it_was_typed_verify_and_are_made_again(self) -> None:
        typed = SPELLINGS[1]
        old = self.passwords._hasher.hash(typed)
        assert self.passwords.verify(old, typed)
        assert self.passwords.outdated(old, typed)
        assert not self.passwords.verify(old, f"{typed}!")

    def test_of_before_are_renewed_by_a_login_for_every_spelling(self) -> None:
        world = AccountWorld()
        user = world.register()
        world.identities._change(user.id, password_hash=f"now:{SPELLINGS[1]}")
        with pytest.raises(Unauthenticated):
            sessions(world).log_in(email=EMAIL, password=COMPOSED, source=NOWHERE)
        sessions(world).log_in(email=EMAIL, password=SPELLINGS[1], source=NOWHERE)
        for each in SPELLINGS:
            sessions(world).log_in(email=EMAIL, password=each, source=NOWHERE)
        assert world.identities.users[user.id].password_hash == f"now:{COMPOSED}"

    @pytest.mark.parametrize(("typed", "hashes"), [("plain ascii", 1), (COMPOSED, 1), (SPELLINGS[1], 2)])
    def test_cost_a_wrong_password_the_same_with_an_account_and_without(self, typed: str, hashes: int) -> None:
        class Counting(Argon2Passwords):
            made = 0

            def _made(self, password_hash: str, text: str) -> bool:
                self.made += 1
                return super()._made(password_hash, text)

        right = self.passwords.hash("another one")
        for password_hash in (right, DUMMY_HASH):
            counting = Counting()
            assert not counting.verify(password_hash, typed)
            assert counting.made == hashes


class TestJudgement:
    @pytest.mark.parametrize("form", ["NFC", "NFD"])
    @pytest.mark.parametrize("text", ["Zoë Müller 1", "äxqz1234", "éclair12!", COMPOSED])
    def test_is_the_same_for_every_spelling(self, text: str, form: Any) -> None:
        def judged(password: str) -> str:
            try:
                require_acceptable(password, of=("Zoë Müller", EMAIL))
            except ValidationFailed as refused:
                return str(refused.details)
            return "fine"

        assert judged(unicodedata.normalize(form, text)) == judged(text)
        assert (judged(text) == "fine") is (text == COMPOSED)

    @pytest.mark.parametrize("chars", [7, 8, MAX_PASSWORD_CHARS, MAX_PASSWORD_CHARS + 1])
    @pytest.mark.parametrize("letter", ["a", "ä", "ᾯ"])
    @pytest.mark.parametrize("form", ["NFC", "NFD"])
    def test_counts_composed_characters_of_a_new_password(self, chars: int, letter: str, form: Any) -> None:
        text = unicodedata.normalize(form, letter * chars)
        try:
            TypeAdapter(Password).validate_python(text)
        except ValidationError:
            assert not 8 <= chars <= MAX_PASSWORD_CHARS
        else:
            assert 8 <= chars <= MAX_PASSWORD_CHARS
            TypeAdapter(GivenPassword).validate_python(text)
