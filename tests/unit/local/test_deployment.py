"""A change of what stacks are made of is noticed, and one of anything else is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from local.deployment import synthesis_digest

CATALOG = "infra/catalog.py"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in (CATALOG, "requirements/api.txt", "functions/api/handler.py", "settings.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("one")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "noticed"),
    [
        (CATALOG, True),
        ("infra/constructs/queue.py", True),
        ("requirements/api.txt", True),
        ("settings.json", True),
        ("functions/api/handler.py", False),
        ("infra/__pycache__/catalog.pyc", False),
    ],
)
def test_a_file_that_changes_is_noticed_where_stacks_are_made_of_it(root: Path, name: str, noticed: bool) -> None:
    before = synthesis_digest(root / "settings.json", root)
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text("two")
    assert (synthesis_digest(root / "settings.json", root) != before) is noticed


def test_a_file_that_is_renamed_is_noticed(root: Path) -> None:
    before = synthesis_digest(root / "settings.json", root)
    (root / CATALOG).rename(root / "infra" / "list.py")
    assert synthesis_digest(root / "settings.json", root) != before
