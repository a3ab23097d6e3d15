"""One account with a row of each kind, made as users, devices and Stripe make them: whose routes calls.py measures."""

from __future__ import annotations

import base64
import contextlib
import io
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlencode

from benchmarks.world import Context, http_event
from karma.agents.domain import MODELS
from karma.core.clock import epoch_ms
from karma.core.ids import UserId, new_id

if TYPE_CHECKING:
    from karma.runs.domain import RunKey

LIMIT = 5
"""Rows of a page."""
BATCHES_SHOWN = 100
"""Stored batches from an hour before the range that is read to its end: a message every 72 s."""

Attributes = dict[str, Any]

CONFIGURED = "controlDevice"
SCHEDULE = {"name": "Every working day", "cron": "0 9 * * 1-5", "run": {"message": "Which plants are dry?"}}
TASK = {
    "title": "Water the plants",
    "description": "Those of the north first, then the others; not those that were watered today. " * 3,
    "subtasks": [
        {"title": "Find the dry ones", "ref": "find", "description": "By their sensors. " * 10},
        {"title": "Water them", "dependencies": ["find"], "description": "As long as they are dry. " * 10},
    ],
}
AVATAR = {
    "name": "Fern",
    "role": "gardener",
    "description": "Keeps plants alive. " * 10,
    "skills": ["watering"],
    "system_prompt": "You keep plants alive. " * 20,
}
PROJECT = {"name": "Greenhouse", "description": "All that grows in the north. " * 10}
PASSWORD = "Bench-marks-are-9-fine"  # noqa: S105  of an account on an engine of this machine
COMMAND = {"command": "set_temperature", "params": {"celsius": 21.5}, "ttl_s": 3600}


class Step(NamedTuple):
    """A request to measure, with the name of its route."""

    route: str
    method: str
    path: str
    query: Mapping[str, object] = {}
    body: object = None


@dataclass
class First:
    """Ids of the rows that are copied, and the rows as stored."""

    user_id: str = ""
    device_id: str = ""
    serial: str = ""
    certificate_id: str = ""
    command_id: str = ""
    agent_id: str = ""
    run_id: str = ""
    thread_id: str = ""
    checkpoint_id: str = ""
    notice_id: str = ""
    task_id: str = ""
    schedule_id: str = ""
    avatar_id: str = ""
    project_id: str = ""
    rule_id: str = ""
    alarm_id: str = ""
    export_id: str = ""
    event_id: str = "evt_calls_000000000"
    items: dict[str, list[Attributes]] = field(default_factory=dict)

    @property
    def batches(self) -> list[Attributes]:
        """Return the batches of samples, without their rollups."""
        return [item for item in self.items["telemetry"] if item["pk"]["S"].startswith("DEV#")]

    def of(self, table: str, sort: str) -> Attributes:
        """Return the row whose sort key begins with `sort`."""
        return next(item for item in self.items[table] if item["sk"]["S"].startswith(sort))

    def copy(self, table: str, old: str, new: str, *, sort: str = "") -> Attributes:
        """Copy the row that has an id in its key."""
        found = (item for item in self.items[table] if old in item["pk"]["S"] + item["sk"]["S"])
        copied: Attributes = renamed(next(item for item in found if item["sk"]["S"].startswith(sort)), {old: new})
        return copied

    def family(
        self, table: str, key: str, changed: Mapping[str, str], *, beside: str = "-"
    ) -> Iterator[tuple[str, Attributes]]:
        """Copy all rows with `key` in their key, except those whose sort key begins with `beside`."""
        for item in self.items[table]:
            sk = item["sk"]["S"]
            if key in f"{item['pk']['S']}|{sk}" and not sk.startswith((beside, "SESSION#")):
                yield table, renamed(item, changed)


class Account:
    """The account, which calls the API's handler as its user."""

    def __init__(self, client: Any, tables: Mapping[str, str], serve: Callable[[Attributes, Any], Attributes]) -> None:
        """Make the first rows; `serve` is the API's handler."""
        self._client = client
        self.tables = tables
        self._serve = serve
        self.headers: dict[str, str] = {}
        self.number = itertools.count()
        self.day = (datetime.now(UTC) - timedelta(days=2)).replace(hour=0, minute=0, second=0, microsecond=0)
        """The day of the batches that are shown."""
        self.first = First()
        self._make()

    def call(self, step: Step) -> Any:
        """Send one request; returns `data` of the answer."""
        body = None if step.body is None else json.dumps(step.body).encode()
        event = http_event(step.method, step.path, body=body, headers=self.headers, query=urlencode(step.query))
        with contextlib.redirect_stdout(io.StringIO()):
            answer = self._serve(event, Context())
        if answer["statusCode"] >= 300:
            raise RuntimeError(f"{step.method} {step.path}: {answer['statusCode']} {answer.get('body')}")
        shown = json.loads(answer.get("body") or "{}")
        return shown.get("data", shown)

    def _make(self) -> None:
        from karma.identity.domain import Role

        who = {"email": "calls@example.com", "password": PASSWORD}
        registered = self.call(Step("", "POST", "/api/v1/auth/register", body={**who, "name": "Calls"}))
        user_id = self.first.user_id = registered["user"]["id"]
        self._client.update_item(
            TableName=self.tables["identity"],
            Key={"pk": {"S": f"USER#{user_id}"}, "sk": {"S": "PROFILE"}},
            UpdateExpression="SET #r = :r, email_verified = :yes",
            ExpressionAttributeNames={"#r": "role"},
            ExpressionAttributeValues={":r": {"S": Role.ADMIN.value}, ":yes": {"BOOL": True}},
        )
        token = self.call(Step("", "POST", "/api/v1/auth/login", body=who))["access_token"]
        self.headers = {"authorization": f"Bearer {token}"}
        made = self.call(Step("", "POST", "/api/v1/devices", body=self.device()))
        self.first.device_id = made["device"]["id"]
        self.first.serial = made["device"]["serial_number"]
        self.first.certificate_id = made["credentials"]["certificate_id"]
        commands = f"/api/v1/devices/{self.first.device_id}/commands"
        self.first.command_id = self.call(Step("", "POST", commands, body=COMMAND))["command"]["id"]
        made = self.call(Step("", "POST", "/api/v1/agents", body=self.agent()))
        self.first.agent_id = made["agent"]["id"]
        self.first.task_id = self.call(Step("", "POST", "/api/v1/tasks", body=TASK))["task"]["id"]
        self.first.schedule_id = self.call(Step("", "POST", "/api/v1/schedules", body=SCHEDULE))["schedule"]["id"]
        self.first.avatar_id = self.call(Step("", "POST", "/api/v1/avatars", body=AVATAR))["avatar"]["id"]
        self.first.project_id = self.call(Step("", "POST", "/api/v1/projects", body=PROJECT))["project"]["id"]
        self._configure()
        self._notify()
        self._tell()
        self._roll_up()
        self._run()
        self._subscribe()

    def keep(self) -> None:
        """Keep the rows as they are stored by now, to be copied."""
        for name, table in self.tables.items():
            self.first.items[name] = self._client.scan(TableName=table)["Items"]

    def device(self) -> dict[str, object]:
        """Return the body of another device."""
        number = next(self.number)
        return {
            "name": "Greenhouse",
            "model": "EOS-3A",
            "mac": "AA:BB:CC:00:11:22",
            "serial_number": f"EOS-CALLS-{number:06d}",
            "location": {"building": "North", "room": "1"},
            "tags": ["greenhouse", "north"],
        }

    def agent(self) -> dict[str, object]:
        """Return the body of another agent."""
        return {
            "name": f"greenhouse keeper {next(self.number)}",
            "model": MODELS[0],
            "system_prompt": "You keep greenhouses. " * 100,
            "description": "Keeps the greenhouses of the north warm, and says what it did. " * 5,
            "tools": ["searchDatabase", "controlDevice"],
            "tags": ["greenhouse"],
        }

    def _configure(self) -> None:
        for number in range(2 * LIMIT):
            body = {"config": {"description": f"Moves what is there to be moved, for the {number}th time. " * 5}}
            self.call(Step("", "PUT", f"/api/v1/config/{CONFIGURED}", body=body))

    def _notify(self) -> None:
        from karma.core.dynamo.transaction import Transaction
        from karma.notices.domain import Notice, NoticeType
        from karma.notices.transactional import add_notice

        now, tx = datetime.now(UTC), Transaction()
        made = [
            Notice(user_id=UserId(self.first.user_id), type=NoticeType.SESSIONS_ENDED, created_at=now)
            for _ in range(2 * LIMIT)
        ]
        for notice in made:
            add_notice(tx, notice)
        tx.commit()
        self.first.notice_id = made[0].id
        self.call(Step("", "POST", f"/api/v1/notices/{made[0].id}/read"))

    def _roll_up(self) -> None:
        from karma.core.clock import SystemClock
        from karma.core.ids import DeviceId
        from karma.devices.repository.telemetry import TelemetryRepository
        from karma.integrations.s3 import S3Archives
        from karma.telemetry.archive_repository import ArchiveRepository
        from karma.telemetry.archiving import Archiving
        from karma.telemetry.domain import DAY_MS, Level, Period
        from karma.telemetry.rebuilding import Rebuilding
        from karma.telemetry.repository import RollupRepository

        rollups = RollupRepository()
        raw, notes, objects = TelemetryRepository(), ArchiveRepository(), S3Archives("")
        archiving = Archiving(raw, notes, objects, kept_days=lambda _: 0)
        rebuilding = Rebuilding(rollups, raw, SystemClock(), archives=notes, archiving=archiving)
        day = Period(DeviceId(self.first.device_id), Level.DAY, epoch_ms(self.day) // DAY_MS)
        for period in (*(Period(day.device_id, Level.HOUR, day.number * 24 + hour) for hour in range(24)), day):
            rollups.mark(period, due=self.day)
            with contextlib.redirect_stdout(io.StringIO()):
                rebuilding.rebuild(period)

    def _tell(self) -> None:
        from device_ingest.handler import lambda_handler

        start = epoch_ms(self.day + timedelta(hours=9))
        bodies: list[tuple[str, object]] = [
            ("telemetry", _telemetry(start + 72_000 * seq, seq)) for seq in range(BATCHES_SHOWN)
        ]
        bodies += [
            ("heartbeat", {"boot": "calls", "seq": 1, "ts": 1, "ip": "192.0.2.1", "firmware_version": "1.2.3"}),
            ("telemetry", "no batch"),
        ]
        received = epoch_ms(datetime.now(UTC))
        for some in _tens(bodies):
            with contextlib.redirect_stdout(io.StringIO()):
                answer = lambda_handler(told_by(self.first, some, received_ms=received), Context())  # type: ignore[arg-type]
            if answer["batchItemFailures"]:
                raise RuntimeError("ingest refused messages")

    def _run(self) -> None:
        from karma.agents.domain import BUILT_IN_ID
        from karma.conversations.domain import Thread, ThreadKey
        from karma.core.ids import RunId, ThreadId
        from karma.runs.domain import Run, RunKey, RunStatus, Segment
        from karma.runs.repository import RunRepository

        now, user_id = datetime.now(UTC), UserId(self.first.user_id)
        run_id, thread_id = RunId(new_id()), ThreadId(new_id())
        self.first.run_id, self.first.thread_id, key = run_id, thread_id, RunKey(user_id, run_id)
        event = json.dumps({"type": "TEXT_MESSAGE_CONTENT", "messageId": "m", "delta": "x" * 40}).encode()
        RunRepository().start(
            Run(
                key=key,
                thread_id=thread_id,
                status=RunStatus.RUNNING,
                model="model",
                created_at=now,
                agent_id=BUILT_IN_ID,
                agent_version=1,
            ),
            thread=Thread(key=ThreadKey(user_id, thread_id)),
            segment=Segment(key=key, n=1, writer=new_id(), epoch=1, lease_until=now, events=(event,) * 5),
            messages=(),
        )
        self._reach_checkpoints(key, event)

    def _reach_checkpoints(self, key: RunKey, event: bytes) -> None:
        from karma.models.domain import Usage, Usages
        from karma.runs.domain import Checkpoint, CheckpointKind, Progress, Segment
        from karma.runs.points import PointId, write_point_id
        from karma.runs.repository import RunRepository

        now = datetime.now(UTC)
        for n in range(2, 2 * LIMIT + 2):
            segment = Segment(key=key, n=n, writer=new_id(), epoch=1, lease_until=now, events=(event,) * 5)
            used = Usages({("anthropic", "model"): Usage(1000 * n, 100 * n)})
            progress = Progress(turns=n - 1, usages=used, spent_micros=100 * n, messages=n)
            point = Checkpoint(n=n, epoch=1, position=-1, progress=progress, kind=CheckpointKind.TURN, at=now)
            RunRepository().append(segment, checkpoint=point)
        self.first.checkpoint_id = write_point_id(PointId(key.run_id, 2))

    def ended_run(self) -> str:
        """Store a run that has ended, and return its only point, behind which a message stands."""
        from karma.conversations.domain import Message, ThreadKey
        from karma.core.ids import RunId, ThreadId
        from karma.identity.domain import Caller, Role
        from karma.runs.domain import Checkpoint, Progress, Run, RunEnd, RunKey, RunStatus, Segment
        from karma.runs.points import PointId, write_point_id
        from karma.runs.repository import RunRepository
        from karma.runs.setup import RunSetup, dump_setup

        now, user_id, store = datetime.now(UTC), UserId(self.first.user_id), RunRepository()
        caller = Caller(
            user_id=user_id, role=Role.USER, method="jwt", scopes=frozenset(), email_verified=True, name="", avatar=""
        )
        setup = RunSetup(
            caller=caller,
            system=("You help.",),
            tools=(),
            frontend_tools=(),
            max_tokens=100,
            max_turns=2,
            speaks=(1, 0),
            asides=(),
        )
        key, thread = RunKey(user_id, RunId(new_id())), ThreadKey(user_id, ThreadId(new_id()))
        run = Run(key=key, thread_id=thread.thread_id, status=RunStatus.RUNNING, model="m", created_at=now, answers=0)
        first = Segment(key=key, n=1, writer="w", epoch=1, lease_until=now, events=(b'{"type":"RUN_STARTED"}',))
        said = tuple(Message(id=new_id(), role="user", content=text) for text in ("Hello", "And now?"))
        point = Checkpoint(n=1, epoch=1, position=0, progress=Progress(messages=1))
        stored = dump_setup(setup)
        store.start(run, thread=store.thread(thread), segment=first, messages=said, setup=stored, checkpoint=point)
        last = replace(first, n=2, terminal=True)
        store.finish(last, RunEnd(status=RunStatus.FINISHED, at=now, last_message=1), thread=thread)
        return write_point_id(PointId(key.run_id, 1))

    def _subscribe(self) -> None:
        from karma.billing.arrival import Arrival
        from karma.billing.domain import Subscription, SubscriptionStatus
        from karma.billing.plans import PlanName
        from karma.billing.ports import Row as Seen
        from karma.billing.repository.arrivals import ArrivalRepository
        from karma.billing.repository.subscriptions import SubscriptionRepository

        now = datetime.now(UTC)
        body = json.dumps({"type": "customer.subscription.updated", "data": {"object": {"metadata": "x" * 2000}}})
        for event_id in ("evt_handled", self.first.event_id):
            arrival = Arrival(event_id, "customer.subscription.updated", body)
            ArrivalRepository().store(arrival, received_at=now, due_at=now)
        subscription = Subscription(
            user_id=UserId(self.first.user_id),
            plan=PlanName.PRO,
            status=SubscriptionStatus.ACTIVE,
            stripe_status="active",
            current_period_start=now,
            current_period_end=now + timedelta(days=30),
            stripe_subscription_id="sub_calls",
            stripe_customer_id="cus_calls",
            stripe_created=now,
        )
        SubscriptionRepository().save(
            subscription.user_id, subscription, seen=Seen(), event_id="evt_handled", at=now, note="calls"
        )


def told_by(first: First, bodies: Sequence[tuple[str, object]], *, received_ms: int) -> Attributes:
    """Return the event in which ingest gets messages of the device, each a kind and a body."""
    records = [
        {
            "messageId": new_id(),
            "body": json.dumps(
                {
                    "payload_b64": base64.b64encode(json.dumps(body).encode()).decode(),
                    "topic": f"dt/karma/{first.serial}/{kind}",
                    "principal": first.certificate_id,
                    "received_ms": received_ms,
                }
            ),
        }
        for kind, body in bodies
    ]
    return {"Records": records}


def _telemetry(start_ms: int, seq: int) -> dict[str, object]:
    samples = [{"ts": start_ms + 7_001 * n, "m": {"temp_c": 21.25, "rh_pct": 40.5}} for n in range(10)]
    return {"boot": "calls", "seq": seq, "samples": samples}


def _tens(bodies: list[tuple[str, object]]) -> Iterator[list[tuple[str, object]]]:
    for at in range(0, len(bodies), 10):
        yield bodies[at : at + 10]


def renamed(value: Any, changed: Mapping[str, str]) -> Any:
    """Replace texts everywhere in an item."""
    if isinstance(value, dict):
        return {name: renamed(each, changed) for name, each in value.items()}
    if isinstance(value, str):
        for old, new in changed.items():
            value = value.replace(old, new)
    return value
