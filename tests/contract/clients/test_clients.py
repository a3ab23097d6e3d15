"""The clients that `make clients` makes compile, and their types are of use."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from local import prerequisites
from sdk.clients import generate
from tests.support import made_clients
from tests.support.bad_bodies import Shapes

USE_TYPESCRIPT = """
import { createClient } from "../dist/index.js";

const karma = createClient({ baseUrl: "http://localhost", token: async () => "t" });
const { data, error } = await karma.GET("/api/v1/devices/{device_id}", { params: { path: { device_id: "x" } } });
const name: string | undefined = data?.data.device.name;
const code: string | undefined = error?.error.code;
const status: "online" | "offline" | "error" | "updating" | undefined = data?.data.device.status;
// @ts-expect-error no device has that status
const never: "sleeping" | undefined = data?.data.device.status;
// @ts-expect-error there is no such path
await karma.GET("/api/v1/nothing");
// @ts-expect-error a name is text
await karma.POST("/api/v1/auth/register", { body: { email: "a@example.com", password: "12345678", name: 1 } });
console.log(name, code, status, never);
"""
USE_PYTHON = """
from karma_cloud_client import AuthenticatedClient, Client
from karma_cloud_client.api.devices import get_device
from karma_cloud_client.models.device_status import DeviceStatus
from karma_cloud_client.models.error import Error
from karma_cloud_client.session import Session

def name_of(client: AuthenticatedClient, device_id: str) -> str:
    found = get_device.sync(device_id, client=client)
    if found is None or isinstance(found, Error):
        return found.error.code if found else ""
    status: DeviceStatus = found.data.device.status
    return found.data.device.name if status is DeviceStatus.ONLINE else ""

def logged_in(url: str) -> Client:
    return Client(base_url=url, httpx_args={"auth": Session("access", "refresh")})
"""


def smallest_calls() -> str:
    """Write a call of each operation with a body, which has the members that it must have and no other."""
    document = json.loads(generate.DOCUMENT.read_text())
    shapes, calls = Shapes(document), []
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            content = operation.get("requestBody", {}).get("content", {}).get("application/json")
            if content is None:
                continue
            needed = [each for each in operation.get("parameters", ()) if each.get("required")]
            parameters: dict[str, dict[str, str]] = {each["in"]: {} for each in needed}
            for each in needed:
                parameters[each["in"]][each["name"]] = "x"
            given = {"params": parameters} if parameters else {}
            schema = content["schema"]
            body = json.dumps({**given, "body": shapes.least(schema)})
            calls.append(f"await karma.{method.upper()}({json.dumps(path)}, {body});\n")
    assert len(calls) > 30
    return "".join(calls)


@pytest.fixture(scope="module")
def clients(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        prerequisites.check_node()
    except prerequisites.Missing as missing:
        pytest.skip(str(missing))
    for tool in (generate.TOOLS / "openapi-python-client", generate.NODE_TOOLS / "openapi-typescript"):
        if not tool.exists():
            pytest.skip(f"{tool.name} is not installed: run `make install`")
    return tmp_path_factory.mktemp("clients")


class TestTheTypeScriptClient:
    @pytest.mark.fault("F-24f")
    def test_compiles_and_knows_paths_and_bodies(self, clients: Path) -> None:
        made = made_clients.typescript(clients / "js")
        use = made / "use"
        use.mkdir()
        (use / "use.ts").write_text(USE_TYPESCRIPT + smallest_calls())
        (made / "node_modules").symlink_to(generate.ROOT / "node_modules", target_is_directory=True)
        options = [
            "--noEmit",
            "--strict",
            "--target",
            "ES2022",
            "--module",
            "NodeNext",
            "--moduleResolution",
            "NodeNext",
        ]
        done = subprocess.run(
            [generate.NODE_TOOLS / "tsc", *options, "use/use.ts"], cwd=made, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout


class TestThePythonClient:
    def test_is_typed_and_knows_answers(self, clients: Path) -> None:
        made = made_clients.python(clients / "python")
        (made / "use.py").write_text(USE_PYTHON)
        done = subprocess.run(
            [sys.executable, "-m", "mypy", "--no-incremental", "--follow-imports=silent", "use.py"],
            cwd=made,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout
