"""A function on the engine runs the code of the work tree as soon as it is saved."""

from __future__ import annotations

import io
import json
import os
import sys
import time
import uuid
import zipfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

import boto3
import pytest

from local.engine import FAILURES, Engine
from local.places import ROOT, Places
from local.processes import Processes, Program, clean_environment
from local.waiting import until
from local.watch import Watch, Watched

if TYPE_CHECKING:
    from mypy_boto3_lambda import LambdaClient

pytestmark = [pytest.mark.fault("F-23b"), pytest.mark.needs("functions")]
HANDLER = "from karma import answer\n\n\ndef handler(event, context):\n    return {own!r} + answer.TEXT\n"
NAME = "watched"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Make a small work tree: one function, one module of the common layer."""
    root = tmp_path / "root"
    for folder in ("functions/api", "layers/common/python/karma", "infra", "requirements"):
        (root / folder).mkdir(parents=True)
    (root / "functions/api/handler.py").write_text(HANDLER.format(own="one "))
    (root / "layers/common/python/karma/answer.py").write_text("TEXT = 'old'\n")
    return root


@pytest.fixture
def client(engine: Engine, root: Path) -> Iterator[LambdaClient]:
    """Deploy the function to the engine, whose archive points to the work tree as the local stage's archives do."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("api/__init__.py", f"__path__ = [{str(root / 'functions/api')!r}]\n")
        archive.writestr("karma/__init__.py", f"__path__ = [{str(root / 'layers/common/python/karma')!r}]\n")
    session = boto3.session.Session(aws_access_key_id="test", aws_secret_access_key="test", region_name=engine.region)
    trusted = {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"Service": "lambda.amazonaws.com"}}
    with closing(session.client("iam", endpoint_url=engine.endpoint_url)) as iam:
        with suppress(iam.exceptions.NoSuchEntityException):
            iam.delete_role(RoleName=NAME)  # of the test before
        document = json.dumps({"Version": "2012-10-17", "Statement": [trusted]})
        role = iam.create_role(RoleName=NAME, AssumeRolePolicyDocument=document)["Role"]["Arn"]
    made: LambdaClient = session.client("lambda", endpoint_url=engine.endpoint_url)
    with closing(made):
        made.create_function(
            FunctionName=NAME,
            Runtime="python3.13",
            Role=role,
            Handler="api.handler.handler",
            Code={"ZipFile": packed.getvalue()},
            Timeout=20,
        )
        yield made
        made.delete_function(FunctionName=NAME)


def test_saved_code_answers_and_code_with_a_mistake_does_not(
    engine: Engine, client: LambdaClient, root: Path, tmp_path: Path
) -> None:
    places = Places(base=tmp_path / "local")
    places.make()
    processes = Processes(places)
    port = int(engine.endpoint_url.rpartition(":")[2])
    file = places.state / "watch.json"
    file.write_text(json.dumps({"root": str(root), "port": port, "functions": {NAME: "api"}, "stream_host": 0}))
    handler, common = root / "functions/api/handler.py", root / "layers/common/python/karma/answer.py"
    log = processes.log("watch")

    def answers(text: str) -> None:
        def same() -> bool:
            return bool(json.load(client.invoke(FunctionName=NAME)["Payload"]) == text)

        until(same, deadline_s=45, what=f"the answer {text!r}")

    def says(text: str) -> None:
        until(lambda: text in log.read_text(), deadline_s=45, what=f"{text!r} in the log")

    answers("one old")
    processes.start(Program("watch", [sys.executable, "-m", "local.watch", str(file)], clean_environment(), ROOT))
    try:
        says("watching")
        handler.write_text(HANDLER.format(own="two, "))
        answers("two, old")
        says("renewed api in")
        common.write_text("TEXT = 'new, and longer'\n")
        answers("two, new, and longer")
        says("renewed all functions")
        answers("two, new, and longer")  # an instance that began before the renewal ends after its call

        handler.write_text("def handler(:\n")
        says("the old code goes on")
        answers("two, new, and longer")
        common.write_text("TEXT = 'newest'\n")
        (root / "infra" / "app.py").write_text("")
        says("infra/app.py changed: `make dev` deploys it")
        handler.write_text(HANDLER.format(own="three, "))
        answers("three, newest")
    finally:
        processes.stop(["watch"])


@pytest.mark.fault("F-23c")
def test_calls_under_way_finish_while_code_is_saved(engine: Engine, client: LambdaClient, root: Path) -> None:
    """Callers who call without a pause see the old answer or the new one, and no failure.

    Each save is of the same size and within one second, which is as finely as Python dates what it keeps compiled. It
    replaces the file, since an instance that starts while a file is written in place reads a part of it.
    """
    slow = "import time\nfrom karma import answer\n\n\ndef handler(event, context):\n    time.sleep(0.2)\n"
    handler = root / "functions/api/handler.py"
    handler.write_text(slow + "    return 'text 0'\n")
    saved_ns = time.time_ns() // 10**9 * 10**9
    port = int(engine.endpoint_url.rpartition(":")[2])
    said: list[str] = []
    watch = Watch(Watched(root, port, {NAME: "api"}, 0), said.append)
    seen: list[object] = []
    over = Event()

    def call() -> None:
        while not over.is_set():
            answer: Mapping[str, Any] = client.invoke(FunctionName=NAME)
            told = json.load(answer["Payload"])
            seen.append({"failed": told} if "FunctionError" in answer else told)

    with ThreadPoolExecutor(max_workers=3) as callers:
        calls = [callers.submit(call) for _ in range(3)]
        try:
            for number in range(3):
                text = f"text {number}"
                saved = handler.with_suffix(".saved")
                saved.write_text(f"{slow}    return {text!r}\n")
                os.utime(saved, ns=(saved_ns + number, saved_ns + number))
                saved.replace(handler)
                watch.look()
                until(lambda text=text: text in seen, deadline_s=45, what=f"the answer {text!r}")  # type: ignore[misc]
        finally:
            over.set()
        for each in calls:
            each.result()
    texts = ["text 0", "text 1", "text 2"]
    assert [each for each in seen if each not in texts] == []
    assert [each for each in texts if each in seen] == texts
    assert len(said) >= 2


def test_a_call_that_fails_is_in_a_file_though_nobody_waits_for_it(
    engine: Engine, client: LambdaClient, root: Path
) -> None:
    """As a schedule calls a function: without waiting for what it answers."""
    handler = root / "functions/api/handler.py"
    handler.write_text("def handler(event, context):\n    raise KeyError('WORK_TABLE, asked by ' + event['by'])\n")
    log = Processes(engine.places).log(FAILURES)
    asked = uuid.uuid4().hex
    client.invoke(FunctionName=NAME, InvocationType="Event", Payload=json.dumps({"by": asked}).encode())
    until(lambda: log.exists() and asked in log.read_text(), deadline_s=45, what="the failure in the log")
    said = log.read_text()
    assert f"{NAME} failed after " in said
    assert f"KeyError: 'WORK_TABLE, asked by {asked}'" in said


def test_a_call_that_gives_messages_back_is_in_the_file_too(engine: Engine, client: LambdaClient, root: Path) -> None:
    """As a consumer of a queue answers, whose other messages are done."""
    handler = root / "functions/api/handler.py"
    handler.write_text(
        "def handler(event, context):\n"
        "    print('asked by ' + event['by'])\n"
        "    return {'batchItemFailures': [{'itemIdentifier': each} for each in event['back']]}\n"
    )
    log = Processes(engine.places).log(FAILURES)
    bad, good = uuid.uuid4().hex, uuid.uuid4().hex
    for by, back in ((good, []), (bad, ["1"])):
        asked = {"by": by, "back": back, "Records": ["1", "2"]}
        client.invoke(FunctionName=NAME, InvocationType="Event", Payload=json.dumps(asked).encode())
    until(lambda: log.exists() and bad in log.read_text(), deadline_s=45, what="the call in the log")
    said = log.read_text()
    assert f"{NAME} gave 1 of 2 back" in said
    assert good not in said


def test_a_request_that_is_answered_as_our_failure_is_in_the_file_too(
    engine: Engine, client: LambdaClient, root: Path
) -> None:
    """As the API's edge answers what it has caught: for the engine that call went well."""
    handler = root / "functions/api/handler.py"
    handler.write_text(
        "def handler(event, context):\n"
        "    print('asked by ' + event['by'])\n"
        "    return {'statusCode': event['status'], 'body': '{}'}\n"
    )
    log = Processes(engine.places).log(FAILURES)
    bad, good = uuid.uuid4().hex, uuid.uuid4().hex
    for by, status in ((good, 404), (bad, 500)):
        asked = {"by": by, "status": status, "rawPath": "/api/v1/agents/1"}
        client.invoke(FunctionName=NAME, InvocationType="Event", Payload=json.dumps(asked).encode())
    until(lambda: log.exists() and bad in log.read_text(), deadline_s=45, what="the call in the log")
    said = log.read_text()
    assert f"{NAME} answered 500 to /api/v1/agents/1" in said
    assert good not in said
