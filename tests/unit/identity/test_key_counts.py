"""The limit of API keys counts exactly the keys of an account that can be used, and each of them is listed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from karma.audit.domain import NOWHERE
from karma.core.errors import StaleVersion, ValidationFailed
from karma.core.ids import UserId
from karma.identity.api_keys import service as module
from karma.identity.api_keys.service import NewApiKey
from karma.identity.domain import ApiKey, Caller
from tests.fakes.identity import MemoryIdentities
from tests.unit.identity.test_ended_sessions import World

pytestmark = pytest.mark.fault("F-21f")
MOST, KEPT = 4, 3
STEPS = ["make one for a second", "make one for a day", "make one for a year", "revoke", "end all", "reset", "wait"]


def make(world: World, caller: Caller, days: float = 1) -> NewApiKey:
    ends_at = world.clock.now() + timedelta(days=days)
    return world.api_keys.create_api_key(caller, name="k", scopes=frozenset({"*"}), expires_at=ends_at, source=NOWHERE)


def enter(world: World) -> Caller:
    world.act("log in")
    return world.callers[-1][0]


@pytest.fixture(autouse=True, scope="module")
def few() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MAX_API_KEYS", MOST)
        patch.setattr(module, "MAX_KEPT", KEPT)
        yield


@given(steps=st.lists(st.sampled_from(STEPS), max_size=24))
def test_exactly_the_keys_that_can_be_used_count_and_each_is_listed(steps: list[str]) -> None:
    world = World()
    usable: dict[str, float] = {}  # by key, when it ends
    for step in steps:
        caller, now = enter(world), world.clock.now().timestamp()
        usable = {key: ends for key, ends in usable.items() if ends > now}
        match step:
            case "revoke" if usable:
                key = min(usable)
                usable.pop(key)
                world.api_keys.revoke_api_key(caller, key, source=NOWHERE)
            case "end all" | "reset":
                world.act("log out with keys" if step == "end all" else step)
                usable = {}
            case "wait":
                world.clock.pass_(days=2)
            case _ if step.startswith("make"):
                days = 365 if step.endswith("year") else 1 if step.endswith("day") else 1 / 86400
                if len(usable) == MOST:
                    with pytest.raises(ValidationFailed) as full:
                        make(world, caller, days)
                    assert "at most 4 API keys that can be used" in str(full.value.details)
                else:
                    made = make(world, caller, days)
                    assert made.key.expires_at is not None
                    usable[made.key.id] = made.key.expires_at.timestamp()
        listed = {key.id for key in world.api_keys.list_api_keys(enter(world))}
        now = world.clock.now().timestamp()
        assert {key for key, ends in usable.items() if ends > now} <= listed
        assert len(world.identities.keys) <= MOST + KEPT + MOST, "what is over is not kept without end"


@dataclass
class Contended(MemoryIdentities):
    """Store in which another request makes a key after the keys were read, so many times."""

    others: list[ApiKey] = field(default_factory=list)

    def list_api_keys(self, user_id: UserId) -> list[ApiKey]:
        found = [*super().list_api_keys(user_id)]
        if self.others:
            other = self.others.pop()
            self.keys[other.id] = other
            self.made[user_id] = self.made.get(user_id, 0) + 1
        return found


@pytest.mark.parametrize("before", range(MOST + 1))
@pytest.mark.parametrize("others", range(6))
def test_requests_at_one_moment_make_no_more_than_there_is_room_for(before: int, others: int) -> None:
    world, spare = World(), World()
    caller = enter(world)
    for _ in range(before):
        make(world, caller)
    contended = Contended(users=world.identities.users, sessions=world.identities.sessions, keys=world.identities.keys)
    contended.made = world.identities.made
    room = MOST - before
    for _ in range(min(others, room)):
        key = make(spare, enter(spare)).key
        contended.others.append(ApiKey(**{**vars(key), "user_id": caller.user_id}))
    world.api_keys._api_keys = contended
    with contextlib.suppress(ValidationFailed, StaleVersion):
        make(world, caller)
    assert len(contended.keys) == min(MOST, before + min(others, room) + 1)
