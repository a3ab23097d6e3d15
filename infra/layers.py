"""Build dependency layers, the common layer and function code, without Docker.

Wheels come from the pinned, hashed requirement file of each function: for arm64 Lambda (`aarch64-manylinux_2_28`,
Python 3.13) or for the interpreter of the local engine. The result is stripped of what no function reads, compiled to
unchecked-hash `.pyc` (a read-only task root cannot write them, and without them a cold start is about three times
slower), and zipped reproducibly. A build is cached by requirement file, target and `BUILDER_VERSION`, bytecode by its
source and place; concurrent builds of the same layer wait for each other.
"""

import fcntl
import functools
import gzip
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from infra.artifacts import (
    BUILD,
    Archive,
    Artifacts,
    Entry,
    digest_of,
    source_entries,
    write_tree,
    write_zip,
)
from infra.catalog import FunctionName
from infra.config import ROOT, StageSettings
from infra.interpreters import LAMBDA_PYTHON, find_python, version_of

BUILDER_VERSION = "1"
LAMBDA_PLATFORM = "aarch64-manylinux_2_28"
UNZIPPED_LIMIT = 250 * 1024 * 1024

KEPT_SERVICES = frozenset(
    {
        "apigatewaymanagementapi",
        "dynamodb",
        "dynamodbstreams",
        "events",
        "iot",
        "iot-data",
        "kms",
        "lambda",
        "s3",
        "scheduler",
        "secretsmanager",
        "ses",
        "sesv2",
        "sqs",
        "ssm",
        "sts",
    }
)
"""Services whose models stay in botocore; `boto3.client` of another one fails in Lambda with UnknownServiceError."""
STRIPPED_DIRECTORIES = frozenset({"tests", "test", "__pycache__", "bin"})
STRIPPED_SUFFIXES = frozenset({".pyi", ".pyc", ".pxd", ".pyx", ".c", ".h"})
STRIPPED_DIST_INFO = frozenset({"RECORD", "INSTALLER", "REQUESTED", "direct_url.json", "uv_cache.json", "WHEEL"})


class LayerError(RuntimeError):
    """A layer could not be built, or its content is not what Lambda accepts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Machine and Python version for which a layer is built."""

    label: str
    """Folder under build/layers."""
    python: str
    """`X.Y` of the wheels and the bytecode."""
    interpreter: Path | None
    """Interpreter that installs (host builds) and compiles; None: no bytecode is made."""
    platform: str | None
    """uv's platform tag; None: wheels for the interpreter itself."""


@functools.cache
def lambda_python() -> Path | None:
    """Find an interpreter of Lambda's version; None: there is none."""
    return find_python(LAMBDA_PYTHON)


def layer_python(settings: StageSettings) -> Path:
    """Return the interpreter of the local engine, which runs the functions of the local stage."""
    return Path(settings.overrides.layer_python or ROOT / ".engine" / "venv" / "bin" / "python")


def target_of(settings: StageSettings) -> Target:
    """Return the target of the stage's layers.

    Raises:
        LayerError: the local engine's interpreter does not run.
    """
    if not settings.host_layers:
        return Target(
            label=LAMBDA_PLATFORM, python=LAMBDA_PYTHON, interpreter=lambda_python(), platform=LAMBDA_PLATFORM
        )
    return host_target(layer_python(settings))


def host_target(interpreter: Path) -> Target:
    """Return the target of layers for a local engine's interpreter.

    Raises:
        LayerError: the interpreter does not run.
    """
    version = version_of(interpreter)
    if version is None:
        raise LayerError(f"{interpreter} does not run: the local engine's interpreter is needed to build its layers")
    return Target(label=f"host-py{version.replace('.', '')}", python=version, interpreter=interpreter, platform=None)


def build_artifacts(settings: StageSettings) -> Artifacts:
    """Build or reuse all archives that a stage ships to AWS; `infra.local_artifacts` does so for a local engine."""
    target = target_of(settings)
    if target.interpreter is None:
        print(
            f"notice: no working Python {LAMBDA_PYTHON} on this machine: archives are made without .pyc. "
            "Synthesis goes on; deployment is refused.",
            file=sys.stderr,
        )
    packages = sorted({name.package for name in FunctionName})
    dependencies = {package: build_dependencies(package, target) for package in packages}
    return Artifacts(
        dependencies=dependencies,
        common=build_common(target),
        code={package: build_code(package, target) for package in packages},
    )


def build_common(target: Target) -> Archive:
    """Zip `layers/common/python` as the folder that Lambda mounts at /opt; no install step, so no timestamps."""
    entries = source_entries(ROOT / "layers" / "common" / "python", prefix="python")
    return _compiled_archive(entries, target, BUILD / "layers" / target.label / "common")


def build_code(package: str, target: Target) -> Archive:
    """Zip one child of `functions/`, so that `api.handler.lambda_handler` is the same path everywhere."""
    entries = source_entries(ROOT / "functions" / package, prefix=package)
    return _compiled_archive(entries, target, BUILD / "functions" / target.label / package)


def _compiled_archive(entries: list[Entry], target: Target, stem: Path) -> Archive:
    """Zip sources with their bytecode; the digest is the sources', since marshalled code is not always byte-equal."""
    salt = [BUILDER_VERSION, target.python, target.interpreter is not None, None]
    digest = digest_of(entries, salt=json.dumps(salt))
    archive = Archive(path=stem.parent / f"{stem.name}-{digest[:16]}.zip", digest=digest)
    with locked(stem):
        if not archive.path.exists():
            with tempfile.TemporaryDirectory(prefix="karma-code-") as scratch:
                tree = Path(scratch)
                write_tree(entries, tree / "t")
                _compile(tree / "t", target)
                write_zip(_tree_entries(tree / "t"), archive.path)
            _forget_older(archive.path, f"{stem.name}-????????????????.zip")
    return archive


def _forget_older(newest: Path, pattern: str) -> None:
    """Keep the three latest archives: an older assembly may still name one of them."""
    archives = sorted(newest.parent.glob(pattern), key=lambda path: path.stat().st_mtime_ns, reverse=True)
    for path in archives[3:]:
        path.unlink(missing_ok=True)


def _tree_entries(folder: Path) -> list[Entry]:
    return [
        Entry(path.relative_to(folder).as_posix(), path.read_bytes(), executable=bool(path.stat().st_mode & 0o100))
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    ]


def build_dependencies(package: str, target: Target) -> Archive:
    """Install, strip, compile and zip what `requirements/<package>.txt` pins.

    The tree stays readable at `build/layers/<target>/<package>/python`.

    Raises:
        LayerError: an install or compile failed, or the layer is larger than Lambda takes.
    """
    requirements = ROOT / "requirements" / f"{package}.txt"
    digest = layer_digest(requirements, target)
    folder = BUILD / "layers" / target.label / package
    archive = Archive(path=folder.with_suffix(".zip"), digest=digest)
    stamp = folder.with_suffix(".json")
    with locked(folder):
        if _stamped(stamp) == digest and archive.path.exists() and (folder / "python").is_dir():
            return archive
        stamp.unlink(missing_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{package}-", dir=folder.parent) as scratch:
            fresh = Path(scratch) / package
            install(requirements, fresh / "python", target, link="copy")
            strip(fresh / "python")
            _compile(fresh, target)
            size = tree_size(fresh)
            if size > UNZIPPED_LIMIT:
                raise LayerError(f"layer {package} is {size} bytes unzipped, Lambda takes {UNZIPPED_LIMIT}")
            write_zip(_tree_entries(fresh), archive.path)
            _settle_times(fresh)
            shutil.rmtree(folder, ignore_errors=True)
            fresh.rename(folder)
        stamp.write_text(json.dumps({"digest": digest, "unzipped_bytes": size}) + "\n", encoding="utf-8")
    return archive


def layer_digest(requirements: Path, target: Target) -> str:
    """Return the key of a dependency layer: pinned requirements without comments, target, builder."""
    pins = [line for line in requirements.read_text(encoding="utf-8").splitlines() if not line.lstrip().startswith("#")]
    bytecode = target.interpreter is not None
    facts = json.dumps([BUILDER_VERSION, target.label, target.python, bytecode, sorted(KEPT_SERVICES), pins])
    return hashlib.sha256(facts.encode()).hexdigest()


def tree_size(folder: Path) -> int:
    """Return the bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _stamped(stamp: Path) -> str | None:
    try:
        document: dict[str, object] = json.loads(stamp.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return None
    digest = document.get("digest")
    return digest if isinstance(digest, str) else None


@contextmanager
def locked(stem: Path) -> Iterator[None]:
    """Hold a lock file beside the artifact, released by the system if the builder dies."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    with (stem.parent / f".{stem.name}.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _run(command: list[str | Path], *, what: str) -> None:
    # uv ignores pip's certificate settings; the machine's own certificates are right where a proxy signs.
    environment = {**os.environ, "UV_SYSTEM_CERTS": "1", "UV_NO_PROGRESS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode != 0:
        raise LayerError(f"{what} failed:\n{done.stderr or done.stdout}")


def install(requirements: Path, folder: Path, target: Target, *, link: str) -> None:
    """Install pinned packages into a folder; `link` is uv's way to take files from its cache.

    Raises:
        LayerError: a package cannot be downloaded, or has another hash.
    """
    uv = ROOT / ".venv" / "bin" / "uv"
    command: list[str | Path] = [uv if uv.exists() else "uv", "pip", "install", "--require-hashes", "--no-deps"]
    command += ["-r", requirements, "--target", folder, "--only-binary", ":all:", "--link-mode", link, "--no-config"]
    if target.platform is None and target.interpreter is not None:
        command += ["--python", target.interpreter]
    elif target.platform is not None:
        command += ["--python-platform", target.platform, "--python-version", target.python]
    _run(command, what=f"installing {requirements.name} for {target.label}")


def _compile(folder: Path, target: Target) -> None:
    """Compile each source to bytecode beside it. Layers share most sources: each is compiled once and cached."""
    if target.interpreter is None:
        return
    mounted = "/opt" if (folder / "python").is_dir() else "/var/task"
    kept = BUILD / "bytecode" / target.python
    kept.mkdir(parents=True, exist_ok=True)
    wanted = {}
    for source in sorted(folder.rglob("*.py")):
        place = f"{mounted}/{source.relative_to(folder).as_posix()}\n".encode()
        wanted[source] = kept / hashlib.sha256(place + source.read_bytes()).hexdigest()
    missing = [source for source, bytecode in wanted.items() if not bytecode.exists()]
    if missing:
        _compile_these(missing, folder, mounted, target.interpreter)
    for source, bytecode in wanted.items():
        made = source.parent / "__pycache__" / f"{source.stem}.cpython-{target.python.replace('.', '')}.pyc"
        if not made.exists():
            made.parent.mkdir(exist_ok=True)
            shutil.copyfile(bytecode, made)
        elif not bytecode.exists():
            partial = bytecode.with_name(f".{bytecode.name}.{os.getpid()}")
            shutil.copyfile(made, partial)
            partial.replace(bytecode)


def _compile_these(sources: list[Path], folder: Path, mounted: str, interpreter: Path) -> None:
    # -s/-p: tracebacks name the path under Lambda's mount, and the bytecode does not depend on where it was made.
    options: list[str | Path] = ["-q", "-f", "--invalidation-mode", "unchecked-hash", "-s", folder, "-p", mounted]
    with tempfile.NamedTemporaryFile("w", prefix="karma-sources-", suffix=".txt") as names:
        names.write("".join(f"{source}\n" for source in sources))
        names.flush()
        _run([interpreter, "-I", "-m", "compileall", *options, "-i", names.name], what="compiling")


def _settle_times(folder: Path) -> None:
    for path in folder.rglob("*"):
        os.utime(path, (315532800, 315532800), follow_symlinks=False)


def strip(site: Path) -> None:
    """Remove what no function reads: tests, stubs, scripts, install records, models of unused AWS services."""
    for path in sorted(site.rglob("*"), reverse=True):
        if path.is_dir() and path.name in STRIPPED_DIRECTORIES and (path.name != "bin" or path.parent == site):
            shutil.rmtree(path)
        elif path.is_file() and (
            path.suffix in STRIPPED_SUFFIXES
            or (path.parent.suffix == ".dist-info" and path.name in STRIPPED_DIST_INFO)
            or path == site / ".lock"
        ):
            path.unlink()
    _strip_services(site / "botocore" / "data", KEPT_SERVICES)
    _strip_services(site / "boto3" / "data", KEPT_SERVICES)
    if (site / "botocore" / "data" / "endpoints.json").exists():
        _trim_endpoints(site / "botocore" / "data")


def _strip_services(data: Path, kept: frozenset[str]) -> None:
    if not data.is_dir():
        return
    for path in data.iterdir():
        if path.is_dir() and path.name not in kept:
            shutil.rmtree(path)
    for path in data.glob("*/*/examples-1.json*"):
        path.unlink()
    for service in data.iterdir():
        # A version that carries no service model (its API is retired) cannot be used.
        for version in [path for path in service.iterdir() if path.is_dir()] if service.is_dir() else []:
            if data.parent.name == "botocore" and not list(version.glob("service-2.json*")):
                shutil.rmtree(version)


def _trim_endpoints(data: Path) -> None:
    """Keep the kept services' entries of endpoints.json: parsing the whole file is 21 of a client's 49 ms."""
    prefixes = set(KEPT_SERVICES)
    for model in data.glob("*/*/service-2.json*"):
        raw = gzip.decompress(model.read_bytes()) if model.suffix == ".gz" else model.read_bytes()
        prefixes.add(str(json.loads(raw)["metadata"]["endpointPrefix"]))
    path = data / "endpoints.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    for partition in document["partitions"]:
        partition["services"] = {name: spec for name, spec in partition["services"].items() if name in prefixes}
    # A new file: the old one may be a link into the installer's cache.
    path.unlink()
    path.write_text(json.dumps(document, separators=(",", ":"), sort_keys=True), encoding="utf-8")
