"""Fakes of what the run engine depends on. The store passes the same contract suite as DynamoDB's."""

import asyncio
import hashlib
import threading
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any
from urllib.parse import quote

import orjson

from karma.billing.allowances import Adjustment, Reservation
from karma.conversations.attachments import Library
from karma.conversations.domain import History, Message, Thread, ThreadKey
from karma.conversations.ports import Fetched, NotFetched
from karma.core.errors import NotFound, PayloadTooLarge
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
from karma.runs.domain import (
    Checkpoint,
    OwnershipLost,
    Run,
    RunEnd,
    RunExists,
    RunKey,
    RunStatus,
    Segment,
    ThreadChanged,
    Wish,
    end,
)
from karma.runs.ports import RunPage
from tests.fakes.controlled_runs import ControlledRuns
from tests.fakes.usage import MemoryUsage


class SetClock:
    """Stands still until it is moved."""

    def __init__(self, at: datetime = datetime(2026, 11, 21, 12, tzinfo=UTC)) -> None:
        self.at = at

    def now(self) -> datetime:
        return self.at

    def pass_by(self, delta: timedelta) -> None:
        self.at += delta


class MemoryRuns(ControlledRuns):
    """Runs in dictionaries. `fail` raises what it returns for a call's name, before the call has any effect."""

    def __init__(
        self, fail: Callable[[str], Exception | None] = lambda _: None, *, usage: MemoryUsage | None = None
    ) -> None:
        self.usage = usage or MemoryUsage()
        self.runs_by_key: dict[RunKey, Run] = {}
        self.logs: dict[RunKey, dict[int, Segment]] = defaultdict(dict)
        self.threads: dict[ThreadKey, Thread] = {}
        self.setups: dict[RunKey, bytes] = {}
        self.checkpoints: dict[RunKey, dict[int, Checkpoint]] = defaultdict(dict)
        self.wished: dict[RunKey, dict[Wish, str]] = defaultdict(dict)
        self.gone: set[UserId] = set()
        self._lock = threading.RLock()
        self.fail = fail
        self.attachments: dict[tuple[UserId, str], int] = {}

    def thread(self, key: ThreadKey) -> Thread:
        self._meet("thread")
        return self.threads.get(key, Thread(key=key))

    def start(
        self,
        run: Run,
        *,
        thread: Thread,
        segment: Segment,
        messages: tuple[Message, ...],
        setup: bytes = b"",
        after: int | None = None,
        attachments: Mapping[str, int] = MappingProxyType({}),
        reservations: Sequence[Reservation] = (),
    ) -> None:
        self._meet("start")
        if run.key.user_id in self.gone:
            raise AccountGone(run.key.user_id)
        if run.key in self.runs_by_key:
            raise RunExists(run.key.run_id)
        stored = self.threads.get(thread.key, Thread(key=thread.key))
        if stored.version != thread.version or stored.active_run_id is not None:
            raise ThreadChanged
        if any((run.key.user_id, name) in self.attachments for name in attachments):
            raise ThreadChanged
        self.usage.reserve(reservations)
        self.attachments |= {(run.key.user_id, name): size for name, size in attachments.items()}
        self.runs_by_key[run.key] = run
        self.logs[run.key][segment.n] = segment
        self.setups[run.key] = setup
        self.threads[thread.key] = replace(stored, active_run_id=run.key.run_id, version=stored.version + 1)
        self._keep(History(thread.key, thread.next_message, messages, after))

    def unkept(self, user_id: UserId, attachments: Collection[str]) -> list[str]:
        return [name for name in attachments if (user_id, name) not in self.attachments]

    def append(self, segment: Segment, *, history: History | None = None, checkpoint: Checkpoint | None = None) -> None:
        self._meet("append")
        with self._lock:
            if self._is_repeat(segment):
                return
            self.logs[segment.key][segment.n] = segment
            self._keep(history)
            if checkpoint is not None:
                self.checkpoints[segment.key][checkpoint.n] = checkpoint

    def take(self, reservation: Reservation) -> None:
        self._meet("take")
        if reservation.user_id in self.gone:
            raise AccountGone(reservation.user_id)
        self.usage.reserve([reservation])

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
            self.logs[segment.key][segment.n] = segment
            self.runs_by_key[segment.key] = end(self.runs_by_key[segment.key], how)
            self.usage.adjust([how.correction] if how.correction else [])
            stored = self.threads[thread]
            self.threads[thread] = replace(stored, active_run_id=None, version=stored.version + 1)
            self._keep(history)

    def _keep(self, history: History | None) -> None:
        if history is None or not history.messages:
            return
        stored = self.threads[history.thread]
        assert history.n == stored.next_message
        messages = (*stored.messages, *history.messages)
        forks = stored.forks if history.fork is None else {**stored.forks, history.n: history.fork}
        self.threads[history.thread] = replace(stored, messages=messages, next_message=len(messages), forks=forks)

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
        found = [
            run for run in self.runs_by_key.values() if run.key.user_id == user_id and agent_id in {None, run.agent_id}
        ]
        found.sort(key=lambda run: (run.created_at, run.key.run_id), reverse=True)
        at = int(start["at"]) if start else 0
        more = at + limit < len(found)
        return RunPage(found[at : at + limit], {"at": str(at + limit)} if more else None)

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

    def request(self, key: RunKey) -> None:
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


@dataclass
class MemoryAttachments:
    """Attachments in a dictionary."""

    kept: dict[tuple[UserId, str], bytes] = field(default_factory=dict)

    def keep(self, user_id: UserId, data: bytes) -> str:
        attachment_id = hashlib.sha256(data).hexdigest()
        self.kept[user_id, attachment_id] = data
        return attachment_id

    def read(self, user_id: UserId, attachment_id: str) -> bytes | None:
        return self.kept.get((user_id, attachment_id))

    def url(self, user_id: UserId, attachment_id: str, media_type: str) -> str:
        return f"https://files.example.com/attachments/{user_id}/{attachment_id}?type={quote(media_type, safe='')}"

    def remove(self, user_id: UserId, attachment_id: str) -> None:
        self.kept.pop((user_id, attachment_id), None)

    def remove_all(self, user_id: UserId, *, limit: int) -> int:
        found = [key for key in self.kept if key[0] == user_id][:limit]
        for key in found:
            del self.kept[key]
        return len(found)


@dataclass
class MemoryDeviceFiles:
    """Files of devices by owner, device and id."""

    files: dict[tuple[UserId, str, str], bytes] = field(default_factory=dict)

    def read(self, user_id: UserId, device_id: str, file_id: str, *, max_bytes: int) -> bytes:
        data = self.files.get((user_id, device_id, file_id))
        if data is None:
            raise NotFound(f"File {file_id} not found")
        if len(data) > max_bytes:
            raise PayloadTooLarge(f"File {file_id} has more than {max_bytes} bytes")
        return data


@dataclass
class ScriptedFetch:
    """Fetches scripted answers of URLs, and records who asked."""

    pages: dict[str, Fetched] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def fetch(self, url: str, *, max_bytes: int) -> Fetched:
        self.asked.append(url)
        if url not in self.pages:
            raise NotFetched("could not be fetched")
        return self.pages[url]


def library() -> Library:
    """Return an empty library."""
    return Library(MemoryAttachments(), MemoryDeviceFiles(), ScriptedFetch())
