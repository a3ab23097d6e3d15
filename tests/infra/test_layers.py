"""Dependency layers and archives: right platform, bytecode inside, nothing useless, reproducible bytes."""

import dataclasses
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from infra import layers
from infra.artifacts import digest_of, source_entries, write_zip
from infra.config import ROOT, Overrides, Stage, stage_settings
from infra.interpreters import LAMBDA_PYTHON
from infra.layers import (
    KEPT_SERVICES,
    LAMBDA_PLATFORM,
    UNZIPPED_LIMIT,
    LayerError,
    Target,
    build_code,
    build_common,
    build_dependencies,
    lambda_python,
    layer_digest,
    strip,
    target_of,
    tree_size,
)
from tests.infra.synthesized import settings_of

PACKAGES = ("agent_stream", "api", "background", "billing_webhook", "device_ingest", "previews", "realtime", "segments")
EXPECTED_SIZE_MB = {
    "agent_stream": 95,
    "api": 90,
    "background": 60,
    "billing_webhook": 20,
    "device_ingest": 20,
    "previews": 60,
    "realtime": 25,
    "segments": 40,
}
HOST = Target(
    label="test-host",
    python=f"{sys.version_info[0]}.{sys.version_info[1]}",
    interpreter=Path(sys.executable),
    platform=None,
)
ELF_AARCH64 = 183


@pytest.fixture(scope="session")
def arm_layers() -> dict[str, Path]:
    """Return the layers for AWS, built or taken from the cache."""
    target = target_of(settings_of(Stage.PROD))
    return {package: build_dependencies(package, target).path.with_suffix("") for package in PACKAGES}


@pytest.mark.parametrize("package", PACKAGES)
def test_layers_are_small_arm64_and_compiled(arm_layers: dict[str, Path], package: str) -> None:
    folder = arm_layers[package]
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert tree_size(folder) < EXPECTED_SIZE_MB[package] * 1024 * 1024 < UNZIPPED_LIMIT
    assert [path for path in files if path.suffix == ".pyi"] == []
    libraries = [path for path in files if ".so" in path.suffixes]
    assert libraries, "orjson at least is native"
    for library in libraries:
        header = library.read_bytes()[:20]
        assert header[:4] == b"\x7fELF", library
        assert int.from_bytes(header[18:20], "little") == ELF_AARCH64, library
    assert {path.parent for path in folder.glob("*")} == {folder}
    assert [path.name for path in folder.iterdir()] == ["python"]


@pytest.mark.skipif(lambda_python() is None, reason=f"no working Python {LAMBDA_PYTHON} on this machine")
@pytest.mark.parametrize("package", PACKAGES)
def test_every_module_has_unchecked_bytecode(arm_layers: dict[str, Path], package: str) -> None:
    for source in arm_layers[package].rglob("*.py"):
        if source.stat().st_size == 0 or "-" in source.stem:
            continue
        compiled = source.parent / "__pycache__" / f"{source.stem}.cpython-313.pyc"
        assert compiled.exists(), source
        flags = int.from_bytes(compiled.read_bytes()[4:8], "little")
        assert flags == 0b01, "hash-based and unchecked: a read-only root cannot refresh it"


@pytest.mark.parametrize("package", PACKAGES)
def test_botocore_keeps_what_functions_use(arm_layers: dict[str, Path], package: str) -> None:
    data = arm_layers[package] / "python" / "botocore" / "data"
    assert {path.name for path in data.iterdir() if path.is_dir()} == KEPT_SERVICES
    document = json.loads((data / "endpoints.json").read_text(encoding="utf-8"))
    (aws,) = [partition for partition in document["partitions"] if partition["partition"] == "aws"]
    assert {"dynamodb", "sqs", "s3", "secretsmanager", "iot"} <= set(aws["services"])
    assert "ec2" not in aws["services"]


@pytest.mark.skipif(lambda_python() is None, reason=f"no working Python {LAMBDA_PYTHON} on this machine")
def test_clients_are_made_from_a_stripped_layer(arm_layers: dict[str, Path], tmp_path: Path) -> None:
    """Pure Python parts of the arm64 layer run here: every kept service has its client."""
    archive = arm_layers["device_ingest"].with_suffix(".zip")
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(tmp_path)
    script = (
        "import json, boto3\n"
        f"services = {sorted(KEPT_SERVICES)!r}\n"
        "keys = {'aws_access_key_id': 'a', 'aws_secret_access_key': 'b'}\n"
        "make = lambda name: boto3.client(name, region_name='eu-west-1', **keys)\n"
        "print(json.dumps({name: make(name).meta.endpoint_url for name in services}))\n"
    )
    done = subprocess.run(
        [str(lambda_python()), "-S", "-c", script],
        env={"PYTHONPATH": str(tmp_path / "python"), "PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    urls = json.loads(done.stdout)
    assert urls["dynamodb"] == "https://dynamodb.eu-west-1.amazonaws.com"
    assert urls["iot-data"] == "https://data-ats.iot.eu-west-1.amazonaws.com"
    assert set(urls) == KEPT_SERVICES


def test_the_layer_zip_is_what_the_folder_holds(arm_layers: dict[str, Path]) -> None:
    folder = arm_layers["device_ingest"]
    with zipfile.ZipFile(folder.with_suffix(".zip")) as opened:
        names = opened.namelist()
        assert {info.date_time for info in opened.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    assert names == sorted(names)
    assert set(names) == {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_second_build_is_taken_from_the_cache(arm_layers: dict[str, Path]) -> None:
    target = target_of(settings_of(Stage.PROD))
    before = arm_layers["realtime"].with_suffix(".zip").stat().st_mtime_ns
    archive = build_dependencies("realtime", target)
    assert archive.path.stat().st_mtime_ns == before
    assert archive.digest == layer_digest(ROOT / "requirements" / "realtime.txt", target)


def test_a_source_that_several_layers_have_is_compiled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "BUILD", tmp_path / "build")
    cannot = dataclasses.replace(HOST, interpreter=Path(shutil.which("false") or ""))
    modules = {}
    for layer in ("one", "other", "changed"):
        module = modules[layer] = tmp_path / layer / "python" / "package" / "module.py"
        module.parent.mkdir(parents=True)
        module.write_text("A = 1\n" if layer != "changed" else "A = 2\n")
    layers._compile(tmp_path / "one", HOST)
    layers._compile(tmp_path / "other", cannot)
    one, other = (Path(importlib.util.cache_from_source(str(modules[layer]))) for layer in ("one", "other"))
    assert one.read_bytes() == other.read_bytes()
    assert importlib.util.source_hash(b"A = 1\n") == one.read_bytes()[8:16]
    with pytest.raises(LayerError, match="compiling failed"):
        layers._compile(tmp_path / "changed", cannot)


def test_a_layers_key_follows_pins_and_target_not_comments(tmp_path: Path) -> None:
    first, second, third = (tmp_path / name for name in ("a.txt", "b.txt", "c.txt"))
    first.write_text("# made by one\nx==1\n")
    second.write_text("# made by another\nx==1\n    # via y\n")
    third.write_text("x==2\n")
    arm = Target(label=LAMBDA_PLATFORM, python=LAMBDA_PYTHON, interpreter=Path("python"), platform=LAMBDA_PLATFORM)
    assert layer_digest(first, arm) == layer_digest(second, arm)
    assert len({layer_digest(first, arm), layer_digest(third, arm), layer_digest(first, HOST)}) == 3


def test_common_layer_is_the_same_from_the_same_input(tmp_path: Path) -> None:
    source = tmp_path / "python"
    shutil.copytree(ROOT / "layers" / "common" / "python", source, ignore=shutil.ignore_patterns("__pycache__"))
    for path in source.rglob("*"):
        os.utime(path, (1, 1))
    (source / "karma" / "__pycache__").mkdir(exist_ok=True)
    (source / "karma" / "__pycache__" / "x.cpython-311.pyc").write_bytes(b"noise")
    entries = source_entries(source, prefix="python")
    assert digest_of(entries) == digest_of(source_entries(ROOT / "layers" / "common" / "python", prefix="python"))
    one, other = tmp_path / "one.zip", tmp_path / "other.zip"
    write_zip(entries, one)
    write_zip(reversed(entries), other)
    assert one.read_bytes() == other.read_bytes()


def test_common_layer_mounts_karma(tmp_path: Path) -> None:
    archive = build_common(HOST)
    with zipfile.ZipFile(archive.path) as opened:
        names = opened.namelist()
        opened.extractall(tmp_path)
    assert all(name.startswith("python/karma/") for name in names)
    assert "python/karma/py.typed" in names
    assert any(name.endswith(".pyc") for name in names)
    done = subprocess.run(
        [
            sys.executable,
            "-I",
            "-S",
            "-c",
            f"import sys; sys.path.insert(0, {str(tmp_path / 'python')!r}); import karma",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_code_archives_hold_one_package_and_keep_the_executable_bit() -> None:
    arm = target_of(settings_of(Stage.PROD))
    archive = build_code("agent_stream", arm)
    with zipfile.ZipFile(archive.path) as opened:
        modes = {info.filename: info.external_attr >> 16 for info in opened.infolist()}
    assert {name.partition("/")[0] for name in modes} == {"agent_stream"}
    assert modes["agent_stream/bootstrap"] & 0o111 == 0o111
    assert modes["agent_stream/__init__.py"] & 0o111 == 0


def test_a_dead_interpreter_is_no_interpreter(tmp_path: Path) -> None:
    shim = tmp_path / "python"
    shim.write_text("#!/bin/sh\necho 'command not found' >&2\nexit 127\n")
    shim.chmod(0o755)
    with pytest.raises(LayerError, match="does not run"):
        target_of(stage_settings(Stage.LOCAL, Overrides(layer_python=str(shim))))


def test_stripping_leaves_metadata_and_licences(tmp_path: Path) -> None:
    kept = (
        "pkg/__init__.py",
        "pkg-1.dist-info/METADATA",
        "pkg-1.dist-info/licenses/LICENSE",
        "pkg/testing.py",
        "pkg/bin/x.py",
    )
    gone = ("pkg/a.pyi", "pkg/tests/t.py", "bin/tool", "pkg-1.dist-info/RECORD", "pkg/__pycache__/a.pyc")
    for name in (*kept, *gone):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    strip(tmp_path)
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()) == sorted(
        kept
    )
