"""Tools with which the project is built and checked, read from the files that configure them."""

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
FUNCTIONS = (
    "api",
    "agent_stream",
    "device_ingest",
    "billing_webhook",
    "background",
    "previews",
    "realtime",
    "segments",
)
PINNED = re.compile(r"^([a-z0-9-]+)==\S+", re.MULTILINE)


@pytest.mark.req("R-M-35")
def test_the_checks_run_on_several_platforms_and_before_a_commit() -> None:
    workflow = (ROOT / ".github/workflows/ci.yml").read_text()
    assert "os: [ubuntu-latest, macos-latest]" in workflow
    assert "bash .ci/run" in workflow
    hooks = re.findall(r"id: (\S+)", (ROOT / ".pre-commit-config.yaml").read_text())
    assert hooks == ["ruff", "ruff-format", "mypy"]
    entry = re.search(r"entry: (\.venv/bin/mypy .*)", (ROOT / ".pre-commit-config.yaml").read_text())
    assert entry is not None
    assert f"\t{entry[1]}\n" in (ROOT / "Makefile").read_text(), "a hook and `make lint` check the same"
    assert {"I", "N", "PLE"} <= set(PROJECT["tool"]["ruff"]["lint"]["select"]), "what isort and pylint looked at"


@pytest.mark.req("R-C-34")
def test_every_dependency_of_a_function_is_pinned_by_a_hash() -> None:
    assert PROJECT["project"]["requires-python"] == ">=3.11"
    groups = PROJECT["dependency-groups"]
    for group in FUNCTIONS:
        locked = (ROOT / f"requirements/{group}.txt").read_text()
        pinned = set(PINNED.findall(locked))
        wanted = [*groups["core"], *groups[group]]
        names = {re.split(r"[<>=\[]", each)[0].lower() for each in wanted if isinstance(each, str)}
        assert names <= pinned, group
        assert locked.count("--hash=sha256:") >= len(pinned), group


@pytest.mark.req("R-C-32", "R-A-45")
@pytest.mark.parametrize("group", FUNCTIONS)
def test_lambda_is_the_server_and_no_other_is_in_a_layer(group: str) -> None:
    servers = {"daphne", "granian", "gunicorn", "hypercorn", "uvicorn"}
    assert not servers & set(PINNED.findall((ROOT / f"requirements/{group}.txt").read_text()))


def test_what_one_process_compiled_is_kept_for_the_others() -> None:
    asked = "include Makefile\nsaid:\n\t@echo [$$PYTHONDONTWRITEBYTECODE]\n"
    said = subprocess.run(
        ["make", "-s", "-f", "-", "said"],
        input=asked,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout == "[]\n"


@pytest.mark.req("R-M-34", "R-A-46")
def test_no_container_is_asked_for() -> None:
    named = [
        path.name for path in ROOT.iterdir() if re.match(r"(docker-)?compose|dockerfile", path.name, re.IGNORECASE)
    ]
    assert named == []
    assert "docker" not in (ROOT / "Makefile").read_text().lower()
