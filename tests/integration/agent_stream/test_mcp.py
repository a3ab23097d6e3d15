"""Runs that call tools of the official MCP server: what the model is told, and what nobody may see."""

import asyncio
import io
import json
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from karma.core.clock import SystemClock
from karma.core.ids import new_id
from karma.core.observability import logger
from karma.integrations.guard import is_public_or_loopback
from karma.integrations.kms import KmsSeal
from karma.integrations.mcp_blocking import BlockingMcp
from karma.mcp.domain import Exposure, McpServer
from karma.mcp.repository import McpServerRepository
from karma.mcp.secrets import Endpoints
from karma.mcp.service import McpServerService, NewMcpServer
from karma.runs.repository import RunRepository
from karma.tools.domain import ApprovalPolicy, ApprovalRule, ToolApproval
from tests.fakes.runs import events_of, types
from tests.integration.agent_stream.conftest import Background, Streams
from tests.support.agui import verify
from tests.support.mcp_server import HEADERS, TOKEN, Seen, serving
from tests.support.model_server import message, text, tool_use
from tests.support.stack import VAULT_KEY


@pytest.fixture(autouse=True)
def logged(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """Keep what the function logs in memory: writing elsewhere would block the loop, as the other tests see to."""
    buffer = io.StringIO()
    monkeypatch.setattr(logger.registered_handler, "stream", buffer)
    return buffer


@pytest.fixture(params=[True, False], ids=["modern", "before"])
def served(request: pytest.FixtureRequest) -> Iterator[tuple[str, Seen]]:
    with serving(is_modern=request.param) as (url, seen):
        yield url, seen


def keep(streams: Streams, url: str, **more: Any) -> McpServer:
    service = McpServerService(
        McpServerRepository(),
        BlockingMcp(is_allowed=is_public_or_loopback),
        Endpoints(KmsSeal(VAULT_KEY)),
        SystemClock(),
        agent_id_of=str,
        held=nullcontext,
        loopback=True,
    )
    wanted = {"headers": HEADERS, "exposures": (Exposure(),), "timeout_s": 10, "max_result_bytes": 1_048_576}
    return service.create(streams.user_id, NewMcpServer(name="w", url=url, **{**wanted, **more}))


def listed_long_ago(server: McpServer) -> None:
    McpServerRepository().replace(server, replace(server, listed_at=datetime(2026, 1, 1, tzinfo=UTC), version=2))


def hello(**more: Any) -> dict[str, Any]:
    return {"runId": new_id(), "messages": [{"id": new_id(), "role": "user", "content": "hi"}], **more}


def ask(streams: Streams, *calls: tuple[str, dict[str, Any]]) -> list[dict[str, Any]]:
    uses = [tool_use(f"c{n}", name, json.dumps(arguments)) for n, (name, arguments) in enumerate(calls)]
    streams.model.answer(message(*uses, stop_reason="tool_use"))
    streams.model.answer(message(text("Done")))
    events = events_of(streams.run(streams.agent(hello())).data)
    verify(events)
    assert types(events)[-1] == "RUN_FINISHED"
    return events


def results(events: list[dict[str, Any]]) -> list[Any]:
    told = [event["content"] for event in events if event["type"] == "TOOL_CALL_RESULT"]
    return [json.loads(each) if each.startswith(("{", "[")) else each for each in told]


def test_a_run_calls_tools_of_the_server(streams: Streams, served: tuple[str, Seen], logged: io.StringIO) -> None:
    url, seen = served
    keep(streams, url)
    events = ask(
        streams,
        ("w__weather", {"city": "Bern"}),
        ("w__order", {"item": "tea"}),
        ("w__fail", {"why": "no"}),
        ("w__weather", {"town": "Bern"}),
        ("w__ask", {}),
    )
    weather, order, failed, wrong, asking = results(events)
    assert (weather, order) == ({"city": "Bern", "degrees": 21}, "ordered tea")
    assert "Error executing tool" in failed["error"]
    assert "city" in wrong["error"]
    assert "MCP_INPUT_REQUIRED" in asking["error"]  # a client from before 1.0 cannot be asked
    assert sorted(seen.calls) == ["order tea", "weather Bern"]
    told = {tool["name"]: tool for tool in streams.model.requests[0]["tools"]}
    assert told["w__weather"]["input_schema"]["required"] == ["city"]
    assert {"searchDatabase", "w__order"} <= set(told)
    everything = json.dumps(events) + json.dumps(streams.model.requests) + repr(streams.items())
    everything += logged.getvalue()
    assert "mcp.call_failed" in everything
    assert TOKEN not in everything


def test_an_agent_has_the_tools_that_it_is_allowed(streams: Streams) -> None:
    with serving() as (url, seen):
        keep(streams, url, exposures=(Exposure(tools=("echo",)),))
        events = ask(streams, ("w__echo", {"text": "a"}), ("w__order", {"item": "tea"}))
        assert results(events)[0] == "a"
        assert "Unknown tool" in results(events)[1]["error"]
        assert seen.calls == []


RULES = (
    ToolApproval(tool="*", rule=ApprovalRule(policy=ApprovalPolicy.NEVER)),
    ToolApproval(tool="order", rule=ApprovalRule(policy=ApprovalPolicy.WHEN, when="args.item == 'tea'")),
)


@pytest.mark.parametrize("payload", [{"approved": False}, {"approved": True}, {"approved": True, "editedArgs": {}}])
def test_calls_for_which_its_owner_asks_are_made_once_they_are_approved(
    streams: Streams, served: tuple[str, Seen], payload: dict[str, Any]
) -> None:
    url, seen = served
    keep(streams, url, exposures=(Exposure(approvals=RULES),))
    thread, edited = new_id(), "editedArgs" in payload
    given = [("w__order", {"item": "tea"}), ("w__order", {"item": "ink"}), ("w__weather", {"city": "Bern"})]
    uses = [tool_use(f"c{n}", name, json.dumps(arguments)) for n, (name, arguments) in enumerate(given)]
    streams.model.answer(message(*uses, stop_reason="tool_use"))
    streams.model.answer(message(text("Done")))

    asked = events_of(streams.run(streams.agent(hello(threadId=thread, protocolVersion="1.0"))).data)
    verify(asked)
    (question,) = asked[-1]["outcome"]["interrupts"]
    assert question["metadata"]["toolName"] == "w__order"
    assert sorted(seen.calls) == ["order ink", "weather Bern"]
    if edited:
        payload = {"approved": True, "editedArgs": {"item": "milk"}}
    answer = {"interruptId": question["id"], "status": "resolved", "payload": payload}
    again = {"threadId": thread, "runId": new_id(), "protocolVersion": "1.0", "messages": [], "resume": [answer]}
    answered = events_of(streams.run(streams.agent(again)).data)
    verify(answered, held=[question["toolCallId"]])
    assert answered[-1]["outcome"]["type"] == "success"
    made = {(True, True): ["order milk"], (True, False): ["order tea"]}.get((payload["approved"], edited), [])
    assert [call for call in seen.calls if call not in {"order ink", "weather Bern"}] == made


def test_arguments_that_somebody_edits_must_fit_the_tool(streams: Streams, served: tuple[str, Seen]) -> None:
    url, seen = served
    keep(streams, url, exposures=(Exposure(approvals=RULES),))
    thread = new_id()
    streams.model.answer(message(tool_use("c1", "w__order", '{"item": "tea"}'), stop_reason="tool_use"))
    asked = events_of(streams.run(streams.agent(hello(threadId=thread, protocolVersion="1.0"))).data)
    (question,) = asked[-1]["outcome"]["interrupts"]
    answer = {
        "interruptId": question["id"],
        "status": "resolved",
        "payload": {"approved": True, "editedArgs": {"thing": "milk"}},
    }
    body = {"threadId": thread, "runId": new_id(), "protocolVersion": "1.0", "messages": [], "resume": [answer]}
    refused = streams.run(streams.agent(body))
    assert refused.status == 422
    assert "resume.0.payload.editedArgs" in refused.data.decode()
    assert seen.calls == []


def test_a_server_that_is_away_costs_its_tools_and_a_warning(streams: Streams) -> None:
    with serving() as (url, _):
        server = keep(streams, url)
    listed_long_ago(server)
    streams.model.answer(message(text("Hi")))
    events = events_of(streams.run(streams.agent(hello())).data)
    verify(events)
    assert types(events)[-1] == "RUN_FINISHED"
    [told] = [event["value"] for event in events if event.get("name") == "karma.input_ignored"]
    assert "MCP_UNREACHABLE" in json.dumps(told)
    assert "mcp_servers.w" in json.dumps(told)
    assert "w__echo" not in {tool["name"] for tool in streams.model.requests[0]["tools"]}


def test_a_server_that_was_deleted_is_called_no_more(streams: Streams) -> None:
    with serving() as (url, seen):
        server = keep(streams, url)
        store = McpServerRepository()

        def delete() -> None:
            store.delete(server, seen=store.directory(streams.user_id))

        events = _between(streams, delete)
        assert "deleted" in results(events)[0]["error"]
        assert seen.calls == []


TEA_ALWAYS = (ToolApproval(tool="order", rule=ApprovalRule(policy=ApprovalPolicy.ALWAYS)),)


@pytest.mark.fault("F-29l")
@pytest.mark.parametrize("name", ["order", "ask"])
def test_an_answer_holds_for_the_server_that_was_asked_about_alone(streams: Streams, name: str) -> None:
    thread, store, given = new_id(), McpServerRepository(), {"item": "tea"} if name == "order" else {}
    with serving() as (url, seen), serving() as (elsewhere, others):
        server = keep(streams, url, exposures=(Exposure(approvals=TEA_ALWAYS),))
        (question,) = questions(begun(streams, thread, (f"w__{name}", given)))
        store.delete(server, seen=store.directory(streams.user_id))
        keep(streams, elsewhere, exposures=(Exposure(approvals=TEA_ALWAYS),))
        answer = {"approved": True} if name == "order" else {next(iter(question["responseSchema"]["properties"])): YES}
        events = answered(streams, thread, ["c0"], {question["id"]: answer})
        (result,) = results(events)
        assert "Another server" in result["error"]
        assert (seen.calls, others.calls) == ([], [])
        assert "Another server" in json.dumps(streams.model.requests[-1])


def test_a_run_without_a_client_has_the_tools_and_calls_them_in_another_process(
    background: Background, served: tuple[str, Seen]
) -> None:
    """The API's function lists what is old and offers it; the function of executions, which may be another, calls."""
    url, seen = served
    streams = background.streams
    listed_long_ago(keep(streams, url))
    uses = [tool_use("c1", "w__weather", json.dumps({"city": "Bern"})), tool_use("c2", "w__order", '{"item": "tea"}')]
    streams.model.answer(message(*uses, stop_reason="tool_use"))
    streams.model.answer(message(text("Done")))

    status, data, _ = background.call("POST", "/api/v1/runs", {"message": "hi"})
    background.execute()

    assert status == 202
    events = background.events(data["run"]["id"])
    verify(events)
    assert results(events) == [{"city": "Bern", "degrees": 21}, "ordered tea"]
    assert sorted(seen.calls) == ["order tea", "weather Bern"]
    assert TOKEN not in json.dumps(events) + repr(streams.items())


def _between(streams: Streams, act: Callable[[], None]) -> list[dict[str, Any]]:
    """Run a call of w__order, and act after the run was started and before its model has answered."""
    from agent_stream import services

    offer = services.mcp_tools().offer

    async def offering(*args: Any) -> Any:
        found = await offer(*args)
        await asyncio.to_thread(act)
        return found

    services.mcp_tools().offer = offering  # type: ignore[assignment, method-assign]
    return ask(streams, ("w__order", {"item": "tea"}))


YES = {"action": "accept", "content": {"ok": True}}


def begun(streams: Streams, thread: str, *calls: tuple[str, dict[str, Any]], **more: Any) -> list[dict[str, Any]]:
    """Begin a run whose model makes calls, with a client that can answer."""
    uses = [tool_use(f"c{n}", name, json.dumps(arguments)) for n, (name, arguments) in enumerate(calls)]
    streams.model.answer(message(*uses, stop_reason="tool_use"))
    streams.model.answer(message(text("Done")))
    events = events_of(streams.run(streams.agent(hello(threadId=thread, protocolVersion="1.0", **more))).data)
    verify(events)
    return events


def answered(
    streams: Streams, thread: str, held: list[str], answers: dict[str, Any], **more: Any
) -> list[dict[str, Any]]:
    """Answer questions by a run; None cancels."""
    resume = [
        {"interruptId": name, "status": "cancelled"}
        if payload is None
        else {"interruptId": name, "status": "resolved", "payload": payload}
        for name, payload in answers.items()
    ]
    body = {"threadId": thread, "runId": new_id(), "protocolVersion": "1.0", "messages": [], "resume": resume}
    events = events_of(streams.run(streams.agent({**body, **more})).data)
    verify(events, held=held)
    return events


def questions(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    assert events[-1]["outcome"]["type"] == "interrupt", events[-1]
    return list(events[-1]["outcome"]["interrupts"])


def test_a_server_s_question_ends_the_run_and_its_answer_makes_the_call(streams: Streams, logged: io.StringIO) -> None:
    thread = new_id()
    with serving() as (url, seen):
        keep(streams, url)
        asked = begun(streams, thread, ("w__ask", {}), ("w__weather", {"city": "Bern"}))
        (question,) = questions(asked)
        assert (question["reason"], question["metadata"]) == (
            "input_required",
            {"toolName": "w__ask", "arguments": "{}"},
        )
        assert question["message"] == "w__ask asks: May it be done?"
        ((name, form),) = question["responseSchema"]["properties"].items()
        assert form["properties"]["content"]["properties"]["ok"]["type"] == "boolean"
        assert seen.calls == ["weather Bern"]
        (stored,) = RunRepository().interrupts(streams.user_id, [question["id"]]).values()
        assert stored.given is not None
        assert stored.given.kept is not None
        state = str(stored.given.kept["state"])
        assert len(state) > 100

        wrong = {name: {"action": "accept", "content": {"ok": "surely"}}}
        body = {"interruptId": question["id"], "status": "resolved", "payload": wrong}
        again = {"threadId": thread, "runId": new_id(), "protocolVersion": "1.0", "messages": [], "resume": [body]}
        refused = streams.run(streams.agent(again))
        assert refused.status == 422
        assert f"resume.0.payload.{name[:64]}.content.ok" in refused.data.decode()

        last = answered(streams, thread, [question["toolCallId"]], {question["id"]: {name: YES}})
        repeated = answered(streams, thread, [question["toolCallId"]], {question["id"]: {name: YES}})

    assert last[-1]["outcome"]["type"] == "success"
    assert results(last) == ["True"]
    assert repeated[0]["runId"] == last[0]["runId"]
    assert seen.calls == ["weather Bern", "ask True"]
    told = json.dumps([asked, last, repeated]) + json.dumps(streams.model.requests) + logged.getvalue()
    assert state not in told
    assert TOKEN not in told


@pytest.mark.parametrize(
    ("answer", "result"),
    [
        ({"action": "decline"}, "elicitation was decline"),
        ({"action": "cancel"}, "elicitation was cancel"),
        (None, "did not give what this call asked for"),
    ],
)
def test_a_server_is_told_that_its_question_is_declined(
    streams: Streams, answer: dict[str, Any] | None, result: str
) -> None:
    thread = new_id()
    with serving() as (url, seen):
        keep(streams, url)
        (question,) = questions(begun(streams, thread, ("w__ask", {})))
        (name,) = question["responseSchema"]["properties"]
        last = answered(streams, thread, [question["toolCallId"]], {question["id"]: answer and {name: answer}})
    assert result in results(last)[0]["error"]
    assert seen.calls == []


def test_a_server_may_ask_for_more_and_for_several_things_at_once(streams: Streams) -> None:
    thread = new_id()
    with serving() as (url, seen):
        keep(streams, url)
        first = questions(begun(streams, thread, ("w__deliver", {"item": "tea"}), ("w__both", {}), ("w__sample", {})))
        held = [each["toolCallId"] for each in first]
        forms = {each["metadata"]["toolName"]: list(each["responseSchema"]["properties"]) for each in first}
        assert {tool: len(names) for tool, names in forms.items()} == {"w__deliver": 1, "w__both": 2}
        ids = {each["metadata"]["toolName"]: each["id"] for each in first}
        to = {"action": "accept", "content": {"street": "Main"}}
        both = {name: to if "address" in name else YES for name in forms["w__both"]}
        second = answered(
            streams,
            thread,
            held,
            {ids["w__deliver"]: {forms["w__deliver"][0]: YES}, ids["w__both"]: both},
        )
        assert results(second) == ["True Main"]
        (question,) = questions(second)
        assert question["message"] == "w__deliver asks: Where to?"
        (name,) = question["responseSchema"]["properties"]
        last = answered(streams, thread, held, {question["id"]: {name: to}})
    assert results(last) == ["tea to Main, floor 0"]
    assert seen.calls == ["deliver tea"]
    assert "MCP_INPUT_REQUIRED" in json.dumps(streams.model.requests[-1])


def test_a_call_that_was_approved_may_ask_still(streams: Streams) -> None:
    thread = new_id()
    rules = (ToolApproval(tool="deliver", rule=ApprovalRule(policy=ApprovalPolicy.ALWAYS)),)
    with serving() as (url, seen):
        keep(streams, url, exposures=(Exposure(approvals=rules),))
        (question,) = questions(begun(streams, thread, ("w__deliver", {"item": "tea"})))
        held = [question["toolCallId"]]
        assert question["reason"] == "tool_call"
        (question,) = questions(answered(streams, thread, held, {question["id"]: {"approved": True}}))
        (name,) = question["responseSchema"]["properties"]
        last = answered(streams, thread, held, {question["id"]: {name: {"action": "decline"}}})
    assert last[-1]["outcome"]["type"] == "success"
    assert seen.calls == []


def test_a_server_from_before_cannot_ask_and_its_call_fails(streams: Streams) -> None:
    with serving(is_modern=False) as (url, _):
        keep(streams, url)
        events = begun(streams, new_id(), ("w__ask", {}))
    assert events[-1]["outcome"]["type"] == "success"
    assert "MCP_INPUT_REQUIRED" in results(events)[0]["error"]


def test_a_question_of_a_run_without_a_client_is_answered_by_the_next_run(background: Background) -> None:
    """The function of executions makes the call that asks, the one that streams makes it again with the answer."""
    streams = background.streams
    with serving() as (url, seen):
        keep(streams, url)
        streams.model.answer(message(tool_use("c1", "w__ask", "{}"), stop_reason="tool_use"))
        streams.model.answer(message(text("Done")))
        status, data, _ = background.call("POST", "/api/v1/runs", {"message": "hi"})
        assert status == 202
        background.execute()
        _, shown, _ = background.call("GET", f"/api/v1/runs/{data['run']['id']}")
        (question,) = shown["interrupts"]
        assert (question["reason"], question["tool_name"], question["status"]) == ("input_required", "w__ask", "open")
        (name,) = question["response_schema"]["properties"]
        thread = shown["run"]["thread_id"]
        last = answered(streams, thread, [question["tool_call_id"]], {question["id"]: {name: YES}})
    assert results(last) == ["True"]
    assert seen.calls == ["ask True"]
