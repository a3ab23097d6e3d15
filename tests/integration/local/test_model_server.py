"""The offline model, asked by the vendor's own client: whatever is said, it answers in pieces and calls what fits."""

import http.client
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import psutil
import pytest
from anthropic.types import Message, MessageParam, ToolParam

from karma.conversations.domain import Message as History
from karma.conversations.history import STOPPED, late_results
from karma.conversations.repair import UNANSWERED
from local import ports
from local.cross_origin import CONTROL_HEADER
from local.model_server import ModelServer
from local.places import Places
from local.processes import Processes

TOOLS: list[ToolParam] = [
    {"name": name, "description": name, "input_schema": {"type": "object"}}
    for name in ("searchDatabase", "controlDevice")
]
FOUND = {
    "results": [
        {"id": "01a1", "serial_number": "EOS-3A-0001", "name": "Left arm", "status": "offline"},
        {"id": "01a2", "serial_number": "EOS-3A-0002", "name": "Right arm", "status": "online"},
    ]
}


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Places:
    places = Places(base=tmp_path_factory.mktemp("model"))
    places.make()
    return places


@pytest.fixture(scope="module")
def model(places: Places) -> Iterator[anthropic.Anthropic]:
    if shutil.which("node") is None or not (places.node_modules / "@copilotkit").exists():
        pytest.skip("the offline model needs Node.js and npm packages: run `make install`")
    processes = Processes(places)
    server = ModelServer(places, ports.choose(None)["model"], pace_ms=1)
    server.start(processes)
    try:
        server.wait_ready(processes)
        with anthropic.Anthropic(base_url=server.url, api_key="x", max_retries=0) as client:
            yield client
    finally:
        processes.stop(["model"])


def journal(model: anthropic.Anthropic) -> list[Any]:
    return model.get("/__aimock/journal", cast_to=list[Any], options={"headers": {CONTROL_HEADER: "1"}})


def ask(model: anthropic.Anthropic, messages: list[MessageParam], tools: list[ToolParam]) -> tuple[Message, int]:
    """Return what the model said, and in how many pieces of text."""
    with model.messages.stream(model="claude-sonnet-5-5", max_tokens=500, messages=messages, tools=tools) as stream:
        pieces = sum(event.type == "text" for event in stream)
        return stream.get_final_message(), pieces


def called(message: Message) -> list[tuple[str, Any]]:
    return [(block.name, block.input) for block in message.content if block.type == "tool_use"]


def answered(message: Message, content: object) -> list[MessageParam]:
    (call,) = [block for block in message.content if block.type == "tool_use"]
    result = {"type": "tool_result", "tool_use_id": call.id, "content": json.dumps(content)}
    blocks: Any = [block.model_dump(exclude_none=True) for block in message.content]
    reply: Any = [result]
    return [{"role": "assistant", "content": blocks}, {"role": "user", "content": reply}]


@pytest.mark.parametrize(
    "text", ["hi", "What is the capital of France?", "你好", "Write a poem about the sea", "?", "tell me a joke"]
)
def test_any_message_is_answered_in_at_least_five_pieces(model: anthropic.Anthropic, text: str) -> None:
    message, pieces = ask(model, [{"role": "user", "content": text}], TOOLS)
    assert called(message) == []
    assert pieces >= 5
    assert message.usage.output_tokens > 0


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("Which of my devices are online?", "online devices"),
        ("list all robots", "devices"),
        ("Is EOS-3B-77 working?", "EOS-3B-77"),
        ("show me what is offline", "offline devices"),
        ("我的设备在线吗", "online devices"),
        ("reboot EOS-3A-0042", "EOS-3A-0042"),
    ],
)
def test_questions_about_devices_are_looked_up(model: anthropic.Anthropic, text: str, query: str) -> None:
    message, pieces = ask(model, [{"role": "user", "content": text}], TOOLS)
    ((name, arguments),) = called(message)
    assert (name, arguments["query"]) == ("searchDatabase", query)
    assert pieces >= 5


@pytest.mark.parametrize(
    ("text", "serial", "command", "params"),
    [
        ("Find my online device and move it", "EOS-3A-0002", "move", {"x": 0, "y": 100}),
        ("Move the robot to x=10 y=-20", "EOS-3A-0002", "move", {"x": 10, "y": -20}),
        ("please move the online device 5 cm to the left", "EOS-3A-0002", "move", {"x": -50, "y": 0}),
        ("Move EOS-3A-0001 to (1, 2, 3)", "EOS-3A-0001", "move", {"x": 1, "y": 2, "z": 3}),
        ("drive the left arm device 30mm forward", "EOS-3A-0001", "move", {"x": 0, "y": 30}),
        ("stop the device", "EOS-3A-0002", "stop", None),
        ("set the LED of my device to green", "EOS-3A-0002", "set_led", {"color": "green"}),
        ("ping the device EOS-3A-0001", "EOS-3A-0001", "ping", None),
        ("control the online device", "EOS-3A-0002", "ping", None),
    ],
)
def test_a_wish_becomes_a_command_to_the_device_that_fits(
    model: anthropic.Anthropic, text: str, serial: str, command: str, params: dict[str, float] | None
) -> None:
    messages: list[MessageParam] = [{"role": "user", "content": text}]
    first, _ = ask(model, messages, TOOLS)
    messages += answered(first, FOUND)
    second, _ = ask(model, messages, TOOLS)
    ((name, arguments),) = called(second)
    assert (name, arguments["device_id"], arguments["command"]) == ("controlDevice", serial, command)
    assert arguments.get("params") == params
    messages += answered(second, {"success": True, "result": {"done": 1}})
    last, pieces = ask(model, messages, TOOLS)
    assert called(last) == []
    assert last.stop_reason == "end_turn"
    assert pieces >= 5


def test_it_calls_no_tool_that_was_not_offered(model: anthropic.Anthropic) -> None:
    message, pieces = ask(model, [{"role": "user", "content": "move my device"}], [])
    assert called(message) == []
    assert pieces >= 5


def test_tools_of_an_earlier_turn_do_not_count(model: anthropic.Anthropic) -> None:
    messages: list[MessageParam] = [{"role": "user", "content": "which devices are online?"}]
    first, _ = ask(model, messages, TOOLS)
    messages += answered(first, FOUND)
    second, _ = ask(model, messages, TOOLS)
    text = "".join(block.text for block in second.content if block.type == "text")
    messages += [{"role": "assistant", "content": text}, {"role": "user", "content": "now move the online device"}]
    third, _ = ask(model, messages, TOOLS)
    assert called(third)[0][0] == "searchDatabase"


@pytest.mark.fault("F-01d")
def test_a_request_that_the_api_refuses_is_refused_as_the_api_does(model: anthropic.Anthropic) -> None:
    before = len(journal(model))
    image: Any = {"type": "image", "source": {"type": "base64", "media_type": "image/heic", "data": "QUJD"}}
    refused: list[list[MessageParam]] = [
        [{"role": "assistant", "content": "Hello."}, {"role": "user", "content": "hi"}],
        [{"role": "user", "content": " "}],
        [{"role": "user", "content": [image]}],
    ]

    for messages in refused:
        with pytest.raises(anthropic.BadRequestError) as caught:
            ask(model, messages, [])
        assert caught.value.type == "invalid_request_error"

    ask(model, [{"role": "user", "content": "hi"}], [])
    assert len(journal(model)) == before + 1


def test_the_script_is_where_the_server_looks_for_it() -> None:
    assert (Path(__file__).parents[3] / "local" / "model" / "server.mjs").exists()


def test_a_tool_of_the_client_that_is_named_is_called_and_its_result_told(model: anthropic.Anthropic) -> None:
    properties = {"title": {"type": "string"}, "count": {"type": "integer"}, "colour": {"enum": ["red", "blue"]}}
    tools = [
        *TOOLS,
        ToolParam(name="askUser", description="", input_schema={"type": "object", "properties": properties}),
    ]
    asked: MessageParam = {"role": "user", "content": "Please askUser about my devices, in blue"}

    first, _ = ask(model, [asked], tools)
    last, _ = ask(model, [asked, *answered(first, {"said": "yes"})], tools)

    assert called(first) == [("askUser", {"title": asked["content"], "count": 0, "colour": "blue"})]
    assert not called(last)
    assert '{"said": "yes"}' in "".join(block.text for block in last.content if block.type == "text")


@pytest.mark.fault("F-06d")
@pytest.mark.parametrize("unanswered", [STOPPED, UNANSWERED])
def test_a_call_whose_run_ended_is_made_once_more(model: anthropic.Anthropic, unanswered: str) -> None:
    asked: MessageParam = {"role": "user", "content": "Which of my devices are online?"}
    first, _ = ask(model, [asked], TOOLS)

    again, _ = ask(model, [asked, *answered(first, json.loads(unanswered))], TOOLS)

    assert called(again) == called(first) != []


@pytest.mark.fault("F-01g")
@pytest.mark.parametrize(
    ("said", "calls", "words"),
    [
        ("and say hello", [], 'You said: "and say hello"'),
        ("Which of my devices are online?", ["searchDatabase"], "look that up"),
        ("now askUser again", ["askUser"], "You name askUser"),
    ],
)
def test_a_message_that_comes_with_a_tools_result_is_answered_too(
    model: anthropic.Anthropic, said: str, calls: list[str], words: str
) -> None:
    schema: dict[str, object] = {"type": "object", "properties": {"question": {"type": "string"}}}
    tools = [*TOOLS, ToolParam(name="askUser", description="", input_schema=schema)]
    asked: MessageParam = {"role": "user", "content": "Please askUser"}
    first, _ = ask(model, [asked], tools)
    called_it, reply = answered(first, {"said": "yes"})
    blocks: Any = [*reply["content"], {"type": "text", "text": said}]
    together: MessageParam = {"role": "user", "content": blocks}

    answer, _ = ask(model, [asked, called_it, together], tools)

    text = "".join(block.text for block in answer.content if block.type == "text")
    assert '{"said": "yes"}' in text
    assert words in text
    assert [name for name, _ in called(answer)] == calls


@pytest.mark.fault("F-26b", "F-26c")
@pytest.mark.fault("F-01i")
@pytest.mark.parametrize("outcome", ["gave its result", "failed"])
def test_a_result_that_came_late_is_told_and_asks_for_nothing(model: anthropic.Anthropic, outcome: str) -> None:
    late = next(
        late_results([History(id="r1", role="tool", content="blue", tool_call_id="c1", failed=outcome == "failed")])
    )
    assert isinstance(late.content, str)
    told: MessageParam = {"role": "user", "content": late.content.replace("a tool", "askUser")}
    tools = [*TOOLS, ToolParam(name="askUser", description="", input_schema={"type": "object", "properties": {}})]

    answer, _ = ask(model, [told], tools)

    assert outcome in late.content
    assert not called(answer)
    assert "The tool askUser has answered late, and this is what it said: blue" in "".join(
        block.text for block in answer.content if block.type == "text"
    )


@pytest.mark.usefixtures("model")
def test_what_listens_behind_the_front_hears_the_front_alone(places: Places) -> None:
    front = psutil.Process(Processes(places).running()["model"])
    behind = {
        connection.laddr.port
        for child in front.children(recursive=True)
        for connection in child.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert behind
    upgrade = {"connection": "Upgrade", "upgrade": "websocket", "sec-websocket-version": "13", "sec-websocket-key": "x"}
    for port in behind:
        for method in ("GET", "HEAD", "POST", "OPTIONS", "DELETE"):
            for path in ("/health", "/v1/messages", "/__aimock/journal", "/v1/realtime", "/"):
                for headers in ({}, {"x-api-key": "offline-model"}, {"expect": "100-continue"}, upgrade):
                    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
                    connection.request(method, path, headers={"host": "elsewhere.example", **headers})
                    answer = connection.getresponse()
                    assert (answer.status, answer.getheader("access-control-allow-origin")) == (403, None)
                    connection.close()


def test_an_answer_is_as_long_as_it_is_asked_for_slow_or_an_error(model: anthropic.Anthropic) -> None:
    message, pieces = ask(model, [{"role": "user", "content": "Tell me something slowly in 40 words."}], TOOLS)
    (block,) = message.content
    assert isinstance(block, anthropic.types.TextBlock)
    assert (len(block.text.split()), message.usage.output_tokens > 40, pieces > 5) == (40, True, True)
    with pytest.raises(anthropic.APIStatusError) as failed:
        ask(model, [{"role": "user", "content": "Please fail with 503."}], TOOLS)
    assert failed.value.status_code == 503


def test_a_subagent_is_called_by_its_name_and_does_what_the_message_says(model: anthropic.Anthropic) -> None:
    text = "Ask scout in 30 words."
    scout: ToolParam = {"name": "scout", "input_schema": {"type": "object", "properties": {"task": {"type": "string"}}}}
    message, _ = ask(model, [{"role": "user", "content": text}], [scout])
    assert called(message) == [("scout", {"task": text})]
