"""The bootstrap on the embedded AWS engine, as a custom runtime with its layer inside, called by its function URL."""

from __future__ import annotations

import io
import json
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import botocore.session
import httpx
import pytest

from local.engine import MiniStack, ephemeral
from local.errors import PrerequisiteMissing
from tests.contract.runtime.hosting import DEADLINE_S, ROOT

_ROOT_BOOTSTRAP = """#!/bin/sh
exec "$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)/agent_stream/bootstrap" "$@"
"""
"""Entry of a runtime `provided.al2023`, which needs one at the root: it starts the function's own."""
LAYER = ROOT / "layers" / "common" / "python"
ASSUME_BY_LAMBDA = {
    "Version": "2012-10-17",
    "Statement": [
        {"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}, "Action": "sts:AssumeRole"},
    ],
}


@pytest.fixture(scope="module")
def engine() -> Iterator[MiniStack]:
    try:
        with ephemeral() as started:
            yield started
    except PrerequisiteMissing as exc:
        pytest.skip(str(exc))


@pytest.fixture(scope="module")
def asset() -> bytes:
    """Return an asset with a root bootstrap, the function's own beside it, and the layer in `python/`."""
    files = {
        "bootstrap": _ROOT_BOOTSTRAP.encode(),
        "agent_stream/bootstrap": (ROOT / "functions" / "agent_stream" / "bootstrap").read_bytes(),
        "engine_app.py": (ROOT / "tests" / "fixtures" / "runtime" / "apps.py").read_bytes(),
    }
    core = LAYER / "karma" / "core"
    sources: list[Path] = [LAYER / "karma" / "__init__.py", core / "__init__.py", core / "records.py"]
    sources += (core / "runtime").glob("*.py")
    files |= {f"python/{path.relative_to(LAYER)}": path.read_bytes() for path in sources}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name)
            entry.external_attr = (0o755 if name.endswith("bootstrap") else 0o644) << 16
            archive.writestr(entry, content)
    return buffer.getvalue()


def deploy(engine: MiniStack, asset: bytes, app: str) -> str:
    """Create a streaming function of this handler; return the address of its function URL."""
    session = botocore.session.Session()
    session.set_credentials("test", "test")
    # Any: botocore makes its clients' methods at run time.
    iam: Any = session.create_client("iam", region_name=engine.region, endpoint_url=engine.endpoint_url)
    client: Any = session.create_client("lambda", region_name=engine.region, endpoint_url=engine.endpoint_url)
    role = iam.create_role(RoleName=f"{app}-role", AssumeRolePolicyDocument=json.dumps(ASSUME_BY_LAMBDA))["Role"]["Arn"]
    client.create_function(
        FunctionName=app,
        Runtime="provided.al2023",
        Handler=f"engine_app:{app}",
        Role=role,
        Code={"ZipFile": asset},
        Environment={"Variables": {"KARMA_PYTHON": sys.executable}},
        Timeout=30,
    )
    url = client.create_function_url_config(FunctionName=app, AuthType="NONE", InvokeMode="RESPONSE_STREAM")
    iam.close()
    client.close()
    url_id = url["FunctionUrl"].split("//")[1].split(".")[0]
    return f"{engine.endpoint_url}/_aws/lambda-url/{url_id}"


def test_the_same_process_serves_one_request_after_the_other(engine: MiniStack, asset: bytes) -> None:
    url = deploy(engine, asset, "echo")

    with httpx.Client(trust_env=False, timeout=DEADLINE_S) as client:
        responses = [client.post(f"{url}/a/b?x={number}", content=b"\x00\xff") for number in range(2)]

    assert [response.status_code for response in responses] == [201, 201]
    seen = [response.json() for response in responses]
    assert [each["query"] for each in seen] == ["x=0", "x=1"]
    assert seen[0]["path"] == "/a/b"
    assert seen[0]["body"] == "\x00\xff"
    assert seen[0]["pid"] == seen[1]["pid"]


def test_a_stream_arrives_whole(engine: MiniStack, asset: bytes) -> None:
    """The engine collects the body; that it streams is shown on the local host."""
    response = httpx.post(deploy(engine, asset, "paced"), json={}, trust_env=False, timeout=DEADLINE_S)

    assert response.headers["content-type"] == "text/event-stream"
    assert response.text.count("data: ") == 40


def test_an_app_that_cannot_be_found_is_a_502(engine: MiniStack, asset: bytes) -> None:
    response = httpx.get(deploy(engine, asset, "missing"), trust_env=False, timeout=DEADLINE_S)

    assert response.status_code == 502
