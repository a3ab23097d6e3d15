"""Rate limits of the streaming function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any, cast

import pytest

from karma.core.ids import new_id
from karma.core.ratelimit import Limit
from karma.identity.limits import RULES, Rule
from tests.integration.agent_stream.conftest import Streams
from tests.support.model_server import message, text

pytestmark = pytest.mark.req("R-M-37")


def body() -> dict[str, Any]:
    message = {"id": new_id(), "role": "user", "content": "Hello"}
    return {"threadId": new_id(), "runId": new_id(), "messages": [message], "tools": [], "context": [], "state": {}}


@pytest.fixture
def two_runs(streams: Streams, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = {plan: Limit("run", 2, timedelta(minutes=1)) for plan in RULES["run"].limits}
    monkeypatch.setitem(cast("dict[str, Rule]", RULES), "run", replace(RULES["run"], limits=limits))


def test_a_run_says_how_many_are_left(streams: Streams) -> None:
    streams.model.answer(message(text("Hi")))
    answer = streams.run(streams.agent(body()))
    assert answer.status == 200
    assert answer.answer_headers["ratelimit-policy"] == '"run";q=60;w=60'
    assert answer.answer_headers["ratelimit"] == '"run";r=59;t=1'


@pytest.mark.usefixtures("two_runs")
def test_one_run_too_many_is_refused_and_leaves_nothing(
    streams: Streams, another_user: Callable[..., tuple[str, str]]
) -> None:
    for _ in range(3):
        streams.model.answer(message(text("Hi")))
    assert [streams.run(streams.agent(body())).status for _ in range(2)] == [200, 200]
    before = len(streams.items())
    refused = streams.run(streams.agent(body()))
    assert refused.status == 429
    assert 1 <= int(refused.answer_headers["retry-after"]) <= 30
    assert refused.answer_headers["ratelimit"].startswith('"run";r=0;t=')
    assert refused.json["error"]["type"] == "RateLimited", "/api is Agio's"
    wrapped = streams.run(streams.make("POST", "/api/v1/agent", body=body()))
    assert wrapped.json["error"]["details"]["limit"] == "run"
    assert len(streams.items()) == before
    _, token = another_user()
    other = streams.agent(body(), headers={"authorization": f"Bearer {token}"})
    assert streams.run(other).status == 200
