"""A run meets every exception class of botocore at each of its calls of the store; its client hears the truth of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator

import botocore.exceptions
import pytest

from karma.billing.plans import PlanName
from karma.core.dynamo.failures import storage_errors
from karma.core.errors import StorageThrottled, Upstream
from tests.fakes.runs import KeptFrames, MemoryRuns, caller, ended, text, tool
from tests.support.agui import verify
from tests.support.aws_faults import RAISED, made
from tests.support.run_world import World, asked, user

pytestmark = pytest.mark.fault("F-09a")

TURNS = ([*text("a"), *tool("c1", "echo", '{"word": "x"}'), *ended()], [*text("b"), *ended()])


LEFT = "left to another process"
"""The run goes on elsewhere: its client is told no end of it."""


class FailingStore(MemoryRuns):
    """Fails at its call `at`, and at every later one while `stays`, as the adapter of DynamoDB would."""

    def __init__(self, fault: Exception | None, at: int, *, stays: bool) -> None:
        super().__init__(self._meet_one)
        self.fault, self.at, self.stays = fault, at, stays
        self.calls: list[str] = []

    def _meet_one(self, name: str) -> Exception | None:
        self.calls.append(name)
        met = len(self.calls) - 1
        if self.fault is None or (met < self.at if self.stays else met != self.at):
            return None
        return translated(self.fault)


def translated(fault: Exception) -> Exception:
    """Return the error that the adapter of DynamoDB makes of an exception."""
    try:
        with storage_errors():
            raise fault
    except Exception as exc:  # noqa: BLE001  the store raises it
        return exc


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("karma.runs.log._RETRY_PAUSES_S", (0.0,))
    monkeypatch.setattr("karma.runs.recording._PAUSE_S", 0.0)
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


def faults() -> Iterator[Exception]:
    for kind in RAISED:
        if not issubclass(kind, botocore.exceptions.ClientError):
            yield from made(kind)
    for code in ("ThrottlingException", "InternalServerError", "AccessDeniedException"):
        yield botocore.exceptions.ClientError({"Error": {"Code": code}}, "Op")


async def told(store: FailingStore) -> str:
    """Run; return the end as the client is told of it."""
    world, frames = World(*TURNS, store=store), KeptFrames()
    world.plan = PlanName.FREE  # of which a call may cost so much that nothing is reserved ahead
    try:
        started = await world.service.start(caller(), asked(user("hi")))
    except Upstream as exc:
        return exc.code
    except Exception as exc:  # noqa: BLE001  what the database refuses is a bug: 500, before anything was sent
        return type(exc).__name__
    await started.execute(frames)
    (run,) = store.runs_by_key.values()
    verify(frames.events, complete=run.finished_at is not None)
    last = frames.events[-1]
    return str(last.get("code") or last["type"]) if run.finished_at else LEFT


def ending(met: Exception, name: str, *, stays: bool) -> str:
    """Say what the client hears when a call of this name meets what the adapter raises."""
    if name == "turns":
        return "RUN_FINISHED"  # whoever waits for its turn is found by the watchdog
    if not isinstance(met, Upstream):  # refused: a bug, told as a 500 before the stream; later no end can be written
        return type(met).__name__ if name in ("thread", "start") else LEFT
    if name == "extend":
        return LEFT if stays else "STORAGE_UNAVAILABLE"  # where the log can still be written, that ends the run
    if name == "thread" or (name == "start" and (stays or not isinstance(met, StorageThrottled))):
        return met.code
    return "RUN_FINISHED" if met.retryable and not stays else LEFT


@pytest.mark.threads
def test_a_client_hears_the_end_of_its_run_whatever_the_database_raises_and_when() -> None:
    async def try_all() -> list[str]:
        whole = FailingStore(None, 0, stays=False)
        assert await told(whole) == "RUN_FINISHED"
        assert {"thread", "start", "append", "extend", "finish", "turns"} == set(whole.calls)
        wrong = []
        for fault in faults():
            met = translated(fault)
            repeatable = isinstance(met, Upstream) and met.retryable
            # What is not tried again ends the run alike at each commit, so that one of a kind is enough.
            for at, name in enumerate(whole.calls):
                if not repeatable and name in whole.calls[at + 1 :]:
                    continue
                for stays in (False, True) if repeatable else (True,):
                    store = FailingStore(fault, at, stays=stays)
                    end = await told(store)
                    if end != ending(met, name, stays=stays):
                        wrong.append(f"{fault!r} at call {at} ({name}), {stays=}, ended with {end}")
                    if isinstance(met, Upstream) and not repeatable and name in store.calls[at + 1 :]:
                        wrong.append(f"{fault!r} at call {at} ({name}) was tried again")
        return wrong

    assert asyncio.run(try_all()) == []
