"""Coverage where a test may be the first to reach a line: measuring doubles what Python costs.

Modules are imported while that is measured. After that only what tests call is, not what fixtures do for them; and not
in tests of other code, in other processes, of further parameters (those of unit tests are), or of what other tests do
as well, in odder orders or with odder input. So the figure is a lower bound. Registered by tests/conftest.py; does
nothing without `--cov`.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from coverage import Coverage

ROOT = Path(__file__).resolve().parents[2]
MEASURED = (ROOT / "layers" / "common" / "python", ROOT / "functions")
_ELSEWHERE = re.compile(
    r"^tests/(e2e|infra|engines|fixtures|contract/stores|unit/(local|engines|support)|integration/(local|engines|benchmarks))/|^sdk/"
)
_AGAIN = re.compile(r"/test_(\w*crash|hostile\w*|\w*races|\w*interleavings|bodies|matrix|refusals|log_hygiene)\.py::")


class Measuring:
    """Hooks of a process that runs tests under coverage."""

    def __init__(self) -> None:
        self._coverage: Coverage | None = None
        self._measured: set[str] = set()
        """Test functions of which one case was measured."""

    def pytest_collection_finish(self) -> None:
        self._coverage = Coverage.current()
        if self._coverage is not None:
            for name in modules():
                importlib.import_module(name)
            self._coverage.stop()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        function = item.nodeid.partition("[")[0]
        if self._coverage is None or _ELSEWHERE.search(function) or _AGAIN.search(function):
            return (yield)
        if function in self._measured and not function.startswith("tests/unit/"):
            return (yield)
        self._measured.add(function)
        self._coverage.start()
        try:
            return (yield)
        finally:
            self._coverage.stop()


def modules() -> Iterator[str]:
    """Yield the name of every module that is measured, without programs."""
    for found in pkgutil.walk_packages([str(folder) for folder in MEASURED]):
        if not found.name.endswith("__main__"):
            yield found.name
