from __future__ import annotations

import importlib
import sys

import pytest

from karma.core.imports import absent


def test_a_package_looks_absent_and_comes_back() -> None:
    with absent("karma_no_such_package"), pytest.raises(ImportError):
        importlib.import_module("karma_no_such_package")
    assert "karma_no_such_package" not in sys.modules


def test_a_package_that_was_imported_before_stays() -> None:
    with absent("json"):
        assert importlib.import_module("json") is sys.modules["json"]
    assert sys.modules["json"] is not None


def test_a_failure_inside_leaves_nothing_behind() -> None:
    with pytest.raises(KeyError), absent("karma_no_such_package"):
        raise KeyError
    assert "karma_no_such_package" not in sys.modules
