"""Prod is synthesized once with its real layers, in a process of its own, without credentials."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

from infra.config import PROD_NEEDS, ROOT
from tests.infra.synthesized import PROD_OVERRIDES

HIDDEN = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_PROFILE",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
)


def test_prod_is_synthesized_without_credentials(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in HIDDEN}
    settings = tmp_path / "prod.json"
    given = dataclasses.asdict(PROD_OVERRIDES)
    settings.write_text(json.dumps({name: given[name] for name in PROD_NEEDS}), encoding="utf-8")
    command = [sys.executable, "-m", "infra.app", "--stage", "prod", "--settings", str(settings)]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "prod")],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "!!" not in done.stderr, "CDK's bridge prints no banner about Node's version"
    names = {path.name for path in (tmp_path / "prod").glob("*.template.json")}
    assert names == {f"karma-prod-{part}.template.json" for part in ("app", "data", "devices", "ops")}
    assets = json.loads((tmp_path / "prod" / "karma-prod-app.assets.json").read_text(encoding="utf-8"))["files"]
    for asset in assets.values():
        assert (tmp_path / "prod" / asset["source"]["path"]).is_file()
    assert sum(asset["source"]["path"].endswith(".zip") for asset in assets.values()) >= 10


def test_an_unknown_stage_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "infra.app", "--stage", "qa"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "invalid choice: 'qa'" in done.stderr
