"""Reads and removals of many items at once, by the functions that may: their roles are held to what is asked here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from infra.catalog import FunctionName
from karma.core.clock import SystemClock
from karma.core.dynamo.tables import bind_names
from karma.core.ids import DeviceId, UserId, new_id
from karma.core.live import Channel
from karma.devices.repository.devices import DeviceRepository
from karma.realtime.channel_repository import ChannelRepository
from karma.search.repository import SearchRepository
from tests.contexts.search import stamped
from tests.support.accounts import open_account
from tests.support.recorded_calls.recorder import at_work
from tests.support.stack import Stack


@contextmanager
def acting(stack: Stack, function: FunctionName) -> Iterator[None]:
    """Call as a function does, with its variables."""
    prepare(stack, function.removeprefix("background."))
    with at_work(function):
        yield


def prepare(stack: Stack, function: str) -> None:
    stack.use(function)
    bind_names(stack.tables)


def indexed(stack: Stack, owner: UserId) -> SearchRepository:
    """Write a row of search as the consumer of events does."""
    prepare(stack, "api")
    open_account(owner)
    prepare(stack, "events")
    rows = SearchRepository()
    assert rows.write(owner, [stamped(owner)], at=SystemClock().now()) == 1
    return rows


def test_tools_of_runs_in_the_background_read_search_and_devices(stack: Stack) -> None:
    owner = UserId(new_id())
    rows = indexed(stack, owner)
    with acting(stack, FunctionName.EXECUTION):
        assert rows.head(owner).changes > 0
        assert len(rows.newest(owner, most=5).rows) == 1
        assert DeviceRepository().among(owner, [DeviceId(new_id())]) == []


def test_the_pusher_asks_who_still_listens(stack: Stack) -> None:
    with acting(stack, FunctionName.PUSHES):
        assert ChannelRepository().still_listening(Channel(new_id(), "device", new_id()), [new_id()]) == set()
