"""Calls that are made at once instead of in a thread are what a thread would have made of them."""

from __future__ import annotations

import asyncio

import pytest

from tests.support import hops
from tests.support.hops import has_threads, made_at_once
from tests.support.seeds import dice


def test_a_call_gives_its_result_or_what_it_raised_after_others_had_their_turn() -> None:
    told: list[str] = []

    async def other() -> None:
        told.append("other")

    def call(a: str, *, b: str) -> str:
        told.append("call")
        return f"{a} {b}"

    async def both() -> None:
        task = asyncio.create_task(other())
        told.append(await made_at_once(call, "a", b="b"))
        await task
        with pytest.raises(ZeroDivisionError):
            await made_at_once(lambda: 1 / 0)

    asyncio.run(both())
    assert told == ["call", "other", "a b"]


def test_a_call_may_run_a_loop_of_its_own_and_leaves_the_one_around_it() -> None:
    async def inner() -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    async def outer() -> bool:
        around = asyncio.get_running_loop()
        within = await made_at_once(asyncio.run, inner())
        return within is not around and asyncio.get_running_loop() is around

    assert asyncio.run(outer())


def test_a_cancelled_wait_is_too_late_to_stop_the_call() -> None:
    made: list[int] = []

    async def cancelled() -> None:
        task = asyncio.create_task(made_at_once(made.append, 1))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    assert made == [1]


@pytest.mark.threads
def test_who_is_about_threads_has_them(request: pytest.FixtureRequest) -> None:
    assert has_threads(request.node)


@pytest.mark.parametrize("nth", range(3))
def test_another_has_them_by_the_dice_of_the_run(
    request: pytest.FixtureRequest, nth: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert has_threads(request.node) == (hops.IS_WHOLE or dice("threads", request.node.nodeid).randrange(4) == 0)
    monkeypatch.setattr(hops, "IS_WHOLE", True)
    assert has_threads(request.node)
