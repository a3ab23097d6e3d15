"""Metrics and log lines of a function, also where nobody can read them."""

import json
import os
import pty
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from karma.core.observability import count, logger

LAYER = Path(__file__).resolve().parents[3] / "layers/common/python"


def emitted(capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    body: dict[str, object] = json.loads(capsys.readouterr().out)
    return body


def test_a_fact_is_counted_by_function(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POWERTOOLS_SERVICE_NAME", logger.service)
    count("RunStarted")
    body = emitted(capsys)
    assert body["_aws"]["CloudWatchMetrics"][0]["Dimensions"] == [["service"]]  # type: ignore[index]
    assert body["RunStarted"] == [1]


def test_dimensions_are_an_addition_so_that_alarms_by_function_still_see_the_fact(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POWERTOOLS_SERVICE_NAME", logger.service)
    count("IngestRejected", 3, reason="foreign")
    body = emitted(capsys)
    metrics = body["_aws"]["CloudWatchMetrics"][0]  # type: ignore[index]
    assert metrics["Namespace"] == "Karma"
    assert sorted(sorted(each) for each in metrics["Dimensions"]) == [["reason", "service"], ["service"]]
    assert body["reason"] == "foreign"
    assert body["IngestRejected"] == [3]


@pytest.mark.req("R-M-28")
def test_a_log_line_is_structured() -> None:
    """In a process of its own: a logger keeps the stream that it was made with."""
    program = "from karma.core.observability import logger; logger.info('run.started', run_id='r1')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=LAYER)
    line = json.loads(done.stdout)
    assert line["message"] == "run.started"
    assert line["run_id"] == "r1"
    assert line["level"] == "INFO"
    assert datetime.fromisoformat(line["timestamp"]).utcoffset() == timedelta(0)


def run(program: str, **options: object) -> str:
    command = [sys.executable, "-c", f"from karma.core.observability import log_request, logger; {program}"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=LAYER, **options)  # type: ignore[call-overload]
    return str(done.stdout)


@pytest.mark.req("R-M-28")
class TestTheLineOfARequest:
    def test_looks_as_if_the_logger_had_written_it(self) -> None:
        ours, its = map(
            json.loads,
            run("log_request(status=200, user_id=None); logger.info('request.handled', status=200)").splitlines(),
        )
        assert datetime.fromisoformat(ours["timestamp"]).utcoffset() == timedelta(0)
        assert len(ours.pop("timestamp")) == len(its.pop("timestamp"))
        del its["location"]
        assert ours == its

    def test_is_not_written_above_its_level(self) -> None:
        assert run("logger.setLevel('WARNING'); log_request(status=200)") == ""

    def test_is_for_people_on_a_terminal(self) -> None:
        master, terminal = pty.openpty()
        try:
            line = run("log_request(status=200, route='/')", stderr=terminal)
        finally:
            os.close(terminal)
            os.close(master)
        assert line.endswith("INFO    request.handled status=200 route=/\n")


SPEAK = "log_request(status=200); count('RunStarted'); logger.info('run.started')"


class TestWithoutAnyoneListening:
    """A request is served whether or not what is said of it can be written."""

    def test_a_closed_output_breaks_nothing(self) -> None:
        program = f"import sys; sys.stdout.close(); {SPEAK}; sys.stderr.write('served')"
        assert said_on_stderr(program).endswith("served")

    def test_a_reader_that_left_breaks_nothing(self) -> None:
        reading, writing = os.pipe()
        os.close(reading)
        try:
            # Not by the interpreter's exit, which would try once more to flush.
            program = f"import os, sys; {SPEAK}; sys.stderr.write('served'); sys.stderr.flush(); os._exit(0)"
            assert said_on_stderr(program, stdout=writing).endswith("served")
        finally:
            os.close(writing)


def said_on_stderr(program: str, **options: object) -> str:
    command = [sys.executable, "-c", f"from karma.core.observability import count, log_request, logger; {program}"]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, cwd=LAYER, check=True, **options)  # type: ignore[call-overload]
    return str(done.stderr)
