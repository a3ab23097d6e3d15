"""Whatever form each answer has and wherever it is cut, the client's caller ends with what the server holds."""

from __future__ import annotations

import asyncio
import os
import random
from types import SimpleNamespace

import pytest

from karma.runs import joining, repeats
from tests.support.cut_answers import WORLDS, Connection, answers, held_over

CUTS = int(os.environ.get("CUTS") or 300)

pytestmark = [pytest.mark.fault("F-33n"), pytest.mark.req("R-K-40")]


@pytest.fixture(autouse=True)
def _sleepless(monkeypatch: pytest.MonkeyPatch) -> None:
    async def sleep(_: float) -> None:
        pass

    monkeypatch.setattr("karma_agent.stream.asyncio", SimpleNamespace(**{**vars(asyncio), "sleep": sleep}))


@pytest.mark.parametrize("joins", [False, True], ids=["runs", "joins"])
@pytest.mark.parametrize("kind", WORLDS)
def test_what_is_held_is_what_is_stored(kind: str, seed: int, *, joins: bool) -> None:
    found = answers(kind)
    for history in found.histories(random.Random(seed), CUTS):
        held, asked = held_over(found, history, joins=joins)
        assert not found.differs(held), (history, asked)


def test_a_conversation_too_long_for_a_snapshot_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joining, "MAX_SNAPSHOT_BYTES", 100)
    monkeypatch.setattr(repeats, "MAX_SNAPSHOT_BYTES", 100)
    found = answers("alone")
    assert b"MESSAGES_SNAPSHOT" not in found.over
    for cut in range(12):
        history = (Connection(1, 0), Connection(found.whole, cut))
        held, asked = held_over(found, history, joins=False)
        assert not found.differs(held), (history, asked)
