"""Each id of a client's own that a path names: what is taken, a URL can name, also behind a gateway that decodes."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote, unquote, urljoin, urlsplit

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from starlette.types import Receive, Scope, Send

from agent_stream.app import ROUTES
from api.routes.runs import router
from karma.configuration.domain import is_name, is_reachable
from karma.core.errors import ValidationFailed
from karma.core.runtime.client import Invocation
from karma.core.runtime.scope import to_request
from karma.http.gateway import Gateway
from karma.runs.requests import parse_run_input
from tests.fixtures.runtime.golden import url_event
from tests.support.markers import ROOT

pytestmark = pytest.mark.fault("F-24k")

OURS = {
    *(
        "agent_id",
        "alarm_id",
        "avatar_id",
        "bulk_id",
        "certificate_id",
        "claim_id",
        "checkpoint_id",
        "command_id",
        "component",
        "customer_id",
        "device_id",
        "event_id",
        "file_id",
    ),
    *(
        "invitation_id",
        "key_id",
        "letter_id",
        "notice_id",
        "project_id",
        "provider",
        "release_id",
        "rollout_id",
        "export_id",
        "rule_id",
        "server_id",
        "share_id",
        "subtask_id",
    ),
    *("delivery_id", "schedule_id", "subtask_id", "task_id", "token", "tree_change_id", "user_id", "webhook_id"),
}
"""Ids and tokens made here, names of a fixed list, and a payment provider's ids."""
NAMED_IN_THE_PATH = {"component_name", "thread_name"}
"""Names that clients give in the path itself, so that one which no path can hold is never created; threads are named
for paths by the server."""
PRINTABLE = [chr(code) for code in range(0x21, 0x7F)]
IDS = st.one_of(st.text(st.sampled_from(PRINTABLE), min_size=1, max_size=8), st.sampled_from([".", "..", "..."]))


def is_taken(run_id: str) -> bool:
    try:
        return parse_run_input(orjson.dumps({"runId": run_id})).run_id == run_id
    except ValidationFailed:
        return False


def at_the_stream(path: str) -> str | None:
    request = to_request(Invocation("r1", url_event(rawPath=path), 1, "arn", ""))
    found = [values["run_id"] for route in ROUTES if (values := route.match(request.scope["path"]))]
    return found[0] if found else None


def served(path: str) -> str:
    """Return the path that the API serves for one in an event."""
    paths: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        paths.append(scope["path"])
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    http = {"method": "GET", "path": path, "sourceIp": "203.0.113.7"}
    event: dict[str, Any] = {"version": "2.0", "rawPath": path, "headers": {}, "requestContext": {"http": http}}
    Gateway(app)(event, None)
    return paths[0]


def at_the_api(path: str) -> str | None:
    matches = [re.compile(route.path_regex).fullmatch(served(path)) for route in router.routes]
    found = [match["run_id"] for match in matches if match and "run_id" in match.groupdict()]
    return found[0] if found else None


def forms(text: str, *, under: str = "/api/v1/runs/", end: str = "/events") -> set[str]:
    """Return its path as a client sends it, and as a gateway decodes it, all of it or all but percent signs."""
    sent = urlsplit(urljoin("https://cloud.example.com/", f"{under}{quote(text, safe='')}{end}")).path
    return {sent, unquote(sent), "%25".join(map(unquote, sent.split("%25")))}


def is_named(run_id: str) -> bool:
    """Ask for it as clients do."""
    return all(ask(path) == run_id for ask in (at_the_stream, at_the_api) for path in forms(run_id))


@pytest.mark.fault("F-24v")
@pytest.mark.parametrize("name", [f"a{each}b" for each in PRINTABLE] + [".", "..", "...", "a%41", "%", "a b", "\u65e5"])
def test_a_component_that_is_made_is_found_by_its_url(name: str) -> None:
    is_made = is_name(name) and is_reachable(name)
    found = {served(path).removeprefix("/api/v1/config/") for path in forms(name, under="/api/v1/config/", end="")}
    assert not is_made or found == {name}
    assert is_made == (name not in {".", ".."} and not set(name) & set("/%?"))


@given(IDS)
@example("a/b")
@example("..")
@example("50%25")
@example("a%2Fb")
def test_an_id_that_is_taken_is_found_by_its_url(run_id: str) -> None:
    assert not is_taken(run_id) or is_named(run_id)


@pytest.mark.parametrize("run_id", [f"a{each}b" for each in PRINTABLE] + [".", "..", "...", "a" * 128])
def test_no_more_than_necessary_is_refused(run_id: str) -> None:
    assert is_taken(run_id) == (run_id not in {".", ".."} and not set(run_id) & set("#/%?\\"))


def test_a_refusal_names_the_field_and_the_rule() -> None:
    with pytest.raises(ValidationFailed) as caught:
        parse_run_input(orjson.dumps({"runId": "a/b"}))
    told = str(caught.value.details)
    assert "'runId'" in told
    assert "'/'" in told


def test_no_other_part_of_a_path_is_a_client_s_own() -> None:
    paths = [
        path
        for name in ("openapi", "openapi-stream")
        for path in orjson.loads((ROOT / f"docs/{name}.json").read_bytes())["paths"]
    ]
    assert {name for path in paths for name in re.findall(r"{(\w+)}", path)} == OURS | NAMED_IN_THE_PATH | {"run_id"}


def test_what_is_described_is_what_is_taken() -> None:
    document = orjson.loads((ROOT / "docs/openapi-stream.json").read_bytes())
    schema = document["components"]["schemas"]["RunAgentInput"]["properties"]["runId"]
    (pattern,) = [each["pattern"] for each in schema["anyOf"] if "pattern" in each]
    for run_id in [f"a{each}" for each in PRINTABLE] + [".", "..", "...", " ", "a" * 129]:
        assert bool(re.fullmatch(pattern, run_id)) == is_taken(run_id), run_id
