"""A simulated EOS device: `python -m karma_device.simulator --credentials FILE.json --state-dir DIR`.

It walks its readings at random, takes commands, and writes one JSON line a command that it carried out:
`{"event": "command", "id", "command", "params", "status"}`. SIGTERM and SIGINT end it in an orderly way.
"""

import argparse
import json
import logging
import math
import random
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TextIO

from karma_device.batching import MetricValue
from karma_device.commands import Handler
from karma_device.config import DeviceConfig
from karma_device.device import Device
from karma_device.errors import CommandFailed, DeviceError, InvalidParams
from karma_device.messages import Command, CommandStatus, Json

REACH_MM = {"EOS-3A": 300.0, "EOS-3B": 500.0, "EOS-3C": 1000.0}
"""Distance in mm that each model moves from its origin along each axis."""

_LED_COLOURS = ("off", "red", "green", "blue", "white", "amber")


class JsonLines:
    """Writes events as JSON lines, each whole even when threads write at once."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def write(self, event: str, **fields: Json) -> None:
        """Append one line and flush it."""
        line = json.dumps({"event": event, **fields}, separators=(",", ":"))
        with self._lock:
            self._stream.write(line + "\n")
            self._stream.flush()


class EosMachine:
    """The simulated machine: readings that drift and commands that change them. Thread-safe.

    Args:
        model: One of `REACH_MM`.
        rng: Source of the drift.
    """

    def __init__(self, model: str, *, rng: random.Random) -> None:
        self.model = model
        self._reach_mm = REACH_MM[model]
        self._rng = rng
        self._lock = threading.Lock()
        self._position = {"x": 0.0, "y": 0.0, "z": 0.0}
        self._temp_c = 36.0
        self._battery_pct = 100.0
        self._cpu_pct = 12.0
        self._led = "off"
        self._moves = 0

    def sample(self) -> dict[str, MetricValue]:
        """Let time pass and read every sensor."""
        with self._lock:
            self._temp_c = _clamp(self._temp_c + self._rng.gauss(0, 0.15), 15.0, 85.0)
            self._cpu_pct = _clamp(self._cpu_pct + self._rng.gauss(0, 2.0), 1.0, 100.0)
            # An empty battery is swapped: the simulation is meant to run for weeks.
            self._battery_pct = self._battery_pct - 0.01 if self._battery_pct > 5 else 100.0
            return {
                **{axis: round(value, 2) for axis, value in self._position.items()},
                "temp_c": round(self._temp_c, 2),
                "battery_pct": round(self._battery_pct, 2),
                "cpu_pct": round(self._cpu_pct, 1),
                "led_on": self._led != "off",
                "moves": self._moves,
            }

    def move(self, command: Command) -> dict[str, Json]:
        """Move to `{x, y, z?}` in mm; a position out of reach fails with `AXIS_LIMIT`."""
        _only(command, {"x", "y", "z"})
        target = {axis: _number(command, axis) for axis in ("x", "y", "z") if axis in command.params or axis != "z"}
        for axis, value in target.items():
            if abs(value) > self._reach_mm:
                raise CommandFailed("AXIS_LIMIT", f"{axis} = {value:g} mm is out of reach ({self._reach_mm:g} mm)")
        with self._lock:
            self._position.update(target)
            self._moves += 1
            return {"position": {**self._position}}

    def stop(self, command: Command) -> dict[str, Json]:
        """Stop at the current position."""
        _only(command, set())
        with self._lock:
            return {"stopped": True, "position": {**self._position}}

    def set_led(self, command: Command) -> dict[str, Json]:
        """Set the light to `{color}`."""
        _only(command, {"color"})
        color = command.params.get("color")
        if not isinstance(color, str) or color not in _LED_COLOURS:
            raise InvalidParams(f"color is one of {', '.join(_LED_COLOURS)}")
        with self._lock:
            self._led = color
        return {"color": color}

    def ping(self, command: Command) -> dict[str, Json]:
        """Answer without doing anything."""
        _only(command, set())
        return {"pong": True, "model": self.model}


def simulated_device(config: DeviceConfig, machine: EosMachine, lines: JsonLines) -> Device:
    """Build the device and register the machine's commands on it."""
    device = Device(config)

    def reboot(command: Command) -> dict[str, Json]:
        _only(command, set())
        device.reconnect(after_s=0.5)
        return {"rebooting": True}

    handlers: Mapping[str, Handler] = {
        "move": machine.move,
        "stop": machine.stop,
        "set_led": machine.set_led,
        "ping": machine.ping,
        "reboot": reboot,
    }
    for name, handler in handlers.items():
        device.command(name)(_logged(handler, lines))
    return device


def main(argv: Sequence[str] | None = None, *, out: TextIO = sys.stdout) -> int:
    """Run until SIGTERM or SIGINT; 0 after an orderly end."""
    arguments = _arguments(argv)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        config = DeviceConfig.from_credentials(
            json.loads(arguments.credentials.read_text()),
            state_dir=arguments.state_dir,
            basic_ingest_rule=arguments.basic_ingest_rule,
            firmware_version="sim-1.0.0",
            batch_max_age_s=arguments.batch_age,
            heartbeat_interval_s=30.0,
        )
    except (OSError, ValueError, KeyError, TypeError) as exc:
        print(f"cannot use {arguments.credentials}: {type(exc).__name__}: {exc}", file=sys.stderr)
        return 2
    finished = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: finished.set())
    with ExitStack() as stack:
        stream = stack.enter_context(arguments.log.open("a")) if arguments.log else out
        lines = JsonLines(stream)
        machine = EosMachine(arguments.model, rng=random.Random(arguments.seed))  # noqa: S311 - drift, not a secret
        try:
            device = simulated_device(config, machine, lines)
        except DeviceError as exc:
            print(str(exc), file=sys.stderr)
            return 1
        with device:
            lines.write("started", thing_name=config.thing_name, model=machine.model, boot=device.boot)
            _drive(device, machine, lines, finished, interval_s=arguments.interval)
        lines.write("stopped", thing_name=config.thing_name, boot=device.boot)
    return 0


def _drive(
    device: Device, machine: EosMachine, lines: JsonLines, finished: threading.Event, *, interval_s: float
) -> None:
    announced = False
    while True:
        device.record(machine.sample())
        if not announced and device.wait_ready(0):
            announced = True
            lines.write("ready", boot=device.boot)
        if finished.wait(interval_s):
            return


def _logged(handler: Handler, lines: JsonLines) -> Handler:
    def run(command: Command) -> Mapping[str, Json] | None:
        status = CommandStatus.FAILED
        try:
            result = handler(command)
            status = CommandStatus.SUCCEEDED
            return result
        except InvalidParams:
            status = CommandStatus.REJECTED
            raise
        finally:
            lines.write("command", id=command.id, command=command.name, params=dict(command.params), status=str(status))

    return run


def _only(command: Command, allowed: set[str]) -> None:
    if extra := sorted(set(command.params) - allowed):
        raise InvalidParams(f"{command.name} does not know {', '.join(extra)}")


def _number(command: Command, name: str) -> float:
    value = command.params.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e9:
        raise InvalidParams(f"{name} is a number of mm")
    return float(value)


def _clamp(value: float, low: float, high: float) -> float:
    return min(high, max(low, value))


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError("a number of seconds above 0")
    return value


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="karma_device.simulator", description="Run a simulated EOS device.")
    parser.add_argument(
        "--credentials", type=Path, required=True, help="the credentials object of device creation, as a JSON file"
    )
    parser.add_argument("--state-dir", type=Path, required=True, help="where the state file lives")
    parser.add_argument("--interval", type=_positive, default=1.0, help="seconds between samples (default 1.0)")
    parser.add_argument("--batch-age", type=_positive, default=1.0, help="seconds a sample may wait (default 1.0)")
    parser.add_argument("--log", type=Path, help="append event lines to this file instead of stdout")
    parser.add_argument("--model", choices=sorted(REACH_MM), default="EOS-3A")
    parser.add_argument("--basic-ingest-rule", help="IoT rule that takes the telemetry without the broker")
    parser.add_argument("--seed", type=int, help="makes the drift repeatable")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
