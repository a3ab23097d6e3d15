"""Runs whose processes die and whose connections are cut, as the stock client of AG-UI reads them."""

from __future__ import annotations

import json
import random
import subprocess
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from karma.runs.events import frame, frames
from karma_agent.continuity import Continuity
from karma_agent.sse import FrameReader
from tests.support.cut_runs import CutRun
from tests.support.half_answers import HALVES, LOST, lost_while_it_says
from tests.support.lost_runs import KEY, THREAD, World

from .test_client import CLIENTS, CURRENT, NODE, needs_client

HISTORIES = 30
QUESTION = {"id": "u1", "role": "user", "content": "go"}


def handed_on(history: CutRun) -> bytes:
    """Return what our client makes of the connections of a run."""
    continuity, stream = Continuity(), b""
    while not continuity.is_over and (data := history.connection(continuity.position)) is not None:
        for each in FrameReader().feed(data):
            event = json.loads(each.data) if each.data else None
            events = continuity.take(event, position=None if each.id is None else int(each.id))
            stream += b"".join(frame(json.dumps(dict(one)).encode()) for one in events)
        continuity.reconnect()
    return stream


def whole_log(history: CutRun) -> bytes:
    """Return what a client that comes late is given: the log, however many processes wrote it."""
    return whole_log_of(history.world)


def whole_log_of(world: World) -> bytes:
    return b"".join(frames([json.dumps(each).encode()], n=1) for each in world.shown())


def read_by_the_stock_client(streams: list[bytes]) -> list[dict[str, Any]]:
    runs = [
        {"stream": each.decode(), "input": {"threadId": "t1", "runId": "r1", "messages": [QUESTION], "tools": []}}
        for each in streams
    ]
    command = [str(NODE), str(Path(__file__).with_name("client.mjs")), CLIENTS[CURRENT]]
    done = subprocess.run(command, input=json.dumps(runs).encode(), capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr.decode()
    told: list[dict[str, Any]] = json.loads(done.stdout)
    return told


@needs_client
@pytest.mark.req("R-K-37", "R-K-40")
def test_the_stock_client_accepts_a_run_that_was_lost_and_cut_and_holds_its_thread(seed: int) -> None:
    dice = random.Random(seed)
    drawn = [(history, handed_on(history)) for history in (CutRun(dice) for _ in range(HISTORIES))]
    begun = [(history, stream) for history, stream in drawn if history.world.store.run(KEY) is not None]
    told = read_by_the_stock_client([each for history, stream in begun for each in (stream, whole_log(history))])

    for at, (history, _) in enumerate(begun):
        kept = [(each.id, each.role) for each in history.world.store.thread(THREAD).messages]
        for heard in told[2 * at : 2 * at + 2]:
            assert (heard["error"], heard["runError"], heard["warnings"]) == ("", "", [])
            shown = [(each["id"], each["role"]) for each in heard["messages"] if each["role"] != "activity"]
            assert shown == kept


@needs_client
@pytest.mark.fault("F-06i")
@pytest.mark.req("R-K-37")
def test_the_stock_client_holds_what_the_thread_has_when_a_lost_run_is_ended_within_an_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("karma.runs.log.FLUSH_AFTER_S", 0.0)
    ended: list[tuple[World, int]] = []
    for half, (end, stays) in product(HALVES, LOST.values()):
        world = lost_while_it_says(half)
        end(world)
        ended.append((world, stays))
    told = read_by_the_stock_client([whole_log_of(world) for world, _ in ended])
    for (world, stays), heard in zip(ended, told, strict=True):
        assert (heard["error"], heard["warnings"]) == ("", [])
        assert heard["runError"] == ("" if stays else "OWNER_LOST")
        kept = [(each.id, each.role) for each in world.store.thread(THREAD).messages]
        shown = [
            (each["id"], each["role"]) for each in heard["messages"] if each["role"] in {"user", "assistant", "tool"}
        ]
        assert shown[: len(kept)] == kept
        assert len(shown) - len(kept) <= stays
