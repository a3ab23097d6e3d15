"""The request that deletes an account, and the cascade that removes its data."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import pytest

import karma
from background import deletion
from karma.audit.domain import NOWHERE, AuditEntry, AuditEvent
from karma.core.errors import Forbidden, NotFound, Upstream, ValidationFailed
from karma.core.ids import UserId, new_id
from karma.core.purge import PurgeAttempt, PurgeStep, offered
from karma.core.ratelimit import LocalBuckets
from karma.identity.accounts.deletion import (
    DUE_AFTER,
    SETTLES_AFTER,
    AccountDeletion,
    AdministratorStays,
    Cascade,
    Deletion,
    Leaving,
    requeue_due,
)
from karma.identity.confirmation import ProofMissing
from karma.identity.domain import Caller, Credential, Role, WrongPassword
from tests.fakes.identity import CountingPasswords, MovableClock

USER = UserId(new_id())


@dataclass
class MemoryDeletions:
    """Tombstones in dictionaries, as DeletionRepository stores them."""

    accounts: dict[UserId, Leaving] = field(default_factory=dict)
    deletions: dict[UserId, Deletion] = field(default_factory=dict)
    due_at: dict[UserId, datetime] = field(default_factory=dict)
    waits_for: dict[UserId, str] = field(default_factory=dict)
    entries: list[AuditEntry] = field(default_factory=list)

    def leaving(self, user_id: UserId) -> Leaving | None:
        return self.accounts.get(user_id)

    def begin(self, leaving: Leaving, *, by: Credential | None = None, entry: AuditEntry, due_at: datetime) -> None:
        del self.accounts[leaving.user_id]
        self.entries.append(entry)
        self.due_at[leaving.user_id] = due_at
        self.deletions[leaving.user_id] = Deletion(
            user_id=leaving.user_id, requested_at=entry.at, finished_at=None, attempts=0
        )

    def get(self, user_id: UserId) -> Deletion | None:
        return self.deletions.get(user_id)

    def due(self, before: datetime, *, limit: int) -> Sequence[Deletion]:
        late = [each for each in self.deletions.values() if each.user_id in self.due_at]
        return [each for each in late if self.due_at[each.user_id] < before][:limit]

    def postpone(self, user_id: UserId, *, due_at: datetime, waits_for: str | None) -> bool:
        found = self.deletions.get(user_id)
        if found is None or found.finished_at is not None:
            return False
        self.deletions[user_id] = replace(found, attempts=found.attempts + 1)
        self.due_at[user_id] = due_at
        if waits_for is not None:
            self.waits_for[user_id] = waits_for
        return True

    def finish(self, user_id: UserId, *, at: datetime, forget_at: datetime) -> None:
        self.deletions[user_id] = replace(self.deletions[user_id], finished_at=at)
        self.due_at.pop(user_id)


@dataclass
class DelayedQueue:
    """A queue that stores messages with their delay."""

    sent: list[tuple[str, int]] = field(default_factory=list)
    down: bool = False

    def send(self, body: str, *, delay_s: int = 0) -> None:
        if self.down:
            raise Upstream("The queue did not answer; try again")
        self.sent.append((body, delay_s))


@dataclass
class Ordered:
    """A step that takes as many rounds as it is told, or fails."""

    name: str
    log: list[str]
    goes: int = 0
    fails: Exception | None = None
    needs_settled: bool = False

    def purge_account(self, purge: PurgeAttempt) -> bool:
        self.log.append(self.name)
        if self.fails is not None:
            raise self.fails
        self.goes -= 1
        return self.goes < 0 and (purge.settled or not self.needs_settled)


@dataclass
class World:
    deletions: MemoryDeletions = field(default_factory=MemoryDeletions)
    queue: DelayedQueue = field(default_factory=DelayedQueue)
    clock: MovableClock = field(default_factory=MovableClock)
    buckets: LocalBuckets = field(default_factory=LocalBuckets)
    forgotten: list[UserId] = field(default_factory=list)
    log: list[str] = field(default_factory=list)

    def account(self, **changes: Any) -> None:
        leaving = Leaving(
            user_id=USER,
            email="ada@example.com",
            role=Role.USER,
            password_hash="now:secret words",
            disabled_at=None,
            sessions_from=None,
            version=3,
        )
        self.deletions.accounts[USER] = replace(leaving, **changes)

    def request(self, password: str | None = "secret words", **caller: Any) -> Deletion:
        service = AccountDeletion(
            deletions=self.deletions,
            passwords=CountingPasswords(),
            buckets=self.buckets,
            queue=self.queue,
            clock=self.clock,
            on_change=self.forgotten.append,
        )
        who = Caller(
            user_id=USER,
            role=Role.USER,
            method="jwt",
            scopes=frozenset(),
            email_verified=True,
            name="Ada",
            avatar=None,
        )
        return service.request(replace(who, **caller), current_password=password, source=NOWHERE)

    def step(self, name: str, **how: Any) -> Ordered:
        return Ordered(name, self.log, **how)

    def cascade(self, *steps: Ordered) -> Cascade:
        return Cascade(steps, deletions=self.deletions, queue=self.queue, clock=self.clock)


@pytest.fixture
def world() -> World:
    return World()


class TestARequest:
    def test_leaves_a_tombstone_an_entry_and_a_message(self, world: World) -> None:
        world.account()
        deletion = world.request()
        assert deletion.requested_at == world.clock.at
        assert world.deletions.accounts == {}
        assert [entry.event for entry in world.deletions.entries] == [AuditEvent.DELETION_REQUESTED]
        assert world.queue.sent == [(USER, 0)]
        assert world.forgotten == [USER]

    def test_is_left_for_the_sweep_when_the_queue_is_down(self, world: World) -> None:
        world.account()
        world.queue.down = True
        world.request()
        world.queue.down = False
        assert requeue_due(world.deletions, world.queue, world.clock) == 0
        world.clock.at += DUE_AFTER + timedelta(seconds=1)
        assert requeue_due(world.deletions, world.queue, world.clock) == 1
        assert world.queue.sent == [(USER, 0)]

    def test_is_refused_to_an_api_key(self, world: World) -> None:
        world.account()
        with pytest.raises(Forbidden, match="an API key cannot"):
            world.request(method="api_key")
        assert USER in world.deletions.accounts

    @pytest.mark.parametrize(("password", "refusal"), [(None, ValidationFailed), ("wrong words", WrongPassword)])
    def test_needs_the_password(self, world: World, password: str | None, refusal: type[Exception]) -> None:
        world.account()
        with pytest.raises(refusal):
            world.request(password)
        assert USER in world.deletions.accounts

    def test_needs_a_new_login_without_a_password(self, world: World) -> None:
        world.account(password_hash=None)
        with pytest.raises(ProofMissing, match="log in again"):
            world.request(None)
        for minutes in (11, 9):
            session = Credential(
                user_id=USER, session_id=new_id(), began_at=world.clock.at - timedelta(minutes=minutes)
            )
            if minutes > 10:
                with pytest.raises(ProofMissing, match="log in again"):
                    world.request(None, credential=session)
        world.request(None, credential=session)

    def test_is_refused_to_administrators(self, world: World) -> None:
        world.account(role=Role.ADMIN)
        with pytest.raises(AdministratorStays):
            world.request()
        assert USER in world.deletions.accounts

    def test_of_an_account_that_is_gone_finds_none(self, world: World) -> None:
        with pytest.raises(NotFound):
            world.request()


class TestTheCascade:
    @pytest.fixture
    def requested(self, world: World) -> World:
        world.account()
        world.request()
        world.queue.sent.clear()
        return world

    def test_goes_through_all_steps_and_once_more_when_nothing_can_write_any_more(self, requested: World) -> None:
        cascade = requested.cascade(requested.step("a"), requested.step("b", needs_settled=True))
        assert not cascade.advance(USER)
        assert requested.deletions.waits_for[USER] == "b"
        assert requested.queue.sent == [(USER, 30)]
        requested.clock.at += SETTLES_AFTER
        assert cascade.advance(USER)
        assert requested.log == ["a", "b", "a", "b"]
        assert requested.deletions.due_at == {}

    def test_has_an_end_only_after_it_has_settled(self, requested: World) -> None:
        assert not requested.cascade(requested.step("a")).advance(USER)
        assert requested.deletions.waits_for[USER] == "settling"

    def test_looks_again_when_it_has_settled_and_not_later(self, requested: World) -> None:
        cascade = requested.cascade(requested.step("a"))
        requested.clock.at += SETTLES_AFTER - timedelta(seconds=10)
        assert not cascade.advance(USER)
        assert requested.queue.sent == [(USER, 10)]

    def test_asks_less_and_less_often_for_what_is_held_up_elsewhere(self, requested: World) -> None:
        requested.clock.at += SETTLES_AFTER
        cascade = requested.cascade(requested.step("a", fails=Upstream("away")), requested.step("b"))
        for _ in range(7):
            assert not cascade.advance(USER)
        assert [delay for _, delay in requested.queue.sent] == [30, 60, 120, 240, 480, 900, 900]
        assert requested.log.count("b") == 7

    def test_lets_the_other_steps_go_on_beside_a_bug_and_tells_of_it(self, requested: World) -> None:
        requested.clock.at += SETTLES_AFTER
        cascade = requested.cascade(requested.step("a", fails=ZeroDivisionError()), requested.step("b"))
        with pytest.raises(ZeroDivisionError):
            cascade.advance(USER)
        assert requested.log == ["a", "b"]
        assert requested.deletions.deletions[USER].finished_at is None

    def test_goes_on_at_once_when_its_time_was_over(self, requested: World, monkeypatch: pytest.MonkeyPatch) -> None:
        late: Callable[[PurgeAttempt], bool] = lambda _: True  # noqa: E731
        monkeypatch.setattr(PurgeAttempt, "over", late)
        requested.cascade(requested.step("a", goes=1)).advance(USER)
        assert requested.queue.sent == [(USER, 0)]

    def test_has_nothing_to_do_for_others(self, world: World) -> None:
        world.account()
        assert world.cascade(world.step("a")).advance(USER)
        assert world.log == []

    def test_is_over_once(self, requested: World) -> None:
        requested.clock.at += SETTLES_AFTER
        cascade = requested.cascade(requested.step("a"))
        assert cascade.advance(USER)
        assert cascade.advance(USER)
        assert requested.log == ["a"]


def test_everything_that_removes_what_is_left_of_an_account_is_a_step_once() -> None:
    names = [found.name for found in pkgutil.walk_packages(karma.__path__, "karma.")]
    modules = [importlib.import_module(name) for name in names if not name.endswith("__main__")]
    classes = {kind for module in modules for _, kind in inspect.getmembers(module, inspect.isclass)} - {PurgeStep}
    removing = {kind for kind in classes if hasattr(kind, "purge_account")}
    written = removing & {kind for _, kind in inspect.getmembers(deletion, inspect.isclass)}
    found = [type(step) for step in offered()]

    assert {*found, *written} == removing
    assert len(found) == len(removing - written), "a step is found, or stands in functions/background/deletion.py"
