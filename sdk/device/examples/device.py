"""A device as a service: reads a sensor every second, takes one command, ends in order on SIGTERM or Ctrl-C.

Looks for credentials.json and for its state folder where systemd puts them, else beside itself.
"""

import json
import logging
import os
import signal
import threading
from pathlib import Path

from karma_device.config import DeviceConfig
from karma_device.device import Device
from karma_device.messages import Command, Json

HERE = Path(__file__).parent
CREDENTIALS = Path(os.environ.get("CREDENTIALS_DIRECTORY", HERE)) / "credentials.json"
STATE = os.environ.get("STATE_DIRECTORY", str(HERE / "state"))


def read_sensor() -> float:
    """Read the temperature of the processor in degrees Celsius; replace this by your own sensor."""
    source = Path("/sys/class/thermal/thermal_zone0/temp")
    return int(source.read_text()) / 1000 if source.exists() else 20.0


def main() -> None:
    """Run until told to end; samples and answers that stay unsent are logged."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    end = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: end.set())

    device = Device(DeviceConfig.from_credentials(json.loads(CREDENTIALS.read_text()), state_dir=STATE))

    @device.command("echo")
    def echo(command: Command) -> dict[str, Json]:
        return {"params": dict(command.params)}

    device.start()
    while not end.wait(1.0):
        device.record({"cpu_temp_c": read_sensor()})
    device.close()


if __name__ == "__main__":
    main()
