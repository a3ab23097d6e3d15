"""Ends of runs in any order: a thread names the questions that can be answered, all of them, and no others.

A run that answers some of a turn's questions leaves the others open. However it ends, each of them is about a call that
waits for it, or is cancelled with that end; what waits behind them for its turn begins.
"""

from __future__ import annotations

import os
import random
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta

import pytest

from karma.agents.domain import MultitaskStrategy
from karma.core.errors import AppError, ValidationFailed
from karma.runs.checkpoints import CheckpointService
from karma.runs.domain import LEASE, MAX_PAUSE, Run, RunStatus
from karma.runs.ending import end_expired
from karma.runs.interrupts import AnswerStatus, Interrupt, InterruptAnswered
from karma.runs.modifications import Modifications
from karma.runs.points import write_point_id
from karma.runs.watchdog import GIVE_UP_AFTER, Inspector
from tests.fakes.checkpoints import MemoryCheckpoints
from tests.fakes.runs import caller
from tests.support.asking_talks import WAIT_S, Asking
from tests.support.forks import forks
from tests.support.lost_runs import THREAD, Killed, Life
from tests.support.talks import USER, Plan

HISTORIES = int(os.environ.get("HISTORIES", "25"))
ENDS = ("cancel", "stop", "pause", "interrupt", "rollback", "fail", "enqueue")
"""Events that come while a call is at work."""


class Party:
    """A user who answers some of what is asked, and ends what goes on then."""

    def __init__(self, seed: int, *, dies: bool) -> None:
        self.dice = random.Random(seed)
        self.talk = Asking(plan=self._plan, refuses=self.dice.random() < 0.7)
        self.dies = dies

    def _plan(self) -> Plan:
        if self.dice.random() < 0.15:
            return ()
        kinds = [("again", "ask"), ("look", "ask"), ("again", "form"), ("scout", "look"), ("look", "1")]
        return [self.dice.choice(kinds) for _ in range(self.dice.randint(2, 4))]

    def _life(self) -> Life:
        if not self.dies or self.dice.random() < 0.5:
            return Life(None)
        return Life(self.dice.randint(1, 30), after=self.dice.random() < 0.5)

    def play(self) -> None:
        talk, dice = self.talk, self.dice
        talk.say("begin", None, agent="brief")
        for _ in range(dice.randint(6, 12)):
            talk.execute(self._life)
            talk.clock.pass_by(LEASE * 2)
            if dice.random() < 0.3:
                talk.settle()
            talk.verify()
            try:
                self._happens()
            except ValidationFailed:
                raise
            except AppError:
                pass  # the thread is busy, as it may be
            talk.verify()
        talk.at_work, talk.store.fail = None, lambda _: None
        talk.rest(dice)
        talk.verify()
        assert not talk.active(), "what waits behind a question begins when that is over"
        self._verify_unattended()

    def _happens(self) -> None:
        talk, dice = self.talk, self.dice
        questions = talk.waiting()
        if not questions and not talk.active():
            talk.say("more", dice.choice([None, *MultitaskStrategy]), agent="brief")
            return None
        if any(run.status is RunStatus.PAUSED for run in talk.active()):
            return self._goes_on(dice.choice(["cancel", "resume", "pause", "interrupt", "rollback"]))
        return self._goes_on(
            dice.choice(["answer"] * 8 + ["say", "expire", "cancel", "resume", "give up", "pause", "back"])
        )

    def _goes_on(self, how: str) -> None:
        talk, dice = self.talk, self.dice
        match how:
            case "answer" if questions := talk.waiting():
                some = dice.sample(questions, dice.randint(1, len(questions)))
                self._meets(dice.choice(["", *ENDS]))
                talk.answer(*some, beside=dice.choice(["", "", "by the way"]))
                if dice.random() < 0.2:
                    talk.cancel()
            case "say":
                talk.say("more", dice.choice([None, *MultitaskStrategy]), agent="brief")
            case "expire":
                talk.clock.pass_by(timedelta(seconds=WAIT_S + 1))
                talk.expire()
            case "cancel":
                talk.cancel()
            case "resume":
                for run in talk.active():
                    talk.control(Life(None)).resume(USER, run.key.run_id)
            case "give up":
                talk.clock.pass_by(LEASE + GIVE_UP_AFTER)
                for run in talk.active():
                    Inspector(talk.store, talk.executions, talk.clock).look(run.key)
            case "pause":
                talk.clock.pass_by(MAX_PAUSE)
                for run in talk.active():
                    end_expired(talk.store, run, talk.clock.now())
            case "back":
                service = CheckpointService(talk.store, MemoryCheckpoints(talk.store), talk.clock)
                points = [each for key in talk.store.runs_by_key for each in service.page(USER, key.run_id, limit=9)]
                point = write_point_id(dice.choice(points).id) if points else ""
                if dice.random() < 0.5:
                    forks(talk).in_place.restore(caller(), point, Modifications())
                else:
                    forks(talk).restore_as_run(caller(), point, Modifications(), key=None)
            case "interrupt" | "rollback":
                talk.say("instead", MultitaskStrategy(how), agent="brief")
            case _:
                pass

    def _meets(self, what: str) -> None:
        """Let something happen while the next call is at work."""
        talk = self.talk

        def happens() -> None:
            active = [run.key.run_id for run in talk.active() if run.status is RunStatus.RUNNING]
            control = talk.control(Life(None))
            with suppress(AppError):
                match what:
                    case "cancel":
                        talk.cancel()
                    case "stop":
                        talk.stop(self.dice.choice(["brief", "scout"]))
                    case "pause":
                        control.pause(USER, active[0])
                    case "fail":
                        talk.fail_once()
                    case _:
                        talk.say("and now", MultitaskStrategy(what), agent="brief")

        talk.at_work = happens if what else None

    def _verify_unattended(self) -> None:
        asked = self.talk.store.interrupts_by_id.values()
        taken_up = {each.answer.by for each in asked if each.answer is not None}
        begun = {key.run_id for key, run in self.talk.store.runs_by_key.items() if run.unattended}
        assert begun <= taken_up, "a run that began by itself, and tells of nothing"


@pytest.fixture(autouse=True)
def _heard_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("karma.runs.log._LISTEN_EVERY_S", 0.001)
    monkeypatch.setattr("karma.runs.replacing._END_POLL_S", 0.01)
    monkeypatch.setattr("karma.runs.recording._PAUSE_S", 0)


@pytest.mark.fault("F-32aa")
@pytest.mark.parametrize("dies", [False, True], ids=["lives", "dies"])
@pytest.mark.parametrize("nth", range(HISTORIES))
def test_a_thread_names_the_questions_that_can_be_answered_and_no_others(nth: int, seed: int, *, dies: bool) -> None:
    Party(seed, dies=dies).play()


KINDS: dict[str, Plan] = {
    "calls": [("again", "ask"), ("look", "ask"), ("again", "ask")],
    "forms": [("again", "ask"), ("again", "form"), ("look", "form")],
    "subagents": [("scout", "look"), ("scout", "listen")],
}


def begun(kind: str, *, refuses: bool = True) -> tuple[Asking, list[Interrupt]]:
    """Return a thread whose first run has asked, and its questions."""
    talk = Asking(KINDS[kind], refuses=refuses)
    talk.say("go", None, agent="brief")
    talk.execute()
    return talk, talk.open()


def dies_at_work(talk: Asking) -> None:
    process = Life(None)

    def dies() -> None:
        process.is_dead = True

    talk.at_work = dies
    talk.execute(lambda: process)
    talk.clock.pass_by(LEASE * 2)


def stays(talk: Asking) -> None:
    """Let the call at work wait until its run ends, which is wished already."""
    wished = talk.at_work

    def stay() -> None:
        assert wished is not None
        wished()
        talk.hangs = True

    talk.at_work = stay
    talk.execute()


def end(talk: Asking, run: Run, how: str) -> None:
    """Let a run end, which has been stored and that no process executes."""
    match how:
        case "cancelled before it began":
            talk.cancel()
        case "cancelled at work":
            talk.at_work = talk.cancel
            stays(talk)
        case "its agent stopped":
            talk.at_work = lambda: talk.stop("brief")
            stays(talk)
        case "lost, and cancelled":
            dies_at_work(talk)
            talk.cancel()
        case "paused, and cancelled" | "paused for too long":
            dies_at_work(talk)
            assert talk.control(Life(None)).pause(USER, run.key.run_id).status is RunStatus.PAUSED
            if how == "paused, and cancelled":
                talk.cancel()
            else:
                talk.clock.pass_by(MAX_PAUSE)
                assert end_expired(talk.store, talk.store.runs_by_key[run.key], talk.clock.now())
        case _:
            talk.at_work = talk.fail_once
            talk.execute()


@pytest.mark.fault("F-32aa")
@pytest.mark.parametrize(
    "how",
    [
        "cancelled before it began",
        "cancelled at work",
        "its agent stopped",
        "lost, and cancelled",
        "paused, and cancelled",
        "paused for too long",
        "broken",
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_the_questions_beside_the_answered_one_end_with_its_run(kind: str, how: str) -> None:
    talk, (first, *others) = begun(kind)
    run = talk.answer(first)
    behind = talk.say("and then", agent="brief")
    assert talk.status(behind) is RunStatus.QUEUED
    talk.executions.requested = [run.key]

    end(talk, run, how)

    assert talk.status(run) is (RunStatus.FAILED if how == "broken" else RunStatus.CANCELLED)
    talk.verify()
    assert talk.store.thread(THREAD).interrupts == ()
    found = talk.store.interrupts(USER, [each.id for each in others]).values()
    told = {each.answer and (each.answer.status, each.answer.by) for each in found}
    assert told == {(AnswerStatus.CANCELLED, run.key.run_id)}
    assert talk.store.expiring(talk.clock.now() + timedelta(days=9), limit=9).questions == []
    # What waits behind them has its turn, at once where a process or a request has ended the run.
    if how == "paused for too long":
        talk.look(behind)
    talk.execute()
    is_stopped = how == "its agent stopped"  # with it, as a run of that agent
    assert talk.status(behind) is (RunStatus.CANCELLED if is_stopped else RunStatus.FINISHED)


@pytest.mark.fault("F-32aa")
def test_who_answers_one_then_is_told_of_the_run_that_ended_it_and_begins_none() -> None:
    talk, (first, second, _) = begun("calls")
    run = talk.answer(first)
    talk.cancel()
    with pytest.raises(InterruptAnswered) as met:
        talk.answer(second)
    assert met.value.details == {"interrupt_id": second.id, "run_id": run.key.run_id, "status": "cancelled"}
    asked = talk.calls
    again = talk.request(strategy=None, resume=[{"interruptId": second.id, "status": "cancelled"}])
    talk.execute()
    assert (again.key, talk.calls, len(talk.store.runs_by_key)) == (run.key, asked, 2)


@pytest.mark.fault("F-32ab")
@pytest.mark.parametrize("end_of_it", ["before", "meanwhile", "by an older release"])
def test_no_run_begins_by_itself_for_a_call_that_has_its_result(end_of_it: str) -> None:
    talk, (first, *others) = begun("calls")
    if end_of_it == "by an older release":
        talk.answer(first)
        talk.cancel()
        thread = talk.store.thread(THREAD)
        talk.store.threads[THREAD] = replace(thread, interrupts=tuple(each.id for each in others))
        talk.store.interrupts_by_id |= {each.id: each for each in others}
    elif end_of_it == "before":
        talk.answer(first)
        talk.cancel()
    talk.clock.pass_by(timedelta(seconds=WAIT_S - 1))
    runs = len(talk.store.runs_by_key)
    life = Life(None)
    if end_of_it == "meanwhile":

        def meets() -> None:
            talk.clock.pass_by(timedelta(seconds=-2))
            talk.answer(first)
            talk.cancel()
            talk.clock.pass_by(timedelta(seconds=2))

        life, runs = Life(None, meets=meets, meets_at=3), runs + 1
    talk.clock.pass_by(timedelta(seconds=2))
    talk.expire(life)
    assert len(talk.store.runs_by_key) == runs
    assert all(each.answer is not None for each in talk.store.interrupts_by_id.values())
    talk.say("go on", None, agent="brief")
    talk.execute()
    talk.verify()
    assert talk.store.thread(THREAD).interrupts == ()


@pytest.mark.fault("F-32ac")
def test_a_call_whose_result_came_late_is_not_asked_about_again_nor_made_twice() -> None:
    talk = Asking([("again", "ask"), ("scout", "look")])
    talk.say("go", None, agent="brief")
    talk.execute()
    own, inside, other = talk.open()
    talk.answer(own, inside, beside="by the way")
    talk.execute()
    assert [each.id for each in talk.open()] == [other.id]
    talk.answer(other)
    talk.execute()
    assert talk.store.thread(THREAD).interrupts == ()
    assert len(talk.store.interrupts_by_id) == 3
    assert sorted(each.tool_call_id for each in talk.branch() if each.role == "tool") == ["c1", "c2"]


@pytest.mark.fault("F-32aa")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("after", [False, True])
def test_wherever_who_ends_it_dies_the_questions_end_with_the_run(kind: str, *, after: bool) -> None:
    for step in range(1, 60):
        talk, (first, *_) = begun(kind)
        run = talk.answer(first)
        dies_at_work(talk)
        life = Life(step, after=after)
        with suppress(Killed):
            talk.control(life).cancel(USER, run.key.run_id)
        talk.verify()
        is_whole = not life.is_dead
        talk.cancel()
        talk.verify()
        assert talk.store.thread(THREAD).interrupts == ()
        assert talk.status(run) is RunStatus.CANCELLED
        if is_whole:
            return
    raise AssertionError("it does not end")


@pytest.mark.fault("F-32aa")
@pytest.mark.parametrize("in_place", [False, True])
def test_what_was_ended_is_asked_anew_by_a_run_that_goes_back_to_its_turn(*, in_place: bool) -> None:
    talk, (first, *_) = begun("calls")
    run = talk.answer(first)
    talk.cancel()
    service = CheckpointService(talk.store, MemoryCheckpoints(talk.store), talk.clock)
    point = write_point_id(service.page(USER, first.key.run_id, limit=9)[0].id)
    if in_place:
        forks(talk).in_place.restore(caller(), point, Modifications())
        talk.verify()
    new = forks(talk).restore_as_run(caller(), point, Modifications(), key=None).run
    assert new is not None
    talk.execute()
    talk.verify()
    assert [each.key for each in talk.waiting()] == [new.key] * 3
    talk.answer(*talk.waiting())
    talk.execute()
    assert sorted(talk.made) == ["c1", "c2", "c3"]
    assert talk.status(run) is RunStatus.CANCELLED


@pytest.mark.fault("F-39a")
@pytest.mark.parametrize("how", ["new words", "cancelled beside words", "cancelled run", "expired"])
def test_a_model_is_not_told_of_an_agent_that_was_at_work_that_it_was_not(how: str) -> None:
    talk = Asking([("scout", "look")])
    talk.say("go", None, agent="brief")
    talk.execute()
    first, _ = talk.open()
    assert first.inside is not None
    if how == "cancelled beside words":
        resume = [{"interruptId": first.id, "status": "cancelled"}]
        talk.request({"id": "b", "role": "user", "content": "no"}, strategy=None, agent="brief", resume=resume)
    elif how == "cancelled run":
        talk.answer(first)
        talk.cancel()
    elif how == "expired":
        talk.clock.pass_by(timedelta(seconds=WAIT_S + 1))
    if how != "cancelled beside words":
        talk.say("another thing", None, agent="brief")
    talk.execute()
    told = [str(each.content) for each in talk.branch() if each.tool_call_id == first.inside.root.id]
    assert told
    assert not any("not made" in each for each in told), told
