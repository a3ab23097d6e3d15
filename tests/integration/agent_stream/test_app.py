"""The streaming function in process: real SDK, real DynamoDB calls, exact streams.

One file of more than 450 lines: the requests of one client, in the order in which it makes them.
"""

import asyncio
import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest

from karma.core.dynamo.tables import bind_names
from karma.core.ids import new_id
from karma.files.domain import PART_BYTES
from karma.identity.domain import Role
from karma.runs.requests import RunInput, parse_run_input
from karma.search.repository import SearchRepository
from karma.tools.device_tools import DeviceTools
from tests.contexts.search import stamped
from tests.fakes.devices import FakeClock
from tests.fakes.runs import events_of, types
from tests.integration.agent_stream.conftest import Streams
from tests.support.agui import verify
from tests.support.devices import World
from tests.support.files import put_half
from tests.support.model_server import message, text, tool_use
from tests.support.queues import delayed_messages
from tests.support.stack import Context, HttpEvent

DEVICE_TOOLS = {"searchDatabase", "controlDevice", "readTelemetry", "waitForFile"}


def hello(**more: Any) -> dict[str, Any]:
    return {
        "threadId": "t1",
        "runId": new_id(),
        "protocolVersion": "1.0",
        "messages": [{"id": "u1", "role": "user", "content": "hi"}],
        **more,
    }


@pytest.mark.req("R-K-01", "R-K-37", "R-K-38", "R-K-39", "R-K-40")
def test_a_conversation_streams_as_ag_ui(streams: Streams) -> None:
    streams.model.answer(message(text("Hel", "lo")))

    answer = streams.run(streams.agent(hello()))

    assert answer.status == 200
    assert answer.answer_headers["content-type"] == "text/event-stream"
    assert answer.answer_headers["cache-control"] == "no-store, no-transform"
    assert answer.answer_headers["x-accel-buffering"] == "no"
    events = events_of(answer.data)
    verify(events)
    assert types(events) == [
        "RUN_STARTED",
        "STATE_SNAPSHOT",
        "TEXT_MESSAGE_START",
        "TEXT_MESSAGE_CONTENT",
        "TEXT_MESSAGE_CONTENT",
        "TEXT_MESSAGE_END",
        "RUN_FINISHED",
    ]
    assert events[1]["snapshot"] == {"user": {"id": streams.user_id, "name": "Ada", "avatar": None}}
    assert {each["name"] for each in streams.model.requests[0]["tools"]} == DEVICE_TOOLS
    assert b"[DONE]" not in answer.data


@pytest.mark.req("R-K-40")
def test_done_is_said_to_those_who_ask_for_it(streams: Streams) -> None:
    streams.model.answer(message(text("Hi")))

    answer = streams.run(streams.agent(hello(), headers={"accept": "text/event-stream; done=1"}))

    assert answer.data.endswith(b"\n\ndata: [DONE]\n\n")


@pytest.mark.req("R-K-37")
@pytest.mark.parametrize("more", [{}, {"messages": [], "state": {}, "tools": [], "context": {}}])
def test_everything_in_the_body_has_a_default(streams: Streams, more: dict[str, Any]) -> None:
    streams.model.answer(message(text("Hi")))
    first = events_of(streams.run(streams.agent({"messages": [{"role": "user", "content": "hi"}]})).data)
    thread = first[0]["threadId"]

    events = events_of(streams.run(streams.agent({"threadId": thread, **more})).data)

    verify(first)
    verify(events)
    assert types(events) == ["RUN_STARTED", "MESSAGES_SNAPSHOT", "STATE_SNAPSHOT", "RUN_FINISHED"]
    assert (events[0]["threadId"], bool(events[0]["runId"])) == (thread, True)


@pytest.mark.req("R-K-41")
def test_the_agent_searches_and_the_second_run_remembers(streams: Streams) -> None:
    # A row whose device went a moment ago: it is read, looked up, and not shown.
    bind_names(streams.stack.tables)
    row = stamped(streams.user_id, name="online devices", kind="device")
    assert SearchRepository().write(streams.user_id, [row], at=datetime.now(UTC)) == 1
    arguments = json.dumps({"query": "online devices"})
    streams.model.answer(message(tool_use("c1", "searchDatabase", arguments), stop_reason="tool_use"))
    streams.model.answer(message(text("None.")))
    streams.model.answer(message(text("Still none.")))

    first = events_of(streams.run(streams.agent(hello())).data)
    second = hello(messages=[{"id": "u2", "role": "user", "content": "and now?"}])
    streams.run(streams.agent(second))

    verify(first)
    (result,) = [event for event in first if event["type"] == "TOOL_CALL_RESULT"]
    assert json.loads(result["content"]) == {"results": []}
    assert [each["role"] for each in streams.model.requests[2]["messages"]] == [
        "user",
        "assistant",
        "user",
        "assistant",
        "user",
    ]


@pytest.mark.req("R-K-41", "R-K-43")
@pytest.mark.parametrize(
    ("tool", "arguments", "error"),
    [
        ("searchDatabase", {"query": "x", "type": "planet"}, "Unknown type: planet"),
        ("controlDevice", {"device_id": "EOS-9", "command": "move"}, "Device EOS-9 not found"),
        ("readTelemetry", {"device_id": "EOS-9"}, "Device EOS-9 not found"),
    ],
)
def test_tools_fail_in_the_specs_words(streams: Streams, tool: str, arguments: dict[str, Any], error: str) -> None:
    streams.model.answer(message(tool_use("c1", tool, json.dumps(arguments)), stop_reason="tool_use"))
    streams.model.answer(message(text("Sorry.")))

    events = events_of(streams.run(streams.agent(hello())).data)

    (result,) = [event for event in events if event["type"] == "TOOL_CALL_RESULT"]
    assert json.loads(result["content"]) == {"error": error}
    assert streams.model.requests[1]["messages"][-1]["content"][0]["is_error"] is True


@pytest.mark.req("R-K-43")
def test_a_file_that_is_being_uploaded_is_waited_for_and_shown(streams: Streams) -> None:
    device_id = put_half(streams.stack, streams.user_id, "today.txt")
    arguments = json.dumps({"device_id": device_id, "file": "/today.txt", "wait_s": 1})
    streams.model.answer(message(tool_use("c1", "waitForFile", arguments), stop_reason="tool_use"))
    streams.model.answer(message(text("Not yet.")))

    events = events_of(streams.run(streams.agent(hello(protocolVersion="1.0"))).data)

    (result,) = [event for event in events if event["type"] == "TOOL_CALL_RESULT"]
    assert "may still be" in json.loads(result["content"])["error"]
    (shown,) = [event for event in events if event["type"] == "ACTIVITY_SNAPSHOT"]
    assert shown["activityType"] == "karma.file"
    file = {"path": "/today.txt", "status": "uploading", "uploadedBytes": 5, "totalBytes": PART_BYTES + 5}
    assert shown["content"].items() >= file.items()


def test_the_accounts_broker_is_looked_up_where_no_address_is_given(
    streams: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in AWS. The engine answers with a name that leads nowhere here, so the command waits in its queue.

    One whose time is over leaves it. What waits behind a serial one leaves a wake-up call for its turn.
    """
    monkeypatch.setattr("karma.tools.server_tools.DeviceTools", partial(DeviceTools, command_wait_s=0.1))
    clock = FakeClock(datetime.now(UTC))
    world = World(streams.stack, user=streams.user_id, clock=clock)
    device = world.create()
    world.connect(device)
    clock.pass_time(hours=-1)
    world.publisher.fails = True
    late = world.commands.send(streams.user_id, device.current.device.id, "move", ttl_s=60)
    for serial in (False, True):
        world.commands.send(streams.user_id, device.current.device.id, "move", ttl_s=3660, serial_order=serial)
    streams.stack.use(
        "agent_stream", MODEL_BASE_URL=streams.model.url, MODEL_ID="claude-haiku-5-5", IOT_DATA_ENDPOINT=""
    )
    arguments = json.dumps({"device_id": device.current.device.id, "command": "move"})
    streams.model.answer(message(tool_use("c1", "controlDevice", arguments), stop_reason="tool_use"))
    streams.model.answer(message(text("Later.")))

    events = events_of(streams.run(streams.agent(hello())).data)

    (result,) = [event for event in events if event["type"] == "TOOL_CALL_RESULT"]
    assert "the command is queued and may still be carried out" in json.loads(result["content"])["error"]
    assert world.commands.get(streams.user_id, device.current.device.id, late.id).status == "expired"
    assert delayed_messages(streams.stack, "ingest") >= 1


def test_a_cut_model_stream_is_withdrawn_and_answered_anew(streams: Streams) -> None:
    streams.model.answer(message(text("Hel"))[:4], cut=True)
    streams.model.answer(message(text("Hello")))
    request = hello()

    events = events_of(streams.run(streams.agent(request)).data)

    verify(events)
    assert types(events)[-5:] == [
        "MESSAGES_SNAPSHOT",
        "TEXT_MESSAGE_START",
        "TEXT_MESSAGE_CONTENT",
        "TEXT_MESSAGE_END",
        "RUN_FINISHED",
    ]
    shown = next(event for event in events if event["type"] == "MESSAGES_SNAPSHOT")
    assert [each["id"] for each in shown["messages"]] == ["u1"]
    log = streams.run(streams.make("GET", f"/api/v1/runs/{request['runId']}/events"))
    assert [event["type"] for event in events_of(log.data)].count("MESSAGES_SNAPSHOT") == 1


def test_a_model_stream_that_is_cut_each_time_is_an_error_and_leaks_nothing(streams: Streams) -> None:
    for _ in range(3):
        streams.model.answer(message(text("Hel"))[:4], cut=True)

    answer = streams.run(streams.agent(hello()))

    events = events_of(answer.data)
    verify(events)
    assert types(events)[-3:] == ["TEXT_MESSAGE_END", "MESSAGES_SNAPSHOT", "RUN_ERROR"]
    assert events[-1]["code"] == "MODEL_STREAM_CUT"


def test_a_refused_call_leaks_nothing_of_the_provider(streams: Streams) -> None:
    streams.model.fail(400, "invalid_request_error")

    answer = streams.run(streams.agent(hello()))

    assert events_of(answer.data)[-1]["code"] == "MODEL_REJECTED"
    assert b"secret" not in answer.data


def test_without_a_model_key_nothing_starts(streams: Streams) -> None:
    streams.stack.aws("secretsmanager").put_secret_value(SecretId=streams.stack.secrets["model"], SecretString="{}")

    answer = streams.run(streams.agent(hello()))

    assert answer.status == 503
    assert answer.json["error"]["message"] == "The language model is not configured"
    assert streams.items() == []


def test_a_client_that_leaves_does_not_stop_its_run(streams: Streams) -> None:
    hold = threading.Event()
    streams.model.answer(message(text("Hel", "lo")), hold=hold)
    request = streams.agent(hello())

    async def leave_after_the_first_chunk() -> None:
        from agent_stream.app import app

        serving = asyncio.create_task(request.run(app))
        while b"TEXT_MESSAGE_CONTENT" not in request.data:
            request.arrived.clear()
            await asyncio.wait_for(request.arrived.wait(), 10)
        request.left.set()
        hold.set()
        await asyncio.wait_for(serving, 10)

    streams.serve(leave_after_the_first_chunk())

    run_id = json.loads(request.body)["runId"]
    log = streams.run(streams.make("GET", f"/api/v1/runs/{run_id}/events"))
    events = events_of(log.data)
    verify(events)
    assert events[-1]["type"] == "RUN_FINISHED"


@pytest.mark.req("R-K-38")
@pytest.mark.parametrize("deltas", [10_000, 45_000])
def test_a_long_answer_arrives_whole_and_is_remembered(streams: Streams, deltas: int) -> None:
    words = [f"{i:019d} abc" for i in range(deltas)]
    streams.model.answer(message(text(*words)))
    streams.model.answer(message(text("As I said.")))

    first = events_of(streams.run(streams.agent(hello())).data)
    again = hello(messages=[{"id": "u2", "role": "user", "content": "and?"}])
    second = events_of(streams.run(streams.agent(again)).data)

    assert (first[-1]["type"], second[-1]["type"]) == ("RUN_FINISHED", "RUN_FINISHED")
    assert "".join(event.get("delta", "") for event in first) == "".join(words)
    assert streams.model.requests[1]["messages"][1]["content"] == [{"type": "text", "text": "".join(words)}]
    segments = [item for item in streams.items() if item["sk"]["S"].startswith("SEG#")]
    assert len(segments) <= 8 + len("".join(words)) / 8_000


class TestPages:
    """The stream URL gives the API's page to who asks for JSON: CloudFront sends the path to this function."""

    @pytest.fixture
    def path(self, streams: Streams) -> str:
        streams.model.answer(message(tool_use("c1", "searchDatabase", '{"query":"x"}'), stop_reason="tool_use"))
        streams.model.answer(message(text("None.")))
        body = hello()
        streams.run(streams.agent(body))
        return f"/api/v1/runs/{body['runId']}/events"

    @pytest.mark.fault("F-24i")
    def test_a_page_ends_by_bytes(self, streams: Streams, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
        json_only = {"accept": "application/json"}
        whole = streams.run(streams.make("GET", path, headers=json_only)).json["data"]["segments"]
        assert len(whole) > 1
        monkeypatch.setattr("karma.core.paging.MAX_PAGE_BYTES", 1)

        seen: list[Any] = []
        for after in range(len(whole)):
            page = streams.run(streams.make("GET", path, query=f"after={after}", headers=json_only)).json["data"]
            assert [page["next_after"], page["finished"]] == [after + 1, after + 1 == len(whole)]
            seen += page["segments"]

        assert seen == whole

    @pytest.mark.fault("F-06a")
    def test_a_log_is_read_by_pages(self, streams: Streams, path: str) -> None:
        json_only = {"accept": "application/json"}
        whole = events_of(streams.run(streams.make("GET", path)).data)

        seen, after, finished = [], 0, False
        while not finished:
            page = streams.run(streams.make("GET", path, query=f"after={after}&limit=2", headers=json_only))
            assert page.status == 200
            assert page.answer_headers["content-type"] == "application/json"
            assert page.answer_headers["vary"] == "accept"
            data = page.json["data"]
            assert len(data["segments"]) in {1, 2}
            assert data["segments"][0]["n"] == after + 1
            seen += [event for segment in data["segments"] for event in segment["events"]]
            after, finished = data["next_after"], data["finished"]

        assert page.json["success"] is True
        assert seen == whole
        end = {"segments": [{"n": after, "events": whole[-1:]}], "next_after": after, "finished": True}
        for beyond in (after, after + 1, 10**8 - 1):
            answer = streams.run(streams.make("GET", path, query=f"after={beyond}", headers=json_only))
            assert answer.json["data"] == end
            stream = streams.run(streams.make("GET", path, query=f"after={beyond}"))
            assert events_of(stream.data) == whole[-1:]
            assert stream.data.startswith(b"id: %d\n" % after)

    def test_it_is_the_page_of_the_api(
        self, streams: Streams, path: str, http_event: HttpEvent, lambda_context: Context
    ) -> None:
        ours = streams.run(streams.make("GET", path, headers={"accept": "application/json"}))
        from api.handler import lambda_handler

        streams.stack.use("api")

        theirs = lambda_handler(
            http_event("GET", path, headers={"authorization": f"Bearer {streams.token}"}), lambda_context
        )

        assert theirs["statusCode"] == 200
        body = json.loads(theirs["body"])
        assert {**ours.json, "timestamp": 0} == {**body, "timestamp": 0}

    @pytest.mark.parametrize("accept", ["", "*/*", "text/event-stream", "application/json, text/event-stream"])
    def test_others_get_the_stream(self, streams: Streams, path: str, accept: str) -> None:
        answer = streams.run(streams.make("GET", path, headers={"accept": accept}))

        assert answer.answer_headers["content-type"] == "text/event-stream"

    @pytest.mark.fault("F-24h")
    def test_all_that_is_wrong_with_a_page_is_told_at_once(self, streams: Streams) -> None:
        headers = {"accept": "application/json", "last-event-id": "x"}
        request = streams.make("GET", "/api/v1/runs/x/events", query="after=x&limit=0", headers=headers)

        details = streams.run(request).json["error"]["details"]

        assert [each["field"] for each in details] == ["after", "Last-Event-ID", "limit"]

    @pytest.mark.parametrize("query", ["limit=0", "limit=1001", "limit=x", "after=-1"])
    def test_hostile_pages(self, streams: Streams, query: str) -> None:
        request = streams.make("GET", "/api/v1/runs/x/events", query=query, headers={"accept": "application/json"})

        answer = streams.run(request)

        assert (answer.status, answer.json["error"]["code"]) == (422, "VALIDATION_ERROR")


class TestReattaching:
    def test_a_log_is_replayed_whole_and_from_any_position(self, streams: Streams) -> None:
        streams.model.answer(message(tool_use("c1", "searchDatabase", '{"query":"x"}'), stop_reason="tool_use"))
        streams.model.answer(message(text("None.")))
        body = hello()
        live = streams.run(streams.agent(body))
        path = f"/api/v1/runs/{body['runId']}/events"

        whole = streams.run(streams.make("GET", path))

        assert events_of(whole.data) == events_of(live.data)
        ids = [int(line[4:]) for line in whole.data.split(b"\n") if line.startswith(b"id: ")]
        assert ids == list(range(1, ids[-1] + 1))
        for n in ids[:-1]:
            before = whole.data.split(b"id: %d\n" % n)[0]
            rest = streams.run(streams.make("GET", path, query=f"after={n}"))
            seen = events_of(before)
            again = events_of(rest.data)
            # The frame that carries `id: n` is the last one of segment n.
            assert seen + events_of(whole.data)[len(seen) : len(seen) + 1] + again == events_of(whole.data)

    def test_a_client_that_holds_nothing_joins_a_run_with_its_conversation(self, streams: Streams) -> None:
        streams.model.answer(message(text("Hello")))
        streams.model.answer(message(text("Still here")))
        streams.run(streams.agent(hello()))
        body = hello(messages=[{"id": "u2", "role": "user", "content": "still there?"}], state={"page": 7})
        streams.run(streams.agent(body))
        path = f"/api/v1/runs/{body['runId']}/events"

        joined = streams.run(streams.make("GET", path, query="join=true"))

        events = events_of(joined.data)
        kinds = ["RUN_STARTED", "MESSAGES_SNAPSHOT", "MESSAGES_SNAPSHOT", "STATE_SNAPSHOT", "RUN_FINISHED"]
        assert types(events) == kinds
        assert events[1]["messages"] == []
        assert [each["content"] for each in events[2]["messages"]] == ["hi", "Hello", "still there?", "Still here"]
        assert events[3]["snapshot"]["page"] == 7
        # A position goes before it, as of a client that reconnects to the same URL.
        (n,) = [line[4:].decode() for line in joined.data.split(b"\n") if line.startswith(b"id: ")]
        again = streams.run(streams.make("GET", path, query="join=true", headers={"last-event-id": n}))
        assert types(events_of(again.data)) == ["RUN_FINISHED"]

    @pytest.mark.parametrize(
        ("query", "accept"), [("join=1", "text/event-stream"), ("join=yes", "*/*"), ("join=true", "application/json")]
    )
    def test_what_cannot_be_joined_is_refused(self, streams: Streams, query: str, accept: str) -> None:
        request = streams.make("GET", "/api/v1/runs/x/events", query=query, headers={"accept": accept})

        answer = streams.run(request)

        assert (answer.status, answer.json["error"]["details"][0]["field"]) == (422, "join")

    def test_nobody_joins_another_user_s_run(
        self, streams: Streams, another_user: Callable[..., tuple[str, str]]
    ) -> None:
        streams.model.answer(message(text("Hello")))
        body = hello()
        streams.run(streams.agent(body))
        _, token = another_user()
        path = f"/api/v1/runs/{body['runId']}/events"

        answer = streams.run(streams.make("GET", path, query="join=true", headers={"authorization": f"Bearer {token}"}))

        assert answer.status == 404

    @pytest.mark.fault("F-06e")
    def test_a_client_that_asks_for_the_same_url_again_gets_what_comes_after_its_last_id(
        self, streams: Streams
    ) -> None:
        streams.model.answer(message(text("Hi")))
        body = hello()
        streams.run(streams.agent(body))
        path = f"/api/v1/runs/{body['runId']}/events"

        def replayed(query: str, last: str | None, accept: str = "text/event-stream") -> Any:
            headers = {"accept": accept} | ({"last-event-id": last} if last is not None else {})
            return streams.run(streams.make("GET", path, query=query, headers=headers))

        after = {n: replayed(f"after={n}", None).data for n in range(3)}
        assert types(events_of(after[1]))[0] == "TEXT_MESSAGE_START"
        assert len(set(after.values())) == 3
        for query in ("", "after=", "after=0", "after=1", "after=2"):
            for n, expected in after.items():
                assert replayed(query, str(n)).data == expected, (query, n)
            assert replayed(query, "").data == after[int(query[6:] or 0)], query
        page = replayed("after=0", "1", "application/json").json["data"]
        assert next(each["n"] for each in page["segments"]) == 2
        for query, last, field in (("after=0", "x", "Last-Event-ID"), ("after=x", "1", "after")):
            assert [each["field"] for each in replayed(query, last).json["error"]["details"]] == [field]

    @pytest.mark.fault("F-10d")
    @pytest.mark.parametrize("accept", ["text/event-stream", "application/json"])
    def test_head_tells_what_a_log_would_come_as(self, streams: Streams, accept: str) -> None:
        streams.model.answer(message(text("Hi")))
        body = hello()
        streams.run(streams.agent(body))
        path = f"/api/v1/runs/{body['runId']}/events"

        answer = streams.run(streams.make("HEAD", path, headers={"accept": accept}))

        assert (answer.status, answer.answer_headers["content-type"], answer.data) == (200, accept, b"")
        assert streams.run(streams.make("HEAD", "/api/v1/agent")).status == 405

    def test_a_live_run_is_followed_to_its_end(self, streams: Streams) -> None:
        hold = threading.Event()
        streams.model.answer(message(text("Hel", "lo")), hold=hold)
        request = streams.agent(hello())
        follow = streams.make("GET", f"/api/v1/runs/{json.loads(request.body)['runId']}/events")

        async def both() -> None:
            from agent_stream.app import app

            serving = asyncio.create_task(request.run(app))
            await asyncio.wait_for(request.arrived.wait(), 10)
            following = asyncio.create_task(follow.run(app))
            await asyncio.wait_for(follow.arrived.wait(), 10)
            hold.set()
            await asyncio.wait_for(asyncio.gather(serving, following), 20)

        streams.serve(both())

        verify(events_of(follow.data))
        joined = "".join(event.get("delta", "") for event in events_of(follow.data))
        assert joined == "Hello"

    def test_a_stream_ends_with_its_position_when_the_time_is_up(
        self, streams: Streams, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("agent_stream.app.FOLLOW_S", 0.0)
        hold = threading.Event()
        streams.model.answer(message(text("Hel")), hold=hold)
        request = streams.agent(hello())
        follow = streams.make("GET", f"/api/v1/runs/{json.loads(request.body)['runId']}/events")

        async def both() -> None:
            from agent_stream.app import app

            serving = asyncio.create_task(request.run(app))
            await asyncio.wait_for(request.arrived.wait(), 10)
            await asyncio.wait_for(follow.run(app), 10)
            hold.set()
            await asyncio.wait_for(serving, 10)

        streams.serve(both())

        assert follow.data.rstrip().split(b"\n")[-1].startswith(b"id: ")

    def test_another_user_finds_nothing(self, streams: Streams, another_user: Callable[..., tuple[str, str]]) -> None:
        streams.model.answer(message(text("Hi")))
        body = hello()
        streams.run(streams.agent(body))
        _, token = another_user(name="Eve")

        answer = streams.run(
            streams.make("GET", f"/api/v1/runs/{body['runId']}/events", headers={"authorization": f"Bearer {token}"})
        )

        assert answer.status == 404
        assert answer.json["error"]["code"] == "NOT_FOUND"


@pytest.mark.fault("F-25a")
def test_a_request_is_read_beside_the_event_loop(streams: Streams, monkeypatch: pytest.MonkeyPatch) -> None:
    loops: list[bool] = []

    def watched(body: bytes, **given: Any) -> RunInput:
        loops.append(is_in_a_loop())
        return parse_run_input(body, **given)

    monkeypatch.setattr("agent_stream.app.parse_run_input", watched)
    streams.model.answer(message(text("Hello.")))

    streams.run(streams.agent(hello()))

    assert loops == [False], "a body of megabytes that is read on the event loop holds up every stream of the process"


def is_in_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


@pytest.mark.fault("F-06c")
def test_a_client_that_stopped_goes_on_with_its_next_message(streams: Streams) -> None:
    hold = threading.Event()
    streams.model.answer(message(text("Hel")), hold=hold)
    streams.model.answer(message(text("Better so.")))
    body = hello()
    asked_more = [*body["messages"], {"id": "u2", "role": "user", "content": "shorter, please"}]
    first, second = streams.agent(body), streams.agent(hello(messages=asked_more))

    async def stop_and_go_on() -> None:
        from agent_stream.app import app

        serving = asyncio.create_task(first.run(app))
        await asyncio.wait_for(first.arrived.wait(), 10)
        try:
            await asyncio.wait_for(second.run(app), 20)
        except TimeoutError:
            pytest.fail("the next message waits for the run that its client has stopped")
        finally:
            hold.set()
        await asyncio.wait_for(serving, 10)

    streams.serve(stop_and_go_on())

    assert second.status == 200, f"the thread is still kept busy: {second.status} {second.data!r}"
    assert events_of(first.data)[-1].get("outcome") == {"type": "cancelled"}
    events = events_of(second.data)
    verify(events)
    assert "".join(event.get("delta", "") for event in events) == "Better so."
    run = streams.run(streams.make("GET", f"/api/v1/runs/{body['runId']}/events", query="after=99"))
    assert types(events_of(run.data)) == ["RUN_FINISHED"]


@pytest.mark.fault("F-06c")
def test_a_second_run_of_a_busy_thread_and_a_used_run_id_are_conflicts(streams: Streams) -> None:
    hold = threading.Event()
    streams.model.answer(message(text("Hel")), hold=hold)
    body = hello()
    other = hello(messages=[{"id": "u2", "role": "user", "content": "of somebody else"}])
    first, bare, second, third = (
        streams.agent(body),
        streams.agent(other),
        streams.make("POST", "/api/v1/agent", body={**other, "runId": new_id()}),
        streams.make("POST", "/api/v1/agent", body={**body, "threadId": "t2"}),
    )

    async def overlap() -> None:
        from agent_stream.app import app

        serving = asyncio.create_task(first.run(app))
        await asyncio.wait_for(first.arrived.wait(), 10)
        await bare.run(app)
        await second.run(app)
        await third.run(app)
        hold.set()
        await serving

    streams.serve(overlap())

    assert [second.status, second.json["error"]["code"]] == [409, "THREAD_BUSY"]
    assert [bare.status, bare.json["error"]["type"]] == [409, "ThreadBusy"]
    for busy in (second, bare):
        assert busy.json["error"].get("details") == {"run_id": body["runId"]}, "who keeps the thread busy is not said"
        assert int(busy.answer_headers.get("retry-after", 0)) > 0, "when to come again is not said"
    assert [third.status, third.json["error"]["code"]] == [409, "CONFLICT"]


def test_a_viewer_may_read_but_not_run(streams: Streams, another_user: Callable[..., tuple[str, str]]) -> None:
    _, token = another_user(role=Role.VIEWER)

    answer = streams.run(streams.agent(hello(), headers={"authorization": f"Bearer {token}"}))

    assert answer.status == 403
    assert streams.items() == []


@pytest.mark.req("R-K-47")
def test_behind_cloudfront_only_its_secret_opens(streams: Streams) -> None:
    arn = streams.stack.aws("secretsmanager").create_secret(
        Name="test/origin", SecretString=json.dumps({"secrets": ["new", "old"]})
    )["ARN"]
    streams.stack.use(
        "agent_stream", MODEL_BASE_URL=streams.model.url, MODEL_ID="claude-haiku-5-5", ORIGIN_SECRET_ARN=arn
    )

    statuses = [
        streams.run(streams.agent({}, headers={"x-karma-origin": value})).status
        for value in ("", "guess", "new", "old")
    ]

    assert statuses == [403, 403, 422, 422], "who gets in is told that an empty request asks for nothing"


def test_health_needs_no_token(streams: Streams) -> None:
    answer = streams.run(streams.make("GET", "/health", headers={"authorization": ""}))

    assert (answer.status, answer.json) == (200, {"status": "ok"})
