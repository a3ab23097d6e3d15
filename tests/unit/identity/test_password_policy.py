"""Passwords that are guessed first are refused, and those made of what is known of the account."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from karma.audit.domain import NOWHERE
from karma.core.errors import ValidationFailed
from karma.identity.domain import Locale
from karma.identity.passwords.policy import require_acceptable
from tests.fakes.accounts import PASSWORD, AccountWorld, caller_of

ADA = ("Ada Lovelace", "ada.lovelace@engines.example")


def refused(password: str, of: tuple[str, ...] = ADA) -> str:
    """Return why a password is refused; "" when it is not."""
    try:
        require_acceptable(password, of=of)
    except ValidationFailed as error:
        details = error.details
    else:
        return ""
    assert isinstance(details, list)
    [entry] = details
    assert entry["field"] == "password"
    assert password not in entry["message"]
    return str(entry["message"])


@pytest.mark.fault("F-21b")
@pytest.mark.parametrize(
    "password",
    ["password", "Password1", "P4ssw0rd!", "12345678", "1q2w3e4r", "qwertyuiop", "iloveyou", "aaaaaaaa", "abcdefgh1",
     "letmein1", "football", "Greenhouse", "19841984", "Summer2026!", "2026-Winter", "Sommer2026!", "Liverpool_99"],
)  # fmt: skip
def test_a_password_that_is_guessed_first_is_refused(password: str) -> None:
    assert "guessed" in refused(password)


@pytest.mark.fault("F-21b")
@pytest.mark.parametrize(
    "password",
    ["Lovelace", "adalovelace", "Ada-Lovelace-1", "ada.lovelace@engines.example", "lovelace99!", "engines-example",
     "KarmaKarma", "karma2026!", "karma-cloud-2026", "karmacloud1!", "karma1234567", "2026.cloud.karma",
     "lovelace-paris-2026", "l0velace2026!", "ADA lovelace karma", "\uff21da Lovelace1"],
)  # fmt: skip
def test_the_account_s_own_words_are_refused(password: str) -> None:
    assert refused(password)


@pytest.mark.fault("F-21b")
@given(
    words=st.lists(st.sampled_from(["ada", "Lovelace", "engines", "KARMA"]), min_size=1, max_size=5),
    number=st.integers(0, 9999),
    at=st.integers(0, 5),
    sign=st.sampled_from(["", "!", "?!", "#"]),
)
@settings(max_examples=20)
def test_no_arrangement_of_own_words_and_a_number_passes(words: list[str], number: int, at: int, sign: str) -> None:
    words.insert(at, str(number))
    for between in ("", "-", "_."):
        assert refused(between.join(words) + sign)


@pytest.mark.fault("F-21b")
@given(
    word=st.sampled_from(["summer", "Winter", "monday", "January", "london", "welcome", "dragon", "liverpool"]),
    year=st.integers(1950, 2049),
    between=st.sampled_from(["", "-", "_", " "]),
    sign=st.sampled_from(["", "!", "!!", "?", "."]),
)
@settings(max_examples=25, deadline=None)
def test_a_common_word_with_a_year_and_signs_is_that_word(word: str, year: int, between: str, sign: str) -> None:
    assert refused(f"{word}{between}{year}{sign}")
    assert refused(f"{sign}{year}{between}{word}")


@pytest.mark.parametrize(
    "password",
    ["correct horse battery", "a better battery", "tr0ub4dor&3", "ada and nine purple engines", "x8!kQ2#mLp",
     "kQ2mLpe8", "grüne Gurke 47", "tulip lamp 7 river", "lovelace eats green bananas",
     "蓝色的马在电池旁边",
     "x" * 20 + "correct horse battery" * 5],
)  # fmt: skip
def test_a_password_that_takes_many_guesses_passes(password: str) -> None:
    assert refused(password) == ""


@pytest.mark.fault("F-21b")
class TestEveryWayToSetAPassword:
    BAD = "password1"

    def test_refuses_and_changes_nothing(self) -> None:
        world = AccountWorld()
        user = world.verified()
        before = dict(world.identities.users)
        world.password_changes.forgot(email=user.email)
        token = world.token_for(user.email)
        for attempt in (
            lambda: world.accounts.sign_up(
                email="eve@example.com", password=self.BAD, name="Eve", locale=Locale.EN, source=NOWHERE
            ),
            lambda: world.accounts.register(email="eve@example.com", password=self.BAD, name="Eve"),
            lambda: world.password_changes.reset(token=token, password=self.BAD, source=NOWHERE),
            lambda: world.password_changes.reset(token=token, password="ada@example", source=NOWHERE),
            lambda: world.password_changes.change(
                caller_of(user), current_password=PASSWORD, password=self.BAD, source=NOWHERE
            ),
        ):
            with pytest.raises(ValidationFailed):
                attempt()
            assert world.identities.users == before
        world.password_changes.reset(token=token, password="a better battery", source=NOWHERE)
