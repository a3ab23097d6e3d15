"""Functions as processes: the executor that LocalStack is given in host mode."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from karma_localstack.process import Function, FunctionProcess, UnknownRuntime, command_of, environment_of
from karma_localstack.runtime_api import LIMIT_BYTES, InitFailed

ARN = "arn:aws:lambda:us-east-1:000000000000:function:f"
BOOTSTRAP = f"""#!{sys.executable}
import http.client, json, os, sys, time
api = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])
root = "/2018-06-01/runtime"
def post(path, body, **more):
    api.request("POST", root + path, body, **more)
    api.getresponse().read()
if os.environ.get("BROKEN"):
    post("/init/error", json.dumps({{"errorType": "Runtime.ImportModuleError", "errorMessage": "no module"}}))
    sys.exit(1)
while True:
    api.request("GET", root + "/invocation/next")
    answer = api.getresponse()
    event, request = json.loads(answer.read()), answer.headers["Lambda-Runtime-Aws-Request-Id"]
    print("doing", event["do"], flush=True)
    if event["do"] == "sleep":
        time.sleep(60)
    if event["do"] == "exit":
        os._exit(7)
    if event["do"] == "fail":
        post(f"/invocation/{{request}}/error", json.dumps({{"errorType": "ValueError"}}))
    elif event["do"] == "stream":
        pieces = iter([b"one, ", b"two"])
        post(f"/invocation/{{request}}/response", pieces)
    elif event["do"] == "flood":
        post(f"/invocation/{{request}}/response", b"x" * ({LIMIT_BYTES} + 1))
    else:
        left = int(answer.headers["Lambda-Runtime-Deadline-Ms"]) / 1000 - time.time()
        post(f"/invocation/{{request}}/response", json.dumps({{"pid": os.getpid(), "left": left, "arn":
            answer.headers["Lambda-Runtime-Invoked-Function-Arn"], "path": os.environ["PYTHONPATH"]}}))
"""
Make = Callable[..., FunctionProcess]


@pytest.fixture
def function(tmp_path: Path) -> Callable[..., Function]:
    task = tmp_path / "task"
    task.mkdir()
    (task / "bootstrap").write_text(BOOTSTRAP)
    (task / "bootstrap").chmod(0o755)

    def make(runtime: str = "provided.al2023", timeout_s: float = 20, **environment: str) -> Function:
        layers = [tmp_path / "below", tmp_path / "above"]
        return Function(runtime, "app.handler", task, layers, environment, timeout_s)

    return make


@pytest.fixture
def process(function: Callable[..., Function]) -> Iterator[Make]:
    made: list[FunctionProcess] = []

    def make(**fields: Any) -> FunctionProcess:
        made.append(FunctionProcess(function(**fields)))
        return made[-1]

    yield make
    for each in made:
        each.stop()


def call(process: FunctionProcess, what: str, request_id: str = "r1") -> Any:
    return process.invoke(request_id, json.dumps({"do": what}).encode(), arn=ARN)


def pid_of(process: FunctionProcess) -> int:
    return int(json.loads(call(process, "tell").answer.payload)["pid"])


class TestCalls:
    def test_one_process_takes_one_call_after_the_other(self, process: Make) -> None:
        running = process()
        running.start()
        first = call(running, "tell")
        told = json.loads(first.answer.payload)
        assert (first.answer.is_error, told["arn"], first.log) == (False, ARN, "doing tell\n")
        assert 15 < told["left"] <= 20
        second = call(running, "fail", "r2")
        assert (second.answer.is_error, second.log) == (True, "doing fail\n"), "only what was written meanwhile"
        assert json.loads(second.answer.payload) == {"errorType": "ValueError"}
        assert pid_of(running) == told["pid"]
        assert running.whole_log() == "doing tell\ndoing fail\ndoing tell\n"

    def test_a_streamed_answer_arrives_whole(self, process: Make) -> None:
        assert call(process(), "stream").answer.payload == b"one, two"

    def test_an_answer_that_lambda_would_not_take_fails(self, process: Make) -> None:
        answer = call(process(), "flood").answer
        assert answer.is_error
        assert json.loads(answer.payload)["errorType"] == "Function.ResponseSizeTooLarge"


class TestFailures:
    def test_who_takes_too_long_is_ended_and_replaced(self, process: Make) -> None:
        running = process(timeout_s=1)
        before = pid_of(running)
        answer = call(running, "sleep", "r2").answer
        assert answer.is_error
        assert "r2 Task timed out after 1.00 seconds" in json.loads(answer.payload)["errorMessage"]
        assert pid_of(running) != before

    def test_who_dies_is_reported_and_replaced(self, process: Make) -> None:
        running = process()
        before = pid_of(running)
        answer = call(running, "exit", "r2").answer
        assert json.loads(answer.payload) == {
            "errorType": "Runtime.ExitError",
            "errorMessage": "RequestId: r2 Error: Runtime exited with error: exit status 7",
        }
        assert pid_of(running) != before

    def test_who_cannot_start_says_why(self, process: Make) -> None:
        with pytest.raises(InitFailed) as failed:
            process(BROKEN="1").start()
        assert json.loads(failed.value.answer.payload)["errorType"] == "Runtime.ImportModuleError"


class TestSurroundings:
    def test_later_layers_lie_on_top_of_earlier_ones(self, function: Callable[..., Function], tmp_path: Path) -> None:
        made = environment_of(function(PYTHONPATH="/given"), home=tmp_path, runtime_api="127.0.0.1:1")
        assert made["PYTHONPATH"].split(":") == [
            str(tmp_path / "task"),
            str(tmp_path / "above/python"),
            str(tmp_path / "below/python"),
            "/given",
        ]
        assert (made["AWS_LAMBDA_RUNTIME_API"], made["LAMBDA_TASK_ROOT"]) == ("127.0.0.1:1", str(tmp_path / "task"))

    def test_python_functions_run_on_the_client_of_aws(self, function: Callable[..., Function]) -> None:
        made = function(runtime="python3.13")
        assert command_of(made) == [sys.executable, "-m", "awslambdaric", "app.handler"]

    def test_a_wrapper_is_found_where_lambda_would_mount_it(
        self, function: Callable[..., Function], tmp_path: Path
    ) -> None:
        (tmp_path / "below").mkdir()
        (tmp_path / "below/wrap").touch()
        command = command_of(function(runtime="python3.13", AWS_LAMBDA_EXEC_WRAPPER="/opt/wrap"))
        assert command[0] == str(tmp_path / "below/wrap")
        command = command_of(function(runtime="python3.13", AWS_LAMBDA_EXEC_WRAPPER="/var/task/agent/bootstrap"))
        assert command[0] == str(tmp_path / "task/agent/bootstrap")

    def test_another_runtime_is_refused(self, function: Callable[..., Function]) -> None:
        with pytest.raises(UnknownRuntime):
            command_of(function(runtime="ruby3.4"))
