"""Modules that each function loads before its first request. A new heavy import at a cold start must be added here."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

HEAVY = {
    "ag_ui", "anthropic", "argon2", "aws_xray_sdk", "bcrypt", "boto3", "botocore", "cryptography", "email_validator",
    "fastapi", "httpx", "httpx2", "joserfc", "jwt", "mangum", "oauthlib", "pydantic", "pynamodb", "requests",
    "starlette", "stripe", "zxcvbn",
}  # fmt: skip

LOADED = {
    "api.handler": {"botocore", "fastapi", "jwt", "mangum", "pydantic", "pynamodb", "starlette"},
    "agent_stream.app": {"botocore", "jwt", "pynamodb"},
    "device_ingest.handler": {"botocore", "pynamodb"},
    "billing_webhook.handler": {"botocore"},
    "background.inbox": {"botocore", "pydantic", "pynamodb"},
    "background.runs": {"botocore", "pynamodb"},
    "background.deletion": {"botocore", "pydantic", "pynamodb"},
    "background.files": {"botocore", "pynamodb"},
    "background.router": {"botocore", "pynamodb"},
    "background.sweeps.queues": {"botocore", "pynamodb"},
    "background.sweeps.tables": {"botocore", "pynamodb"},
    "background.sweeps.files": {"botocore", "pynamodb"},
    "background.sweeps.devices": {"botocore", "pynamodb"},
    "background.mail": {"botocore", "pynamodb"},
    "realtime.handler": {"botocore", "pynamodb"},
}


@pytest.mark.parametrize("module", sorted(LOADED))
def test_a_function_loads_only_what_its_first_request_needs(module: str) -> None:
    program = f"import json, sys\nimport {module}\nprint(json.dumps(sorted({{n.split('.')[0] for n in sys.modules}})))"
    environment = {
        "PATH": os.defpath,
        "PYTHONPATH": os.pathsep.join([str(ROOT / "layers/common/python"), str(ROOT / "functions")]),
        "POWERTOOLS_SERVICE_NAME": module,
    }
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment, cwd=ROOT
    )
    loaded = set(json.loads(done.stdout.splitlines()[-1]))
    assert loaded & HEAVY <= LOADED[module]
