"""The clients that are made from the API's description, against the deployed backend."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from local.deployment import Deployment
from sdk.clients import generate
from tests.support import made_clients

JS_PROGRAM = Path(__file__).with_name("clients.mjs")
PYTHON_PROGRAM = """
import json
import sys

from karma_cloud_client import Client
from karma_cloud_client.api.auth import log_in, register
from karma_cloud_client.api.devices import create_device, get_device, list_devices
from karma_cloud_client.models.create_device_request import CreateDeviceRequest
from karma_cloud_client.models.device_model import DeviceModel
from karma_cloud_client.models.log_in import LogIn
from karma_cloud_client.models.register import Register
from karma_cloud_client.session import Session

url, email, password, serial = sys.argv[1:]
anybody = Client(base_url=url)
registered = register.sync_detailed(client=anybody, body=Register(email=email, password=password, name="A User"))
login = log_in.sync_detailed(client=anybody, body=LogIn(email=email, password=password))
session = Session("an access token that is over", login.parsed.data.refresh_token)
client = Client(base_url=url, httpx_args={"auth": session})
device = CreateDeviceRequest(name="Robot", model=DeviceModel.EOS_3A, mac="02:00:00:00:00:01", serial_number=serial)
created = create_device.sync_detailed(client=client, body=device)
listed = list_devices.sync_detailed(client=client, limit=10)
missing = get_device.sync_detailed(registered.parsed.data.user.id, client=client)
report = {
    "statuses": [int(each.status_code) for each in (registered, login, created, listed, missing)],
    "serials": [each.serial_number for each in listed.parsed.data.devices],
    "code": missing.parsed.error.code,
}
print(json.dumps(report))
"""


def first_minute(command: list[str | Path], deployment: Deployment, **environment: str) -> tuple[dict[str, Any], str]:
    serial = f"E2E-{secrets.token_hex(6)}"
    who = [f"user-{secrets.token_hex(6)}@example.com", secrets.token_urlsafe(16)]
    done = subprocess.run(
        [*command, deployment.addresses.api_url, *who, serial],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), serial


def assert_lived(report: dict[str, Any], serial: str) -> None:
    assert report == {"statuses": [201, 200, 201, 200, 404], "serials": [serial], "code": "NOT_FOUND"}


@pytest.mark.fault("F-24b")
@pytest.mark.needs("iot")
class TestTheGeneratedClient:
    def test_for_typescript_lives_a_user_s_first_minute(self, deployment: Deployment, tmp_path: Path) -> None:
        made = made_clients.typescript(tmp_path / "js")
        (made / "node_modules").symlink_to(generate.ROOT / "node_modules", target_is_directory=True)
        node = str(shutil.which("node"))
        assert_lived(*first_minute([node, JS_PROGRAM, made / "dist/index.js"], deployment))

    def test_for_python_lives_a_user_s_first_minute(self, deployment: Deployment, tmp_path: Path) -> None:
        made = made_clients.python(tmp_path / "python")
        assert_lived(*first_minute([sys.executable, "-c", PYTHON_PROGRAM], deployment, PYTHONPATH=str(made)))
