"""What the webhook loads before its first event; figures are in docs/performance.md."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
HEAVY = ("boto3", "fastapi", "pydantic", "pynamodb", "requests", "stripe", "aws_lambda_powertools.utilities.parameters")


def loaded_by(module: str) -> set[str]:
    code = f"import sys; import {module}; print('\\n'.join(sys.modules))"
    roots = f"{ROOT / 'layers/common/python'}:{ROOT / 'functions'}"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": roots}
    )
    return set(done.stdout.split())


def test_the_webhook_loads_nothing_heavy() -> None:
    assert loaded_by("billing_webhook.handler").isdisjoint(HEAVY)


def test_the_worker_loads_stripe_only_when_it_calls_it() -> None:
    assert loaded_by("background.inbox").isdisjoint({"stripe", "requests", "boto3"})
