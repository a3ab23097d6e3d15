"""The records of decisions are listed, and what they and the README say of files, contexts and sweeps is true."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from infra.catalog import SWEEPS

ROOT = Path(__file__).resolve().parents[2]
RECORDS = sorted((ROOT / "docs/adr").glob("[0-9]*.md"))
KARMA = ROOT / "layers/common/python/karma"
NO_CONTEXTS = {"core", "http", "integrations"}
"""Packages of `karma` that are no contexts (docs/glossary.md)."""
_PATH = re.compile(r"`((?:tests|docs|functions|layers|infra|local|benchmarks|sdk|templates|karma)/[\w./*-]+)`")


def test_the_list_has_each_record_once_in_order() -> None:
    listed = re.findall(r"^- \[(\d{4})\]\(([^)]+)\)", (ROOT / "docs/adr/README.md").read_text(), re.MULTILINE)
    assert listed == [(path.name[:4], path.name) for path in RECORDS]


def test_no_two_records_have_one_number() -> None:
    assert len({path.name[:4] for path in RECORDS}) == len(RECORDS)


@pytest.mark.parametrize("record", RECORDS, ids=lambda path: path.name[:4])
def test_the_files_that_a_record_names_are_there(record: Path) -> None:
    found = (re.sub("^karma/", "layers/common/python/karma/", path) for path in _PATH.findall(record.read_text()))
    gone = sorted(path for path in set(found) if not any(ROOT.glob(path)))
    assert not gone, f"{record.name} names what was moved or removed: {gone}"


def test_the_readme_lists_all_contexts() -> None:
    (listed,) = re.findall(r"one package a context \(([^)]+)\)", (ROOT / "README.md").read_text())
    there = {path.parent.name for path in KARMA.glob("*/__init__.py")} - NO_CONTEXTS
    assert sorted(listed.split(", ")) == sorted(there)


def test_the_table_of_sweeps_is_the_catalog_s() -> None:
    (record,) = (path for path in RECORDS if path.name.startswith("0041"))
    rows = re.findall(r"^\| `(background\.sweeps\.\w+)` \| ([^|]+) \|", record.read_text(), re.MULTILINE)
    told = {sweep: function for function, sweeps in rows for sweep in sweeps.strip().split(", ")}
    assert told == {name: str(function) for name, function in SWEEPS.items()}, f"change the table of {record.name}"
