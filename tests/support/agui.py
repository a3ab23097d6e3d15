"""Checks of an AG-UI 1.0 client on a stream: the models of ag_ui.core and the rules of @ag-ui/client's verifyEvents."""

from collections.abc import Iterable
from typing import Any

from ag_ui.core import Event
from pydantic import TypeAdapter

_EVENT: TypeAdapter[Any] = TypeAdapter(Event)


_OF_1_0 = {
    "RUN_FINISHED": {"outcome", "usage"},
    "RUN_ERROR": {"usage"},
    "TOOL_CALL_RESULT": {"metadata"},
}
"""Fields that clients from before 1.0 do not know."""


class ProtocolViolated(AssertionError):
    """The client would reject this stream."""


def verify(events: Iterable[dict[str, Any]], *, complete: bool = True) -> None:  # noqa: C901  one rule a branch
    """Check a stream of one run.

    Raises:
        ProtocolViolated: the stream breaks a rule; the message names it.
    """
    texts: set[str] = set()
    tools: set[str] = set()
    started: list[str] = []
    withdrawn: list[str] = []
    answered: set[str] = set()
    terminal = ""
    first = True
    older = False
    for event in events:
        kind = event["type"]
        _check_model(event)
        if first and kind not in {"RUN_STARTED", "RUN_ERROR"}:
            raise ProtocolViolated("First event must be 'RUN_STARTED'")
        if not first and kind == "RUN_STARTED":
            raise ProtocolViolated("RUN_STARTED within a run")
        if kind == "RUN_STARTED":
            older = "protocolVersion" not in event
            if not older and event["protocolVersion"] != "1.0":
                raise ProtocolViolated("RUN_STARTED without our protocolVersion")
        if older and (newer := _OF_1_0.get(kind, set()) & set(event)):
            raise ProtocolViolated(f"{kind} for a client from before 1.0 has {newer}")
        first = False
        if terminal:
            raise ProtocolViolated(f"{kind} after {terminal}")
        if kind.startswith("TEXT_MESSAGE_"):
            _follow(kind.removeprefix("TEXT_MESSAGE_"), event["messageId"], texts, kind)
        elif kind == "MESSAGES_SNAPSHOT":
            kept = {call["id"] for message in event["messages"] for call in message.get("toolCalls", ())}
            withdrawn += [call_id for call_id in started if call_id not in kept]
            started = [call_id for call_id in started if call_id in kept]
        elif kind == "TOOL_CALL_RESULT":
            answered.add(event["toolCallId"])
            if event["toolCallId"] not in started:
                raise ProtocolViolated("a result of a call that was not started")
        elif kind.startswith("TOOL_CALL_"):
            call_id = event["toolCallId"]
            _follow(kind.removeprefix("TOOL_CALL_"), call_id, tools, kind)
            if kind == "TOOL_CALL_START":
                if call_id in started or call_id in withdrawn:
                    raise ProtocolViolated("a call id is used twice")
                if not event.get("parentMessageId"):
                    raise ProtocolViolated("TOOL_CALL_START without parentMessageId")
                started.append(call_id)
        elif kind in {"RUN_FINISHED", "RUN_ERROR"}:
            terminal = kind
            if texts or tools:
                raise ProtocolViolated(f"{kind} while something is open: {texts | tools}")
            if kind == "RUN_FINISHED" and not older and event["outcome"]["type"] == "success":
                unanswered = [call_id for call_id in started if call_id not in answered]
                pending = event["outcome"].get("pendingToolCallIds", [])
                if started and unanswered != pending:
                    raise ProtocolViolated(f"pendingToolCallIds {pending} are not {unanswered}")
    if complete and not terminal:
        raise ProtocolViolated("the stream has no terminal event")


def _follow(step: str, item: str, opened: set[str], kind: str) -> None:
    if step == "START":
        if item in opened:
            raise ProtocolViolated(f"{kind}: {item} is already in progress")
        opened.add(item)
    elif item not in opened:
        raise ProtocolViolated(f"{kind}: {item} is not open")
    elif step == "END":
        opened.remove(item)


def _check_model(event: dict[str, Any]) -> None:
    parsed = _EVENT.validate_python(event)
    again = parsed.model_dump(mode="json", by_alias=True)
    unknown = set(event) - set(again)
    assert not unknown, f"{event['type']} has members that the protocol does not know: {unknown}"
    nulls = [name for name, value in event.items() if value is None]
    assert not nulls, f"{event['type']} has null in {nulls}"
    extra = parsed.model_extra or {}
    assert not extra, f"{event['type']} has extra members: {extra}"
