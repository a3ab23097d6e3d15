"""A synthesized stage as tests read it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from infra.app import build
from infra.artifacts import Artifacts
from infra.catalog import FunctionName
from infra.config import Overrides, Stage, StageSettings, stage_settings

Json = dict[str, Any]


PROD_OVERRIDES = Overrides(
    cors_origins=("https://app.example.com",),
    public_domain="api.example.com",
    certificate_arn="arn:aws:acm:us-east-1:123456789012:certificate/5d5e2c1a-0000-4000-8000-000000000000",
    mail_sender="Karma <no-reply@example.com>",
    alarm_email="ops@example.com",
)
"""Smallest settings of production."""
OVERRIDES = {Stage.PROD: PROD_OVERRIDES}


def settings_of(stage: Stage) -> StageSettings:
    """Return the settings of a stage with those that it requires."""
    return stage_settings(stage, OVERRIDES.get(stage, Overrides(alarm_email="ops@example.com")))


@dataclass(frozen=True)
class Synthesized:
    """Templates of one stage by part (`data`, `devices`, `app`, `ops`)."""

    settings: StageSettings
    folder: Path
    templates: Mapping[str, Json]

    def of_type(self, kind: str, part: str | None = None) -> dict[str, Json]:
        """Return the resources of a CloudFormation type, by `part/logical id`."""
        return {
            f"{name}/{logical_id}": resource
            for name, template in self.templates.items()
            if part in (None, name)
            for logical_id, resource in template["Resources"].items()
            if resource["Type"] == kind
        }

    def functions(self) -> dict[FunctionName, Json]:
        """Return the properties of every function of the catalog, by its name (which is its Powertools service)."""
        found = [resource["Properties"] for resource in self.of_type("AWS::Lambda::Function").values()]
        services = [(item["Environment"]["Variables"].get("POWERTOOLS_SERVICE_NAME"), item) for item in found]
        return {FunctionName(service): item for service, item in services if service}


class Stages:
    """Synthesizes a stage at its first use."""

    def __init__(self, artifacts: Artifacts, root: Path) -> None:
        self._artifacts = artifacts
        self._root = root
        self.of = cache(self._of)

    def _of(self, stage: Stage) -> Synthesized:
        settings = settings_of(stage)
        folder = self._root / stage
        # A finding of cdk-nag that no waiver names fails here.
        build(settings, self._artifacts, out=folder).synth()
        prefix = f"{settings.stack_prefix}-"
        templates = {
            path.name.removeprefix(prefix).removesuffix(".template.json"): json.loads(path.read_text(encoding="utf-8"))
            for path in sorted(folder.glob("*.template.json"))
        }
        return Synthesized(settings=settings, folder=folder, templates=templates)
