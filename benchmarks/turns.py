"""Counts what runs write, how soon another process goes on with one, and what a chat turn costs: calls, not times.

The stream's own app serves in this process, on DynamoDB Local, so that meter.py can compute the units; the model is
benchmarks.model. A step is a turn of the model with the calls of tools that it asks for. The process of a lost run is
one that took its lease and did nothing any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import statistics
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, TypeVar

from benchmarks import cold, prices
from benchmarks.account import Account
from benchmarks.calls import on_dynamodb_local
from benchmarks.meter import Meter, Spent
from benchmarks.model import prose
from benchmarks.report import Row
from benchmarks.world import Context, World
from karma.core import aws
from karma.core.ids import RunId, UserId, new_id

Result = TypeVar("Result")

_WRITES = frozenset({"PutItem", "UpdateItem", "DeleteItem", "TransactWriteItems", "BatchWriteItem"})
STREAM_GB, SMALL_GB = 0.375, 0.5
"""Memory of the stream function, and of those behind queues (infra/catalog.py, held by tests/unit/benchmarks)."""
SECONDS = 10
"""Seconds of a turn for which Lambda is paid."""
_THOUSAND = f"1,000 chat turns of {SECONDS} s"
_LOG_BYTES, _SEGMENT_BYTES = 1_000_000, 12_000


@dataclass
class Counted:
    """Calls of DynamoDB and SQS, and the seconds, of one block of a measurement."""

    dynamodb: Spent
    sqs: Counter[str]
    run_id: str = ""
    seconds: float = 0.0
    answered: bytes = b""

    @property
    def writes(self) -> int:
        """Return the calls of DynamoDB that write."""
        return sum(call in _WRITES for call in self.dynamodb.calls)


class Turns:
    """Runs of one account, and what they use."""

    def __init__(self, account: Account, client: Any) -> None:
        self._account = account
        self._client = client
        self.user_id = UserId(account.first.user_id)
        self._authorization = account.headers["authorization"].encode()

    @contextmanager
    def counting(self) -> Iterator[Counted]:
        """Count the calls of DynamoDB and SQS in a block."""
        queues = aws.client("sqs").meta.events
        meter = Meter(aws.client("dynamodb"), lookup=self._client)
        with meter.recording() as spent:
            counted = Counted(spent, Counter())

            def note(model: Any, **_: Any) -> None:
                counted.sqs[model.name] += 1

            queues.register("before-call.sqs", note)
            started = time.perf_counter()
            try:
                yield counted
            finally:
                counted.seconds = time.perf_counter() - started
                queues.unregister("before-call.sqs", note)

    async def turn(self, *, thread: str, deltas: int, pace_ms: int = 0, steps: int = 0, prose: bool = False) -> Counted:
        """Ask for a run, and read it to its end."""
        asked = f"deltas={deltas} pace_ms={pace_ms} steps={steps} {'prose=1' if prose else ''}"
        said = {"id": new_id(), "role": "user", "content": asked}
        body = {
            "protocolVersion": "1.0",
            "threadId": thread,
            "runId": new_id(),
            "messages": [said],
            "state": {},
            "tools": [],
            "context": [],
        }
        with self.counting() as counted:
            counted.answered = await self._ask(json.dumps(body).encode())
        counted.run_id = str(body["runId"])
        if b'"RUN_FINISHED"' not in counted.answered:
            raise RuntimeError(f"the run did not finish: {counted.answered[-500:]!r}")
        return counted

    async def _ask(self, body: bytes) -> bytes:
        from agent_stream.app import app

        sent: list[bytes] = []
        messages: list[MutableMapping[str, Any]] = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> MutableMapping[str, Any]:
            return messages.pop(0) if messages else await asyncio.Future()

        async def send(message: MutableMapping[str, Any]) -> None:
            sent.append(message.get("body", b""))

        headers = [
            (b"authorization", self._authorization),
            (b"content-type", b"application/json"),
            (b"accept", b"text/event-stream"),
        ]
        scope = {"type": "http", "method": "POST", "path": "/api/agent", "query_string": b"", "headers": headers}
        await app(scope, receive, send)
        return b"".join(sent)

    def lost_run(self) -> RunId:
        """Store a run whose process died as soon as it had taken the run."""
        from agent_stream import services
        from karma.runs.requests import parse_run_input

        said = {"id": new_id(), "role": "user", "content": "deltas=5 pace_ms=0"}
        body = {"threadId": new_id(), "runId": new_id(), "messages": [said], "state": {}, "tools": [], "context": []}
        caller = services.admission().caller(self._authorization.decode(), None, method="POST")
        asked = parse_run_input(json.dumps(body).encode(), taken=())
        moment = timedelta(milliseconds=1)
        begun = _run(services.recorder().record(caller, asked, lease=moment))
        time.sleep(2 * moment.total_seconds())
        return begun.run.key.run_id

    def message_of(self, run_id: str) -> dict[str, Any]:
        """Return the event of a queue whose message names a run: for its watchdog, or for who goes on with it."""
        body = json.dumps({"user_id": self.user_id, "run_id": run_id})
        return {"Records": [{"messageId": new_id(), "body": body}]}

    def thread_message(self, thread_id: str) -> dict[str, Any]:
        """Return the event of the queue of executions by which a title is asked for."""
        body = json.dumps({"user_id": self.user_id, "thread_id": thread_id})
        return {"Records": [{"messageId": new_id(), "body": body}]}

    def changes_of(self, run_id: str) -> dict[str, Any]:
        """Return the event of the table's stream by which a run has begun and ended."""
        key = {"pk": {"S": f"RUN#{self.user_id}#{run_id}"}, "sk": {"S": "HEAD"}}
        item = self._client.get_item(TableName=self._account.tables["agents"], Key=key, ConsistentRead=True)["Item"]
        running = {**item, "status": {"S": "running"}}
        images = ({"NewImage": running}, {"OldImage": running, "NewImage": item})
        return {
            "Records": [
                {"dynamodb": {"SequenceNumber": str(n), "Keys": key, **each}} for n, each in enumerate(images, 1)
            ]
        }


def measure(world: World) -> list[Row]:
    """Return the rows of runs."""
    with _ready(world) as turns:
        return [*_writing(turns), _join(turns), *_take_over(turns, world), *_costs(turns)]


def _run(work: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine in the loop of this process, to which the model's connections belong."""
    from agent_stream.execution import loop

    return loop().run_until_complete(work)


@contextmanager
def _ready(world: World) -> Iterator[Turns]:
    from agent_stream import services
    from api.handler import lambda_handler

    names = {name.removesuffix("_TABLE").lower(): table for name, table in world.values.items() if "_TABLE" in name}
    with on_dynamodb_local(names) as client:
        account = Account(client, names, lambda_handler)
        turns = Turns(account, client)
        try:
            _run(turns.turn(thread=new_id(), deltas=5))
            yield turns
        finally:
            _run(services.model().close())


def _writing(turns: Turns) -> list[Row]:
    async def runs() -> tuple[Counted, Counted, Counted, Counted]:
        short = await turns.turn(thread=new_id(), deltas=5)
        stepped = await turns.turn(thread=new_id(), deltas=5, steps=4)
        brief = await turns.turn(thread=new_id(), deltas=50, pace_ms=20)
        long = await turns.turn(thread=new_id(), deltas=550, pace_ms=20)
        return short, stepped, brief, long

    short, stepped, brief, long = _run(runs())
    a_step = (stepped.writes - short.writes) / 4
    a_second = (long.writes - brief.writes) / (long.seconds - brief.seconds)
    units = (long.dynamodb.write_units - brief.dynamodb.write_units) / (long.seconds - brief.seconds)
    shown = f"{short.writes} writes, {short.dynamodb.write_units:g} WRU, {len(short.dynamodb.calls)} calls in all"
    return [
        Row("runs", "a run of one turn", "", shown, "", None),
        Row("runs", "writes a step (turn with calls of tools)", "", f"{a_step:g}", "<= 2", a_step <= 2),
        Row("runs", "writes a second of streaming", "50 deltas/s", f"{a_second:.2f} ({units:.1f} WRU)", "<= 1",
            round(a_second, 1) <= 1),
    ]  # fmt: skip


def _join(turns: Turns) -> Row:
    from agent_stream import services
    from karma.runs.domain import RunKey
    from karma.runs.repository import RunRepository

    store, key = RunRepository(), RunKey(turns.user_id, turns.lost_run())
    begun = json.dumps({"type": "TEXT_MESSAGE_START", "messageId": "m", "role": "assistant"}).encode()
    said = [json.dumps({"type": "TEXT_MESSAGE_CONTENT", "messageId": "m", "delta": text}).encode() for text in prose()]
    a_segment = _SEGMENT_BYTES // len(said[0])
    segments = _LOG_BYTES // _SEGMENT_BYTES + 1
    tail = store.tail(key)
    if tail is None:
        raise RuntimeError("the run has no log")
    for n in range(2, segments + 2):
        deltas = tuple(said[(n * a_segment + at) % len(said)] for at in range(a_segment))
        events = (begun, *deltas) if n == 2 else deltas
        store.append(replace(tail, n=n, writer="w", epoch=2, events=events))
    with turns.counting() as counted:
        joined = services.run_reader().joined(turns.user_id, key.run_id)
    if joined.n != segments + 1:
        raise RuntimeError(f"joined up to segment {joined.n} of {segments + 1}")
    calls = len(counted.dynamodb.calls)
    return Row("runs", "join of a run with a log of 1 MB", "", f"{calls} calls, {counted.dynamodb.read_units:g} RRU",
               "<= 3 calls", calls <= 3)  # fmt: skip


def _take_over(turns: Turns, world: World) -> list[Row]:
    from agent_stream.execution import lambda_handler

    took: list[float] = []
    for _ in range(9):
        event = turns.message_of(turns.lost_run())
        started = time.perf_counter()
        with _writes_at() as claimed, contextlib.redirect_stdout(io.StringIO()):
            answer = lambda_handler(event, Context())  # type: ignore[arg-type]
        if answer["batchItemFailures"] or not claimed:
            raise RuntimeError(f"not taken over: {answer}")
        took.append(claimed[0] - started)
    warm = statistics.median(took)
    new = statistics.median(_in_a_new_process(turns, world) for _ in range(5))
    return [
        Row("runs", "take-over: message to claim, warm", "", f"{warm * 1000:.0f} ms", "<= 1 s", warm <= 1),
        Row("runs", "take-over: process start to the run's end", "", f"{new:.1f} B", "", None),
    ]


@contextmanager
def _writes_at() -> Iterator[list[float]]:
    """Note the moments at which writes were answered."""
    at: list[float] = []

    def note(model: Any, **_: Any) -> None:
        if model.name in _WRITES:
            at.append(time.perf_counter())

    events = aws.client("dynamodb").meta.events
    events.register("after-call.dynamodb", note)
    try:
        yield at
    finally:
        events.unregister("after-call.dynamodb", note)


_PROGRAM = """
import json, sys
from agent_stream.execution import lambda_handler
from benchmarks.world import Context
answer = lambda_handler(json.load(sys.stdin), Context())
assert not answer["batchItemFailures"], answer
"""


def _in_a_new_process(turns: Turns, world: World) -> float:
    """Return how often B a new process takes for a run that another one has lost."""
    event = json.dumps(turns.message_of(turns.lost_run()))
    env = {**world.environment(replayed=False), "AWS_ENDPOINT_URL_DYNAMODB": os.environ["AWS_ENDPOINT_URL_DYNAMODB"]}
    baseline = cold.process(cold.BASELINE, "", env)
    return cold.process(_PROGRAM, event, env) / baseline


def _costs(turns: Turns) -> list[Row]:
    """Count a turn of ten seconds in a thread with a turn before it and a title, and what looks after it."""
    thread = new_id()

    first = _run(turns.turn(thread=thread, deltas=5))
    _titled(turns, thread)
    turn = _run(turns.turn(thread=thread, deltas=50 * SECONDS, pace_ms=20, prose=True))
    after = (_watched(turns, first, turn), _folded(turns, first, turn))
    small = sum(each.seconds for each in after)
    reads = turn.dynamodb.read_units + sum(each.dynamodb.read_units for each in after)
    writes = turn.dynamodb.write_units + sum(each.dynamodb.write_units for each in after)
    # The watchdog's message is also received and deleted by Lambda for us.
    queued = sum(turn.sqs.values()) + 2 * turn.sqs["SendMessage"]
    used = {
        "Lambda, arm64, time": SECONDS * STREAM_GB + small * SMALL_GB,
        "Lambda, requests": 1.0 + len(after),
        "DynamoDB, writes": writes,
        "DynamoDB, reads": reads,
        "SQS, standard queues": float(queued),
        "CloudFront, HTTPS requests": 1.0,
        "CloudFront, sent to clients": float(len(turn.answered)),
    }
    return [
        Row("runs", f"{_THOUSAND}: {paid.name}", paid.at, f"${paid.usd:.4f}", "", None) for paid in prices.paid(used)
    ] + [_together(used)]


def _together(used: Mapping[str, float]) -> Row:
    total = sum(each.usd for each in prices.paid(used))
    return Row("runs", f"{_THOUSAND}: together", f"prices of {prices.AS_OF}", f"${total:.3f}",
               f"<= ${prices.TARGET_USD}", total <= prices.TARGET_USD)  # fmt: skip


def _watched(turns: Turns, first: Counted, turn: Counted) -> Counted:
    """Count the look at a run that has ended, for which its start has sent a message."""
    from background.runs import lambda_handler

    return _warm(turns, lambda_handler, turns.message_of(first.run_id), turns.message_of(turn.run_id))


def _titled(turns: Turns, thread: str) -> None:
    """Let a title be proposed for a thread, which happens once."""
    from agent_stream.execution import lambda_handler

    with contextlib.redirect_stdout(io.StringIO()):
        lambda_handler(turns.thread_message(thread), Context())  # type: ignore[arg-type]


def _folded(turns: Turns, first: Counted, turn: Counted) -> Counted:
    """Count how a run's start and end, which come in one batch, are folded into the figures; batches hold several."""
    from background.metrics import lambda_handler

    return _warm(turns, lambda_handler, turns.changes_of(first.run_id), turns.changes_of(turn.run_id))


def _warm(turns: Turns, handler: Callable[[Any, Any], object], first: Any, event: Any) -> Counted:
    with contextlib.redirect_stdout(io.StringIO()):
        handler(first, Context())
        with turns.counting() as counted:
            handler(event, Context())
    return counted
