"""Pages end by bytes: no answer is larger than a function may give, whatever its limit and its entries."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any, Final

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from starlette.types import Receive, Scope, Send

from karma.agents import domain as agents
from karma.avatars import domain as avatars
from karma.configuration import domain as configuration
from karma.core.conditions.language import MAX_CHARS
from karma.core.freeform import render
from karma.core.paging import FUNCTION_BYTES, MAX_PAGE_BYTES, bytes_as_string, bytes_in_base64, fitting, shown
from karma.devices import domain as devices
from karma.devices.bulk import MAX_BULK_PARAMS_BYTES
from karma.devices.payloads import MAX_ANSWER_BYTES
from karma.devices.repository.dead_letters import KEPT_BYTES, NAMED
from karma.devices.samples import MAX_METRIC_CHARS
from karma.devices.shadow import MAX_DESIRED_BYTES
from karma.devices.transfer import MAX_RECEIVED
from karma.files import domain as files
from karma.http.gateway import Gateway
from karma.identity.api_keys.service import MAX_API_KEYS
from karma.projects import domain as projects
from karma.projects.shares import MAX_PROJECTS_OF_A_DEVICE
from karma.runs.opening import MAX_SNAPSHOT_BYTES
from karma.runs.waiting import SEGMENT_BYTES
from karma.tasks import domain as tasks
from karma.telemetry.query import MAX_POINTS
from karma.telemetry.schemas import MAX_DEVICES, MAX_METRICS_ASKED
from tests.support import contexts

pytestmark = pytest.mark.fault("F-24i")

ESCAPED, PLAIN = 6, 4
"""Bytes of a character in an answer: `\u0001` where control characters are allowed, UTF-8 elsewhere."""
AROUND: Final = 1_500
"""Bytes of ids, times, numbers and names in one entry."""
_READING = PLAIN * MAX_METRIC_CHARS + 100
_AVATAR = (
    ESCAPED * avatars.MAX_DESCRIPTION_CHARS
    + PLAIN * (avatars.MAX_NAME_CHARS + avatars.MAX_ROLE_CHARS + avatars.MAX_MODEL_CHARS)
    + avatars.MAX_URL_CHARS
    + 2 * PLAIN * avatars.MAX_WORDS * avatars.MAX_WORD_CHARS
    + avatars.MAX_ABILITIES_BYTES
)
_TEXTS = st.text(st.characters(codec="utf-8") | st.sampled_from('"\\\n\x01\u2028'), min_size=1, max_size=8)
SMALL = 20_000
"""Bytes of entries with texts of some hundred characters, of which a page has at most fifty."""
CUT: Final = {
    "devices": devices.Latest.MAX_METRICS * _READING + 4 * devices.MAX_OBJECT_BYTES,
    "devices/{device_id}/commands": devices.MAX_PARAMS_BYTES + 2 * MAX_ANSWER_BYTES,
    "devices/{device_id}/settings/changes": MAX_DESIRED_BYTES + AROUND,
    "commands/bulk": ESCAPED * MAX_BULK_PARAMS_BYTES,
    "commands/bulk/{bulk_id}/results": MAX_BULK_PARAMS_BYTES + 2 * MAX_ANSWER_BYTES,
    "avatars": _AVATAR,
    "config/{component_name}/history": 2 * PLAIN * avatars.MAX_PROMPT_CHARS,
    "telemetry/exports": MAX_DEVICES * 100 + MAX_METRICS_ASKED * PLAIN * MAX_METRIC_CHARS,
    "runs/{run_id}/events": max(SEGMENT_BYTES, MAX_SNAPSHOT_BYTES),
}
"""Lists that are cut by bytes, with the bytes of the largest entry of each."""
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
    "devices/{device_id}/projects": (2 * MAX_PROJECTS_OF_A_DEVICE, SMALL),
    "transfers": (MAX_RECEIVED, SMALL + ESCAPED * devices.MAX_NAME_CHARS),
    "devices/{device_id}/files": (
        100,
        2 * files.MAX_OBJECT_BYTES + 3 * 2 * files.MAX_PATH_BYTES + PLAIN * files.MAX_NAME_CHARS + AROUND,
    ),
    "devices/{device_id}/files/{file_id}/share": (20, SMALL),
    "devices/{device_id}/certificates": (2, SMALL),
    "devices/{device_id}/dead-letters": (100, 4 * KEPT_BYTES // 3 + NAMED * 15 * 80 + AROUND),
    "devices/{device_id}/telemetry": (MAX_POINTS, _READING + 200),
    "agents": (100, SMALL),
    "agents/{agent_id}": (agents.MAX_TOOLS, ESCAPED * MAX_CHARS + AROUND),
    "api-keys": (MAX_API_KEYS, SMALL),
    "users/me/links": (40, SMALL),
    "config": (
        250,
        ESCAPED * configuration.MAX_DESCRIPTION_CHARS
        + PLAIN * (configuration.MAX_NAME_CHARS + configuration.MAX_TAGS * configuration.MAX_TAG_CHARS)
        + AROUND,
    ),
    "users": (100, SMALL),
    "audit": (100, SMALL),
    "notices": (100, SMALL),
    "billing/inbox": (100, SMALL),
    "runs": (100, SMALL),
    "plans": (50, SMALL),
    "usage": (20, SMALL),
    "subscriptions/current": (100, SMALL),
}
"""Lists whose largest page fits as it is: entries, and bytes of the largest one; also PAGES of tests/contexts."""


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
    whole = {**WHOLE, **contexts.pages()}
    told = "say in PAGES of tests/contexts how large an entry may be, or cut the page (karma.core.paging)"
    assert lists() <= CUT.keys() | whole.keys(), told
    for name, (entries, largest) in whole.items():
        assert entries * largest <= MAX_PAGE_BYTES, name
    for name, largest in CUT.items():
        assert largest + AROUND <= MAX_PAGE_BYTES, name


@given(st.lists(st.integers(0, 40), max_size=12), st.integers(1, 60))
def test_a_page_keeps_the_first_entries_that_fit_and_at_least_one(sizes: list[int], most: int) -> None:
    kept = fitting(sizes, lambda size: size, most=most)
    assert kept == sizes[: len(kept)]
    assert bool(kept) == bool(sizes)
    assert len(kept) <= 1 or sum(kept) + len(kept) <= most
    assert len(kept) == len(sizes) or sum(sizes[: len(kept) + 1]) + len(kept) + 1 > most


@given(st.lists(st.dictionaries(st.text(max_size=3), st.text(max_size=9) | st.integers() | st.none(), max_size=3)))
def test_entries_of_a_page_are_written_as_the_renderer_writes_them(items: list[dict[str, Any]]) -> None:
    kept, written = shown(items, dict)
    assert kept == items
    assert orjson.loads(render({"things": written})) == json.loads(render({"things": items}))


@pytest.mark.fault("F-24j")
@given(_TEXTS, st.integers(0, 3), st.integers(2_000, 80_000))
@example('"', 3, 80_000)
@example("\u2028\x01", 2, 80_000)
@settings(max_examples=15)
def test_a_page_of_the_largest_entries_is_an_answer_that_a_function_may_give(text: str, deep: int, size: int) -> None:
    """Also where entries are JSON within JSON, whose quotes take the more bytes the deeper they are."""
    entry: Any = {"text": text * (size // len(text.encode()))}
    for _ in range(deep):
        entry = {"result": json.dumps(entry, ensure_ascii=False)}
    kept, written = shown([entry] * 1_000, lambda each: each)
    body = render({"success": True, "data": {"commands": written, "next_cursor": "x" * 1_000}})
    assert len(body) > MAX_PAGE_BYTES - len(render(entry)) - 1_000 or len(kept) == 1_000
    _assert_given_whole(body)


@pytest.mark.fault("F-24j")
@given(_TEXTS)
@example('\\"')
@settings(max_examples=5)
def test_a_conversation_of_the_largest_size_is_an_answer_that_a_function_may_give(text: str) -> None:
    _assert_given_whole(text.encode() * (MAX_SNAPSHOT_BYTES // len(text.encode())))


@pytest.mark.fault("F-24j")
@given(st.binary(max_size=50) | _TEXTS.map(str.encode))
def test_the_bytes_of_a_body_as_a_string_are_those_that_it_takes(body: bytes) -> None:
    text = body.decode(errors="ignore")
    ends = 3 * (text.count("\u2028") + text.count("\u2029"))
    assert bytes_as_string(text.encode()) == len(json.dumps(text, ensure_ascii=False).encode()) + ends
    assert bytes_in_base64(body) == len(json.dumps(base64.b64encode(body).decode()))


def _assert_given_whole(body: bytes) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"application/json"), (b"x-request-id", b"x" * 500)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    http = {"method": "GET", "path": "/", "sourceIp": "203.0.113.7"}
    answer = Gateway(app)({"version": "2.0", "headers": {}, "requestContext": {"http": http}}, None)
    given = answer["body"]
    assert (base64.b64decode(given) if answer["isBase64Encoded"] else given.encode()) == body
    escaped = 3 * (given.count("\u2028") + given.count("\u2029"))
    assert len(json.dumps(answer, ensure_ascii=False).encode()) + escaped <= FUNCTION_BYTES
