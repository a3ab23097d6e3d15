"""Lets functions run changed code as soon as it is saved; `make dev` starts it in the background.

    python -m local.watch .local/state/watch.json

Functions read their code from the work tree (`infra.local_artifacts`), so nothing is deployed: instances that hold the
old code are ended after the calls that they carry out (local/ministack/launch.py), and the next call starts one that
reads the new. A file that Python cannot read ends nothing: the old code goes on in the instances that there are until
the mistake is mended, and an instance that starts meanwhile fails with Python's words. What templates are made of is
only named: `make dev` deploys it, also to what is up already. Each of this is one line of the program's log,
`.local/logs/watch.log`.

Times of files are compared every half second, 800 files in 5 ms: system notifications would be a dependency for each
system, and are not sent for all file systems.
"""

from __future__ import annotations

import argparse
import glob
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import psutil
from botocore.exceptions import BotoCoreError, ClientError

from local.engine import REGION, client_environment

if TYPE_CHECKING:
    from mypy_boto3_lambda import LambdaClient

_PAUSE_S = 0.5
_AT_ONCE = 4
_COMMON = "layers/common/python"
_TEMPLATES = ("infra", "requirements")
_WATCHED = ("functions", _COMMON, *_TEMPLATES)
_SUFFIXES = {".py", ".json", ".txt", ".mjs", ""}

State = Mapping[Path, tuple[int, int]]


@dataclass(frozen=True)
class Watched:
    """The settings of a watch, as `Deployment.start_watch` writes them."""

    root: Path
    port: int
    """Port of the engine."""
    functions: Mapping[str, str]
    """Deployed name -> folder below `functions/`."""
    stream_host: int
    """Pid of the supervisor of the process that runs the stream function; 0: there is none."""
    stream_package: str = "agent_stream"


def state_of(root: Path) -> State:
    """Return time and size of every source file."""
    return {path: (stat.st_mtime_ns, stat.st_size) for top in _WATCHED for path, stat in _files(root / top)}


def _files(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    try:
        entries = list(os.scandir(folder))
    except FileNotFoundError:
        return
    for entry in entries:
        if entry.name == "__pycache__" or entry.name.startswith("."):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _files(Path(entry.path))
        elif os.path.splitext(entry.name)[1] in _SUFFIXES:  # noqa: PTH122 -- a Path for each of 800 files is dear
            try:
                yield Path(entry.path), entry.stat()
            except FileNotFoundError:
                # An editor's temporary file.
                continue


def changed(before: State, after: State) -> list[Path]:
    """Return files that were written, made or removed."""
    return sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))


def mistakes(paths: Iterable[Path]) -> list[str]:
    """Return Python's errors in changed sources that it cannot read."""
    found = []
    for path in paths:
        if path.suffix == ".py" and path.exists():
            try:
                compile(path.read_bytes(), str(path), "exec")
            except (SyntaxError, ValueError) as mistake:
                found.append(f"{path}: {mistake}")
    return found


def forget_bytecode(source: Path) -> None:
    """Remove Python's bytecode of a source, which a change of the same size within a second would not invalidate."""
    for kept in (source.parent / "__pycache__").glob(f"{glob.escape(source.stem)}.*.pyc"):
        kept.unlink(missing_ok=True)


class Watch:
    """Compares the work tree with the state from which functions were started."""

    def __init__(self, watched: Watched, say: Callable[[str], None]) -> None:
        self._watched = watched
        self._say = say
        self._seen = state_of(watched.root)
        self._unread: set[Path] = set()
        environment = client_environment(watched.port, region=REGION, access_key="test")
        self._lambda: LambdaClient = boto3.client(
            "lambda",
            endpoint_url=environment["AWS_ENDPOINT_URL"],
            region_name=REGION,
            aws_access_key_id="test",
            aws_secret_access_key="test",  # noqa: S106
        )

    def look(self) -> None:
        """Compare once; restart functions whose code has changed, and print it."""
        now = state_of(self._watched.root)
        paths = changed(self._seen, now)
        self._seen = now
        if not paths:
            return
        names = [path.relative_to(self._watched.root).as_posix() for path in paths]
        templates = [name for name in names if name.startswith(tuple(f"{top}/" for top in _TEMPLATES))]
        if templates:
            self._say(f"{_listed(templates)} changed: `make dev` deploys it")
        self._unread |= {path for path, name in zip(paths, names, strict=True) if name not in templates}
        wrong = mistakes(sorted(self._unread))
        if wrong:
            self._say(f"the old code goes on: {'; '.join(wrong)}")
        elif self._unread:
            self._renew(sorted(self._unread))
            self._unread.clear()

    def _renew(self, paths: list[Path]) -> None:
        names = [path.relative_to(self._watched.root).as_posix() for path in paths]
        for path in paths:
            forget_bytecode(path)
        packages = {name.split("/")[1] for name in names if name.startswith("functions/")}
        everything = any(name.startswith(f"{_COMMON}/") for name in names)
        began = time.monotonic()
        functions = {
            function: package
            for function, package in self._watched.functions.items()
            if everything or package in packages
        }
        # The engine waits for the end of each idle instance.
        with ThreadPoolExecutor(max_workers=_AT_ONCE) as pool:
            list(pool.map(self._end_instances, functions))
        if self._watched.stream_host and (everything or self._watched.stream_package in packages):
            self._end_stream_workers()
        if functions:
            what = "all functions" if everything else ", ".join(sorted(set(functions.values())))
            self._say(f"renewed {what} in {time.monotonic() - began:.1f} s: {_listed(names)} changed")

    def _end_instances(self, function: str) -> None:
        """Write a function's configuration unchanged, for which the engine, like AWS, starts its instances anew."""
        try:
            timeout_s = self._lambda.get_function_configuration(FunctionName=function)["Timeout"]
            self._lambda.update_function_configuration(FunctionName=function, Timeout=timeout_s)
        except (BotoCoreError, ClientError) as failure:
            self._say(f"{function} could not be renewed: {failure}")

    def _end_stream_workers(self) -> None:
        try:
            psutil.Process(self._watched.stream_host).send_signal(signal.SIGHUP)
        except psutil.NoSuchProcess:
            self._say("the stream host is gone: `make dev` starts it")


def _listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _say(text: str) -> None:
    print(f"{datetime.now().astimezone():%H:%M:%S} {text}", flush=True)


def main() -> None:
    """Watch until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m local.watch", description=main.__doc__)
    parser.add_argument("file", type=Path)
    given = json.loads(parser.parse_args().file.read_text())
    watch = Watch(Watched(**{**given, "root": Path(given["root"])}), _say)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    _say("watching")
    while True:
        watch.look()
        time.sleep(_PAUSE_S)


if __name__ == "__main__":
    main()
