"""Generators of clients and validators of other languages can read both OpenAPI documents."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.fault("F-31b")

DOCS = Path(__file__).resolve().parents[3] / "docs"
DOCUMENTS = ["openapi.json", "openapi-stream.json"]
_COMPILE = "for (const each of JSON.parse(require('fs').readFileSync(0))) new RegExp(each, 'u')"


def read(name: str) -> Any:
    return json.loads((DOCS / name).read_text(encoding="utf-8"))


def patterns(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("pattern"), str):
            yield value["pattern"]
        for each in value.values():
            yield from patterns(each)
    elif isinstance(value, list):
        for each in value:
            yield from patterns(each)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_patterns_are_those_of_json_schema(name: str) -> None:
    found = sorted(set(patterns(read(name))))
    assert found
    node = shutil.which("node")
    assert node is not None
    done = subprocess.run(
        [node, "-e", _COMPILE], input=json.dumps(found), capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert [each for each in found if re.search(r'["`]', each)] == [], "texts of other languages end at a quote"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_names_of_schemas_differ_in_more_than_case(name: str) -> None:
    counts = Counter(re.sub(r"[^a-z0-9]", "", each.lower()) for each in read(name)["components"]["schemas"])
    assert [each for each, count in counts.items() if count > 1] == []


@pytest.mark.parametrize("name", DOCUMENTS)
def test_each_operation_says_whether_it_needs_a_credential_and_where_it_is_served(name: str) -> None:
    document = read(name)
    operations = {
        f"{method} {path}": operation for path, each in document["paths"].items() for method, operation in each.items()
    }
    assert [each for each, operation in operations.items() if "security" not in operation] == []
    assert document["servers"] == [{"url": "/"}]
