from __future__ import annotations

from collections.abc import Callable

import pytest
from pydantic import ValidationError

from karma.core.errors import Gone, NotFound, StaleVersion
from karma.core.ids import UserId, new_id
from karma.identity.transactional import AccountGone
from karma.nouns.domain import Noun
from karma.nouns.schemas import ChangeNounBody
from karma.nouns.service import NounService
from tests.fakes.identity import MovableClock
from tests.fakes.nouns import MemoryNouns
from tests.support.requests import key

USER = UserId(new_id())


class Interrupted(MemoryNouns):
    """Somebody else does something right before a replacement, once."""

    meanwhile: Callable[[], object] | None = None

    def replace(self, old: Noun, new: Noun) -> None:
        act, self.meanwhile = self.meanwhile, None
        if act is not None:
            act()
        super().replace(old, new)


@pytest.fixture
def store() -> Interrupted:
    return Interrupted()


@pytest.fixture
def nouns(store: Interrupted) -> NounService:
    return NounService(store, MovableClock())


def test_a_change_is_repeated_on_a_newer_version_unless_one_was_named(nouns: NounService, store: Interrupted) -> None:
    made = nouns.create(USER, name="first")
    store.meanwhile = lambda: nouns.change(USER, made.id, {"name": "theirs"})
    with pytest.raises(StaleVersion):
        nouns.change(USER, made.id, {"note": "mine"}, version=1)
    store.meanwhile = lambda: nouns.change(USER, made.id, {"name": "theirs again"})
    mine = nouns.change(USER, made.id, {"note": "mine"})
    assert (mine.name, mine.note, mine.version) == ("theirs again", "mine", 4)
    assert nouns.change(USER, made.id, {"note": "mine"}) == mine
    with pytest.raises(StaleVersion):
        nouns.delete(USER, made.id, version=3)


def test_one_is_made_for_a_request(nouns: NounService) -> None:
    made = nouns.create(USER, name="first", idempotency_key=key("t"))
    assert nouns.create(USER, name="first", idempotency_key=key("t")) == made
    nouns.delete(USER, made.id)
    with pytest.raises(Gone):
        nouns.create(USER, name="first", idempotency_key=key("t"))


def test_none_is_made_for_a_deleted_account(nouns: NounService, store: Interrupted) -> None:
    store.deleted_accounts.add(USER)
    with pytest.raises(AccountGone):
        nouns.create(USER, name="first")


@pytest.mark.parametrize("noun_id", ["", "x", "01994b94-9b20-7e83-b6c4-d2e1f0a98765"])
def test_what_is_missing_is_not_found(nouns: NounService, noun_id: str) -> None:
    other = nouns.create(UserId(new_id()), name="first")
    for missing in (noun_id, other.id):
        for act in (nouns.get, nouns.delete, lambda user, missing: nouns.change(user, missing, {})):
            with pytest.raises(NotFound):
                act(USER, missing)


def test_pages_go_from_the_newest_on(nouns: NounService) -> None:
    made = sorted((nouns.create(USER, name=f"{n}") for n in range(3)), key=lambda noun: noun.id, reverse=True)
    first = nouns.page(USER, below="", limit=2)
    assert (list(first.nouns), first.next_below) == (made[:2], made[1].id)
    rest = nouns.page(USER, below=made[1].id, limit=2)
    assert (list(rest.nouns), rest.next_below) == (made[2:], None)


def test_a_change_says_what_stays() -> None:
    assert ChangeNounBody(note="", version=3).changes() == {"note": ""}
    with pytest.raises(ValidationError):
        ChangeNounBody.model_validate({"name": None})
