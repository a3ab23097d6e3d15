"""Links to files: who opens them, when, how often, and what remains of them."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from karma.core.clock import epoch_ms
from karma.core.errors import Conflict, InvalidTransition, NotFound, ValidationFailed
from karma.core.ids import DeviceId, FileId, UserId, new_id
from karma.files.domain import DeviceFile, Digests, FileStatus
from karma.files.entries import Entries
from karma.files.service import FileService
from karma.files.shares import DEFAULT_TIME, MAX_SHARES, MAX_TIME, ShareService
from karma.identity.domain import User
from tests.fakes.devices import FakeClock
from tests.fakes.file_parts import MemoryShares
from tests.fakes.files import MemoryDevices, MemoryFiles, MemoryStore
from tests.support.accounts import account_of
from tests.support.rows import NOW

USER, DEVICE = UserId(new_id()), DeviceId(new_id())


class Owners:
    """The account of the file's owner."""

    def __init__(self) -> None:
        self.account: User | None = account_of(USER)

    def read_user(self, user_id: UserId) -> User | None:
        assert user_id == USER
        return self.account


class World:
    """A device with one ready file."""

    def __init__(self) -> None:
        self.clock, self.store = FakeClock(NOW), MemoryStore()
        self.devices = MemoryDevices({DEVICE: USER})
        self.files = MemoryFiles(self.devices)
        self.shares = MemoryShares(self.files)
        self.owners = Owners()
        entries = Entries(self.files, self.devices, self.clock)
        self.service = ShareService(self.shares, entries, self.owners, self.store, self.clock)
        self.owner = FileService(self.files, self.store, self.devices, self.clock)
        file = DeviceFile(
            id=FileId(new_id()), device_id=DEVICE, user_id=USER, name="<svg>.html", path="/", type="text",
            category="other", size=5, status=FileStatus.UPLOADING, created_at="", modified_at="",
        )  # fmt: skip
        self.files.add(file, reservation=None, directories=(), due=NOW)
        self.uploading = file

    def ready(self) -> FileId:
        verifying = self.files.completed(self.uploading, now=NOW, due=NOW)
        self.files.publish(verifying, Digests(5, "s", "m", "text/html"), now=NOW)
        return self.uploading.id

    def share(self, days: float | None = None, most: int | None = None) -> str:
        ends = NOW + timedelta(days=days) if days is not None else None
        return self.service.create(USER, DEVICE, self.uploading.id, expires_at=ends, max_downloads=most).token

    def opens(self, token: str) -> bool:
        try:
            return self.service.open(token).startswith("memory://")
        except NotFound:
            return False


@pytest.fixture
def world() -> World:
    made = World()
    made.ready()
    return made


def test_a_link_opens_for_a_week_and_counts(world: World) -> None:
    token = world.share()
    assert world.opens(token)
    assert world.opens(token)
    [share] = world.service.list(USER, DEVICE, world.uploading.id)
    assert (share.downloads, epoch_ms(share.expires_at)) == (2, epoch_ms(NOW + DEFAULT_TIME))
    world.clock.moment = NOW + DEFAULT_TIME
    assert not world.opens(token)
    assert world.service.list(USER, DEVICE, world.uploading.id) == []


def test_no_secret_is_stored(world: World) -> None:
    token = world.share()
    assert token not in repr(world.shares.shares)
    assert all(token[-32:] not in str(each) for each in world.shares.shares.values())


def test_a_link_that_is_used_up_opens_no_more(world: World) -> None:
    token = world.share(most=1)
    assert [world.opens(token) for _ in "123"] == [True, False, False]


def test_a_revoked_link_opens_no_more_and_others_do(world: World) -> None:
    first = world.share()
    [share] = world.service.list(USER, DEVICE, world.uploading.id)
    second = world.share()
    world.service.revoke(USER, DEVICE, world.uploading.id, share.id)
    assert (world.opens(first), world.opens(second)) == (False, True)
    with pytest.raises(NotFound):
        world.service.revoke(USER, DEVICE, world.uploading.id, share.id)
    with pytest.raises(NotFound):
        world.service.revoke(USER, DEVICE, world.uploading.id, "../x")


def test_a_link_follows_its_file_and_ends_with_it(world: World) -> None:
    token = world.share()
    world.owner.change(USER, DEVICE, world.uploading.id, {"name": "b.txt", "path": "/new"}, version=None)
    assert "filename=b.txt" in world.service.open(token)
    world.owner.delete(USER, DEVICE, world.uploading.id)
    assert not world.opens(token)


def test_a_link_ends_when_its_maker_has_the_device_no_more(world: World) -> None:
    token = world.share()
    world.devices.owners[DEVICE] = UserId(new_id())
    assert not world.opens(token)


@pytest.mark.parametrize("days", [0, -1, 30.001, 4000])
def test_an_end_in_the_past_or_far_away_is_refused(world: World, days: float) -> None:
    with pytest.raises(ValidationFailed):
        world.share(days)
    assert world.share(MAX_TIME.days)


def test_a_file_has_so_many_links_and_no_more(world: World) -> None:
    for _ in range(MAX_SHARES):
        world.share()
    with pytest.raises(Conflict) as refused:
        world.share()
    assert refused.value.details == {"kind": "share", "limit": MAX_SHARES}


def test_only_a_ready_file_of_ones_own_is_shared() -> None:
    world = World()
    with pytest.raises(InvalidTransition):
        world.share()
    with pytest.raises(NotFound):
        world.service.create(UserId(new_id()), DEVICE, world.ready(), expires_at=None, max_downloads=None)


@given(
    st.text()
    | st.binary(min_size=72, max_size=72).map(lambda raw: __import__("base64").urlsafe_b64encode(raw).decode())
)
def test_what_is_no_link_opens_nothing(token: str) -> None:
    assert not World().opens(token)


def test_a_link_with_another_secret_opens_nothing(world: World) -> None:
    token = world.share()
    forged = token[:-1] + ("A" if token[-1] != "A" else "B")
    assert not world.opens(forged)
    assert world.service.list(USER, DEVICE, world.uploading.id)[0].downloads == 0


@pytest.mark.fault("F-45c")
def test_a_link_opens_nothing_while_its_owner_is_disabled(world: World) -> None:
    token = world.share()
    account = world.owners.account
    assert account is not None
    world.owners.account = replace(account, disabled_at=NOW)
    assert not world.opens(token)
    with pytest.raises(NotFound):
        world.service.look(token)
    world.owners.account = account
    assert world.opens(token)
    world.owners.account = None
    assert not world.opens(token)
