"""Choice of the LocalStack that this machine can run: its container if there is a Docker daemon, else the host mode."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from local import ports, prerequisites
from local.engine import Engine
from local.places import Places
from local.processes import Processes
from local.stacks import Stacks
from tests.engines.choice import Choice, NotHere
from tests.engines.localstack.adapter import LocalStackStacks
from tests.engines.localstack.engine import TITLE, ContainerLocalStack, HostLocalStack


def choose(how: str) -> Choice:
    """Return what runs here; `how` is `container`, `host`, or `auto`.

    Raises:
        NotHere: this machine cannot run it; the message says what is missing.
    """
    if how == "container" or (how == "auto" and prerequisites.docker_answers()):
        title = "LocalStack 4.14 community in its container"
        return Choice("localstack", title, ContainerLocalStack.capabilities, None, _container)
    places = Places(base=Path())
    if not HostLocalStack(places, 0).python.exists():
        raise NotHere("its host mode is not installed: run `.venv/bin/python -m local.prerequisites localstack-host`")
    try:
        prerequisites.check_java()
    except prerequisites.Missing as missing:
        raise NotHere(str(missing)) from None
    return Choice("localstack", TITLE, HostLocalStack.capabilities, _platform, _host)


def _platform(places: Places, chosen: Mapping[str, int]) -> tuple[Engine, Stacks]:
    engine = HostLocalStack(places, chosen["engine"])
    return engine, LocalStackStacks(engine)


@contextmanager
def _host(_: pytest.FixtureRequest) -> Iterator[Engine]:
    folder = Path(tempfile.mkdtemp(prefix="karma-localstack-"))
    places = Places(base=folder)
    places.make()
    engine = HostLocalStack(places, ports.choose(None)["engine"])
    processes = Processes(places)
    try:
        engine.start(processes)
        engine.wait_ready(processes)
        yield engine
    finally:
        engine.stop(processes)
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _container(request: pytest.FixtureRequest) -> Iterator[Engine]:
    session = request.getfixturevalue("localstack_container")
    yield ContainerLocalStack(Places(base=Path()), session.endpoint_url("s3"))
