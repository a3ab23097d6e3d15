"""Modules that each function loads for its first request. A new heavy import at a cold start must be added here.

Our own modules are bounded by number and by context: most of a start is ours, and each context costs it 2 to 10 ms. Who
adds a context raises nothing here: its routes are imported by need (functions/api/mounts.py), and what only some runs
or requests use is imported by its builder in the composition root. CONTRIBUTING.md says how.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest

from infra.catalog import COMMON_ENVIRONMENT, FUNCTIONS

ROOT = Path(__file__).resolve().parents[2]

HEAVY = {
    "ag_ui", "anthropic", "argon2", "aws_xray_sdk", "bcrypt", "boto3", "botocore", "cryptography", "email_validator",
    "fastapi", "httpx", "httpx2", "joserfc", "jwt", "mangum", "oauthlib", "PIL", "pydantic", "pynamodb", "requests",
    "pypdfium2", "starlette", "stripe", "tantivy", "zxcvbn",
}  # fmt: skip

LOADED = {
    "api.handler": {"botocore", "fastapi", "jwt", "mangum", "pydantic", "pynamodb", "starlette"},
    "agent_stream.app": {"botocore", "jwt", "pynamodb"},
    "agent_stream.execution": {"botocore", "jwt", "pynamodb"},
    "device_ingest.handler": {"botocore", "pynamodb"},
    "device_ingest.files": {"botocore", "pynamodb"},
    "device_ingest.provisioning": {"botocore", "pynamodb"},
    "billing_webhook.handler": {"botocore"},
    "background.inbox": {"botocore", "pydantic", "pynamodb"},
    "background.runs": {"botocore", "pynamodb"},
    "background.deletion": {"botocore", "pydantic", "pynamodb"},
    "background.files": {"botocore", "pynamodb"},
    "background.router": {"botocore", "pynamodb"},
    "previews.handler": {"botocore", "pynamodb"},
    "segments.handler": {"botocore", "pynamodb"},
    "background.sweeps.queues": {"botocore", "pynamodb"},
    "background.sweeps.tables": {"botocore", "pynamodb"},
    "background.sweeps.files": {"botocore", "pynamodb"},
    "background.sweeps.devices": {"botocore", "pynamodb"},
    "background.sweeps.firmware": {"botocore", "pynamodb"},
    "background.metrics": {"botocore", "pynamodb"},
    "background.samples": {"botocore", "pynamodb"},
    "background.telemetry": {"botocore", "pynamodb"},
    "background.events": {"botocore", "pynamodb"},
    "background.work_router": {"botocore", "pynamodb"},
    "background.identity_router": {"botocore", "pynamodb"},
    "background.pushes": {"botocore", "pynamodb"},
    "background.webhooks": {"botocore", "pynamodb"},
    "background.schedules": {"botocore", "pynamodb"},
    "background.mail": {"botocore", "pynamodb"},
    "realtime.handler": {"botocore", "pynamodb"},
}


ALL = {"background.deletion"}
"""It removes what each context keeps of an account, so that it loads them all."""

FIRST = {
    "api.handler": "from api.mounts import Mounts; Mounts().load('/api/v1/devices')",
    "agent_stream.app": "from agent_stream import services; services.build()",
}
"""Modules that a function's first request loads besides its entry, which imports them by need."""

OWN: dict[str, tuple[int, str]] = {
    "agent_stream.app": (
        201,
        "agents audit billing configuration conversations core files http identity integrations mail mcp "
        "models notices runs tools",
    ),
    "agent_stream.execution": (
        201,
        "agents audit billing configuration conversations core files http identity integrations mail mcp "
        "models notices runs threads tools",
    ),
    "api.handler": (100, "audit billing core devices http identity"),
    "background.events": (63, "audit core identity integrations realtime search webhooks"),
    "background.work_router": (51, "core identity integrations realtime search"),
    "background.identity_router": (50, "audit core identity integrations mail realtime"),
    "background.pushes": (42, "core identity integrations realtime"),
    "background.webhooks": (53, "audit core identity integrations webhooks"),
    "background.files": (55, "billing core devices files integrations"),
    "background.inbox": (67, "audit billing core identity integrations notices"),
    "background.mail": (55, "audit core identity integrations mail"),
    "background.metrics": (65, "billing conversations core identity metrics models runs tools"),
    "background.router": (
        88,
        "alarms audit core devices files identity integrations mail notices realtime search webhooks",
    ),
    "background.runs": (
        125,
        "agents billing configuration conversations core identity integrations mcp models runs tools",
    ),
    "background.samples": (45, "core devices telemetry"),
    "background.schedules": (
        221,
        "agents alarms audit billing configuration conversations core devices files identity integrations mail mcp "
        "models notices runs schedules tools",
    ),
    "background.sweeps.devices": (
        112,
        "alarms billing core devices files identity integrations notices projects telemetry",
    ),
    "background.sweeps.files": (62, "billing core devices files integrations"),
    "background.sweeps.firmware": (77, "billing core devices files firmware identity integrations"),
    "background.sweeps.queues": (
        178,
        "agents audit billing configuration conversations core devices identity integrations mail mcp models "
        "notices runs threads tools",
    ),
    "background.sweeps.tables": (
        138,
        "agents audit billing configuration conversations core identity mail mcp models projects runs tasks tools",
    ),
    "background.telemetry": (91, "billing core devices files identity integrations telemetry"),
    "billing_webhook.handler": (29, "billing core http integrations"),
    "device_ingest.files": (102, "audit billing core devices files identity integrations mail notices"),
    "device_ingest.handler": (80, "alarms billing core devices identity integrations"),
    "device_ingest.provisioning": (70, "billing core devices identity notices"),
    "previews.handler": (59, "billing core devices files integrations"),
    "segments.handler": (60, "core files identity integrations search"),
    "realtime.handler": (43, "core identity realtime"),
}
"""The most modules of ours that a first request loads, and their contexts."""


@cache
def loaded(module: str) -> tuple[Sequence[str], Sequence[str]]:
    """Return the modules that a fresh process has loaded after an import, and after what a first request loads."""
    tell = "print(json.dumps(sorted(sys.modules)))"
    program = f"import json, sys\nimport {module}\n{tell}\n{FIRST.get(module, '')}\n{tell}"
    environment = {
        "PATH": os.defpath,
        "PYTHONPATH": os.pathsep.join([str(ROOT / "layers/common/python"), str(ROOT / "functions")]),
        **{name: "x" for spec in FUNCTIONS.values() for name in (*COMMON_ENVIRONMENT, *spec.environment)},
        "EXECUTION_WORKERS": "50",
        "POWERTOOLS_SERVICE_NAME": module,
        "POWERTOOLS_LOG_LEVEL": "INFO",
        "POWERTOOLS_LOGGER_SAMPLE_RATE": "0",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    done = subprocess.run(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=True, env=environment, cwd=ROOT
    )
    imported, after_first = (json.loads(line) for line in done.stdout.splitlines()[-2:])
    return imported, after_first


@pytest.mark.parametrize("module", sorted(LOADED))
def test_a_function_loads_only_what_its_first_request_needs(module: str) -> None:
    imported, _ = loaded(module)
    assert {name.partition(".")[0] for name in imported} & HEAVY <= LOADED[module]


@pytest.mark.parametrize("module", sorted(OWN))
def test_a_function_loads_no_context_that_its_first_request_does_not_need(module: str) -> None:
    _, after_first = loaded(module)
    own = [name for name in after_first if name.startswith("karma.")]
    most, contexts = OWN[module]
    assert {name.split(".")[1] for name in own} <= set(contexts.split()), "see CONTRIBUTING.md, Cold starts"
    assert len(own) <= most, "see CONTRIBUTING.md, Cold starts"
    assert len(own) > most - 15, "it loads fewer by now: lower its number in OWN"


def test_each_function_is_named() -> None:
    entries = {spec.handler.replace(":", ".").rpartition(".")[0] for spec in FUNCTIONS.values()}
    assert LOADED.keys() == OWN.keys() | ALL == entries
