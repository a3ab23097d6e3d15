"""A device program that crashes on command; run by test_restart.py as a process of its own.

Arguments: credentials file, state folder, file that gets one line an effect.
"""

import json
import os
import sys
import threading
from pathlib import Path

from karma_device.config import DeviceConfig
from karma_device.device import Device
from karma_device.messages import Command, Json


def main() -> None:
    credentials, state_dir, effects = (Path(argument) for argument in sys.argv[1:4])
    config = DeviceConfig.from_credentials(
        json.loads(credentials.read_text()),
        state_dir=state_dir,
        reconnect_min_s=0.05,
        reconnect_max_s=0.5,
        heartbeat_interval_s=0.0,
        command_workers=1,
    )
    device = Device(config)
    hold = threading.Event()

    def effect(command: Command) -> None:
        with effects.open("a") as file:
            file.write(command.id + "\n")

    @device.command("work")
    def work(command: Command) -> dict[str, Json]:
        effect(command)
        return {"done": command.id}

    @device.command("work_and_die")
    def work_and_die(command: Command) -> None:
        effect(command)
        os._exit(9)

    @device.command("hold")
    def hold_(command: Command) -> None:
        effect(command)
        hold.wait()

    with device:
        sys.stdin.read()  # until the test closes it


if __name__ == "__main__":
    main()
