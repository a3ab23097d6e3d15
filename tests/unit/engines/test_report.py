"""The page of engines is what the last runs wrote."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.engines import report
from tests.engines.report import Results


def test_the_page_is_made_of_the_last_runs() -> None:
    assert report.PAGE.read_text() == report.page(report.read()), "run `python -m tests.engines.report`"


def test_both_engines_were_asked_the_same() -> None:
    one, other = ({name: _count(each) for name, each in found.items()} for found in report.read().values())
    assert one == other, "run `make engines`"


def _count(found: dict[str, object]) -> int:
    assert isinstance(found["passed"], int)
    assert isinstance(found["unsupported"], dict)
    return found["passed"] + sum(found["unsupported"].values())


class TestResults:
    def test_a_run_is_kept_as_counts_by_file(self, tmp_path: Path) -> None:
        results = Results("localstack")
        results.passed |= {"tests/e2e/test_b.py::test_1", "tests/e2e/test_a.py::test_2"}
        results.unsupported["tests/e2e/test_a.py::test_3"] = ["iot"]
        results.write(tmp_path)
        assert json.loads((tmp_path / "localstack.json").read_text()) == {
            "tests/e2e/test_a.py": {"passed": 1, "unsupported": {"iot": 1}},
            "tests/e2e/test_b.py": {"passed": 1, "unsupported": {}},
        }

    @pytest.mark.parametrize("what", ["failed", "skipped"])
    def test_a_run_that_leaves_something_open_is_not(self, tmp_path: Path, what: str) -> None:
        results = Results("localstack")
        results.passed.add("tests/e2e/test_b.py::test_1")
        getattr(results, what).add("tests/e2e/test_b.py::test_2")
        results.write(tmp_path)
        assert list(tmp_path.iterdir()) == []
