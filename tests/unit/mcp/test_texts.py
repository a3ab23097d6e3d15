"""Texts of MCP results in a run: the model and the thread have them as their server wrote them."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from karma.conversations.attachments import MAX_RESULT_BYTES, attachments_in, cut
from karma.conversations.domain import Message, ToolCall
from karma.core import freeform, surrogates
from karma.core.clock import SystemClock
from karma.core.ids import RunId
from karma.integrations.mcp_messages import shown_result
from karma.mcp.domain import MODERN
from karma.mcp.offering import McpTools, OfferedTool
from karma.mcp.ports import CallOutcome
from karma.mcp.secrets import Endpoints
from karma.runs.decisions import with_edit
from karma.tools.toolbox import Toolbox, ToolOutcome
from tests.contract.mcp.test_faults import TOOL
from tests.contract.stores.test_mcp import server
from tests.fakes.mcp import MemoryMcpServers, OpenSeal
from tests.fakes.runs import caller

pytestmark = pytest.mark.fault("F-32cf")
BOUND = 2**20


class Telling:
    """A client whose calls all have one result."""

    def __init__(self, result: dict[str, Any]) -> None:
        self.result = result

    async def call(self, *_: Any, **__: Any) -> CallOutcome:
        read = freeform.loads(json.dumps(self.result).encode(), levels=None, replace_surrogates=True)
        value = await shown_result(read, BOUND)
        return CallOutcome(value, is_error=self.result.get("isError") is True)


def outcome(*texts: str, **more: Any) -> ToolOutcome:
    """Call a tool, which answers by texts, by the toolbox of a run."""
    by, store, client = caller(), MemoryMcpServers(), Telling({"content": [{"type": "text", "text": t} for t in texts]})
    client.result |= more
    of = replace(server(1, user=by.user_id), sealed=b"")
    store.servers[of.id] = of
    offered = OfferedTool(server_id=of.id, server_name="s", version=MODERN, timeout_s=10, tool=TOOL)
    made: Any = client
    tools = McpTools(store, lambda: made, lambda: Endpoints(OpenSeal()), SystemClock()).tools([offered], thread_id="t")
    box = Toolbox(tools, by, lambda text: cut(text, whole_to_bytes=MAX_RESULT_BYTES)[0])
    return asyncio.run(box.call(ToolCall(id="c1", name="s__t", arguments="{}"), run_id=RunId("r1")))


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=9,
)


@given(text=st.text(st.characters(), max_size=300) | st.builds(json.dumps, values, indent=st.sampled_from([None, 1])))
@example(text='{"a":"\\"quoted\\" \\\\ \\n"}')
@example(text="null")
@example(text="\ud800 half, \x00 and \u2028")
def test_a_text_is_told_as_it_is(text: str) -> None:
    told = outcome(text)
    assert (told.failed, told.effect) == (False, "told")
    assert (told.content if text.strip() else json.loads(told.content)) == surrogates.whole(text)


def test_texts_stand_one_below_the_other() -> None:
    assert outcome('{"a": 1}', "two").content == '{"a": 1}\ntwo'


def test_what_has_structure_stays_json() -> None:
    assert json.loads(outcome("why", structuredContent={"a": "1"}).content) == {
        "structuredContent": {"a": "1"},
        "content": ["why"],
    }
    image = {"type": "image", "mimeType": "image/png", "data": "AAAA"}
    assert json.loads(outcome(content=[image]).content)["content"][0]["type"] == "image"


def test_a_failed_text_is_a_failed_result_as_every_other() -> None:
    told = outcome('boom "x"', isError=True)
    assert (json.loads(told.content), told.failed) == ({"error": 'boom "x"'}, True)


@pytest.mark.parametrize("character", ["x", '"', "é", "\x01"])
def test_a_long_text_is_cut_within_the_bounds_of_every_result(character: str) -> None:
    size = len(character.encode())
    whole = character * (MAX_RESULT_BYTES // size)
    assert outcome(whole).content == whole
    told = outcome(whole + character).content
    assert len(told.encode()) <= MAX_RESULT_BYTES
    assert set(json.loads(told)["beginning"]) == {character}
    assert attachments_in([Message(id="m", role="tool", content=told, tool_call_id="c1")])


@pytest.mark.parametrize(
    ("text", "shown"), [("plain", "plain"), ('{"a":1}', {"a": 1}), ('{"a":', '{"a":'), ("[" * 2_000, "[" * 2_000)]
)
def test_a_text_beside_edited_arguments_is_told_with_them(text: str, shown: object) -> None:
    told = json.loads(with_edit(outcome(text), '{"b":2}').content)
    assert told == {"arguments_changed_by_user": {"b": 2}, "result": shown}
