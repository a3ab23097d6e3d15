"""Coverage where a test may be the first to reach a line: measuring doubles what Python costs.

Modules are imported while that is measured. After that only what tests call is, not what fixtures do for them; and not
in tests of other code, in other processes, or of what other tests do as well, in odder orders or with odder input. So
the figure is a lower bound. Registered by tests/conftest.py; does nothing without `--cov`.
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

    def pytest_collection_finish(self) -> None:
        self._coverage = Coverage.current()
        if self._coverage is not None:
            for name in modules():
                importlib.import_module(name)
            self._coverage.stop()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        if self._coverage is None or _ELSEWHERE.search(item.nodeid) or _AGAIN.search(item.nodeid):
            return (yield)
        self._coverage.start()
        try:
            return (yield)
        finally:
            self._coverage.stop()


def modules() -> Iterator[str]:
    """Name everything that is measured, but for programs."""
    for found in pkgutil.walk_packages([str(folder) for folder in MEASURED]):
        if not found.name.endswith("__main__"):
            yield found.name
