"""Test modules that one process has compiled are those that another one imports."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
from _pytest.assertion import rewrite

from tests.support.compiled import keep_compiled


def test_an_import_takes_what_was_compiled_before(
    tmp_path: Path, pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    if sys.dont_write_bytecode:
        pytest.skip("Python is told to keep nothing compiled: PYTHONDONTWRITEBYTECODE")
    file = tmp_path / "test_of_a_sum.py"
    file.write_text("def test_one_and_one() -> None:\n    assert 1 + 1 == 3\n")
    keep_compiled(file, pytestconfig)
    with monkeypatch.context() as patch:
        patch.setattr(rewrite, "_rewrite_test", lambda *_: pytest.fail("it was compiled before"))
        keep_compiled(file, pytestconfig)
        spec = importlib.util.spec_from_file_location("test_of_a_sum", file, loader=_hook(pytestconfig))
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    with pytest.raises(AssertionError, match=r"assert \(1 \+ 1\) == 3"):  # as pytest words it
        module.test_one_and_one()


def _hook(config: pytest.Config) -> rewrite.AssertionRewritingHook:
    hook = config.stash[rewrite.assertstate_key].hook
    assert hook is not None
    return hook
