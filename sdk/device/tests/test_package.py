"""The parts that a device's owner installs: the wheel, the example, the systemd unit, and the README's code."""

import configparser
import json
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import paho
import pytest

from karma_device_testing.cloud import Cloud, wait_until

pytestmark = pytest.mark.fault("F-14a")

SDK = Path(__file__).resolve().parents[1]
UNIT = SDK / "systemd" / "karma-device.service"


def test_the_wheel_is_all_that_an_empty_environment_needs_beside_paho(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=SDK, check=True, capture_output=True)
    [wheel] = tmp_path.glob("*.whl")
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    [packages] = environment.glob("lib/python3*/site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    [package] = paho.__path__
    (packages / "paho").symlink_to(package)

    assert {path.name for path in packages.iterdir()} == {
        "karma_device", "karma_device-0.1.0.dist-info", "paho",
    }  # fmt: skip
    assert (packages / "karma_device" / "py.typed").exists()
    assert "Requires-Dist: paho-mqtt" in (packages / "karma_device-0.1.0.dist-info" / "METADATA").read_text()
    modules = ", ".join(f"karma_device.{path.stem}" for path in packages.glob("karma_device/[a-z]*.py"))
    told = subprocess.run(
        [environment / "bin" / "python", "-I", "-W", "error", "-c", f"import {modules}"],
        check=False,
        capture_output=True,
    )
    assert told.returncode == 0, told.stderr.decode()


def test_the_example_runs_as_a_service_would_and_ends_in_order(
    credentials: dict[str, Any], cloud: Cloud, tmp_path: Path
) -> None:
    (tmp_path / "credentials.json").write_text(json.dumps(credentials))
    environment = {
        "PYTHONPATH": str(SDK),
        "CREDENTIALS_DIRECTORY": str(tmp_path),
        "STATE_DIRECTORY": str(tmp_path / "s"),
    }
    with subprocess.Popen(
        [sys.executable, SDK / "examples" / "device.py"], env=environment, stderr=subprocess.PIPE
    ) as process:
        try:
            wait_until(lambda: cloud.on("ready"), what="ready")
            assert cloud.final(cloud.command("echo", {"n": 1}))["result"] == {"params": {"n": 1}}
        finally:
            process.send_signal(signal.SIGTERM)
            _, told = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "device.stopped: nothing is left unsent" in told.decode()
    assert (tmp_path / "s" / f"{credentials['thing_name']}.sqlite3").exists()


def test_the_unit_gives_the_example_what_it_looks_for(tmp_path: Path) -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read_string(UNIT.read_text())
    service = unit["Service"]
    assert service["LoadCredential"].startswith("credentials.json:")
    assert (service["StateDirectory"], service["KillSignal"], service["Restart"]) == (
        "karma-device",
        "SIGTERM",
        "always",
    )
    assert int(service["TimeoutStopSec"]) > 15, "stop() takes 10 s, and 5 to say goodbye"
    if verify := shutil.which("systemd-analyze"):
        here = tmp_path / UNIT.name
        here.write_text(re.sub(r"ExecStart=.*", f"ExecStart={sys.executable} device.py", UNIT.read_text()))
        checked = subprocess.run([verify, "verify", here], check=False, capture_output=True)
        assert (checked.returncode, checked.stderr.decode()) == (0, "")


def test_what_the_readme_shows_is_python_and_names_what_there_is() -> None:
    blocks = re.findall(r"```python\n(.*?)```", (SDK / "README.md").read_text(), re.DOTALL)
    assert len(blocks) > 1
    for block in blocks:
        compile(block, "README.md", "exec")
        exec("\n".join(line for line in block.splitlines() if line.startswith(("import ", "from "))), {})
