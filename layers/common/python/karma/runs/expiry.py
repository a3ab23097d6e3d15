"""Carries out what becomes of questions that nobody answered in time (`OnExpiry`).

    sweep      lists questions whose time is over, and sends a message about each run's; accounts take turns, so that
               none is behind all of another one's. They are listed again a while later, ever more rarely, until they
               are done: a thread may be busy for days
    message    reads the question's thread, and deals with all of its expired questions:
               refuse    one run begins, by whose setup their calls get the result that says so; the model goes on, up
                         to `MAX_UNATTENDED` times with nobody there; then as cancel, and where their calls wait for no
                         result any more
               cancel    each is cancelled, and the next run of the thread gives its call that result

Messages may come late, twice or side by side: a question is answered by one conditional write, that of the run or that
of its cancellation, and a run begins on condition that its thread is as it was read.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final, Protocol

import orjson

from karma.agents.domain import MultitaskStrategy
from karma.conversations.domain import Thread, ThreadChanged
from karma.core.clock import Clock
from karma.core.errors import AppError, Upstream, ValidationFailed
from karma.core.ids import RunId, UserId
from karma.core.observability import count, logger
from karma.identity.domain import Caller
from karma.runs.chains import MAX_UNATTENDED
from karma.runs.domain import Run, RunKey, ThreadBusy
from karma.runs.interrupts import AnswerStatus, Interrupt
from karma.runs.ports import Expiring, Runs
from karma.runs.requests import RunInput, parse_run_input
from karma.runs.setup import RunSetup, load_setup
from karma.tools.domain import OnExpiry

if TYPE_CHECKING:
    from karma.runs.background import BackgroundRuns

LISTED_AT_ONCE: Final = 5_000
"""Questions of which a sweep takes turns by account, at the most; with time left it goes on behind them."""
_PAGE: Final = 500
LISTS_FOR: Final = timedelta(seconds=10)
SWEEPS_FOR: Final = timedelta(seconds=30)
"""Time after which a sweep leaves the rest to the next one; its function has 50 s."""
ASKED_AGAIN_AFTER: Final = timedelta(minutes=5)
"""After the first message about a question, so long is none sent; each time twice as long."""
ASKED_AGAIN_WITHIN: Final = timedelta(hours=4)
"""Longest time for which no message is sent, and so for which what its rule says can be late behind a busy thread."""
_MESSAGE: Final = "expired"


class Queue(Protocol):
    """The part of karma.integrations.sqs.SqsQueue that is used here."""

    def send(self, body: str, *, group: str) -> None:
        """Enqueue a body of an account, its group."""
        ...


def request_expiries(store: Runs, queue: Queue, clock: Clock) -> int:
    """Send a message about each run with questions whose time is over; return how many were sent.

    What is left when the time of a sweep is over comes first in the next one.
    """
    from karma.core.sweeping import sweep_each  # local: those who do no sweep do without

    def send(due: Sequence[Expiring]) -> int:
        key, n, _ = due[0]
        queue.send(orjson.dumps({_MESSAGE: [key.user_id, key.run_id, n]}).decode(), group=key.user_id)
        for each in due:
            store.put_off(each.key, each.n, until=clock.now() + _again_after(each.put_offs))
        return 1

    before, sent = clock.now(), 0
    start: dict[str, str] | None = None
    while True:
        listed, start = _listed(store, clock, before, start)
        for due in _in_turns(listed):
            if clock.now() - before >= SWEEPS_FOR:
                return sent
            sent += sweep_each("interrupts", [due], send, name=lambda each: each[0].key.run_id, clock=clock)
        if start is None:
            return sent


def _listed(
    store: Runs, clock: Clock, before: datetime, start: dict[str, str] | None
) -> tuple[list[Expiring], dict[str, str] | None]:
    """List questions, of as many pages as their number and the time allow, and where the next ones begin."""
    found: list[Expiring] = []
    until = clock.now() + LISTS_FOR
    while True:
        page = store.expiring(before, limit=_PAGE, start=start)
        found += page.questions
        start = page.last
        if start is None or len(found) >= LISTED_AT_ONCE or clock.now() >= until:
            return found, start


def _in_turns(listed: Sequence[Expiring]) -> Iterator[list[Expiring]]:
    """Yield the questions of one run after the other, each time of another account, as long as there are some."""
    by_account: dict[UserId, dict[RunKey, list[Expiring]]] = {}
    for each in listed:
        by_account.setdefault(each.key.user_id, {}).setdefault(each.key, []).append(each)
    waiting = [iter(runs.values()) for runs in by_account.values()]
    while waiting:
        goes_on: list[Iterator[list[Expiring]]] = []
        for runs in waiting:
            due = next(runs, None)
            if due is not None:
                yield due
                goes_on.append(runs)
        waiting = goes_on


def _again_after(put_offs: int) -> timedelta:
    return min(ASKED_AGAIN_WITHIN, ASKED_AGAIN_AFTER * (1 << min(put_offs, 16)))


def is_expiry(body: str) -> bool:
    """Tell whether a message is about a question that expired."""
    return f'"{_MESSAGE}"' in body


def read_expiry(body: str) -> tuple[RunKey, int]:
    """Read a message that `request_expiries` sent.

    Raises:
        ValidationFailed: it is no such message.
    """
    try:
        user_id, run_id, n = orjson.loads(body)[_MESSAGE]
        return RunKey(UserId(user_id), RunId(run_id)), int(n)
    except (ValueError, KeyError, TypeError) as exc:
        raise ValidationFailed.of(_MESSAGE, "must be a user, a run and a number") from exc


class Expiry:
    """Deals with the expired questions of one thread at a time."""

    def __init__(
        self, *, store: Runs, runs: BackgroundRuns, caller_by_now: Callable[[Caller], Caller | None], clock: Clock
    ) -> None:
        """Build it; `caller_by_now` returns a caller with the rights of today, None where the account has none."""
        self._store = store
        self._runs = runs
        self._caller_by_now = caller_by_now
        self._clock = clock

    async def expire(self, key: RunKey, n: int) -> bool:
        """Deal with a question that has expired and that nobody has answered, and with those beside it.

        Returns:
            False: there is none, or not yet.

        Raises:
            Upstream: the database could not be reached; it can be tried again.
        """
        found = await asyncio.to_thread(self._store.interrupts, key.user_id, [f"{key.run_id}/{n}"])
        interrupt = next(iter(found.values()), None)
        if interrupt is None:
            return False
        thread = await asyncio.to_thread(self._store.thread, interrupt.thread)
        if thread.active_run_id is not None:
            return False  # it may be the answer; the sweep asks again
        due = await asyncio.to_thread(self._due, thread)
        if interrupt.answer is None and interrupt.is_expired(self._clock.now()) and interrupt not in due:
            due.append(interrupt)
        refused = await asyncio.to_thread(_refused, due, thread)
        if refused:
            try:
                if await self._go_on(refused):
                    return True
            except (ThreadBusy, ThreadChanged):
                return False
        for each in due:
            await asyncio.to_thread(self._store.lapse, each, at=self._clock.now())
            count("InterruptExpired", policy=OnExpiry.CANCEL.value)
        return bool(due)

    def _due(self, thread: Thread) -> list[Interrupt]:
        found = self._store.interrupts(thread.key.user_id, thread.interrupts)
        now = self._clock.now()
        return [each for each in found.values() if each.answer is None and each.is_expired(now)]

    async def _go_on(self, refused: Sequence[Interrupt]) -> bool:
        """Begin a run that tells the model; False: none can begin, and nothing will change that."""
        key = refused[0].key
        run, stored = await asyncio.to_thread(self._asked, key)
        caller = None
        if run is not None and stored is not None:
            caller = await asyncio.to_thread(self._caller_by_now, stored.caller)
        if run is None or stored is None or caller is None:
            return False
        if run.unattended >= MAX_UNATTENDED:
            logger.info("interrupt.rests", run_id=key.run_id, unattended=run.unattended)
            return False
        try:
            began = await self._runs.begin(caller, _request(run, stored, refused))
        except (ThreadBusy, ThreadChanged, Upstream):
            raise
        except AppError as exc:
            # The account has no room, or the agent is gone: the conversation rests instead.
            logger.warning("interrupt.not_refused", run_id=key.run_id, code=exc.code)
            return False
        logger.info("interrupt.refused", run_id=began.run.key.run_id, questions=len(refused))
        count("InterruptExpired", policy=OnExpiry.REFUSE.value)
        return True

    def _asked(self, key: RunKey) -> tuple[Run | None, RunSetup | None]:
        stored = self._store.setup(key)
        return self._store.run(key), load_setup(stored) if stored else None


def _refused(due: Sequence[Interrupt], thread: Thread) -> list[Interrupt]:
    """Return those whose rule refuses their calls, and whose calls wait for that where the thread goes on."""
    asked = [each for each in due if each.on_expiry is OnExpiry.REFUSE and each.id in thread.interrupts]
    if not asked:
        return []
    from karma.runs.left_questions import is_awaited  # few processes of this function are asked

    messages = thread.conversation(thread.latest).messages
    return [each for each in asked if is_awaited(each, messages)]


def _request(run: Run, setup: RunSetup, refused: Sequence[Interrupt]) -> RunInput:
    """Make the request for the run that goes on behind refused calls, with the tools of the client that has left."""
    ids = sorted(each.id for each in refused)
    # Whatever the agent says: it stops no run of a user who has just gone on, nor waits for it.
    props = {"multitask_strategy": MultitaskStrategy.REJECT.value}
    asked = {
        "threadId": run.thread_id,
        "runId": hashlib.sha256("\n".join([run.key.user_id, *ids]).encode()).hexdigest()[:32],
        "parentRunId": run.key.run_id,
        "protocolVersion": "1.0",
        "messages": [],
        "tools": [tool._asdict() for tool in setup.frontend_tools],
        "forwardedProps": {**props, "agent_id": run.agent_id} if run.agent_id else props,
        "resume": [{"interruptId": name, "status": AnswerStatus.CANCELLED.value} for name in ids],
    }
    return replace(parse_run_input(orjson.dumps(asked)), unattended=run.unattended + 1)
