"""Blocking calls of the code under test without a thread for each: most of a run's time goes by in such hops.

`asyncio.to_thread` hands a call to a thread, wakes the loop by a socket when it is done, and begins the threads of each
loop anew. A store in memory answers sooner than a thread hears of the question. So of the tests whose store is one, a
quarter has the threads, chosen by the run's dice (seeds.py), all of them with THREADS=all, and in each run those that
are about threads: `@pytest.mark.threads`, or the fixture `no_blocking_calls`, which looks at what the loop's own thread
does. For the others a call is made at once, and who awaits it goes on after whatever else is ready.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextvars import copy_context
from typing import Final, ParamSpec, TypeVar

import pytest

from tests.support.seeds import dice

_P = ParamSpec("_P")
_T = TypeVar("_T")
IS_WHOLE: Final = os.environ.get("THREADS") == "all"
_ONE_OF: Final = 4


async def made_at_once(function: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Call a function in the place of `asyncio.to_thread`; who cancels the wait is too late to stop the call, as there.

    As in a thread no loop runs there, and the function may run one of its own.
    """
    loop = asyncio.get_running_loop()
    asyncio._set_running_loop(None)
    try:
        return copy_context().run(function, *args, **kwargs)
    finally:
        asyncio._set_running_loop(loop)
        await asyncio.sleep(0)


def has_threads(item: pytest.Item) -> bool:
    """Tell whether a test makes its blocking calls in threads."""
    names = getattr(item, "fixturenames", ())
    if IS_WHOLE or "no_blocking_calls" in names or item.get_closest_marker("threads"):
        return True
    return dice("threads", item.nodeid).randrange(_ONE_OF) == 0
