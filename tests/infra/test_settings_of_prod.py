"""Production is refused as long as a value is missing that no default can stand for."""

import dataclasses
import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest

from infra.config import PROD_NEEDS, ROOT, Overrides, SettingsError, Stage, stage_settings
from tests.infra.synthesized import OVERRIDES, PROD_OVERRIDES

COMBINATIONS = [
    missing for count in range(1, len(PROD_NEEDS) + 1) for missing in itertools.combinations(PROD_NEEDS, count)
]


@pytest.mark.fault("F-24a")
def test_each_missing_value_is_named_and_no_other() -> None:
    empty = Overrides()
    for missing in COMBINATIONS:
        given = dataclasses.replace(PROD_OVERRIDES, **{name: getattr(empty, name) for name in missing})
        with pytest.raises(SettingsError) as refused:
            stage_settings(Stage.PROD, given)
        said = str(refused.value)
        assert {name for name in PROD_NEEDS if f'"{name}":' in said} == set(missing)
        assert "SETTINGS=prod.json" in said
        assert "infra/config.py" in said


@pytest.mark.fault("F-24a")
def test_the_text_of_the_refusal_is_a_valid_settings_file(tmp_path: Path) -> None:
    file = tmp_path / "prod.json"
    file.write_text(json.dumps({name: like for name, (_, like) in PROD_NEEDS.items()}), encoding="utf-8")
    assert stage_settings(Stage.PROD, Overrides.load(file)).deletion_protection


@pytest.mark.fault("F-24a")
def test_nothing_of_production_is_an_example_that_nobody_wrote() -> None:
    """Given real values, no placeholder of a default is left among the settings."""
    real = dataclasses.replace(
        PROD_OVERRIDES,
        cors_origins=("https://app.karma.test",),
        public_domain="api.karma.test",
        mail_sender="Karma <no-reply@karma.test>",
        alarm_email="ops@karma.test",
    )
    settings = stage_settings(Stage.PROD, real)
    shown = json.dumps(dataclasses.asdict(settings), default=str)
    assert "example.com" not in shown
    assert settings.mail_sender == "Karma <no-reply@karma.test>"
    assert settings.public_url == "https://app.karma.test"


@pytest.mark.fault("F-24a")
def test_the_command_says_it_without_a_traceback_or_a_banner(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "infra.app", "--stage", "prod", "--out", str(tmp_path / "prod")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: prod needs values")
    assert "!!" not in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert not (tmp_path / "prod").exists()


@pytest.mark.parametrize("stage", [Stage.DEV, Stage.PROD])
def test_there_are_more_processes_than_a_free_account_takes(stage: Stage) -> None:
    given = dataclasses.replace(OVERRIDES.get(stage, Overrides()), execution_workers=9)
    with pytest.raises(SettingsError, match="execution_workers must be at least 10"):
        stage_settings(stage, given)
