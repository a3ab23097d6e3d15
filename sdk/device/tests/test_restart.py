"""At most one effect a command, over a process that is killed at the worst moments."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from karma_device_testing.cloud import Cloud, wait_until

SDK = Path(__file__).resolve().parents[1]


class Program:
    """The device program as a process that can be killed and started again."""

    def __init__(self, folder: Path, credentials: dict[str, Any], cloud: Cloud) -> None:
        self._folder = folder
        self._cloud = cloud
        self._credentials = folder / "credentials.json"
        self._credentials.write_text(json.dumps(credentials))
        self._effects = folder / "effects"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def effects(self) -> list[str]:
        return self._effects.read_text().split() if self._effects.exists() else []

    def start(self) -> None:
        before = len(self._cloud.on("ready"))
        self.process = subprocess.Popen(
            [sys.executable, str(SDK / "tests" / "device_program.py"), self._credentials, self._folder, self._effects],
            stdin=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(SDK)},
        )
        wait_until(lambda: len(self._cloud.on("ready")) > before, what="the program says ready")

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.ended()

    def ended(self) -> int:
        assert self.process is not None
        assert self.process.stdin is not None
        code = self.process.wait(20)
        self.process.stdin.close()
        self.process = None
        return code


@pytest.fixture
def program(tmp_path: Path, credentials: dict[str, Any], cloud: Cloud) -> Iterator[Program]:
    program = Program(tmp_path, credentials, cloud)
    yield program
    if program.process is not None:
        program.kill()


class TestRestartBetweenDeliveries:
    def test_a_finished_command_is_not_repeated_and_its_answer_is(self, program: Program, cloud: Cloud) -> None:
        program.start()
        body = cloud.request("work")
        cloud.send(body)
        first = cloud.final(body["id"])
        program.kill()
        program.start()
        cloud.send(body)
        wait_until(lambda: cloud.statuses(body["id"]).count("succeeded") >= 2)
        assert program.effects == [body["id"]]
        assert cloud.answers(body["id"])[-1] == first

    def test_a_crash_between_effect_and_answer_is_an_unknown_outcome(self, program: Program, cloud: Cloud) -> None:
        program.start()
        body = cloud.request("work_and_die")
        cloud.send(body)
        assert program.ended() == 9
        program.start()
        answer = cloud.final(body["id"])  # told without being asked again
        cloud.send(body)
        wait_until(lambda: cloud.statuses(body["id"]).count("failed") >= 2)
        assert (answer["status"], answer["error"]["code"]) == ("failed", "OUTCOME_UNKNOWN")
        assert program.effects == [body["id"]]

    def test_a_command_accepted_but_not_started_runs_after_the_restart(self, program: Program, cloud: Cloud) -> None:
        program.start()
        held = cloud.command("hold")
        wait_until(lambda: program.effects == [held])
        waiting = cloud.command("work")
        wait_until(lambda: cloud.statuses(waiting) == ["acknowledged"])
        program.kill()
        program.start()
        assert cloud.final(waiting)["status"] == "succeeded"
        assert cloud.final(held)["error"]["code"] == "OUTCOME_UNKNOWN"
        assert program.effects == [held, waiting]
