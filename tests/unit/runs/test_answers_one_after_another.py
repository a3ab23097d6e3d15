"""The questions of one turn are answered one after another, each while the run of the answer before is at work, or not.

Whoever answers means to end nobody: an answer that comes too early is refused as one to send again, whatever becomes
of an active run otherwise, and is never taken for another one. SEED plays a failure again.
"""

from __future__ import annotations

import os
import random
from typing import Any

import orjson
import pytest

from karma.agents.domain import MultitaskStrategy
from karma.runs.domain import LEASE, Run, RunStatus, ThreadBusy
from karma.runs.interrupts import Interrupt
from karma.runs.opening import shown
from tests.support.kept_as_it_was import as_stored
from tests.support.run_world import user
from tests.support.talks import Talk

ORDERS = int(os.environ.get("ORDERS") or 9)
ANSWERS = ("approve", "refuse", "cancel")


@pytest.fixture(autouse=True)
def _runs_that_listen_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("karma.runs.log._LISTEN_EVERY_S", 0.001)
    monkeypatch.setattr("karma.runs.recording._PAUSE_S", 0.0)
    monkeypatch.setattr("karma.runs.replacing._END_POLL_S", 0.0)


class Screen:
    """A client that asks with a strategy, or whose agent has it, and sends all that it shows, or its answers alone."""

    def __init__(self, talk: Talk, strategy: MultitaskStrategy | None, *, is_agents: bool, sends_all: bool) -> None:
        self.talk = talk
        self._strategy = None if is_agents else strategy
        self._sends_all = sends_all
        if is_agents:
            talk.strategy = strategy
            talk.given_agents = talk.agents()
        self.agent = "brief" if is_agents and strategy else ""

    def ask(self) -> list[Interrupt]:
        self.talk.say("move them", None, agent=self.agent)
        self.talk.execute()
        return self.talk.open()

    def messages(self) -> list[dict[str, Any]]:
        return [orjson.loads(orjson.dumps(shown(each, (1, 0)))) for each in self.talk.branch()]

    def answer(self, how: dict[str, str], *more: dict[str, Any]) -> Run:
        resume = [entry(name, how[name]) for name in how]
        sent = [*(self.messages() if self._sends_all else []), *more]
        return self.talk.request(*sent, strategy=self._strategy, resume=resume)


def entry(name: str, how: str) -> dict[str, Any]:
    if how == "cancel":
        return {"interruptId": name, "status": "cancelled"}
    return {"interruptId": name, "status": "resolved", "payload": {"approved": how == "approve"}}


def assert_busy(screen: Screen, run: Run, how: dict[str, str], *more: dict[str, Any]) -> None:
    before = as_stored(screen.talk.store)
    with pytest.raises(ThreadBusy) as busy:
        screen.answer(how, *more)
    assert (busy.value.status, busy.value.code) == (409, "THREAD_BUSY")
    assert busy.value.details == {"run_id": run.key.run_id}
    assert busy.value.headers["Retry-After"]
    assert as_stored(screen.talk.store) == before


@pytest.mark.fault("F-32ba")
@pytest.mark.fault("F-32bc")
@pytest.mark.parametrize("strategy", [None, *MultitaskStrategy])
@pytest.mark.parametrize("nth", range(ORDERS))
def test_each_answer_counts_once_and_ends_no_other(strategy: MultitaskStrategy | None, nth: int, seed: int) -> None:
    dice = random.Random(seed)
    talk = Talk([(dice.choice(["again", "look"]), "ask")] * dice.choice([2, 3]))
    screen = Screen(talk, strategy, is_agents=dice.random() < 0.5, sends_all=dice.random() < 0.5)
    questions = screen.ask()
    calls = {each.id: each.awaited.id for each in questions}
    left = {name: dice.choice(ANSWERS) for name in dice.sample(sorted(calls), len(calls))}
    said = dict(left)
    talk.approved.update(calls[name] for name, how in said.items() if how == "approve")
    while left:
        name, *others = left
        how = {name: left.pop(name)}
        run = screen.answer(how)

        def too_early(run: Run = run, how: dict[str, str] = how, others: list[str] = others) -> None:
            for other in others:
                assert_busy(screen, run, {other: dice.choice(ANSWERS)})
                assert_busy(screen, run, {other: said[other]}, user("and this"))
                assert_busy(screen, run, {**how, other: said[other]})
            assert screen.answer(how).key == run.key, "the same answer again is the run that began with it"

        if dice.random() < 0.3:
            talk.clock.pass_by(LEASE * 3)  # nobody has begun with it
        too_early()
        talk.at_work = too_early if how[name] == "approve" else None
        talk.execute()
        assert talk.at_work is None
    assert talk.active() == []
    assert {each.status for each in talk.store.runs_by_key.values()} == {RunStatus.FINISHED, RunStatus.INTERRUPTED}
    approved = {calls[name] for name, how in said.items() if how == "approve"}
    assert talk.made.keys() == approved
    results = talk.results()
    assert [call for call, _ in results] == sorted([call for call, _ in results], key=list(dict(results)).index)
    assert {call for call, told in results if told == talk.made.get(call)} == approved
    for name, word in said.items():
        answer = talk.store.interrupts_by_id[name].answer
        assert answer is not None
        assert answer.says(answer.status, entry(name, word).get("payload"))


@pytest.mark.fault("F-32bc")
@pytest.mark.parametrize("how", ANSWERS)
def test_under_the_name_of_another_answer_it_is_refused(how: str) -> None:
    talk = Talk([("again", "ask"), ("again", "ask")])
    screen = Screen(talk, None, is_agents=False, sends_all=True)
    one, other = screen.ask()
    talk.approved.update({one.awaited.id, other.awaited.id})
    first = screen.answer({one.id: "approve"})
    before = as_stored(talk.store)
    talk.names -= 1  # the name of the first one's run
    with pytest.raises(Exception, match="exists already"):
        screen.answer({other.id: how})
    assert as_stored(talk.store) == before
    talk.execute()
    assert talk.status(first) is RunStatus.INTERRUPTED
    assert [each.id for each in talk.open()] == [other.id]
