"""The same tests on several AWS engines: `pytest --engine=localstack`.

A test says what it needs of an engine beside storage, queues and secrets (`@pytest.mark.needs("iot")`). Where the
engine lacks it the test is not run, and is neither passed nor skipped: it is *unsupported*, listed by its name at the
end and counted in the page that `make engines` writes (`tests.engines.report`).
"""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest
import pytest_localstack

from local.engine import REGION, Capability, MiniStack, ephemeral
from tests.engines import report
from tests.engines.choice import Choice, NotHere
from tests.engines.localstack.engine import SERVICES

_UNSUPPORTED = "unsupported"
CHOICE = pytest.StashKey[Choice]()
_missing = pytest.StashKey[list[str]]()


def _chosen(name: str, localstack: str) -> Choice:
    """Return the engine of a command line; LocalStack's container where there is Docker, the host mode elsewhere."""
    if name == "ministack":
        # None: what a deployment takes of itself.
        return Choice(name, "MiniStack", MiniStack.capabilities, None, lambda _: ephemeral())
    # Local: what deploys is slow to import, and most tests need none of it.
    from tests.engines.localstack.choose import choose

    return choose(localstack)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("engines")
    group.addoption("--engine", choices=("ministack", "localstack"), default="ministack", help="where AWS is")
    group.addoption(
        "--localstack",
        choices=("auto", "container", "host"),
        default="auto",
        help="which LocalStack; auto: its container where a Docker daemon answers, else the host mode",
    )
    group.addoption("--engine-report", type=Path, metavar="FOLDER", help="write what passed on the engine as JSON")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "needs(*capabilities): what the test needs of an engine (local.engine)")
    try:
        choice = _chosen(config.getoption("--engine"), config.getoption("--localstack"))
    except NotHere as reason:
        pytest.exit(f"LocalStack cannot run here: {reason}", returncode=pytest.ExitCode.USAGE_ERROR)
    config.stash[CHOICE] = choice
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Summary(choice, config.getoption("--engine-report")), "engine-summary")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    needed = {Capability(name) for marker in item.iter_markers("needs") for name in marker.args}
    missing = sorted(map(str, needed - item.config.stash[CHOICE].capabilities))
    if missing:
        item.stash[_missing] = missing
        pytest.skip(f"{_UNSUPPORTED} on {item.config.stash[CHOICE].name}: {', '.join(missing)}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    made = yield
    if _missing in item.stash:
        # An attribute of the report: xdist sends it from worker to controller.
        vars(made)["unsupported"] = item.stash[_missing]
    return made


def pytest_report_teststatus(report: pytest.TestReport) -> tuple[str, str, str] | None:
    if report.skipped and getattr(report, "unsupported", None):
        return _UNSUPPORTED, "u", "UNSUPPORTED"
    return None


class _Summary:
    """Collects the outcome of each test, on the controller."""

    def __init__(self, choice: Choice, folder: Path | None) -> None:
        self._choice = choice
        self._folder = folder
        self._results = report.Results(choice.name)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        missing: list[str] = getattr(report, "unsupported", [])
        if missing:
            self._results.unsupported[report.nodeid] = missing
        elif report.failed:
            self._results.failed.add(report.nodeid)
        elif report.skipped:
            self._results.skipped.add(report.nodeid)
        elif report.when == "call" and report.passed:
            self._results.passed.add(report.nodeid)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        found = self._results
        if self._folder is not None and not found.complete:
            terminalreporter.line(f"nothing is written to {self._folder}: tests failed, or were skipped")
        if self._choice.name == "ministack" and not found.unsupported:
            return
        counts = f"{len(found.passed - found.failed)} passed, {len(found.failed)} failed"
        terminalreporter.section(self._choice.title)
        terminalreporter.line(f"{counts}, {len(found.unsupported)} unsupported on {self._choice.name}")
        for name, missing in sorted(found.unsupported.items()):
            terminalreporter.line(f"  {name}  (needs {', '.join(missing)})")

    def pytest_sessionfinish(self) -> None:
        if self._folder is not None:
            self._results.write(self._folder)


localstack_container = pytest_localstack.session_fixture(
    scope="session",
    services=list(SERVICES),
    region_name=REGION,
    localstack_version="4.14",
    container_env={"SQS_ENDPOINT_STRATEGY": "path"},
)


@pytest.fixture(scope="session")
def engine_choice(pytestconfig: pytest.Config) -> Choice:
    """Return the engine that the command line chose."""
    return pytestconfig.stash[CHOICE]
