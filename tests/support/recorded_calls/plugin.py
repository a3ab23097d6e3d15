"""Pytest plugin of the recording: AWS calls of functions must be those in `tests/infra/golden/calls.json`.

- A test in which a function makes a call that is not in that file fails.
- A run of the whole integration ring, in one process or several, fails if the file has a call that was not made.

Registered by tests/conftest.py. Each process of pytest-xdist records for itself and tells the one that reports.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Generator, Mapping
from pathlib import Path
from typing import Any

import pytest

from infra.catalog import FunctionName
from tests.support.recorded_calls.needs import Need
from tests.support.recorded_calls.recorder import Recorder, install, recorder

ROOT = Path(__file__).resolve().parents[3]
RING = ROOT / "tests" / "integration"
GOLDEN = ROOT / "tests" / "infra" / "golden" / "calls.json"
ACTUAL = ROOT / "build" / "recorded-calls.json"
ACCEPT = f"if that is meant: cp {ACTUAL.relative_to(ROOT)} {GOLDEN.relative_to(ROOT)}"

Calls = Mapping[FunctionName, Collection[Need]]


def read_golden() -> dict[FunctionName, set[Need]]:
    """Return the calls of each function in the golden file."""
    stored = json.loads(GOLDEN.read_text(encoding="utf-8")) if GOLDEN.exists() else {}
    return {
        FunctionName(function): {Need(action, resource) for resource, actions in held.items() for action in actions}
        for function, held in stored.items()
    }


def written(calls: Calls) -> str:
    """Return calls in the form of the golden file: function -> resource -> actions."""
    document: dict[str, dict[str, list[str]]] = {}
    for function, needs in calls.items():
        held = document.setdefault(function.value, {})
        for need in sorted(needs):
            held.setdefault(need.resource, []).append(need.action)
    return json.dumps(document, indent=2, sort_keys=True) + "\n"


def not_in(calls: Calls, others: Calls) -> list[str]:
    """Return the calls that only the first has, as lines for people."""
    return [
        f"{function}: {need.action} on {need.resource}"
        for function in sorted(calls)
        for need in sorted(set(calls[function]) - set(others.get(function, ())))
    ]


def surprise_of(heard: Recorder, golden: Calls) -> str:
    """Return a message about calls since the last question that the golden file lacks; "": none."""
    if unmapped := heard.take_unmapped():
        return "\n".join(sorted(unmapped))
    fresh: dict[FunctionName, set[Need]] = {}
    for function, need in heard.take_fresh():
        fresh.setdefault(function, set()).add(need)
    unknown = "\n  ".join(not_in(fresh, golden))
    return f"a function asked AWS for what {GOLDEN.name} does not have:\n  {unknown}\n{ACCEPT}" if unknown else ""


class CallsPlugin:
    """Hooks of a process that runs tests, of one that reports, or of one that does both."""

    def __init__(self, heard: Recorder = recorder, golden: Calls | None = None, actual: Path = ACTUAL) -> None:
        self._golden = read_golden() if golden is None else golden
        self._recorder = heard
        self._actual = actual
        self._collected: set[str] = set()
        """Tests of the ring that are to run; every process knows all of them."""
        self._is_part = False
        """True: the run was limited to a part of the ring."""
        self._over: dict[str, str] = {}
        """Test -> its worst outcome so far."""
        self._findings: list[str] = []

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        ring = {item.nodeid: item.path for item in session.items if str(item.path).startswith(f"{RING}{os.sep}")}
        if not ring:
            return
        install()
        self._collected = set(ring)
        files = {path for path in RING.rglob("test_*.py") if "__pycache__" not in path.parts}
        self._is_part |= files != set(ring.values()) or any("::" in each for each in session.config.args)

    def pytest_deselected(self) -> None:
        self._is_part = True

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        self._recorder.listens = item.nodeid in self._collected
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        result = yield
        if item.nodeid in self._collected:
            self.check()
        return result

    def check(self) -> None:
        """Fail the running test when a function made a call that the golden file lacks."""
        if surprise := surprise_of(self._recorder, self._golden):
            pytest.fail(surprise, pytrace=False)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.nodeid.startswith("tests/integration/") and (report.when == "teardown" or not report.passed):
            worse = self._over.get(report.nodeid, "passed") if report.passed else report.outcome
            self._over[report.nodeid] = worse

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        output = getattr(session.config, "workeroutput", None)
        if output is not None:
            output["recorded_calls"] = {
                **self._recorder.told(),
                "collected": sorted(self._collected),
                "is_part": self._is_part,
            }
            return
        if not self._collected:
            return
        self._findings = self._compare()
        if self._findings and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        told = getattr(node, "workeroutput", {}).get("recorded_calls")
        if told is None:
            # It died; what it heard is lost.
            self._is_part = True
            return
        self._recorder.merge(told)
        self._collected |= set(told["collected"])
        self._is_part |= told["is_part"]

    def _compare(self) -> list[str]:
        heard: dict[FunctionName, set[Need]] = {name: set(needs) for name, needs in self._recorder.calls.items()}
        is_whole = not self._is_part and set(self._over) == self._collected
        kept: Calls = {} if is_whole else self._golden
        everything = {name: heard.get(name, set()) | set(kept.get(name, ())) for name in FunctionName}
        self._actual.parent.mkdir(exist_ok=True)
        self._actual.write_text(written({name: needs for name, needs in everything.items() if needs}), encoding="utf-8")
        if not is_whole or set(self._over.values()) != {"passed"}:
            return []
        return not_in(self._golden, heard)

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if self._findings:
            terminalreporter.section("calls of AWS", red=True)
            terminalreporter.line(f"{GOLDEN.name} has calls that no test of the integration ring saw:")
            for line in self._findings:
                terminalreporter.line(f"  {line}")
            terminalreporter.line(f"remove them from infra/grants.py as well; {ACCEPT}")
