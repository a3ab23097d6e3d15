"""Use cases of avatars over the store in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError

from karma.avatars.answers import avatar_view
from karma.avatars.domain import Avatar, AvatarStatus, NewAvatar
from karma.avatars.schemas import ChangeAvatarBody, CreateAvatarBody
from karma.avatars.service import AvatarService
from karma.core.errors import Gone, InvalidRequest, NotFound, StaleVersion
from karma.core.ids import UserId, new_id
from karma.identity.transactional import AccountGone
from tests.fakes.avatars import MemoryAvatars
from tests.fakes.identity import MovableClock
from tests.support.requests import key

USER = UserId(new_id())
NEW = NewAvatar(name="Fern", role="gardener", abilities={})


class Interrupted(MemoryAvatars):
    """Store in which another request makes a change right before a replacement, once."""

    meanwhile: Callable[[], object] | None = None

    def replace(self, old: Avatar, new: Avatar) -> None:
        act, self.meanwhile = self.meanwhile, None
        if act is not None:
            act()
        super().replace(old, new)


@pytest.fixture
def store() -> Interrupted:
    return Interrupted()


@pytest.fixture
def avatars(store: Interrupted) -> AvatarService:
    return AvatarService(store, MovableClock())


def test_a_change_is_repeated_on_a_newer_version_unless_one_was_named(
    avatars: AvatarService, store: Interrupted
) -> None:
    made = avatars.create(USER, NEW)
    store.meanwhile = lambda: avatars.change(USER, made.id, {"name": "theirs"})
    with pytest.raises(StaleVersion):
        avatars.change(USER, made.id, {"role": "mine"}, version=1)
    store.meanwhile = lambda: avatars.change(USER, made.id, {"name": "theirs again"})
    mine = avatars.change(USER, made.id, {"role": "mine"})
    assert (mine.name, mine.role, mine.version) == ("theirs again", "mine", 4)
    assert avatars.change(USER, made.id, {"role": "mine"}) == mine
    with pytest.raises(StaleVersion):
        avatars.delete(USER, made.id, version=3)


def test_an_avatar_is_made_once_for_a_request(avatars: AvatarService) -> None:
    made = avatars.create(USER, NEW, idempotency_key=key("t"))
    assert avatars.create(USER, NEW, idempotency_key=key("t")) == made
    avatars.delete(USER, made.id)
    with pytest.raises(Gone):
        avatars.create(USER, NEW, idempotency_key=key("t"))


def test_an_avatar_of_a_deleted_account_is_not_made(avatars: AvatarService, store: Interrupted) -> None:
    store.deleted_accounts.add(USER)
    with pytest.raises(AccountGone):
        avatars.create(USER, NEW)


@pytest.mark.parametrize("avatar_id", ["", "x", "01994b94-9b20-7e83-b6c4-d2e1f0a98765"])
def test_what_is_missing_is_not_found(avatars: AvatarService, avatar_id: str) -> None:
    other = avatars.create(UserId(new_id()), NEW)
    for missing in (avatar_id, other.id):
        for act in (avatars.get, avatars.delete, lambda user, missing: avatars.change(user, missing, {})):
            with pytest.raises(NotFound):
                act(USER, missing)


def test_pages_by_number_end_at_a_thousand(avatars: AvatarService) -> None:
    with pytest.raises(InvalidRequest):
        avatars.list(USER, limit=1, offset=1_000)


class TestAPrice:
    @pytest.mark.parametrize(
        ("price", "minor"), [(0, 0), (9.99, 999), (0.29, 29), (1.1, 110), (5, 500), (99_999_999.99, 9_999_999_999)]
    )
    def test_is_kept_in_cents_and_shown_as_it_was_given(self, avatars: AvatarService, price: float, minor: int) -> None:
        made = avatars.create(USER, CreateAvatarBody(name="a", role="b", price=price).new())
        assert (made.price_minor, avatar_view(made)["price"]) == (minor, price)

    @pytest.mark.parametrize("price", [-0.01, 1.001, 1e-9, 100_000_000, float("nan"), float("inf"), True, "1.00"])
    def test_has_two_decimals_at_the_most(self, price: Any) -> None:
        with pytest.raises(ValueError, match="price"):
            CreateAvatarBody(name="a", role="b", price=price)


def test_a_change_says_what_is_removed_and_what_stays() -> None:
    body = ChangeAvatarBody(description=None, price=None, skills=["a", "a"], status=AvatarStatus.WORKING, version=3)
    assert body.changes() == {
        "description": None,
        "price_minor": None,
        "skills": ("a",),
        "status": AvatarStatus.WORKING,
    }
    with pytest.raises(ValidationError) as refused:
        ChangeAvatarBody.model_validate({"name": None, "tools": None, "price": None})
    assert [error["loc"] for error in refused.value.errors()] == [("name",), ("tools",)]
