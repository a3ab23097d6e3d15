"""The `karma` command: what it understands, and what it does to a deployed stage."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import pytest

from karma.billing.arrival import Arrival
from karma.billing.repository.arrivals import ArrivalRepository
from karma.conversations.domain import ThreadKey
from karma.core.ids import RunId, ThreadId, new_id
from karma.runs.domain import Run, RunEnd, RunKey, RunStatus, Segment
from karma.runs.repository import RunRepository
from local import cli
from local import places as local_places
from local.places import Places
from tests.support import on_demand
from tests.support.accounts import open_account
from tests.support.stack import Context, Drain, HttpEvent, Stack

pytestmark = pytest.mark.req("R-C-33")

Karma = Callable[..., tuple[int, str, str]]
ROOT = local_places.ROOT
COMMANDS = {"dev", "down", "chat", "mail", "admin", "inbox", "run", "migrate", "search", "keys"}


@pytest.fixture
def karma(capsys: pytest.CaptureFixture[str]) -> Karma:
    """Run the command in this process; returns its status and what it wrote on either stream."""

    def run(*words: str) -> tuple[int, str, str]:
        try:
            status = cli.main(words)
        except SystemExit as left:
            status = int(left.code or 0)
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Places:
    """Return a local environment's folder that is not the one of `make dev`."""
    places = Places(base=tmp_path / "local")
    places.make()
    monkeypatch.setattr(local_places, "of_repository", lambda: places)
    return places


class TestTheWords:
    def test_the_installed_command_names_all_others(self) -> None:
        done = subprocess.run(
            [Path(sys.executable).with_name("karma"), "--help"], capture_output=True, text=True, timeout=60, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
        for command in COMMANDS:
            assert f"karma {command}" in done.stdout

    @pytest.mark.parametrize(
        "words",
        [
            ["admin", "create"],
            ["inbox", "replay"],
            ["run", "explain"],
            ["migrate"],
            ["keys", "rotate"],
            ["keys", "show"],
            ["chat"],
            ["dev"],
        ],
    )
    def test_each_explains_itself(self, karma: Karma, words: list[str]) -> None:
        status, told, _ = karma(*words, "--help")
        assert status == 0
        assert f"usage: karma {' '.join(words)}" in told

    @pytest.mark.parametrize(
        "words",
        [[], ["fly"], ["admin"], ["admin", "create"], ["inbox", "replay"], ["run", "explain"], ["migrate"],
         ["migrate", "sideways"], ["migrate", "up", "down"], ["run", "explain", "a", "b"], ["chat", "--stage", "x"]],
    )  # fmt: skip
    def test_what_is_no_command_is_refused_with_the_usage(self, karma: Karma, words: list[str]) -> None:
        status, told, complained = karma(*words)
        assert (status, told) == (2, "")
        assert complained.startswith("usage: karma")

    @pytest.mark.parametrize(
        "words",
        [["chat", "hello"], ["admin", "create", "a@example.com"], ["inbox", "replay", "evt_1"],
         ["run", "explain", "r1"], ["migrate", "status"], ["search", "fill"], ["keys", "show"], ["keys", "rotate"]],
    )  # fmt: skip
    def test_without_an_environment_each_says_what_starts_one(
        self, karma: Karma, base: Places, monkeypatch: pytest.MonkeyPatch, words: list[str]
    ) -> None:
        monkeypatch.setattr(sys, "stdin", io.StringIO("a password of many words\n"))
        status, told, complained = karma(*words)
        assert (status, told) == (1, "")
        assert complained == "error: there is no local environment; `make dev` starts one\n"

    def test_down_stops_nothing_where_nothing_runs(self, karma: Karma, base: Places) -> None:
        assert karma("down") == (0, "nothing was running\n", "")


@pytest.fixture
def deployed(stack: Stack, base: Places, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stack]:
    """Deploy a stage `local` in this test's account: stacks with the outputs and functions that the command reads."""
    engine = stack.engine
    base.ports.write_text(json.dumps({"engine": urlsplit(engine.endpoint_url).port, "mqtt": stack.broker.port}))
    environment, path = dict(os.environ), list(sys.path)
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)  # it keeps the account of the test before
    # The command takes the engine's own account; a test has one of its own.
    monkeypatch.setattr(
        type(engine), "client_environment", _keeping_account(type(engine).client_environment, stack.account)
    )
    role = stack.aws("iam").create_role(RoleName="any", AssumeRolePolicyDocument="{}")["Role"]["Arn"]
    outputs = {"data": {f"Table{name.capitalize()}": value for name, value in stack.tables.items()}, "app": {}}
    for key, function in (("Api", "api"), ("BackgroundSweepsQueues", "sweeps.queues"), ("BackgroundRuns", "runs")):
        name = f"test-{function.replace('.', '-')}"
        stack.aws("lambda").create_function(
            FunctionName=name,
            Runtime="python3.13",
            Role=role,
            Handler="h.h",
            Code={"ZipFile": b"PK\x05\x06" + bytes(18)},
            Environment={"Variables": {**stack.environment(function), "STAGE": "local"}},
        )
        outputs["app"][f"Function{key}"] = name
    on_demand.make_all()
    for name, values in outputs.items():
        template = {
            "Resources": {"Nothing": {"Type": "AWS::SSM::Parameter", "Properties": {"Type": "String", "Value": "x"}}},
            "Outputs": {key: {"Value": value} for key, value in values.items()},
        }
        stack.aws("cloudformation").create_stack(StackName=f"karma-local-{name}", TemplateBody=json.dumps(template))
        stack.aws("cloudformation").get_waiter("stack_create_complete").wait(
            StackName=f"karma-local-{name}", WaiterConfig={"Delay": 1}
        )
    yield stack
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:] = path


def _keeping_account(original: Callable[..., dict[str, str]], account: str) -> Callable[..., dict[str, str]]:
    def client_environment(self: Any, _access_key: str = "") -> dict[str, str]:
        return original(self, account)

    return client_environment


class TestOnAStage:
    def test_an_administrator_is_made_once_and_can_log_in(
        self,
        deployed: Stack,
        karma: Karma,
        monkeypatch: pytest.MonkeyPatch,
        http_event: HttpEvent,
        lambda_context: Context,
    ) -> None:
        email, password = f"{new_id()}@example.com", f"pass-{new_id()}"
        told = []
        for _ in range(2):
            monkeypatch.setattr(sys, "stdin", io.StringIO(f"{password}\n"))
            status, text, complained = karma("admin", "create", email, "--name", "Root")
            assert status == 0, complained
            told.append(text.splitlines()[-1])
        assert told[0] == told[1]
        assert told[0].startswith(f"{email} is an administrator (")
        assert password not in "".join(told)

        deployed.use("api")
        from api.handler import lambda_handler

        body = {"email": email, "password": password}
        answer = lambda_handler(http_event("POST", "/api/v1/auth/login", body=body), lambda_context)
        user = json.loads(answer["body"])["data"]["user"]
        assert (user["role"], user["name"]) == ("admin", "Root")

    @pytest.mark.parametrize(
        ("field", "email", "password"),
        [("email", "nobody", "long enough to be one"), ("password", "a@example.com", "short")],
    )
    def test_who_cannot_be_an_administrator_is_refused(
        self, deployed: Stack, karma: Karma, monkeypatch: pytest.MonkeyPatch, field: str, email: str, password: str
    ) -> None:
        monkeypatch.setattr(sys, "stdin", io.StringIO(f"{password}\n"))
        status, _, complained = karma("admin", "create", email)
        assert status == 1
        assert complained.startswith(f"error: {field}: ")
        assert password not in complained
        assert not _items(deployed, "identity")

    def test_a_stored_event_is_enqueued_again(self, deployed: Stack, karma: Karma, drain: Drain) -> None:
        now = datetime.now(UTC)
        arrival = Arrival("evt_1", "invoice.paid", '{"type": "invoice.paid", "data": {}}')
        ArrivalRepository().store(arrival, received_at=now, due_at=now + timedelta(hours=1))
        assert karma("inbox", "replay", "evt_1") == (0, "evt_1 is enqueued again\n", "")
        assert [message["Body"] for message in drain(deployed.queues["inbox"], 1)] == ["evt_1"]
        assert karma("inbox", "replay", "evt_2") == (1, "", "error: Event not found\n")
        status, shown, _ = karma("inbox", "list")
        assert (status, shown.split()[:2]) == (0, ["evt_1", "invoice.paid"])
        assert json.loads(karma("inbox", "show", "evt_1")[1])["status"] == "unhandled"
        assert karma("inbox", "dismiss", "evt_1", "--reason", "a test") == (0, "evt_1 is dismissed\n", "")
        assert karma("inbox", "list", "--status", "dismissed")[1].endswith("a test\n")
        assert karma("inbox", "list", "--status", "lost")[0] == 1

    def test_a_run_is_explained_without_what_was_said(self, deployed: Stack, karma: Karma) -> None:
        record_run(deployed, b'{"type":"TEXT_MESSAGE_CONTENT","messageId":"m1","delta":"a secret answer"}')
        status, told, _ = karma("run", "explain", "r1")
        assert status == 0
        assert "run r1 of user" in told
        assert "finished" in told
        assert "+15 characters" in told
        assert "secret" not in told
        assert karma("run", "explain", "r2") == (1, "", "error: Run 'r2' not found\n")

    @pytest.mark.req("R-K-03")
    def test_migrations_are_counted_and_run(self, deployed: Stack, karma: Karma) -> None:
        record_run(deployed)
        status, told, _ = karma("migrate", "status")
        assert status == 0
        lines = told.splitlines()
        assert "agents: 1 x run, schema 1" in lines
        assert "devices: empty" in lines
        before = _items(deployed, "agents")
        for direction in ("up", "down"):
            assert karma("migrate", direction)[0] == 0
        assert _items(deployed, "agents") == before

    def test_signing_keys_are_rotated_step_by_step(self, deployed: Stack, karma: Karma) -> None:
        def secret() -> dict[str, Any]:
            manager = deployed.aws("secretsmanager")
            found: dict[str, Any] = json.loads(
                manager.get_secret_value(SecretId=deployed.secrets["auth"])["SecretString"]
            )
            return found

        assert karma("keys", "show") == (0, "k1 signs; accepted: k1; next: add\n", "")
        status, told, complained = karma("keys", "rotate")
        assert status == 0, complained
        assert told.startswith("add: done\nk1 signs; accepted: k1, k2; next: promote, due at 20")
        key = secret()["k2"]
        assert len(key) >= 32
        assert key not in told
        status, _, complained = karma("keys", "rotate")
        assert (status, complained.partition(" is due at ")[0]) == (1, "error: promote")
        assert secret()["current"] == "k1"
        for step in ("promote", "drop"):
            status, told, complained = karma("keys", "rotate", "--now")
            assert status == 0, complained
            assert told.startswith(f"{step}: done\nk2 signs; ")
        assert secret() == {"current": "k2", "k2": key}

    def test_another_stage_that_is_not_deployed_is_named(self, deployed: Stack, karma: Karma) -> None:
        status, _, complained = karma("migrate", "status", "--stage", "prod")
        assert status == 1
        assert complained.startswith("error: stage prod cannot be reached")


def _items(stack: Stack, table: str) -> list[Mapping[str, Any]]:
    found: list[Mapping[str, Any]] = stack.aws("dynamodb").scan(TableName=stack.tables[table])["Items"]
    return sorted(found, key=lambda item: (item["pk"]["S"], item["sk"]["S"]))


def record_run(stack: Stack, *events: bytes) -> None:
    store, now = RunRepository(), datetime.now(UTC)
    key, thread = RunKey(open_account(), RunId("r1")), ThreadId("t1")
    run = Run(key=key, thread_id=thread, status=RunStatus.RUNNING, model="m", created_at=now)
    first = Segment(key=key, n=1, writer="w", epoch=1, lease_until=now, events=(b'{"type":"RUN_STARTED"}', *events))
    where = ThreadKey(key.user_id, thread)
    store.start(run, thread=store.thread(where), segment=first, messages=())
    last = Segment(
        key=key, n=2, writer="w", epoch=1, lease_until=now, events=(b'{"type":"RUN_FINISHED"}',), terminal=True
    )
    store.finish(last, RunEnd(status=RunStatus.FINISHED, at=now, turns=1), thread=where)
