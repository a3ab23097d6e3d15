"""Deploy a stage to AWS: the checks that CloudFormation does not make, then `cdk deploy` of the synthesized assembly.

python -m infra.deploy --stage dev [--settings FILE] [arguments for cdk deploy …]
"""

import argparse
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import boto3

from infra.app import synthesize
from infra.config import ROOT, SettingsError, Stage
from infra.interpreters import LAMBDA_PYTHON
from infra.layers import LayerError, lambda_python

if TYPE_CHECKING:
    from mypy_boto3_iot import IoTClient

RULE_PREFIX = "karma_"


def foreign_rules(names: Iterable[str], *, stage: Stage) -> list[str]:
    """Return the IoT rules of other stages of ours among an account's rules."""
    return sorted(
        name for name in names if name.startswith(RULE_PREFIX) and not name.startswith(f"{RULE_PREFIX}{stage}_")
    )


def rule_names(client: "IoTClient") -> list[str]:
    """Return the names of all IoT rules of the account and region."""
    pages = client.get_paginator("list_topic_rules").paginate()
    return [rule["ruleName"] for page in pages for rule in page["rules"]]


def refuse_shared_account(client: "IoTClient", *, stage: Stage) -> None:
    """Refuse a second stage in one account: each would ingest the messages of the other's devices.

    Raises:
        SettingsError: the account has rules of another stage.
    """
    found = foreign_rules(rule_names(client), stage=stage)
    if found:
        raise SettingsError(
            f"this account belongs to another stage, it holds {', '.join(found)}; {stage} needs its own"
        )


def deploy(*, stage: Stage, overrides: Path | None, arguments: list[str]) -> int:
    """Check, synthesize and run the cdk CLI; return its exit status.

    Raises:
        SettingsError, LayerError: the settings or a layer are invalid; nothing was deployed.
    """
    if stage in (Stage.LOCAL, Stage.LOCALSTACK):
        raise SettingsError("the local stage is deployed by `make dev`")
    if lambda_python() is None:
        raise LayerError(f"no working Python {LAMBDA_PYTHON} found: layers without bytecode are not deployed")
    refuse_shared_account(boto3.client("iot"), stage=stage)
    assembly = synthesize(stage=stage.value, overrides=overrides, out=ROOT / "build" / "cdk" / stage)
    command = ["npx", "cdk", "deploy", "--app", str(assembly), "--all", *arguments]
    return subprocess.run(command, cwd=ROOT, check=False).returncode


def main() -> None:
    """Deploy, as `make deploy` asks."""
    parser = argparse.ArgumentParser(prog="python -m infra.deploy", description=deploy.__doc__)
    parser.add_argument("--stage", required=True, choices=[Stage.DEV.value, Stage.PROD.value])
    parser.add_argument("--settings", type=Path, help="JSON file of infra.config.Overrides")
    known, rest = parser.parse_known_args()
    try:
        sys.exit(deploy(stage=Stage(known.stage), overrides=known.settings, arguments=rest))
    except (SettingsError, LayerError) as exc:
        sys.exit(f"refused: {exc}")


if __name__ == "__main__":
    main()
