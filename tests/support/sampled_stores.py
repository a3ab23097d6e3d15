"""The tests of the stores' contract that a run of all tests asks DynamoDB Local: a third, chosen by its dice.

MiniStack has each of them in every run. DynamoDB Local says whether MiniStack is right about conditions, types and
limits of DynamoDB, and costs a Java process for a hundred tests. It has all of them with STORES=all, and those that
somebody looks at alone: a file, a test, by name.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Final

import pytest

from tests.support.seeds import dice
from tests.support.stores import Engine

FOLDER: Final = Path(__file__).resolve().parents[1] / "contract" / "stores"
IS_WHOLE: Final = os.environ.get("STORES") == "all"
_ONE_OF: Final = 3
_ALWAYS: Final = frozenset({"test_core.py", "test_differences.py"})
"""Files about what DynamoDB itself does."""


def is_folder_run(config: pytest.Config, items: Collection[pytest.Item]) -> bool:
    """Tell whether a run has all tests of the contract, not some that somebody looks at."""
    option = config.option
    narrowed = option.keyword or option.markexpr or any("::" in each for each in config.args)
    return not narrowed and set(FOLDER.glob("test_*.py")) <= {item.path for item in items}


def left_out(config: pytest.Config, items: Sequence[pytest.Item]) -> list[pytest.Item]:
    """Return the tests that this run leaves out."""
    if IS_WHOLE or not is_folder_run(config, items):
        return []
    return [item for item in items if _is_asked_twice(item) and not _is_chosen(item)]


def _is_asked_twice(item: pytest.Item) -> bool:
    is_here = item.path.parent == FOLDER and item.path.name not in _ALWAYS
    return is_here and Engine.DYNAMODB_LOCAL in item.nodeid


def _is_chosen(item: pytest.Item) -> bool:
    return dice("DynamoDB Local", item.nodeid).randrange(_ONE_OF) == 0
