"""Assets of the local stage: pointers, behind which each function finds its own packages and the current code."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from infra import local_artifacts
from infra.artifacts import Archive
from infra.catalog import FunctionName
from infra.config import ROOT
from infra.layers import LayerError
from infra.local_artifacts import build_local_artifacts, normalized, pinned, united
from tests.infra.test_layers import HOST

pytestmark = pytest.mark.fault("F-23a")
PACKAGES = sorted({name.package for name in FunctionName})


def extracted(archive: Archive, folder: Path) -> Path:
    with zipfile.ZipFile(archive.path) as opened:
        assert sum(info.file_size for info in opened.infolist()) < 4096, "a pointer, and nothing that it points to"
        for info in opened.infolist():
            path = Path(opened.extract(info, folder))
            path.chmod(info.external_attr >> 16)
    return folder


def run(script: str, *path: Path, before: str = "") -> str:
    """Run a script as an interpreter of the engine would, with these import roots and nothing of this environment."""
    code = f"import sys; sys.path[:] = [p for p in sys.path if 'site-packages' not in p]\n{before}{script}"
    env = {"PYTHONPATH": os.pathsep.join(map(str, path)), "PATH": os.environ["PATH"]}
    command = [sys.executable, "-s", "-P", "-c", code]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout


def test_a_function_finds_the_code_of_the_work_tree_and_the_packages_of_its_file(tmp_path: Path) -> None:
    artifacts = build_local_artifacts(HOST)
    for package in PACKAGES:
        layers = [extracted(artifacts.dependencies[package], tmp_path / package / "deps")]
        layers.append(extracted(artifacts.common, tmp_path / package / "common"))
        view = Path((layers[0] / "python" / "packages.txt").read_text())
        found = {normalized(path.name.partition("-")[0]) for path in view.glob("*.dist-info")}
        pins = pinned(ROOT / "requirements" / f"{package}.txt")
        # One with a marker is for other machines than this one, maybe.
        assert {name for name, pin in pins.items() if ";" not in pin} <= found <= set(pins)
        if package == "agent_stream":
            continue
        code = extracted(artifacts.code[package], tmp_path / package / "code")
        says = f"import karma, botocore, {package}; print({package}.__path__[0], karma.__path__[0], botocore.__file__)"
        own, common, botocore = run(says, code, *(layer / "python" for layer in layers)).split()
        assert own == str(ROOT / "functions" / package)
        assert common == str(ROOT / "layers" / "common" / "python" / "karma")
        assert botocore.startswith(str(view))


def test_layers_are_found_by_the_engines_workers_too(tmp_path: Path) -> None:
    artifacts = build_local_artifacts(HOST)
    sites = []
    for name, archive in (("deps", artifacts.dependencies["realtime"]), ("common", artifacts.common)):
        (site,) = extracted(archive, tmp_path / name).glob("python/lib/python*/site-packages")
        sites.append(str(site))
    before = f"import site; [site.addsitedir(each) for each in {sites!r}]\n"
    assert (
        run("import karma, orjson; print(karma.__path__[0])", before=before)
        .strip()
        .endswith("layers/common/python/karma")
    )


def test_the_stream_function_starts_by_its_own_bootstrap(tmp_path: Path) -> None:
    folder = extracted(build_local_artifacts(HOST).code["agent_stream"], tmp_path)
    says = tmp_path / "python"
    says.write_text("#!/bin/sh\necho $PYTHONPATH $*\n")
    says.chmod(0o755)
    command = [str(folder / "bootstrap"), str(says)]
    said = subprocess.run(command, env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, check=True).stdout
    assert said.startswith(f"{ROOT / 'functions'}:")
    assert f":{ROOT / 'layers' / 'common' / 'python'}:" in said
    assert said.rstrip().endswith("-P -m karma.core.runtime agent_stream.app:app")


def test_a_change_of_code_changes_no_archive_and_a_second_build_makes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    first = build_local_artifacts(HOST)
    monkeypatch.setattr(local_artifacts, "install", None)
    monkeypatch.setattr(local_artifacts, "write_zip", None)
    assert build_local_artifacts(HOST) == first


def test_functions_that_pin_different_versions_are_refused() -> None:
    with pytest.raises(LayerError, match=r"requirements/b\.txt pins another x"):
        united({"a": {"x": "x==1\n"}, "b": {"x": "x==2\n"}})
