"""Checks that every synthesis passes: cdk-nag's rule packs over the constructs, cfn-lint over the templates."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from aws_cdk import App, Validations
from cdk_nag import AwsSolutionsChecks, ServerlessChecks

IGNORED_LINT_RULES: dict[str, str] = {
    "W3005": "a redundant DependsOn is CDK's way of ordering; it does no harm",
}


def add_nag(app: App) -> None:
    """Check the app by both rule packs; synthesis fails on a finding without a waiver that names it."""
    Validations.of(app).add_plugins(AwsSolutionsChecks(app), ServerlessChecks(app))


def lint(templates: Sequence[Path]) -> str:
    """Run cfn-lint; return its findings, "" when there are none."""
    command = [
        str(Path(sys.executable).with_name("cfn-lint")),
        "--non-zero-exit-code",
        "informational",
        "--format",
        "parseable",
    ]
    command += ["--ignore-checks", *IGNORED_LINT_RULES, "--regions", "us-east-1", "--template", *map(str, templates)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (done.stdout + done.stderr).strip() if done.returncode else ""
