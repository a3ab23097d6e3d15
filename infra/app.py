"""Composition root of the infrastructure: stage -> settings -> artifacts -> stacks -> templates.

python -m infra.app --stage prod --out build/cdk/prod        no CLI, no credentials
npx cdk synth -c stage=prod                                  the same, by cdk.json
"""

import argparse
import os
import sys
from pathlib import Path

from aws_cdk import App

from infra.artifacts import Artifacts
from infra.config import Overrides, SettingsError, Stage, StageSettings, stage_settings
from infra.layers import LayerError, build_artifacts, target_of
from infra.local_artifacts import build_local_artifacts
from infra.stacks.app import AppStack
from infra.stacks.data import DataStack
from infra.stacks.devices import DevicesStack
from infra.stacks.ops import OpsStack

CONTEXT: dict[str, object] = {
    "aws:cdk:enable-path-metadata": False,
    "aws:cdk:version-reporting": False,
    "@aws-cdk/aws-lambda:recognizeLayerVersion": True,
    "@aws-cdk/aws-iam:minimizePolicies": False,
    "@aws-cdk/aws-s3:serverAccessLogsUseBucketPolicy": True,
    "@aws-cdk/core:target-partitions": ["aws"],
    "@aws-cdk/core:defaultCrossStackReferences": "strong",
}


def build(settings: StageSettings, artifacts: Artifacts, *, out: Path | None) -> App:
    """Compose the stacks of a stage."""
    app = App(outdir=str(out) if out else None, context=CONTEXT, analytics_reporting=False)
    data = DataStack(app, settings=settings)
    devices = DevicesStack(app, settings=settings)
    code = AppStack(app, settings=settings, artifacts=artifacts, data=data, devices=devices)
    if settings.operations:
        OpsStack(app, settings=settings, data=data, devices=devices, app=code)
        # Local: its rule packs take a second to load, and the local stage needs none of them.
        from infra.checks import add_nag

        add_nag(app)
    return app


def synthesize(*, stage: str, overrides: Path | None = None, out: Path | None = None, checked: bool = True) -> Path:
    """Write a stage's cloud assembly and return its folder.

    AWS stages are checked by cdk-nag and cfn-lint; the local stage's templates (plain HTTP, nothing retained) by
    tests only.

    Raises:
        SettingsError, LayerError: the settings or a layer are invalid; no usable assembly was written.
        SystemExit: a check found something; the findings were printed.
    """
    settings = stage_settings(Stage(stage), Overrides.load(overrides))
    artifacts = build_local_artifacts(target_of(settings)) if settings.host_layers else build_artifacts(settings)
    for stale in out.glob("asset.*.zip") if out else ():
        stale.unlink(missing_ok=True)
    assembly = build(settings, artifacts, out=out).synth()
    folder = Path(assembly.directory)
    if checked and settings.operations:
        from infra.checks import lint

        findings = lint(sorted(folder.glob("*.template.json")))
        if findings:
            sys.exit(f"cfn-lint:\n{findings}")
    return folder


def main() -> None:
    """Synthesize, by `python -m infra.app` or, with CDK's environment variables set, by the cdk CLI."""
    parser = argparse.ArgumentParser(prog="python -m infra.app", description=main.__doc__)
    parser.add_argument("--stage", choices=[stage.value for stage in Stage])
    parser.add_argument("--settings", type=Path, help="JSON file of infra.config.Overrides")
    parser.add_argument("--out", type=Path, help="folder of the cloud assembly; default build/cdk/<stage>")
    arguments = parser.parse_args()
    called_by_cli = os.environ.get("CDK_OUTDIR")
    stage = arguments.stage or _context_stage()
    out = Path(called_by_cli) if called_by_cli else arguments.out or Path("build/cdk") / stage
    try:
        folder = synthesize(stage=stage, overrides=arguments.settings, out=out)
    except (SettingsError, LayerError) as exc:
        sys.exit(f"error: {exc}")
    print(folder, file=sys.stderr if called_by_cli else sys.stdout)


def _context_stage() -> str:
    """Return the stage given to the cdk CLI by `-c stage=`; dev if none was."""
    value: object = App().node.try_get_context("stage")
    return str(value or Stage.DEV.value)


if __name__ == "__main__":
    main()
