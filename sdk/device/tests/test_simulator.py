"""The simulator as `make dev` runs it: a process, a credentials file, a log file, SIGTERM."""

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from karma_device.errors import CommandFailed, InvalidParams
from karma_device.messages import Command, Json
from karma_device.simulator import REACH_MM, EosMachine, main
from karma_device_testing.cloud import Cloud, wait_until

SDK = Path(__file__).resolve().parents[1]


def command(name: str, params: dict[str, Json]) -> Command:
    return Command(id="i", name=name, params=params, issued_at=0, expires_at=1)


class Simulator:
    def __init__(self, folder: Path, credentials: dict[str, Any]) -> None:
        self._folder = folder
        self.log = folder / "device.log"
        (folder / "credentials.json").write_text(json.dumps(credentials))
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        arguments = ["--credentials", "credentials.json", "--state-dir", "state", "--interval", "0.1"]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "karma_device.simulator", *arguments, "--batch-age", "0.2", "--log", self.log],
            cwd=self._folder,
            env={**os.environ, "PYTHONPATH": str(SDK)},
        )

    def stop(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(20)
        self.process = None
        return code

    def events(self, event: str) -> list[dict[str, Any]]:
        if not self.log.exists():
            return []
        return [line for line in map(json.loads, self.log.read_text().splitlines()) if line["event"] == event]


@pytest.fixture
def simulator(tmp_path: Path, credentials: dict[str, Any]) -> Iterator[Simulator]:
    simulator = Simulator(tmp_path, credentials)
    yield simulator
    if simulator.process is not None:
        simulator.process.kill()
        simulator.process.wait(5)


class TestProcess:
    def test_it_moves_once_and_logs_it_once_also_over_a_restart(self, simulator: Simulator, cloud: Cloud) -> None:
        simulator.start()
        wait_until(lambda: cloud.on("ready") and cloud.on("telemetry"))
        body = cloud.request("move", {"x": 10, "y": -20.5})
        cloud.send(body)
        answer = cloud.final(body["id"])
        cloud.send(body)
        assert simulator.stop() == 0
        simulator.start()
        wait_until(lambda: len(cloud.on("ready")) == 2)
        cloud.send(body)
        wait_until(lambda: cloud.statuses(body["id"]).count("succeeded") >= 2)
        assert simulator.stop() == 0

        assert answer["result"] == {"position": {"x": 10.0, "y": -20.5, "z": 0.0}}
        assert simulator.events("command") == [
            {
                "event": "command",
                "id": body["id"],
                "command": "move",
                "params": {"x": 10, "y": -20.5},
                "status": "succeeded",
            }
        ]
        assert len(simulator.events("stopped")) == 2

    def test_telemetry_shows_where_it_went_and_refusals_are_logged(self, simulator: Simulator, cloud: Cloud) -> None:
        simulator.start()
        wait_until(lambda: cloud.on("ready"))
        cloud.final(cloud.command("move", {"x": 1, "y": 2, "z": 3}))
        seen = len(cloud.on("telemetry"))
        wait_until(lambda: len(cloud.on("telemetry")) >= seen + 2)
        latest = cloud.on("telemetry")[-1].body["samples"][-1]["m"]
        rejected = cloud.final(cloud.command("set_led", {"color": "plaid"}))
        failed = cloud.final(cloud.command("move", {"x": 1e6, "y": 0}))
        assert (latest["x"], latest["y"], latest["z"], latest["moves"]) == (1.0, 2.0, 3.0, 1)
        assert (rejected["status"], failed["status"]) == ("rejected", "failed")
        assert [e["status"] for e in simulator.events("command")] == ["succeeded", "rejected", "failed"]

    def test_reboot_comes_back(self, simulator: Simulator, cloud: Cloud) -> None:
        simulator.start()
        wait_until(lambda: cloud.on("ready"))
        answer = cloud.final(cloud.command("reboot"))
        wait_until(lambda: len(cloud.on("ready")) == 2)
        assert cloud.final(cloud.command("ping"))["result"] == {"pong": True, "model": "EOS-3A"}
        assert answer["result"] == {"rebooting": True}


class TestMain:
    @pytest.mark.parametrize("content", ["{", "[]", "{}", '{"mqtt_host": 1}'])
    def test_unusable_credentials_are_named(
        self, tmp_path: Path, content: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        file = tmp_path / "c.json"
        file.write_text(content)
        assert main(["--credentials", str(file), "--state-dir", str(tmp_path)]) == 2
        assert str(file) in capsys.readouterr().err


class TestMachine:
    @pytest.mark.parametrize("model", sorted(REACH_MM))
    def test_reach_is_the_models_own(self, model: str) -> None:
        machine = EosMachine(model, rng=random.Random(1))
        machine.move(command("move", {"x": REACH_MM[model], "y": 0}))
        with pytest.raises(CommandFailed, match="out of reach"):
            machine.move(command("move", {"x": REACH_MM[model] + 1, "y": 0}))
        assert machine.sample()["x"] == REACH_MM[model]

    @pytest.mark.parametrize(
        "params",
        [{}, {"x": 1}, {"x": "1", "y": 2}, {"x": True, "y": 2}, {"x": 1, "y": 2, "w": 3}, {"x": 10**400, "y": 0}],
    )
    def test_bad_parameters_move_nothing(self, params: dict[str, Json]) -> None:
        machine = EosMachine("EOS-3A", rng=random.Random(1))
        with pytest.raises(InvalidParams):
            machine.move(command("move", params))
        assert machine.sample()["moves"] == 0

    def test_readings_stay_physical(self) -> None:
        machine = EosMachine("EOS-3C", rng=random.Random(1))
        for _ in range(20_000):
            sample = machine.sample()
            assert 15 <= float(sample["temp_c"]) <= 85
            assert 0 <= float(sample["battery_pct"]) <= 100
