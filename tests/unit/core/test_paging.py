"""Pages end by bytes: no answer is larger than a function may give, whatever its limit and its entries."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from karma.avatars import domain as avatars
from karma.core.freeform import render
from karma.core.paging import MAX_PAGE_BYTES, fitting, shown
from karma.devices import domain as devices
from karma.devices.payloads import MAX_ANSWER_BYTES
from karma.devices.repository.dead_letters import KEPT_BYTES, NAMED
from karma.devices.samples import MAX_METRIC_CHARS
from karma.devices.telemetry import MAX_POINTS
from karma.files import domain as files
from karma.identity.api_keys.service import MAX_API_KEYS
from karma.projects import domain as projects
from karma.runs.log import SEGMENT_BYTES
from karma.runs.opening import MAX_SNAPSHOT_BYTES
from karma.tasks import domain as tasks

pytestmark = pytest.mark.fault("F-24i")

FUNCTION_BYTES: Final = 6_291_556
"""What a function answers at the most."""
ESCAPED, PLAIN = 6, 4
"""Bytes of a character in an answer: `\\u0001` where control characters may stand, UTF-8 where not."""
AROUND: Final = 1_500
"""Ids, times, numbers and names of members of one entry."""
_READING = PLAIN * MAX_METRIC_CHARS + 100
_AVATAR = (
    ESCAPED * avatars.MAX_DESCRIPTION_CHARS
    + PLAIN * (avatars.MAX_NAME_CHARS + avatars.MAX_ROLE_CHARS + avatars.MAX_MODEL_CHARS)
    + avatars.MAX_URL_CHARS
    + 2 * PLAIN * avatars.MAX_WORDS * avatars.MAX_WORD_CHARS
    + avatars.MAX_ABILITIES_BYTES
)
SMALL = 20_000
"""Entries of texts of some hundred characters, at most fifty of them."""
CUT: Final = {
    "devices": devices.Latest.MAX_METRICS * _READING + 4 * devices.MAX_OBJECT_BYTES,
    "devices/{device_id}/commands": devices.MAX_PARAMS_BYTES + 2 * MAX_ANSWER_BYTES,
    "avatars": _AVATAR,
    "config/{component_name}/history": 2 * PLAIN * avatars.MAX_PROMPT_CHARS,
    "runs/{run_id}/events": max(SEGMENT_BYTES, MAX_SNAPSHOT_BYTES),
}
"""Lists that are cut by bytes, with the largest entry of each."""
WHOLE: Final[dict[str, tuple[int, int]]] = {
    "tasks": (
        100,
        ESCAPED * (tasks.MAX_TITLE_CHARS + tasks.MAX_DESCRIPTION_CHARS) + tasks.MAX_TASK_METADATA_BYTES + AROUND,
    ),
    "tasks/{task_id}/subtasks": (1, 1024 * 1024 + tasks.MAX_SUBTASKS * AROUND),
    "projects": (100, ESCAPED * (projects.MAX_NAME_CHARS + projects.MAX_DESCRIPTION_CHARS) + AROUND),
    "projects/{project_id}/members": (100, SMALL),
    "projects/{project_id}/invitations": (projects.MAX_INVITATIONS, SMALL),
    "invitations": (100, SMALL),
    "devices/{device_id}/files": (
        100,
        2 * files.MAX_OBJECT_BYTES + 3 * 2 * files.MAX_PATH_BYTES + PLAIN * files.MAX_NAME_CHARS + AROUND,
    ),
    "devices/{device_id}/dead-letters": (100, 4 * KEPT_BYTES // 3 + NAMED * 15 * 80 + AROUND),
    "devices/{device_id}/telemetry": (MAX_POINTS, _READING + 200),
    "agents": (100, SMALL),
    "api-keys": (MAX_API_KEYS, SMALL),
    "users/me/links": (40, SMALL),
    "config": (250, SMALL),
    "users": (100, SMALL),
    "audit": (100, SMALL),
    "notices": (100, SMALL),
    "billing/inbox": (100, SMALL),
    "runs": (100, SMALL),
    "plans": (50, SMALL),
    "usage": (20, SMALL),
}
"""Lists whose largest page fits as it is: entries, and bytes of the largest one."""


def lists() -> set[str]:
    """Name the routes that answer a list of things, by their description."""
    document = json.loads((Path(__file__).resolve().parents[3] / "docs/openapi.json").read_text())
    found = set()
    for path, methods in document["paths"].items():
        answer = methods.get("get", {}).get("responses", {}).get("200", {}).get("content", {}).get("application/json")
        if answer and _holds_objects(document, answer["schema"]):
            found.add(path.removeprefix("/api/v1/").removeprefix("/api/"))
    return found


def _holds_objects(document: Any, schema: Any) -> bool:
    while "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    properties = schema.get("properties", {})
    if "data" in properties:
        return _holds_objects(document, properties["data"])
    return any(each.get("type") == "array" and "$ref" in each.get("items", {}) for each in properties.values())


def test_every_list_is_cut_or_its_largest_page_fits() -> None:
    known = CUT.keys() | WHOLE.keys()
    assert lists() <= known, "say here how large an entry may be, or cut the page (karma.core.paging)"
    for name, (entries, largest) in WHOLE.items():
        assert entries * largest <= MAX_PAGE_BYTES, name
    for name, largest in CUT.items():
        assert largest + AROUND <= MAX_PAGE_BYTES, name


@given(st.lists(st.integers(0, 40), max_size=12), st.integers(1, 60))
def test_the_first_that_fit_are_kept_and_at_least_one(sizes: list[int], most: int) -> None:
    kept = fitting(sizes, lambda size: size, most=most)
    assert kept == sizes[: len(kept)]
    assert bool(kept) == bool(sizes)
    assert len(kept) <= 1 or sum(kept) + len(kept) <= most
    assert len(kept) == len(sizes) or sum(sizes[: len(kept) + 1]) + len(kept) + 1 > most


@given(st.lists(st.dictionaries(st.text(max_size=3), st.text(max_size=9) | st.integers() | st.none(), max_size=3)))
def test_what_is_kept_stands_in_the_answer_as_it_would_alone(items: list[dict[str, Any]]) -> None:
    kept, written = shown(items, dict)
    assert kept == items
    assert orjson.loads(render({"things": written})) == json.loads(render({"things": items}))


def test_a_page_of_the_largest_entries_is_no_larger_than_an_answer() -> None:
    items = ["x" * 80_000] * 100
    kept, written = shown(items, lambda text: {"text": text})
    assert 50 < len(kept) < 100
    assert len(render({"success": True, "data": {"commands": written}})) < FUNCTION_BYTES
