"""A request comes while a run is alive and others wait for their turn: the run ends, and the first of these is woken.

That is what two other processes do, at each step of the request's own: the run's writer ends it, in one of the ways
there are, and the process that was woken takes the turn, and dies at some step or none. The request may die, too. SEED
plays a failure again.

Nobody's words are lost: whoever waited is cancelled by no request that did not mean it.
"""

from __future__ import annotations

import asyncio
import os
import random
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from karma.agents.domain import MultitaskStrategy
from karma.conversations.domain import KEPT_FOR, Thread, ThreadChanged, ThreadKey
from karma.core.ids import RunId
from karma.runs.asking import Beginning
from karma.runs.domain import ACTIVE, LEASE, RunStatus, ThreadBusy
from karma.runs.ending import cancel_lost
from karma.runs.turns import wake_next
from karma.runs.wishes import MOVED_ON_REASON, cancel_reason
from tests.fakes.runs import KeptFrames, caller
from tests.support.lost_runs import THREAD, Life, World, live
from tests.support.run_world import asked, user
from tests.unit.runs.test_turns import ask, execute, key, look, said, status

ORDERS = int(os.environ.get("INTERLEAVINGS") or 16)
STEPS = 26
"""Steps of a request that meets an active run, those of its polls for that run's end included."""


class Others(NamedTuple):
    """Work of other processes while the request is under way."""

    way: str
    """The end of the active run: `wished` by its writer, that heeds the wishes; `finished` by itself; `killed`."""
    dies_at: int | None
    """Step at which the process of the run dies whose turn has come; None: at none."""
    is_late: bool
    """The request is so slow that nobody leaves the thread to it any more."""


class Scene:
    """A run that is alive, those that wait for it, and the request."""

    def __init__(self, queue: int, others: Others) -> None:
        self.world = World(unique_ids=True)
        self.others = others
        ask(self.world, "before")
        execute(self.world)
        request = asked(user("go r0"), run="r0")
        self.alive = asyncio.run(self.world.service(Life(None)).start(caller(), request))
        self.queue = [f"q{n}" for n in range(queue)]
        for name in self.queue:
            ask(self.world, name)
        self.worker: threading.Thread | None = None
        self.is_over = False
        self.was_noted = False
        self.met: list[RunId | None] = []
        """The active run, as often as the request has read it."""

    def others_work(self) -> None:
        """Let the other processes work, each in a loop of its own."""
        self.worker = threading.Thread(target=self._work)
        self.worker.start()
        self.worker.join()

    def _work(self) -> None:
        world, self.is_over = self.world, True
        tail, run = world.store.tail(key("r0")), world.store.run(key("r0"))
        assert tail is not None
        assert run is not None
        self.was_noted = world.store.thread(THREAD).making_way is not None and not self.others.is_late
        if self.others.way == "killed" and not tail.terminal:
            world.control(Life(None)).cancel(caller().user_id, RunId("r0"), reason="enough")
        reason = cancel_reason(world.store.wishes(key("r0")))
        if not tail.terminal and (reason is None or self.others.way == "finished"):
            live(lambda: self.alive.execute(KeptFrames()))
        elif not tail.terminal:
            cancel_lost(world.store, tail, run, world.clock.now(), reason=reason or "")
            wake_next(world.store, world.executions, THREAD)
        if self.others.is_late:
            world.clock.pass_by(KEPT_FOR)
        execute(world, Life(self.others.dies_at))

    def seen(self, read: Callable[[ThreadKey], Thread]) -> Callable[[ThreadKey], Thread]:
        """Return what reads threads, and keeps the active runs that the request finds."""

        def reading(thread: ThreadKey) -> Thread:
            found = read(thread)
            if threading.current_thread() is not self.worker:
                self.met.append(found.active_run_id)
            return found

        return reading

    def settle(self) -> None:
        """Let the watchdog find what is left, until nothing is."""
        for _ in range(3 + 2 * len(self.queue)):
            self.world.clock.pass_by(LEASE * 2)
            if asked_ids := self.world.store.thread(THREAD).interrupts:
                found = self.world.store.interrupts(caller().user_id, asked_ids).values()
                self.world.clock.pass_by(max(each.expires_at for each in found) - self.world.clock.now())
            for each in list(self.world.store.runs_by_key):
                look(self.world, each.run_id)
            execute(self.world)


async def in_lockstep(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a function in the loop, so that a seed plays the same order again."""
    await asyncio.sleep(0)
    return function(*args, **kwargs)


def request_of(
    scene: Scene, strategy: MultitaskStrategy, life: Life, monkeypatch: pytest.MonkeyPatch
) -> Beginning | str:
    """Make the request; return the run that it began, or why it has not."""
    request = asked(user("go now"), run="now", forwardedProps={"multitask_strategy": strategy.value})
    met: list[Beginning | str] = []
    monkeypatch.setattr(scene.world.store, "thread", scene.seen(scene.world.store.thread))

    async def work() -> None:
        try:
            met.append(await scene.world.background(life).begin(caller(), request))
        except (ThreadBusy, ThreadChanged) as exc:
            met.append(type(exc).__name__)

    live(work)
    return met[0] if met else "died"


def check(scene: Scene, strategy: MultitaskStrategy, met: Beginning | str) -> None:
    world, store, words = scene.world, scene.world.store, said(scene.world)
    runs = list(store.runs_by_key.values())
    assert not [run for run in runs if run.status in ACTIVE]
    assert store.turns(THREAD)[:2] == (None, ()) or not any(
        status(world, name) is RunStatus.QUEUED for name in store.turns(THREAD).queue
    )
    for run in runs:
        log = store.segments(run.key, after=0, limit=10**6)
        assert [segment.terminal for segment in log] == [False] * (len(log) - 1) + [True]
    assert set(world.effects.values()) <= {1}
    sent = [str(each.content) for each in store.thread(THREAD).messages if each.role == "user"]
    kept = [each for each in scene.queue if each not in scene.met[:1]]  # its turn had come before the request
    for name in kept:
        assert status(world, name) in {RunStatus.FINISHED, RunStatus.INTERRUPTED}, "cancelled by whom?"
        assert words.count(f"go {name}") == sent.count(f"go {name}") == 1
    assert [each for each in words if each[3:] in kept] == [f"go {name}" for name in kept]
    replaced = store.run(key("r0"))
    assert replaced is not None
    if strategy in {MultitaskStrategy.REJECT, MultitaskStrategy.ENQUEUE}:
        assert replaced.cancel_reason != MOVED_ON_REASON
    assert sent.count("go now") == (store.run(key("now")) is not None)
    if isinstance(met, Beginning):
        if strategy is MultitaskStrategy.ENQUEUE:
            assert words[-1] == "go now"
        elif scene.was_noted and scene.queue:
            assert words.index("go now") < words.index("go q0"), "it goes before those that wait"
        replaced_by_it = met.rolled_back is not None and met.rolled_back.run.key == key("r0")
        assert ("go r0" in words) != replaced_by_it
    elif strategy in {MultitaskStrategy.INTERRUPT, MultitaskStrategy.ROLLBACK}:
        assert met == "died" or not scene.was_noted, "refused though all waited for it"


@pytest.mark.fault("F-29zq")
@pytest.mark.parametrize("strategy", MultitaskStrategy)
@pytest.mark.parametrize("nth", range(ORDERS))
def test_no_message_is_lost_wherever_others_come_between(
    strategy: MultitaskStrategy, nth: int, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr("karma.runs.replacing._END_POLL_S", 0.0)
    monkeypatch.setattr("karma.runs.recording._PAUSE_S", 0.0)
    monkeypatch.setattr(asyncio, "to_thread", in_lockstep)
    dice = random.Random(seed)
    queue = dice.choice([0, 1, 1, 2, 2])
    dies_at = dice.choice([None, dice.randint(1, 45)])
    scene = Scene(queue, Others(dice.choice(["wished", "finished", "killed"]), dies_at, dice.random() < 0.2))
    life = Life(dice.choice([None, None, dice.randint(1, STEPS)]), after=dice.random() < 0.5)
    life.meets, life.meets_at = scene.others_work, 1 + nth % STEPS
    met = request_of(scene, strategy, life, monkeypatch)
    if not scene.is_over:
        scene.others_work()
        scene.was_noted = False  # the request had given up, or has begun
    scene.settle()
    check(scene, strategy, met)
