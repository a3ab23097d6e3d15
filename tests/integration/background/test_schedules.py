"""Schedules on real tables and queues, by the handlers of all functions that have a part in a fire.

One file of more than 450 lines: whoever dies or comes between, does it in the world of the first tests.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import secrets
import sys
import threading
import zlib
from collections.abc import Callable
from contextlib import closing, nullcontext, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from karma.billing.plans import PlanName, plan_at
from karma.core.clock import SystemClock, iso
from karma.core.dynamo.access import delete, update
from karma.core.dynamo.transaction import Transaction
from karma.core.errors import NotFound, StaleVersion
from karma.core.ids import ApiKeyId, DeviceId, RunId, UserId, new_id
from karma.identity.accounts.repository.users import UserRepository
from karma.identity.api_keys.repository import ApiKeyRepository
from karma.identity.domain import Caller, Role
from karma.identity.items import UserItem, user_key
from karma.identity.sessions.authentication import API_KEY_PREFIX, hash_api_key
from karma.integrations.guard import is_public_or_loopback
from karma.integrations.kms import KmsSeal
from karma.integrations.mcp_blocking import BlockingMcp
from karma.mcp.domain import Exposure
from karma.mcp.repository import McpServerRepository
from karma.mcp.secrets import Endpoints
from karma.mcp.service import McpServerService, NewMcpServer
from karma.notices.domain import NoticeType
from karma.notices.repository import NoticeRepository
from karma.runs.domain import RunKey, RunStatus
from karma.runs.repository import RunRepository
from karma.schedules.domain import FireKey, FireOutcome, Overlap, Schedule, ScheduleId, ScheduleStatus
from karma.schedules.firing import TRIED_FOR
from karma.schedules.ports import DueFire
from karma.schedules.repository import ScheduleRepository
from karma.schedules.service import ScheduleService
from karma.schedules.sweeps import fire_message
from karma.schedules.timing import Timing
from tests.contract.stores.test_identity import api_key, entry_of
from tests.contract.stores.test_schedules import schedule as a_schedule
from tests.integration.agent_stream.conftest import add_user
from tests.integration.agent_stream.test_attachments import image, put_file
from tests.support.accounts import open_account
from tests.support.crash import CrashTest
from tests.support.interleaving import play, watch
from tests.support.mcp_server import HEADERS, serving
from tests.support.media import b64, pdf, png
from tests.support.model_server import ModelServer, message, text
from tests.support.plans import subscribe
from tests.support.queues import delayed_messages
from tests.support.stack import VAULT_KEY, Context, Drain, HttpEvent, SqsEvent, Stack

SCHEDULES = "/api/v1/schedules"
MODEL = "claude-haiku-5-5"
MINUTE = timedelta(minutes=1)


@dataclass
class Functions:
    """The functions that a fire passes through, one after the other in this process."""

    stack: Stack
    http_event: HttpEvent
    sqs_event: SqsEvent
    drain: Drain
    context: Context
    token: str = ""

    def call(self, method: str, path: str, body: object = None, **headers: str) -> tuple[int, Any]:
        self.stack.use("api", MODEL_ID=MODEL)
        from api.handler import lambda_handler

        sent = {k.replace("_", "-"): v for k, v in headers.items()}
        if self.token:
            sent["authorization"] = f"Bearer {self.token}"
        answer = lambda_handler(self.http_event(method, path, body=body, headers=sent), self.context)
        told = json.loads(answer["body"]) if answer.get("body") else {}
        return answer["statusCode"], told.get("data") or told.get("error")

    def api_key(self, owner: UserId, *scopes: str) -> tuple[str, ApiKeyId]:
        """Store an API key of an account; return its secret and id."""
        user = UserRepository().read_user(owner)
        assert user is not None
        secret = f"{API_KEY_PREFIX}{new_id()}"
        key = api_key(user, hash=hash_api_key(secret), scopes=frozenset(scopes))
        ApiKeyRepository().create_api_key(key, request=None, entry=entry_of(key))
        return secret, key.id

    def sweep(self) -> int:
        from background.sweeps.queues import lambda_handler

        self.stack.use("sweeps.queues")
        return lambda_handler({"sweep": "schedules"}, self.context)["changed"]

    def fire(self, *bodies: Any) -> dict[str, Any]:
        from background.schedules import lambda_handler

        self.stack.use("schedules", MODEL_ID=MODEL)
        return lambda_handler(self.sqs_event(list(bodies)), self.context)

    def execute(self, model: ModelServer) -> None:
        from agent_stream import execution, services

        self.stack.use("agent_stream", MODEL_BASE_URL=model.url, MODEL_ID=MODEL)
        asked = [json.loads(each["Body"]) for each in self.drain(self.stack.queues["executions"])]
        with closing(execution.loop()) as loop:
            answer = execution.lambda_handler(self.sqs_event(asked), self.context)
            loop.run_until_complete(services.model().close())
        execution.loop.cache_clear()
        assert answer == {"batchItemFailures": []}


@pytest.fixture
def functions(
    stack: Stack, http_event: HttpEvent, sqs_event: SqsEvent, drain: Drain, lambda_context: Context
) -> Functions:
    import background.schedules
    import background.sweeps.queues  # noqa: F401  before use(): it clears what the modules keep

    stack.use("schedules", MODEL_ID=MODEL)
    return Functions(stack, http_event, sqs_event, drain, lambda_context)


@pytest.fixture
def owner(functions: Functions) -> UserId:
    user_id, functions.token = add_user(functions.stack)
    subscribe(user_id)
    return user_id


@pytest.fixture
def model_server() -> Any:
    with ModelServer() as server:
        yield server


def just_now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


def an_account() -> UserId:
    """Open an account whose plan allows a schedule of each minute."""
    user = open_account()
    subscribe(user)
    return user


def due(user: UserId, *, cron: str = "0 0 1 1 *", **more: Any) -> Schedule:
    """Store a schedule that is due now, and not again before the new year: no minute that passes is one of its own."""
    made = replace(
        a_schedule(user=user, next_fire_at=just_now()), id=ScheduleId(new_id()), timing=Timing(cron=cron), **more
    )
    ScheduleRepository().create(made, request=None)
    return made


def soon_again() -> str:
    """Return the cron expression of a minute that begins in 29 to 89 s: near enough to be sent, not due meanwhile."""
    at = just_now() + timedelta(seconds=89)
    return f"{at.minute} * * * *"


def key_of(schedule: Schedule) -> FireKey:
    assert schedule.next_fire_at is not None
    return FireKey(schedule.user_id, schedule.id, schedule.next_fire_at)


def stored(schedule: Schedule) -> Schedule:
    found = ScheduleRepository().get(schedule.user_id, schedule.id)
    assert found is not None
    return found


def runs_of(user: UserId) -> list[RunId]:
    return [run.key.run_id for run in RunRepository().runs(user, limit=50, start=None).runs]


def test_a_schedule_begins_its_run_when_it_is_due_and_the_run_ends_by_itself(
    functions: Functions, owner: UserId, model_server: ModelServer
) -> None:
    model_server.answer(message(text("All are online.")))
    at = datetime.now(UTC) + timedelta(seconds=4)
    body = {"name": "Check", "at": iso(at), "run": {"message": "Are they online?"}}
    status, made = functions.call("POST", SCHEDULES, body)
    schedule_id = made["schedule"]["id"]
    assert (status, made["schedule"]["status"], made["schedule"]["next_fire_at"]) == (201, "active", iso(at))

    assert functions.sweep() == 1
    assert functions.sweep() == 0  # it is put off
    [fire] = functions.drain(functions.stack.queues["fires"])
    assert datetime.now(UTC) >= at
    assert functions.fire(fire) == {"batchItemFailures": []}
    assert functions.fire(fire) == {"batchItemFailures": []}
    assert delayed_messages(functions.stack, "runs") == 1
    functions.execute(model_server)

    _, shown = functions.call("GET", f"{SCHEDULES}/{schedule_id}")
    after = shown["schedule"]
    assert (after["status"], after["next_fire_at"], after["fires"]["started"]) == ("ended", None, 1)
    assert (after["last_fire"]["outcome"], after["last_fire"]["error"]) == ("started", None)
    _, found = functions.call("GET", f"/api/v1/runs/{after['last_run_id']}", None)
    assert found["run"]["status"] == "finished"
    _, listed = functions.call("GET", "/api/v1/runs")
    assert listed["total"] == 1


def test_a_fire_that_comes_twice_late_or_for_another_time_begins_one_run(functions: Functions) -> None:
    user = an_account()
    schedule = due(user)
    key = key_of(schedule)
    other = key._replace(due_at=key.due_at - MINUTE)
    for each in (other, key, key, other, key):
        assert functions.fire(fire_message(each)) == {"batchItemFailures": []}
    assert runs_of(user) == [key.run_id]
    after = stored(schedule)
    assert (after.counts.started, after.last_run_id) == (1, key.run_id)
    assert after.next_fire_at == schedule.timing.after(key.due_at)


def test_fires_of_a_thread_say_their_message_anew_each_time(functions: Functions) -> None:
    user = an_account()
    schedule = due(user, run={"message": "Go", "thread_id": "t1"}, overlap=Overlap.QUEUE)
    functions.fire(fire_message(key_of(schedule)))
    again = replace(
        stored(schedule), next_fire_at=schedule.next_fire_at and schedule.next_fire_at + timedelta(seconds=1)
    )
    ScheduleRepository().replace(stored(schedule), replace(again, version=2))
    functions.fire(fire_message(key_of(again)))
    first, second = runs_of(user)[::-1]
    found = [RunRepository().run(RunKey(user, each)) for each in (first, second)]
    assert [each.status for each in found if each] == [RunStatus.RUNNING, RunStatus.QUEUED]
    assert stored(schedule).counts.started == 2


@pytest.mark.parametrize("body", ["", "{}", "[]", '{"user_id": 1}', '{"user_id":"u","schedule_id":"s","due_at":"x"}'])
def test_a_message_that_names_no_fire_is_left_for_the_dead_letters(functions: Functions, body: str) -> None:
    assert len(functions.fire(body)["batchItemFailures"]) == 1


@pytest.mark.parametrize(("late", "failures"), [(timedelta(0), 0), (TRIED_FOR, 1)])
def test_an_error_of_ours_comes_again_and_is_shown_in_the_end(
    functions: Functions,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    late: timedelta,
    failures: int,
) -> None:
    """As when the function's layer lacks a module: its import fails at the first fire that needs it."""
    user = an_account()
    seen = due(user)
    schedule = replace(seen, next_fire_at=just_now() - late, version=2)
    ScheduleRepository().replace(seen, schedule)
    monkeypatch.setitem(sys.modules, "karma.schedules.starting", None)
    monkeypatch.setattr("karma.schedules.firing.request_of", lambda *_: __import__("karma.schedules.starting"))
    key = key_of(schedule)
    assert len(functions.fire(fire_message(key))["batchItemFailures"]) == 1
    [line] = [each.__dict__ for each in caplog.records if each.getMessage() == "schedule.fire.failed"]
    assert (line["schedule_id"], line["run_id"], line["levelname"]) == (schedule.id, key.run_id, "ERROR")
    assert line["exc_info"][0] is ModuleNotFoundError
    after = stored(schedule)
    assert (after.failures, after.counts.failed) == (failures, failures)
    assert [each.error.code for each in [after.last_fire] if each and each.error] == ["INTERNAL"] * failures
    assert (after.next_fire_at != schedule.next_fire_at) is bool(failures)
    assert len(functions.fire(fire_message(key))["batchItemFailures"]) == 1 - failures
    assert stored(schedule) == after
    assert runs_of(user) == []


class TestRights:
    """Runs begin with the rights that the author has at the time of the fire."""

    def failed(self, functions: Functions, schedule: Schedule) -> str:
        assert functions.fire(fire_message(key_of(schedule))) == {"batchItemFailures": []}
        after = stored(schedule)
        assert after.last_fire is not None
        assert after.last_fire.error is not None
        assert (after.last_fire.outcome, after.failures, after.counts.failed) == (FireOutcome.FAILED, 1, 1)
        assert runs_of(schedule.user_id) == []
        return after.last_fire.error.code

    @pytest.mark.parametrize(
        ("change", "code"),
        [
            ({"role": Role.VIEWER}, "FORBIDDEN"),
            ({"disabled_at": datetime(2026, 1, 1, tzinfo=UTC)}, "ACCOUNT_DISABLED"),
            ({"email_verified": False}, "EMAIL_NOT_VERIFIED"),
        ],
    )
    def test_of_a_person(self, functions: Functions, change: dict[str, Any], code: str) -> None:
        user = an_account()
        values = {name: iso(v) if isinstance(v, datetime) else v for name, v in change.items()}
        actions = [getattr(UserItem, name).set(value) for name, value in values.items()]
        update(UserItem(*user_key(user)), actions)
        assert self.failed(functions, due(user)) == code

    def test_of_an_api_key(self, functions: Functions, owner: UserId) -> None:
        secret, key_id = functions.api_key(owner, "schedule:write", "schedule:read", "agent:run")
        token, functions.token = functions.token, ""
        body = {"name": "By key", "cron": "* * * * *", "run": {"message": "Go"}}
        status, shown = functions.call("POST", SCHEDULES, body, x_api_key=secret)
        assert status == 201, shown
        functions.token = token
        schedule = ScheduleRepository().get(owner, ScheduleId(shown["schedule"]["id"]))
        assert schedule is not None
        assert schedule.author.api_key_id == key_id
        now_due = replace(schedule, next_fire_at=just_now(), version=2)
        ScheduleRepository().replace(schedule, now_due)
        functions.fire(fire_message(key_of(now_due)))
        assert stored(now_due).counts.started == 1
        status, _ = functions.call("DELETE", f"/api/v1/api-keys/{key_id}")
        assert status in {200, 204}
        again = replace(stored(now_due), next_fire_at=just_now() - timedelta(seconds=1), open_run_ids=(), version=3)
        ScheduleRepository().replace(stored(now_due), again)
        functions.fire(fire_message(key_of(again)))
        after = stored(again).last_fire
        assert after is not None
        assert after.error is not None
        assert after.error.code == "API_KEY_ENDED"


def test_what_its_messages_show_is_kept_and_tools_of_mcp_servers_are_asked_for(functions: Functions) -> None:
    user = an_account()
    name = put_file(functions.stack, user, pdf())
    document = {"type": "document", "source": {"type": "file", "value": name, "mimeType": "application/pdf"}}
    picture = b64(png() + secrets.token_bytes(30_000))
    said = {"role": "user", "content": [{"type": "text", "text": "Look."}, image(picture), document]}
    with serving(is_modern=True) as (url, seen):
        server = McpServerService(
            McpServerRepository(),
            BlockingMcp(is_allowed=is_public_or_loopback),
            Endpoints(KmsSeal(VAULT_KEY)),
            SystemClock(),
            agent_id_of=str,
            held=nullcontext,
            loopback=True,
        ).create(
            user,
            NewMcpServer(
                name="w", url=url, headers=HEADERS, exposures=(Exposure(),), timeout_s=10, max_result_bytes=1_048_576
            ),
        )
        old = replace(server, listed_at=server.listed_at - timedelta(days=2), version=server.version + 1)
        McpServerRepository().replace(server, old)
        asked = len(seen.headers)
        schedule = due(user, run={"messages": [said]})
        assert functions.fire(fire_message(key_of(schedule))) == {"batchItemFailures": []}
        assert len(seen.headers) > asked
    assert stored(schedule).counts.started == 1
    renewed = McpServerRepository().get(user, server.id)
    assert renewed is not None
    assert renewed.listed_at > old.listed_at
    setup = RunRepository().setup(RunKey(user, key_of(schedule).run_id))
    assert setup is not None
    assert b'"weather"' in zlib.decompress(setup)
    kept = functions.stack.aws("s3").list_objects_v2(Bucket=functions.stack.bucket, Prefix="attachments/")
    assert kept["KeyCount"] >= 1


def test_a_file_that_is_gone_by_then_fails_the_fire(functions: Functions) -> None:
    user = an_account()
    name = put_file(functions.stack, user, pdf())
    functions.stack.aws("s3").delete_object(Bucket=functions.stack.bucket, Key=name.replace("/files/", "/"))
    document = {"type": "document", "source": {"type": "file", "value": name, "mimeType": "application/pdf"}}
    schedule = due(user, run={"messages": [{"role": "user", "content": [document]}]})
    assert functions.fire(fire_message(key_of(schedule))) == {"batchItemFailures": []}
    after = stored(schedule).last_fire
    assert after is not None
    assert after.error is not None
    assert (after.outcome, after.error.code) == (FireOutcome.FAILED, "VALIDATION_ERROR")
    assert runs_of(user) == []


def test_its_owner_is_told_when_its_only_fire_fails(functions: Functions) -> None:
    user = an_account()
    schedule = replace(
        a_schedule(user=user, next_fire_at=just_now(), run={"message": "Go", "agent_id": new_id()}),
        id=ScheduleId(new_id()),
        timing=Timing(at=just_now()),
    )
    ScheduleRepository().create(schedule, request=None)
    for _ in range(2):
        assert functions.fire(fire_message(key_of(schedule))) == {"batchItemFailures": []}
    [notice] = NoticeRepository().page(user, unread=True, since=just_now() - MINUTE, below="", limit=5)
    assert (notice.type, dict(notice.data)) == (
        NoticeType.SCHEDULE_FAILED,
        {"schedule_id": schedule.id, "code": "NOT_FOUND"},
    )
    assert stored(schedule).status is ScheduleStatus.ENDED


def test_a_fire_of_a_deleted_account_begins_nothing(functions: Functions) -> None:
    schedule = due(an_account())
    delete(UserItem(*user_key(schedule.user_id)))
    assert functions.fire(fire_message(key_of(schedule))) == {"batchItemFailures": []}
    assert runs_of(schedule.user_id) == []


def test_a_process_that_dies_at_any_call_leaves_one_run(functions: Functions, stack: Stack) -> None:
    user = an_account()
    schedule = replace(
        a_schedule(user=user, next_fire_at=just_now()), id=ScheduleId(new_id()), timing=Timing(cron="0 0 1 1 *")
    )

    def seed() -> dict[str, Any]:
        ScheduleRepository().create(schedule, request=None)
        return functions.sqs_event([fire_message(key_of(schedule))])

    def state(item: dict[str, Any]) -> dict[str, Any] | None:
        kept = ("pk", "sk", "type", "started", "failed", "next_fire_at", "last_run_id", "status", "run_id")
        return {name: item[name] for name in kept if name in item}

    report = CrashTest(
        entry="background.schedules:lambda_handler",
        aws=stack.aws,
        tables=[stack.tables["agents"]],
        seed=seed,
        normalise=state,
        other_state=lambda: runs_of(user),
        accept=lambda answer: answer == {"batchItemFailures": []},
    ).run()
    assert report.points >= 6
    assert "after dynamodb.TransactWriteItems" in " ".join(report.at)


def test_a_fire_sends_the_next_one_if_that_is_near(functions: Functions, stack: Stack) -> None:
    user = an_account()
    schedule = due(user, cron=soon_again())
    before = delayed_messages(stack, "fires")
    assert functions.fire(fire_message(key_of(schedule))) == {"batchItemFailures": []}
    assert len(runs_of(user)) == 1
    assert delayed_messages(stack, "fires") == before + 1
    assert not [each for each in ScheduleRepository().due(just_now() + 2 * MINUTE, limit=500) if of(each, schedule)]
    [later] = [each for each in ScheduleRepository().due(just_now() + 9 * MINUTE, limit=500) if of(each, schedule)]
    assert later.key == key_of(stored(schedule))


def test_a_process_that_dies_at_any_call_leaves_the_next_fire_to_it_or_to_a_sweep(
    functions: Functions, stack: Stack
) -> None:
    users: list[UserId] = []

    def seed() -> dict[str, Any]:
        users.append(an_account())
        return functions.sqs_event([fire_message(key_of(due(users[-1], cron=soon_again())))])

    def ends(_: object = None) -> tuple[int, int]:
        """Count the runs, and the fires that a sweep or the process has put off, since they are sent."""
        functions.sweep()
        repository = ScheduleRepository()
        waiting = [each for each in repository.due(just_now() + 9 * MINUTE, limit=500) if each.key.user_id == users[-1]]
        put_off = [each for each in waiting if each.look_at > iso(each.key.due_at + MINUTE)]
        return len(runs_of(users[-1])), len(put_off)

    stack.use("schedules", MODEL_ID=MODEL)
    report = CrashTest(
        entry="background.schedules:lambda_handler",
        aws=stack.aws,
        tables=[stack.tables["agents"]],
        seed=seed,
        normalise=lambda _: None,
        other_state=ends,
        accept=lambda answer: answer == {"batchItemFailures": []},
    ).run()
    assert report.points >= 8
    assert "after sqs.SendMessage" in " ".join(report.at)


def of(due: DueFire, schedule: Schedule) -> bool:
    return due.key.schedule_id == schedule.id


def test_a_sweep_that_dies_at_any_call_loses_no_fire(functions: Functions, stack: Stack) -> None:
    user = an_account()

    def seed() -> dict[str, Any]:
        due(user)
        return {"sweep": "schedules"}

    def sent(_: object = None) -> bool:
        """Tell whether the fire is in the queue, once or more, and is put off."""
        bodies = functions.drain(stack.queues["fires"], 1)
        return len(bodies) >= 1

    stack.use("sweeps.queues")
    report = CrashTest(
        entry="background.sweeps.queues:lambda_handler",
        aws=stack.aws,
        tables=[stack.tables["agents"]],
        seed=seed,
        normalise=lambda _: None,
        other_state=sent,
    ).run()
    assert report.points >= 3


INTERLEAVINGS = int(os.environ.get("INTERLEAVINGS", "16"))


@pytest.fixture
def committed(functions: Functions, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Name the actors in the order in which their transactions took effect.

    All calls of an actor come from its own thread, which gives up its turn before each.
    """
    names: list[str] = []
    commit = Transaction.commit

    def noted(tx: Transaction) -> None:
        commit(tx)
        names.append(threading.current_thread().name)

    async def here(work: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return work(*args, **kwargs)

    watch()
    functions.stack.use("schedules", MODEL_ID=MODEL)
    monkeypatch.setattr(asyncio, "to_thread", here)
    monkeypatch.setattr(Transaction, "commit", noted)
    return names


@pytest.mark.parametrize("nth", range(INTERLEAVINGS))
def test_whatever_comes_between_a_fire_begins_one_run_or_none(committed: list[str], nth: int, seed: int) -> None:
    """Two deliveries of a fire, the fire that follows, and its owner, in any order."""
    from background.schedules import services

    choose = random.Random(seed)
    user = an_account()
    schedule = due(user, cron=soon_again(), overlap=Overlap.ALLOW)
    key = key_of(schedule)
    caller = Caller(
        user_id=user, role=Role.USER, method="jwt", scopes=frozenset(), email_verified=True, name="", avatar=None
    )
    owner = ScheduleService(
        ScheduleRepository(),
        SystemClock(),
        agent_id_of=str,
        device_id_of=lambda _, ref, __: DeviceId(ref),
        require_receiver=lambda _, __: None,
        plan_of=lambda _: plan_at(PlanName.ENTERPRISE, just_now()),
    )
    changes: dict[str, Callable[[], object]] = {
        "pause": lambda: owner.change(caller, schedule.id, {"enabled": False}),
        "edit": lambda: owner.change(caller, schedule.id, {"cron": "0 0 1 1 *"}),
        "say": lambda: owner.change(caller, schedule.id, {"run": {"message": "Else"}}),
        "rename": lambda: owner.change(caller, schedule.id, {"name": "Else"}),
        "delete": lambda: owner.delete(user, schedule.id),
        "resume": lambda: [owner.change(caller, schedule.id, {"enabled": each}) for each in (False, True)],
    }
    acts = choose.sample(sorted(changes), k=choose.randint(1, 3))

    def act(name: str) -> None:
        with suppress(NotFound, StaleVersion):
            changes[name]()

    def fire() -> None:
        asyncio.run(services().fires.fire(key))

    actors: dict[str, Callable[[], None]] = {name: lambda name=name: act(name) for name in acts}  # type: ignore[misc]
    actors |= dict.fromkeys(("fire 1", "fire 2"), fire)
    committed.clear()
    calls = play(seed, actors)

    runs = runs_of(user)
    assert set(runs) <= {key.run_id}, calls
    found = ScheduleRepository().get(user, schedule.id)
    if found is not None:
        assert found.counts.started == len(runs), calls
        assert found.next_fire_at != key.due_at, calls
        if "pause" in acts and "resume" not in acts:
            assert found.status is ScheduleStatus.PAUSED
    ends = {"pause", "edit", "delete", "resume"} & set(acts)
    if not ends:
        assert runs == [key.run_id], calls
    else:
        # Whose write came first: from then on a fire is none of the schedule's, or is over.
        first = next(name for name in committed if name in ends or name.startswith("fire"))
        assert runs == ([key.run_id] if first.startswith("fire") else []), (committed, calls)
