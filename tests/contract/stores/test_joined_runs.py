"""Runs that somebody joins: what that costs, on the store in memory and on DynamoDB."""

from __future__ import annotations

import base64
import os
from dataclasses import replace

import orjson
import pytest

from karma.conversations.domain import Message
from karma.runs.events import CURRENT, encode_delta, run_started, text_deltas, text_start
from karma.runs.joining import join
from karma.runs.ports import Runs
from karma.runs.setup import RunSetup, dump_setup
from tests.contract.stores.test_runs import THREAD, run, segment, stored_runs
from tests.fakes.runs import MemoryRuns, caller
from tests.support.clients import hooked
from tests.support.stores import Store


@pytest.fixture
def runs(store: Store) -> Runs:
    return MemoryRuns() if store.in_memory else stored_runs(store.database)


def test_who_joins_a_run_of_a_megabyte_costs_three_calls(runs: Runs, store: Store) -> None:
    asked: list[str] = []
    setup = RunSetup(
        caller=caller(),
        system=(),
        tools=(),
        frontend_tools=(),
        max_tokens=100,
        max_turns=1,
        speaks=CURRENT,
        asides=(),
    )
    question = Message(id="u", role="user", content="hi")
    started = run_started(thread_id=THREAD.thread_id, run_id="r1")
    first = replace(segment(), events=(started.data, text_start("m").data))
    thread = runs.thread(THREAD)
    runs.start(replace(run(), answers=0), thread=thread, segment=first, messages=(question,), setup=dump_setup(setup))
    # Random, since logs are compressed: 11 KB of each are left.
    said = encode_delta(text_deltas("m"), base64.b64encode(os.urandom(11_250)).decode())
    for n in range(2, 102):
        runs.append(replace(segment(n), events=(said,)))

    with hooked("dynamodb", "before-call.dynamodb", lambda model, **_: asked.append(model.name)):
        joined = join(runs, run().key, link=list)

    assert joined is not None
    assert asked == ([] if store.in_memory else ["Query"] * 3)
    messages = orjson.loads(joined.events[2])["messages"]
    assert [(each["id"], len(each["content"])) for each in messages] == [("u", 2), ("m", 100 * 15_000)]
