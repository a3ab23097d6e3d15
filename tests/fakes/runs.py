"""Fakes of what the run engine depends on. The store passes the same contract suite as DynamoDB's."""

import asyncio
import threading
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from types import MappingProxyType
from typing import Any

import orjson

from karma.billing.allowances import Adjustment, Reservation
from karma.conversations.domain import History, Message, Thread, ThreadChanged, ThreadKey
from karma.conversations.state import State
from karma.conversations.stored import dump_messages
from karma.core.dynamo.transaction import Transaction
from karma.core.errors import AppError
from karma.core.ids import AgentId, RunId, UserId
from karma.identity.domain import Caller, Role
from karma.identity.transactional import AccountGone
from karma.models.domain import Target, Usage
from karma.models.ports import (
    ModelEvent,
    ModelFailed,
    ModelRequest,
    StopReason,
    TextDelta,
    ToolArguments,
    ToolBegun,
    ToolEnded,
    TurnEnded,
)
from karma.runs.domain import Checkpoint, OwnershipLost, Run, RunEnd, RunExists, RunKey, RunStatus, Segment
from karma.runs.interrupts import Answered, Interrupt
from karma.runs.items import list_position, list_sk
from karma.runs.ports import Also, DelegatedWork, RunPage, StoredRun, StoredStep
from karma.runs.transitions import end
from karma.runs.wishes import AgentStop, Wish
from tests.fakes.controlled_runs import ControlledRuns, still_open
from tests.fakes.leases import MemoryHoldings
from tests.fakes.requests import MemoryRequests
from tests.fakes.usage import MemoryUsage


class SetClock:
    """Stands still until it is moved."""

    def __init__(self, at: datetime = datetime(2026, 11, 21, 12, tzinfo=UTC)) -> None:
        self.at = at

    def now(self) -> datetime:
        return self.at

    def pass_by(self, delta: timedelta) -> None:
        self.at += delta


class MemoryRuns(ControlledRuns, MemoryHoldings):
    """Runs in dictionaries. `fail` raises what it returns for a call's name, before the call has any effect."""

    def __init__(
        self, fail: Callable[[str], Exception | None] = lambda _: None, *, usage: MemoryUsage | None = None
    ) -> None:
        super().__init__()
        self.usage = usage or MemoryUsage()
        self.requests = MemoryRequests()
        self.runs_by_key: dict[RunKey, Run] = {}
        self.logs: dict[RunKey, dict[int, Segment]] = defaultdict(dict)
        self.threads: dict[ThreadKey, Thread] = {}
        self.changed_at: dict[ThreadKey, datetime] = {}
        self.setups: dict[RunKey, bytes] = {}
        self.steps: dict[tuple[RunKey, str, int], StoredStep] = {}
        self.checkpoints: dict[RunKey, dict[int, Checkpoint]] = defaultdict(dict)
        self.wished: dict[RunKey, dict[Wish | AgentStop, str]] = defaultdict(dict)
        self.at_work: dict[tuple[RunKey, str], AgentId] = {}
        self.interrupts_by_id: dict[str, Interrupt] = {}
        self.put_off_until: dict[str, datetime] = {}
        self.put_offs: dict[str, int] = {}
        self.gone: set[UserId] = set()
        self.taken_by: set[str] = set()
        """Tokens of what was taken."""
        self._lock = threading.RLock()
        self.fail = fail
        self.attachments: dict[tuple[UserId, str], int] = {}

    def thread(self, key: ThreadKey) -> Thread:
        self._meet("thread")
        thread = self.threads.get(key, Thread(key=key))
        return replace(thread, stored_bytes=sum(len(dump_messages([each])) - 2 for each in thread.messages))

    def start(
        self,
        run: Run,
        *,
        thread: Thread,
        segment: Segment,
        messages: tuple[Message, ...],
        setup: bytes = b"",
        after: int | None = None,
        checkpoint: Checkpoint | None = None,
        attachments: Mapping[str, int] = MappingProxyType({}),
        reservations: Sequence[Reservation] = (),
        answers: Sequence[Answered] = (),
        left: Sequence[Interrupt] = (),
        state: State | None = None,
        delegated: Sequence[StoredStep] = (),
        also: Also | None = None,
    ) -> None:
        self._meet("start")
        with self._lock:
            self._start(
                run, thread, segment, messages, setup, after, attachments, reservations, answers, left, state, also
            )
            self._delegate(segment, DelegatedWork(delegated))
            if checkpoint is not None:
                self.checkpoints[run.key][checkpoint.n] = checkpoint
                if not messages and after is not None:
                    self.threads[thread.key] = replace(self.threads[thread.key], restored_to=after)

    def _start(
        self,
        run: Run,
        thread: Thread,
        segment: Segment,
        messages: tuple[Message, ...],
        setup: bytes,
        after: int | None,
        attachments: Mapping[str, int],
        reservations: Sequence[Reservation],
        answers: Sequence[Answered],
        left: Sequence[Interrupt],
        state: State | None,
        also: Also | None,
    ) -> None:
        if run.key.user_id in self.gone:
            raise AccountGone(run.key.user_id)
        if run.key in self.runs_by_key:
            raise RunExists(run.key.run_id)
        stored = self.threads.get(thread.key, Thread(key=thread.key))
        is_queued = run.status is RunStatus.QUEUED
        if stored.version != thread.version or (stored.active_run_id is not None and not is_queued):
            raise ThreadChanged
        if stored.is_draft != thread.is_draft:
            raise ThreadChanged
        stored = replace(stored, is_deleted=False, is_draft=False) if stored.is_draft else stored
        if any((run.key.user_id, name) in self.attachments for name in attachments):
            raise ThreadChanged
        is_as_read = all(self.interrupts_by_id[each.interrupt.id].answer == each.interrupt.answer for each in answers)
        if not is_queued and not is_as_read:
            raise ThreadChanged
        before = dict(self.usage.taken)
        self.usage.reserve(reservations)
        if also is not None:
            try:
                also(Transaction())
            except AppError:
                self.usage.taken = before
                raise
        for each in () if is_queued else answers:
            self.interrupts_by_id[each.interrupt.id] = replace(each.interrupt, answer=each.answer)
        self.attachments |= {(run.key.user_id, name): size for name, size in attachments.items()}
        before_it = stored.last_run_id if stored.version else RunId("")
        self.runs_by_key[run.key] = replace(run, previous_run_id=before_it)
        self.logs[run.key][segment.n] = segment
        self.setups[run.key] = setup
        self.changed_at[thread.key] = run.created_at
        if is_queued:
            version, queue = stored.version + 1, (*thread.queue, run.key.run_id)
            self.threads[thread.key] = replace(stored, queue=queue, last_run_id=queue[-1], version=version)
            return
        self.threads[thread.key] = replace(
            stored,
            active_run_id=run.key.run_id,
            last_run_id=run.key.run_id,
            making_way=None,
            version=stored.version + 1,
            interrupts=tuple(each.id for each in left),
        )
        self._keep(History(thread.key, thread.next_message, messages, after, state))

    def unkept(self, user_id: UserId, attachments: Collection[str]) -> list[str]:
        return [name for name in attachments if (user_id, name) not in self.attachments]

    def append(
        self,
        segment: Segment,
        *,
        history: History | None = None,
        checkpoint: Checkpoint | None = None,
        delegated: DelegatedWork | None = None,
    ) -> None:
        self._meet("append")
        with self._lock:
            if self._is_repeat(segment):
                return
            self._delegate(segment, delegated)
            self.logs[segment.key][segment.n] = segment
            self._keep(history)
            if checkpoint is not None:
                self.checkpoints[segment.key][checkpoint.n] = checkpoint

    def take(self, reservation: Reservation, *, token: str | None = None) -> None:
        self._meet("take")
        if token in self.taken_by:
            return
        if reservation.user_id in self.gone:
            raise AccountGone(reservation.user_id)
        self.usage.reserve([reservation])
        self.taken_by |= {token} if token else set()

    def settle(self, correction: Adjustment) -> None:
        self._meet("settle")
        if correction.user_id not in self.gone:
            self.usage.adjust([correction])

    def extend(self, key: RunKey, reservation: Reservation) -> None:
        self._meet("extend")
        run = self.runs_by_key[key]
        if run.status is not RunStatus.RUNNING:
            raise OwnershipLost
        self.usage.extend(reservation)
        self.runs_by_key[key] = replace(run, reserved_micros=run.reserved_micros + reservation.amount)

    def setup(self, key: RunKey) -> bytes | None:
        self._meet("setup")
        return self.setups.get(key) or None

    def whole(self, key: RunKey) -> StoredRun | None:
        self._meet("whole")
        with self._lock:
            run = self.runs_by_key.get(key)
            return None if run is None else StoredRun(run, self.setup(key), self.segments(key, after=0, limit=10**6))

    def last_checkpoint(self, key: RunKey) -> Checkpoint | None:
        self._meet("last_checkpoint")
        found = self.checkpoints.get(key)
        return found[max(found)] if found else None

    def finish(self, segment: Segment, how: RunEnd, *, thread: ThreadKey, history: History | None = None) -> None:
        self._meet("finish")
        with self._lock:
            if self._is_repeat(segment):
                return
            if self.runs_by_key[segment.key].status is not how.was:
                raise OwnershipLost
            if how.withdrawal is not None:
                if how.withdrawal.n in self.logs[segment.key]:
                    raise OwnershipLost
                self.logs[segment.key][how.withdrawal.n] = how.withdrawal
            self.logs[segment.key][segment.n] = segment
            self.runs_by_key[segment.key] = end(self.runs_by_key[segment.key], how)
            for subagent in how.left:
                self.at_work.pop((segment.key, subagent), None)
            self.usage.adjust([*([how.correction] if how.correction else ()), *how.of_days])
            stored = self.threads[thread]
            if how.was is not RunStatus.QUEUED:
                assert stored.active_run_id == segment.key.run_id
                self.changed_at[thread] = how.at
                self.threads[thread] = replace(
                    stored,
                    active_run_id=None,
                    version=stored.version + 1,
                    interrupts=still_open(stored, how),
                    spending=replace(
                        stored.spending,
                        tokens=stored.spending.tokens + how.spent.tokens,
                        cost_micros=stored.spending.cost_micros + how.spent.cost_micros,
                    ),
                )
            self.interrupts_by_id |= {each.id: each for each in how.interrupts if each.key == segment.key}
            self._pass_over(how)
            self._keep(history)

    def _keep(self, history: History | None) -> None:
        if history is None:
            return
        stored = self.threads[history.thread]
        if history.messages:
            assert history.n == stored.next_message
            messages = (*stored.messages, *history.messages)
            forks = stored.forks if history.fork is None else {**stored.forks, history.n: history.fork}
            stored = replace(stored, messages=messages, next_message=len(messages), forks=forks, restored_to=None)
        self.threads[history.thread] = replace(stored, state=history.state or stored.state)

    def interrupts(self, user_id: UserId, ids: Collection[str]) -> dict[str, Interrupt]:
        self._meet("interrupts")
        found = {name: self.interrupts_by_id.get(name) for name in ids}
        return {name: each for name, each in found.items() if each is not None and each.key.user_id == user_id}

    def tail(self, key: RunKey) -> Segment | None:
        log = self.logs.get(key)
        return log[max(log)] if log else None

    def segments(self, key: RunKey, *, after: int, limit: int) -> list[Segment]:
        log = self.logs.get(key, {})
        return [log[n] for n in sorted(log) if n > after][:limit]

    def run(self, key: RunKey) -> Run | None:
        return self.runs_by_key.get(key)

    def runs(
        self, user_id: UserId, *, limit: int, start: dict[str, str] | None, agent_id: AgentId | None = None
    ) -> RunPage:
        held = [run for run in self.runs_by_key.values() if run.key.user_id == user_id]
        held = sorted((run for run in held if agent_id in {None, run.agent_id}), key=list_sk, reverse=True)
        found = [run for run in held if start is None or list_sk(run) < start["gsi1sk"]]
        position = partial(list_position, of_agent=agent_id is not None)
        return RunPage(found[:limit], position(found[limit - 1]) if found[limit:] else None, position)

    def count(self, user_id: UserId) -> int:
        return sum(run.key.user_id == user_id for run in self.runs_by_key.values())

    def count_of_agent(self, user_id: UserId, agent_id: AgentId, *, most: int) -> int:
        return len(self.runs(user_id, limit=most, start=None, agent_id=agent_id).runs)

    def owners(self, run_id: RunId) -> list[UserId]:
        return [key.user_id for key in self.runs_by_key if key.run_id == run_id]


@dataclass
class RememberedWatchdog:
    """Records the runs that the watchdog was asked to check."""

    armed: list[tuple[RunKey, timedelta]] = field(default_factory=list)
    chains: list[int] = field(default_factory=list)

    def arm(self, key: RunKey, *, delay: timedelta, chain: int = 0) -> None:
        self.armed.append((key, delay))
        self.chains.append(chain)


@dataclass
class RequestedExecutions:
    """Records the runs that another process was asked to go on with."""

    requested: list[RunKey] = field(default_factory=list)
    woken: dict[RunKey, str] = field(default_factory=dict)
    """By which name those waited for a place that were woken."""

    def request(self, key: RunKey) -> None:
        self.requested.append(key)

    def wake(self, key: RunKey, waited_as: str) -> None:
        self.woken[key] = waited_as
        self.requested.append(key)


@dataclass
class KeptFrames:
    """A Sink that collects what is written."""

    data: bytes = b""
    is_lost: bool = False

    def write(self, data: bytes) -> None:
        self.data += data

    @property
    def events(self) -> list[dict[str, Any]]:
        return events_of(self.data)


Step = Sequence[ModelEvent] | Callable[[], object] | ModelFailed


class ScriptedModel:
    """Plays one script a call; a step is a batch of events, something to do or await, or a failure to raise."""

    def __init__(self, *turns: Sequence[Step]) -> None:
        self.turns = list(turns)
        self.requests: list[ModelRequest] = []
        self.failure: Exception | None = None

    def prepare(self, target: Target) -> None:
        if self.failure is not None:
            raise self.failure

    def preload(self, target: Target) -> None:
        pass

    async def close(self) -> None:
        pass

    async def stream(self, request: ModelRequest) -> AsyncGenerator[Sequence[ModelEvent]]:
        self.requests.append(replace(request, messages=tuple(request.messages)))
        for step in self.turns.pop(0):
            if isinstance(step, ModelFailed):
                raise step
            if callable(step):
                result = step()
                if asyncio.iscoroutine(result):
                    await result
            else:
                yield step


def text(*deltas: str) -> list[Step]:
    return [[TextDelta(delta)] for delta in deltas]


def tool(call_id: str, name: str, *arguments: str) -> list[Step]:
    return [
        [ToolBegun(call_id, name)],
        *[[ToolArguments(call_id, each)] for each in arguments],
        [ToolEnded(call_id, "".join(arguments))],
    ]


def ended(stop: StopReason = StopReason.END, usage: Usage | None = None, *blocks: dict[str, Any]) -> list[Step]:
    return [[TurnEnded(stop, usage or Usage(10, 5), blocks)]]


def caller(role: Role = Role.USER, user_id: str = "01890000-0000-7000-8000-000000000001") -> Caller:
    return Caller(
        user_id=UserId(user_id),
        role=role,
        method="jwt",
        scopes=frozenset(),
        email_verified=True,
        name="Ada",
        avatar="https://example.com/ada.png",
    )


def events_of(data: bytes) -> list[dict[str, Any]]:
    """Read the events of a stream, strictly: LF frames, one data line each."""
    assert b"\r" not in data
    events = []
    for block in data.split(b"\n\n"):
        lines = [line for line in block.split(b"\n") if line.startswith(b"data: ")]
        assert len(lines) <= 1
        events += [orjson.loads(line[6:]) for line in lines]
    return events


def types(events: Sequence[dict[str, Any]]) -> list[str]:
    return [event["type"] for event in events]
