"""An account is deleted: what is refused, what its transaction does, and that the cascade leaves only a tombstone."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from karma.core.dynamo.failures import ConditionFailed
from karma.core.dynamo.items import bind
from karma.core.dynamo.transaction import Transaction
from karma.core.errors import NotFound, StaleVersion
from karma.core.ids import UserId, new_id
from karma.identity.audit import AuditEntry, AuditEvent
from karma.identity.deletion import SETTLES_AFTER, TOMBSTONE_TTL
from karma.identity.holdings import AccountHolds, Holding, hold, release
from karma.identity.parent import AccountGone, require_account_in, was_deleted
from karma.identity.repository.deletions import DeletionRepository
from karma.identity.repository.items import IdentityItem
from tests.support.accounts import open_account

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


@pytest.fixture
def deletions(stack: Any) -> DeletionRepository:
    bind(IdentityItem, stack.tables["identity"])
    return DeletionRepository()


@pytest.fixture
def user_id(stack: Any, deletions: DeletionRepository) -> UserId:
    return open_account(stack.tables["identity"], email="ada@example.com")


@pytest.fixture
def kinds(stack: Any) -> Callable[[], list[str]]:
    def read() -> list[str]:
        items = stack.aws("dynamodb").scan(TableName=stack.tables["identity"], ConsistentRead=True)["Items"]
        return sorted(item["type"]["S"] for item in items)

    return read


def begin(deletions: DeletionRepository, user_id: UserId) -> None:
    leaving = deletions.leaving(user_id)
    assert leaving is not None
    entry = AuditEntry(user_id=user_id, event=AuditEvent.DELETION_REQUESTED, at=NOW, actor_id=user_id)
    deletions.begin(leaving, entry=entry, due_at=NOW + timedelta(minutes=2))


def committed(*steps: Callable[[Transaction], None]) -> None:
    tx = Transaction()
    for step in steps:
        step(tx)
    tx.commit()


class TestTheTombstone:
    def test_takes_the_place_of_account_and_address(
        self, deletions: DeletionRepository, user_id: UserId, kinds: Callable[[], list[str]]
    ) -> None:
        begin(deletions, user_id)
        assert kinds() == ["account_tombstone", "audit_entry"]
        assert was_deleted(user_id, at=NOW)
        assert not was_deleted(UserId(new_id()), at=NOW)

    def test_lets_nothing_be_hung_on_the_account(self, deletions: DeletionRepository, user_id: UserId) -> None:
        committed(lambda tx: require_account_in(tx, user_id))
        begin(deletions, user_id)
        for hang in (require_account_in, lambda tx, user: hold(tx, user, Holding.AVATAR)):
            with pytest.raises(AccountGone):
                committed(lambda tx, hang=hang: hang(tx, user_id))  # type: ignore[misc]

    def test_is_put_once(self, deletions: DeletionRepository, user_id: UserId) -> None:
        leaving = deletions.leaving(user_id)
        assert leaving is not None
        begin(deletions, user_id)
        entry = AuditEntry(user_id=user_id, event=AuditEvent.DELETION_REQUESTED, at=NOW, actor_id=user_id)
        with pytest.raises(NotFound):
            deletions.begin(leaving, entry=entry, due_at=NOW)

    def test_is_not_put_on_an_account_that_has_changed(
        self, stack: Any, deletions: DeletionRepository, user_id: UserId
    ) -> None:
        leaving = deletions.leaving(user_id)
        assert leaving is not None
        stack.aws("dynamodb").update_item(
            TableName=stack.tables["identity"],
            Key={"pk": {"S": f"USER#{user_id}"}, "sk": {"S": "PROFILE"}},
            UpdateExpression="ADD version :one",
            ExpressionAttributeValues={":one": {"N": "1"}},
        )
        entry = AuditEntry(user_id=user_id, event=AuditEvent.DELETION_REQUESTED, at=NOW, actor_id=user_id)
        with pytest.raises(StaleVersion):
            deletions.begin(leaving, entry=entry, due_at=NOW)
        assert not was_deleted(user_id, at=NOW)

    def test_frees_the_address_at_once(self, stack: Any, deletions: DeletionRepository, user_id: UserId) -> None:
        begin(deletions, user_id)
        again = open_account(stack.tables["identity"], email="ada@example.com")
        begin(deletions, again)
        assert was_deleted(user_id, at=NOW)
        assert was_deleted(again, at=NOW)

    def test_is_believed_for_ninety_days_from_the_request(self, deletions: DeletionRepository, user_id: UserId) -> None:
        begin(deletions, user_id)
        deletions.finish(user_id, at=NOW + SETTLES_AFTER, forget_at=NOW + TOMBSTONE_TTL)
        assert was_deleted(user_id, at=NOW + TOMBSTONE_TTL - timedelta(seconds=1))
        assert not was_deleted(user_id, at=NOW + TOMBSTONE_TTL)


@pytest.mark.req("R-K-23")
class TestAnAccountThatHoldsSomething:
    @pytest.mark.parametrize("kind", Holding)
    def test_is_not_deleted(
        self, deletions: DeletionRepository, user_id: UserId, kind: Holding, kinds: Callable[[], list[str]]
    ) -> None:
        committed(lambda tx: hold(tx, user_id, kind))
        committed(lambda tx: hold(tx, user_id, kind))
        before = kinds()
        with pytest.raises(AccountHolds, match=f"2 {kind}s") as refused:
            begin(deletions, user_id)
        assert refused.value.details == {kind.value: 2}
        assert kinds() == before

    def test_is_told_of_all_it_holds(self, deletions: DeletionRepository, user_id: UserId) -> None:
        for kind in Holding:
            committed(lambda tx, kind=kind: hold(tx, user_id, kind))  # type: ignore[misc]
        with pytest.raises(AccountHolds, match="1 project and 1 avatar"):
            begin(deletions, user_id)

    def test_is_deleted_when_it_holds_nothing_any_more(
        self, deletions: DeletionRepository, user_id: UserId, kinds: Callable[[], list[str]]
    ) -> None:
        committed(lambda tx: hold(tx, user_id, Holding.PROJECT))
        committed(lambda tx: release(tx, user_id, Holding.PROJECT))
        begin(deletions, user_id)
        assert kinds() == ["account_tombstone", "audit_entry"]

    def test_gives_nothing_away_that_it_does_not_hold(self, deletions: DeletionRepository, user_id: UserId) -> None:
        committed(lambda tx: hold(tx, user_id, Holding.PROJECT))
        with pytest.raises(ConditionFailed):
            committed(lambda tx: release(tx, user_id, Holding.AVATAR))


class TestTheListOfWork:
    def test_names_deletions_that_are_due_until_they_are_finished(
        self, deletions: DeletionRepository, user_id: UserId
    ) -> None:
        begin(deletions, user_id)
        assert deletions.due(NOW, limit=10) == []
        (due,) = deletions.due(NOW + timedelta(minutes=3), limit=10)
        assert (due.user_id, due.requested_at, due.attempts) == (user_id, NOW, 0)
        assert deletions.postpone(user_id, due_at=NOW + timedelta(hours=1), waits_for="billing")
        assert deletions.due(NOW + timedelta(minutes=3), limit=10) == []
        deletions.finish(user_id, at=NOW, forget_at=NOW + TOMBSTONE_TTL)
        assert deletions.due(NOW + timedelta(days=1), limit=10) == []
        assert not deletions.postpone(user_id, due_at=NOW, waits_for=None)

    def test_is_not_joined_by_an_account_that_is_there(self, deletions: DeletionRepository, user_id: UserId) -> None:
        assert deletions.get(user_id) is None
        assert not deletions.postpone(user_id, due_at=NOW, waits_for=None)
        deletions.finish(user_id, at=NOW, forget_at=NOW)
        assert deletions.get(user_id) is None
