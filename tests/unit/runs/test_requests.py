"""RunAgentInput: lenient about members that are absent or unknown. Wrong ones are in
tests/integration/agent_stream/test_hostile.py.
"""

from typing import Any

import orjson
import pytest

from karma.agents.domain import MultitaskStrategy
from karma.core.errors import ValidationFailed
from karma.core.freeform import MAX_LEVELS, MAX_VALUES, TOO_MANY
from karma.runs.opening import shown
from karma.runs.requests import (
    ContextEntry,
    parse_json,
    parse_run_input,
)
from karma.tools.json_schema import MAX_BYTES as MAX_SCHEMA_BYTES
from karma.tools.json_schema import MAX_SCHEMAS_BYTES
from karma.tools.json_schema import MAX_VALUES as MAX_SCHEMA_VALUES


def read(**body: Any) -> Any:
    return parse_run_input(orjson.dumps(body))


@pytest.mark.req("R-K-37")
def test_everything_has_a_default_and_ids_are_made() -> None:
    one, two = read(), read()

    assert (one.messages, one.state, one.tools, one.context) == ((), {}, (), ())
    assert one.thread_id != two.thread_id
    assert one.run_id != two.run_id


@pytest.mark.req("R-K-37")
def test_an_empty_object_is_read_as_no_context() -> None:
    assert read(context={}).context == ()
    assert read(context=[{"description": "a", "value": "b"}]).context == (ContextEntry("a", "b"),)


def test_nulls_of_optional_members_are_accepted() -> None:
    asked = read(state=None, tools=None, context=None, parentRunId=None, forwardedProps=None, protocolVersion=None)

    assert asked.warnings == ()


@pytest.mark.parametrize(
    ("body", "warning"),
    [
        ({"surprise": 1}, "unknown member 'surprise'"),
        ({"protocolVersion": "1.7"}, None),
        ({"protocolVersion": "soon"}, "protocolVersion is not readable"),
    ],
)
def test_what_is_unknown_is_noted_and_passed_over(body: dict[str, Any], warning: str | None) -> None:
    assert read(**body).warnings == ((warning,) if warning else ())


def test_each_role_goes_where_it_belongs() -> None:
    asked = read(
        messages=[
            {"id": "1", "role": "system", "content": "be a pirate"},
            {"id": "2", "role": "developer", "content": "and kind"},
            {"id": "3", "role": "user", "content": [{"type": "text", "text": "hi", "id": "p"}]},
            {
                "id": "4",
                "role": "assistant",
                "toolCalls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
            },
            {"id": "5", "role": "tool", "toolCallId": "c", "content": "", "error": "denied"},
            {"id": "6", "role": "activity", "activityType": "x", "content": {}},
            {"id": "7", "role": "reasoning", "content": "hm"},
        ]
    )

    assert asked.instructions == ("be a pirate", "and kind")
    assert [message.role for message in asked.messages] == ["user", "assistant", "tool"]
    assert asked.messages[0].content == ({"type": "text", "text": "hi"},)
    assert asked.messages[1].tool_calls == (("c", "f", "{}"),)
    assert (asked.messages[2].failed, asked.messages[2].content) == (True, "denied")


IMAGE = {"type": "image", "source": {"type": "url", "value": "https://example.com/a.png"}}


@pytest.mark.fault("F-29q")
@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "denied"),
        (" ", "denied"),
        ("{}", "denied\n{}"),
        ("denied", "denied"),
        ("denied\nby the browser", "denied\nby the browser"),
        ('{"error": "denied", "code": 7}', '{"error": "denied", "code": 7}'),
        ([], ({"type": "text", "text": "denied"},)),
        (
            [{"type": "text", "text": "half"}, IMAGE],
            ({"type": "text", "text": "denied"}, {"type": "text", "text": "half"}, IMAGE),
        ),
    ],
)
def test_why_a_tool_of_the_client_failed_is_told_beside_what_it_found(content: Any, told: Any) -> None:
    sent = {"id": "5", "role": "tool", "toolCallId": "c", "content": content, "error": "denied"}
    (message,) = read(messages=[sent]).messages
    assert (message.content, message.failed) == (told, True)
    for speaks in ((1, 0), (0, 1)):
        (again,) = read(messages=[dict(shown(message, speaks))]).messages
        assert (again.content, again.failed) == (told, True) or speaks == (0, 1), (
            "a client that holds it sends the same"
        )


def test_every_wrong_field_is_named() -> None:
    with pytest.raises(ValidationFailed) as caught:
        read(threadId=7, state="x" * 200_000, messages=[{"role": "user"}], tools=[{"name": ""}])

    assert [entry["field"] for entry in caught.value.details] == [  # type: ignore[union-attr, index]
        "threadId",
        "state",
        "messages.0.content",
        "tools.0.name",
    ]


@pytest.mark.fault("F-08a")
@pytest.mark.parametrize("levels", [1, 63, 64, 65, 250, 254, 255, 1000, 1024, 2000])
@pytest.mark.parametrize(
    ("field", "body"),
    [
        ("state", '{"state": {"a": %s}}'),
        ("forwardedProps", '{"forwardedProps": {"a": %s}}'),
        ("tools.0.parameters", '{"tools": [{"name": "f", "parameters": {"a": %s}}]}'),
        ("messages.0.content", '{"messages": [{"role": "activity", "content": {"a": %s}}]}'),
        ("context.0.value", '{"context": [{"description": "d", "value": {"a": %s}}]}'),
        ("resume.0.payload", '{"resume": [{"payload": {"a": %s}}]}'),
        ("memory", '{"memory": {"a": %s}}'),
    ],
)
def test_a_free_form_value_has_at_most_64_levels(levels: int, field: str, body: str) -> None:
    text = (body % ("[" * (levels - 1) + "]" * (levels - 1) if levels > 1 else "0")).encode()
    if levels <= MAX_LEVELS:
        assert parse_json(text)
        return
    with pytest.raises(ValidationFailed) as caught:
        parse_json(text)
    ((named, message),) = [(entry["field"], entry["message"]) for entry in caught.value.details]  # type: ignore[union-attr, index]
    assert named in (field, field.partition(".")[0])
    assert named == field or levels > 1000
    assert message == "nested deeper than 64 levels"


def test_a_request_has_so_many_values() -> None:
    with pytest.raises(ValidationFailed) as caught:
        parse_run_input(b'{"forwardedProps":{"a":[' + b"[]," * MAX_VALUES + b"0]}}")
    assert caught.value.details == [{"field": "forwardedProps", "message": TOO_MANY, "type": "value_error"}]


@pytest.mark.parametrize(
    ("enums", "field", "limit"),
    [
        ([["x" * MAX_SCHEMA_BYTES]], "tools.0.parameters", f"{MAX_SCHEMA_BYTES} bytes"),
        ([[], [[]] * MAX_SCHEMA_VALUES], "tools.1.parameters", f"{MAX_SCHEMA_VALUES} values"),
        ([["x" * (MAX_SCHEMA_BYTES - 100)]] * 5, "tools", f"{MAX_SCHEMAS_BYTES} bytes"),
    ],
    ids=["bytes", "values", "together"],
)
def test_schemas_of_tools_are_bounded(enums: list[list[object]], field: str, limit: str) -> None:
    tools = [{"name": f"t{i}", "parameters": {"enum": enum}} for i, enum in enumerate(enums)]
    with pytest.raises(ValidationFailed) as caught:
        read(tools=tools)
    ((named, message),) = [(entry["field"], entry["message"]) for entry in caught.value.details]  # type: ignore[union-attr, index]
    assert named == field
    assert f"at most {limit}" in message


def test_schemas_within_the_limits_are_taken() -> None:
    enum = [*range(MAX_SCHEMA_VALUES - 100), "x" * 100_000]
    tools = [{"name": f"t{i}", "parameters": {"properties": {"a": {"enum": enum}}}} for i in range(6)]
    assert len(read(tools=tools).tools) == 6


def test_many_brackets_are_not_deep() -> None:
    assert parse_json(b"[" + b"[],[]," * 100 + b"[]]")


@pytest.mark.parametrize("name", ["multitask_strategy", "on_disconnect"])
@pytest.mark.parametrize("value", ["later", "", 1, ["interrupt"], {"a": 1}])
def test_another_policy_than_there_is_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(ValidationFailed) as caught:
        read(forwardedProps={name: value})
    assert isinstance(caught.value.details, list)
    assert [entry["field"] for entry in caught.value.details] == [f"forwardedProps.{name}"]


def test_policies_have_defaults_and_are_read() -> None:
    assert (read().strategy, read().ends_with_client) == (None, False)
    for strategy in MultitaskStrategy:
        named = {"multitask_strategy": strategy.value, "on_disconnect": "cancel"}
        assert (read(forwardedProps=named).strategy, read(forwardedProps=named).ends_with_client) == (strategy, True)
    unsaid = {"multitask_strategy": None, "on_disconnect": None}
    assert (read(forwardedProps=unsaid).strategy, read(forwardedProps=unsaid).ends_with_client) == (None, False)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("multitaskStrategy", "multitask_strategy"),
        ("multitask-strategy", "multitask_strategy"),
        ("multitask_stategy", "multitask_strategy"),
        ("agentId", "agent_id"),
        ("Budget", "budget"),
        ("budgets", "budget"),
        ("onDisconnect", "on_disconnect"),
    ],
)
def test_a_forwarded_prop_that_is_ours_but_for_its_spelling_is_named(name: str, meant: str) -> None:
    read = parse_run_input(orjson.dumps({"forwardedProps": {name: "reject", "theme": "dark"}}))
    assert read.warnings == (f"forwardedProps.{name} is no member of ours; {meant} is one",)
    assert read.strategy is None


@pytest.mark.parametrize(
    "props", [{"agent_id": "karma"}, {"agent": "x", "strategy": "y", "model": {"id": 1}, "": 1, "streamMode": 1}, "x"]
)
def test_other_forwarded_props_are_somebody_else_s(props: object) -> None:
    assert parse_run_input(orjson.dumps({"forwardedProps": props})).warnings == ()
