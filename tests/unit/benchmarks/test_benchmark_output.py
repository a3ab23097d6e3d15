"""A run of the benchmarks prints its table and nothing that the measured functions write."""

from __future__ import annotations

import contextlib
import io
import sys
from typing import cast

import pytest

from benchmarks import __main__ as command
from benchmarks.report import Row
from benchmarks.world import World
from karma.core.observability import count, log_request, logger


def measure(world: World) -> list[Row]:
    """Do what the functions' requests do, though the logger was imported before the benchmark's environment was."""
    del world
    log_request(request_id="r", status=200)
    logger.info("device.created")
    logger.warning("open_request.not_given_back")
    count("DeviceCreated")
    return [Row("api", "warm", "", "1 us", "", None)]


def test_a_run_of_an_area_prints_its_table_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    printed, told = io.StringIO(), io.StringIO()
    monkeypatch.setattr(command, "seeded", lambda: contextlib.nullcontext(cast("World", None)))
    monkeypatch.setitem(command.AREAS, "api", measure)
    level = logger.log_level
    logger.setLevel("INFO")
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(told):
            # As in a process that imported the logger before anything else.
            monkeypatch.setattr(logger.registered_handler, "stream", sys.stdout)
            assert command.main(["api"]) == 0
            first, *table, _, last = printed.getvalue().splitlines()
            logger.info("device.renamed")
    finally:
        logger.setLevel(level)
    assert first.startswith("CPython ")
    assert [line.split() for line in table] == [
        ["function", "metric", "baseline", "of", "the", "run", "measured", "target"],
        ["api", "warm", "1", "us"],
    ]
    assert last == "1 figures, 0 missed, 0 areas not measured"
    assert "open_request.not_given_back" in told.getvalue()
    assert "device.created" not in told.getvalue()
    assert "device.renamed" in printed.getvalue(), "the logger is as it was"
