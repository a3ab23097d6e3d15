"""The pieces that are shown of what is told too often."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from karma.tools.pace import paced


def test_the_first_is_shown_at_once_then_the_latest_and_the_last_at_the_end() -> None:
    async def go() -> list[Any]:
        shown: list[Any] = []
        is_second = asyncio.Event()

        def note(content: Any) -> None:
            shown.append(content)
            if len(shown) == 2:
                is_second.set()

        with paced(note, every_s=0.05) as show:
            show({"n": 1})
            assert shown == [{"n": 1}]
            show({"n": 2})
            show({"n": 3})
            await asyncio.wait_for(is_second.wait(), 5)
            show({"n": 4})
            show({"n": 5})
        await asyncio.sleep(0.1)
        return shown

    assert asyncio.run(go()) == [{"n": 1}, {"n": 3}, {"n": 5}]


def test_nothing_is_shown_behind_the_end_of_a_call_that_failed() -> None:
    shown: list[Any] = []

    def fail() -> None:
        with paced(shown.append, every_s=0.02) as show:
            show({"n": 1})
            show({"n": 2})
            raise ValueError("broken")

    async def go() -> None:
        with pytest.raises(ValueError, match="broken"):
            fail()
        await asyncio.sleep(0.05)

    asyncio.run(go())
    assert shown == [{"n": 1}]


def test_a_log_that_fails_between_two_moments_fails_the_next_and_not_the_loop() -> None:
    failures: list[Any] = []

    def show_once(content: Any) -> None:
        if content["n"] > 1:
            raise OSError("no log")

    async def go() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, what: failures.append(what))
        with paced(show_once, every_s=0.02) as show:
            show({"n": 1})
            show({"n": 2})
            await asyncio.sleep(0.06)
            show({"n": 3})

    with pytest.raises(OSError, match="no log"):
        asyncio.run(go())
    assert failures == []
