"""Scopes of cursors: a cursor of one list is none of another, whatever characters its filters hold."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from karma.http.pages import scope_of

pytestmark = pytest.mark.fault("F-31a")

ROOT = Path(__file__).resolve().parents[3]
PARTS = st.lists(st.none() | st.booleans() | st.text(st.sampled_from(':",[]\\ab'), max_size=4), max_size=4)


@given(PARTS, PARTS)
def test_two_lists_have_one_scope_only_if_all_parts_are_equal(one: list[object], other: list[object]) -> None:
    assert (scope_of("runs", *one) == scope_of("runs", *other)) is (one == other)


def test_no_route_writes_a_scope_by_itself() -> None:
    routes = [*(ROOT / "functions" / "api" / "routes").glob("*.py"), *(ROOT / "templates").rglob("routes/*.py")]
    written = {path.name: re.findall(r"^ +scope = (?!scope_of\().*", path.read_text(), re.MULTILINE) for path in routes}
    assert written
    assert {name: found for name, found in written.items() if found} == {}
