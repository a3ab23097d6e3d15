"""Stages synthesized once a session, in process, with placeholder archives."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from infra.artifacts import Archive, Artifacts, Entry, write_zip
from infra.catalog import FunctionName
from infra.config import Stage
from tests.infra.synthesized import Stages, Synthesized


@pytest.fixture(scope="session")
def placeholders(tmp_path_factory: pytest.TempPathFactory) -> Artifacts:
    archive = tmp_path_factory.mktemp("archives") / "placeholder.zip"
    write_zip([Entry("python/placeholder.py", b"")], archive)
    packages = sorted({name.package for name in FunctionName})

    def named(kind: str, name: str) -> Archive:
        return Archive(path=archive, digest=f"{kind}-{name}")

    return Artifacts(
        code={package: named("code", package) for package in packages},
        dependencies={package: named("deps", package) for package in packages},
        common=named("common", "karma"),
    )


@pytest.fixture(scope="session")
def stages(placeholders: Artifacts, tmp_path_factory: pytest.TempPathFactory) -> Stages:
    return Stages(placeholders, tmp_path_factory.mktemp("assemblies"))


@pytest.fixture(scope="session", params=[Stage.DEV, Stage.PROD])
def aws(request: pytest.FixtureRequest, stages: Stages) -> Synthesized:
    """Return each stage that goes to AWS."""
    stage: Stage = request.param
    return stages.of(stage)


@pytest.fixture(scope="session")
def prod(stages: Stages) -> Synthesized:
    return stages.of(Stage.PROD)


@pytest.fixture(scope="session")
def local(stages: Stages) -> Synthesized:
    return stages.of(Stage.LOCAL)


GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="session")
def assert_golden(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, object], None]:
    """Compare a document with a committed one; on a difference, say how to accept the new one."""
    folder = tmp_path_factory.mktemp("golden")

    def compare(name: str, actual: object) -> None:
        path = GOLDEN / name
        text = json.dumps(actual, indent=2, sort_keys=True) + "\n"
        (folder / name).write_text(text, encoding="utf-8")
        expected = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
        assert actual == expected, f"differs from {path}; if that is meant: cp {folder / name} {path}"

    return compare
