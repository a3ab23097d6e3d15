"""Actors that take turns: one AWS call at a time, in an order that a seed decides.

    watch()                                      # before the first AWS client is made
    play(seed, {"route": delete_account, "device": publish, ...})

Each actor is a thread; only one runs at any time. It gives its turn up before each AWS call, and the seed picks who
goes on. So an interleaving that fails, fails again: `play` names the seed and the calls in their order.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Mapping
from typing import Any

import botocore.handlers

_DEADLINE_S = 60


class _Actor(threading.Thread):
    """A thread that waits for its turn."""

    def __init__(self, name: str, act: Callable[[], None], report: Callable[[str], None]) -> None:
        super().__init__(name=name, daemon=True)
        self._act = act
        self._report = report
        self._turn = threading.Semaphore(0)
        self._returned = threading.Semaphore(0)
        self.over = False
        self.failure: BaseException | None = None

    def run(self) -> None:
        self._turn.acquire()
        try:
            self._act()
        except BaseException as exc:  # noqa: BLE001  told to the test
            self.failure = exc
        self.over = True
        self._returned.release()

    def give_up_turn(self, call: str) -> None:
        """Wait for the actor's next turn; it calls this itself before an AWS call."""
        self._report(f"{self.name}: {call}")
        self._returned.release()
        self._turn.acquire()

    def go_on(self) -> None:
        """Let the actor run to its next call; returns when it is there, or over."""
        self._turn.release()
        assert self._returned.acquire(timeout=_DEADLINE_S), f"{self.name} does not come back"


def take_turns(call: str) -> None:
    """Let an actor wait for its turn before a call that stands for one of AWS; other threads go on at once."""
    actor = threading.current_thread()
    if isinstance(actor, _Actor):
        actor.give_up_turn(call)


def _before_call(model: Any, **_: object) -> None:
    take_turns(model.name)


_HOOK = ("before-call", _before_call)


def watch() -> None:
    """Watch the AWS calls of every client that is made from now on; only actors wait."""
    if _HOOK not in botocore.handlers.BUILTIN_HANDLERS:
        botocore.handlers.BUILTIN_HANDLERS.append(_HOOK)


def play(seed: int, actors: Mapping[str, Callable[[], None]]) -> list[str]:
    """Run the actors to their ends; return the calls in the order in which they left.

    Raises:
        AssertionError: an actor failed; the message holds the seed and the calls.
    """
    order = random.Random(seed)
    calls: list[str] = []
    playing = [_Actor(name, act, calls.append) for name, act in actors.items()]
    for actor in playing:
        actor.start()
    alive = list(playing)
    while alive:
        chosen = order.choice(alive)
        chosen.go_on()
        if chosen.over:
            alive.remove(chosen)
            chosen.join(_DEADLINE_S)
    for actor in playing:
        if actor.failure is not None:
            raise AssertionError(f"seed {seed}: {actor.name} failed after {calls}") from actor.failure
    return calls
