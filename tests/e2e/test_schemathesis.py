"""The whole description, tested from outside: what it promises is what the deployed backend does."""

from __future__ import annotations

import json
import os
import random
import secrets
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from local.api_client import ApiClient
from local.deployment import Deployment
from sdk.clients.generate import ROOT, TOOLS

from .conftest import User

LIMIT_S = 900
EXAMPLES = int(os.environ.get("EXAMPLES", "0"))
"""Random requests an operation, beside those that the shapes call for; 0: two, of a sample of the operations."""
SAMPLE = 12
MAKE_ADMIN = """
import sys
from pathlib import Path
from local.operations import Operations
from local.places import Places
Operations("local", Places(base=Path(sys.argv[1]))).create_admin(sys.argv[2], sys.argv[3], "")
"""


def operations() -> dict[str, set[str]]:
    """Return each operation with those to which its answers link."""
    paths = json.loads((ROOT / "docs/openapi.json").read_text())["paths"]
    found = [operation for methods in paths.values() for operation in methods.values()]
    return {operation["operationId"]: _linked(operation) for operation in found}


def _linked(operation: dict[str, Any]) -> set[str]:
    links = [link for answer in operation["responses"].values() for link in answer.get("links", {}).values()]
    return {link["operationId"] for link in links}


def some(operations: dict[str, set[str]], dice: random.Random) -> list[str]:
    """Return a sample, one operation of it with all to which it links: the tool fails where it finds no link."""
    source = dice.choice([name for name, linked in operations.items() if linked])
    together = {source, *operations[source]}
    others = [name for name in operations if name not in together]
    return [*sorted(together), *dice.sample(others, k=max(0, SAMPLE - len(together)))]


@pytest.fixture
def administrator(deployment: Deployment) -> str:
    """Return an access token of somebody who may use every route."""
    email, password = f"admin-{secrets.token_hex(6)}@example.com", secrets.token_urlsafe(16)
    # In a process of its own: it takes on the environment of the deployed function.
    command = [sys.executable, "-c", MAKE_ADMIN, str(deployment.places.base), email, password]
    subprocess.run(command, cwd=ROOT, check=True, timeout=60)
    api = ApiClient(deployment.addresses.api_url)
    token = api.call("POST", "/auth/login", {"email": email, "password": password})["access_token"]
    api.close()
    return str(token)


@pytest.mark.req("R-M-20", "R-M-21", "R-M-44")
@pytest.mark.needs("http-api", "iot", "ses-v2", "websocket")
def test_every_operation_keeps_its_promises(
    deployment: Deployment, administrator: str, user: User, tmp_path: Path, seed: int
) -> None:
    tool = TOOLS / "st"
    if not tool.exists():
        pytest.skip("schemathesis (.engine/contract) is not installed: run `make install`")
    url = f"{deployment.addresses.api_url}/openapi.json"
    command = [str(tool), "--config-file", str(ROOT / "schemathesis.toml"), "run", url]
    tried = list(operations()) if EXAMPLES else some(operations(), random.Random(seed))
    chosen = [word for name in tried for word in ("--include-operation-id", name)]
    done = subprocess.run(
        [*command, *chosen, "--checks", "all", "--max-examples", str(EXAMPLES or 2), "--no-color", "--seed", "20"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
        env={**os.environ, "KARMA_TOKEN": administrator, "KARMA_THROW_AWAY_TOKEN": user.token},
    )
    assert done.returncode == 0, f"of {tried}:\n{done.stdout[-20_000:]}"
    assert "Coverage" in done.stdout
