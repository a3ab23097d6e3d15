"""The dice of a run: one number, of which each test makes its own.

It is `SEED` of the environment. Without one it is made of the project's Python sources, so that the same tree plays the
same cases on every machine, and each change of the code plays others; `SEED=random` draws a number that nobody played.
The first lines of a run name it, and so do the last ones when a test failed: with it the same cases are played again,
by all tests or by one of them alone (`SEED=123 .venv/bin/pytest 'tests/unit/…::test_x[52]'`).

    def test_x(seed: int) -> None: ...    # of the run's number and the test's id: another one for each `nth`
    dice("bodies of", route)              # where no test can be asked: of the run's number and these words

The order of the tests, `random`'s own functions and Hypothesis follow the same number. tests/conftest.py registers this
as a plugin of pytest.
"""

from __future__ import annotations

import hashlib
import os
import random
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis.internal.conjecture import providers
from hypothesis.internal.constants_ast import Constants, _constants_from_source
from hypothesis.internal.floats import float_to_int
from sortedcontainers import SortedSet

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("benchmarks", "functions", "infra", "layers", "local", "sdk", "tests")
_NOT_OURS = {"__pycache__", "build", "node_modules"}
_VARIABLE = "SEED"
_NUMBERS = 10**9
WHOLE = ("BODIES", "CRASHES", "ENDED", "MATRIX", "STORES", "THREADS", "WORK")
"""Variables that take the whole, with the value `all`, of what a run tries a part of; CONTRIBUTING.md tells of each."""


def base() -> int:
    """Return the number of this run, which the process that started it has handed to those that run tests."""
    return chosen(os.environ.get(_VARIABLE, ""))


def dice(*words: object) -> random.Random:
    """Return dice that fall alike in each run of the same number, and otherwise for other words."""
    return random.Random(f"{base()} {words}")


@cache
def chosen(said: str) -> int:
    """Return the number that is meant by what was said, which may be nothing.

    Raises:
        ValueError: it is neither a whole number nor `random`.
    """
    if said == "random":
        return random.SystemRandom().randrange(_NUMBERS)
    return int(said) if said else made_of_sources(ROOT)


def made_of_sources(root: Path) -> int:
    """Return a number that changes with the path or the content of any Python source."""
    seen = hashlib.sha256()
    for folder in SOURCES:
        for path, folders, files in os.walk(root / folder):
            folders[:] = sorted(set(folders) - _NOT_OURS)
            for name in sorted(files):
                if name.endswith(".py"):
                    file = Path(path, name)
                    content = file.read_bytes()
                    seen.update(f"{file.relative_to(root).as_posix()} {len(content)} ".encode() + content)
    return int(seen.hexdigest(), 16) % _NUMBERS


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """Return the test's own number."""
    return dice(request.node.nodeid).getrandbits(32)


@pytest.hookimpl(tryfirst=True)  # pytest-randomly reads its option in the same hook
def pytest_configure(config: pytest.Config) -> None:
    providers._get_local_constants = Constants  # none yet: the collection asks for them, and reading them takes seconds
    if hasattr(config, "workerinput"):
        return
    try:
        os.environ[_VARIABLE] = str(base())
    except ValueError as exc:
        raise pytest.UsageError(f"{_VARIABLE}={os.environ[_VARIABLE]}: a whole number or `random`") from exc
    if config.getoption("randomly_seed", None) == "default":
        config.option.randomly_seed = base()


@cache
def constants() -> Constants:
    """Return the values among which Hypothesis looks now and then: those that the layer's sources name.

    Left to itself it takes them from the modules that are loaded so far, so that a test alone would see other examples.
    """
    named = [_constants_from_source(file.read_bytes(), limit=True) for file in sorted((ROOT / "layers").rglob("*.py"))]
    return Constants(
        integers=SortedSet(chain.from_iterable(each.integers for each in named)),
        floats=SortedSet(chain.from_iterable(each.floats for each in named), key=float_to_int),
        bytes=SortedSet(chain.from_iterable(each.bytes for each in named)),
        strings=SortedSet(chain.from_iterable(each.strings for each in named)),
    )


def pytest_runtest_setup(item: pytest.Item) -> None:
    test: Any = getattr(item, "obj", None)
    if not hypothesis.is_hypothesis_test(test):
        return
    providers._get_local_constants = constants
    if item.config.getoption("--hypothesis-seed", None) is None:
        hypothesis.seed(dice(item.nodeid).getrandbits(64))(getattr(test, "__func__", test))


def pytest_report_header() -> list[str]:
    chosen_whole = [name for name in WHOLE if os.environ.get(name) == "all"]
    parts = " ".join(f"{name}=all" for name in WHOLE if name not in chosen_whole)
    return [_named(), f"of slow suites it chooses a part; all of it with {parts}" if parts else "slow suites are whole"]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if terminalreporter.stats.get("failed") or terminalreporter.stats.get("error"):
        terminalreporter.line(_named())


def _named() -> str:
    return f"seed of this run: {base()} ({_VARIABLE}={base()} plays it again)"
