"""Checks of an AG-UI 1.0 client on a stream: the models of ag_ui.core and the rules of @ag-ui/client's verifyEvents."""

from collections.abc import Collection, Iterable
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


def verify(
    events: Iterable[dict[str, Any]],
    *,
    complete: bool = True,
    held: Collection[str] = (),
    asked: Collection[str] = (),
) -> None:
    """Check a stream of one run.

    `held` are ids of calls that waited for an answer when it began, `asked` of those that do when it has ended.

    Raises:
        ProtocolViolated: the stream breaks a rule; the message names it.
    """
    texts, tools, spans, thoughts = (set[str]() for _ in range(4))
    started: list[str] = []
    withdrawn: list[str] = []
    answered: set[str] = set()
    terminal = ""
    first = True
    older = False
    subagents = _Subagents()
    for event in events:
        kind = event["type"]
        _check_model(event)
        subagents.check(event, older=older)
        _check_begun(kind, is_first=first)
        if kind == "RUN_STARTED":
            older = _is_older(event)
        if older and (newer := _OF_1_0.get(kind, set()) & set(event)):
            raise ProtocolViolated(f"{kind} for a client from before 1.0 has {newer}")
        first = False
        if terminal:
            raise ProtocolViolated(f"{kind} after {terminal}")
        if kind.startswith("TEXT_MESSAGE_"):
            _follow(kind.removeprefix("TEXT_MESSAGE_"), event["messageId"], texts, kind)
        elif kind.startswith("REASONING_"):
            if older:
                raise ProtocolViolated(f"{kind} for a client from before 1.0")
            _follow_reasoning(kind, event["messageId"], spans, thoughts)
        elif kind == "MESSAGES_SNAPSHOT":
            kept = {call["id"] for message in event["messages"] for call in message.get("toolCalls", ())}
            withdrawn += [call_id for call_id in started if call_id not in kept]
            started = [call_id for call_id in started if call_id in kept]
        elif kind == "TOOL_CALL_RESULT":
            answered.add(event["toolCallId"])
            _check_started(event["toolCallId"], [*started, *held])
        elif kind.startswith("TOOL_CALL_"):
            call_id = event["toolCallId"]
            _follow(kind.removeprefix("TOOL_CALL_"), call_id, tools, kind)
            if kind == "TOOL_CALL_START":
                _begin_call(event, started, withdrawn)
        elif kind in {"RUN_FINISHED", "RUN_ERROR"}:
            terminal = kind
            _check_closed(kind, texts | tools | spans | thoughts | subagents.active)
            if kind == "RUN_FINISHED" and not older and started:
                _check_pending(event["outcome"], [each for each in started if each not in {*answered, *asked}])
    if complete and not terminal:
        raise ProtocolViolated("the stream has no terminal event")


def _check_begun(kind: str, *, is_first: bool) -> None:
    if is_first and kind not in {"RUN_STARTED", "RUN_ERROR"}:
        raise ProtocolViolated("First event must be 'RUN_STARTED'")
    if not is_first and kind == "RUN_STARTED":
        raise ProtocolViolated("RUN_STARTED within a run")


class _Subagents:
    """The rules of subagents: each begins and ends once, and what it says has its name to the end."""

    def __init__(self) -> None:
        self.active: set[str] = set()
        self._begun: set[str] = set()
        self._owners: dict[tuple[str, str], str] = {}

    def check(self, event: dict[str, Any], *, older: bool) -> None:
        kind, subagent = event["type"], event.get("subagentRunId")
        if subagent is None:
            return
        if older:
            raise ProtocolViolated(f"{kind} of a subagent for a client from before 1.0")
        if kind == "SUBAGENT_STARTED":
            parent = event.get("parentSubagentRunId")
            if subagent in self._begun or (parent is not None and parent not in self._begun):
                raise ProtocolViolated(f"{kind}: {subagent} has begun before, or {parent} has not")
            self._begun.add(subagent)
            self.active.add(subagent)
        elif subagent not in self.active:
            raise ProtocolViolated(f"{kind}: {subagent} is not active")
        elif kind == "CUSTOM":
            return
        elif kind in {"SUBAGENT_FINISHED", "SUBAGENT_ERROR"}:
            self.active.remove(subagent)
        else:
            item = ("call", event["toolCallId"]) if "toolCallId" in event else ("message", event["messageId"])
            if self._owners.setdefault(item, subagent) != subagent:
                raise ProtocolViolated(f"{kind}: {item} is another subagent's")


def _check_closed(kind: str, opened: Collection[str]) -> None:
    if opened:
        raise ProtocolViolated(f"{kind} while something is open: {opened}")


def _check_started(call_id: str, known: Collection[str]) -> None:
    if call_id not in known:
        raise ProtocolViolated("a result of a call that was not started")


def _begin_call(event: dict[str, Any], started: list[str], withdrawn: list[str]) -> None:
    if event["toolCallId"] in (*started, *withdrawn):
        raise ProtocolViolated("a call id is used twice")
    if not event.get("parentMessageId"):
        raise ProtocolViolated("TOOL_CALL_START without parentMessageId")
    started.append(event["toolCallId"])


def _follow_reasoning(kind: str, item: str, spans: set[str], messages: set[str]) -> None:
    step = kind.removeprefix("REASONING_")
    _follow(step.removeprefix("MESSAGE_"), item, messages if step.startswith("MESSAGE_") else spans, kind)


def _is_older(started: dict[str, Any]) -> bool:
    if started.get("protocolVersion", "1.0") != "1.0":
        raise ProtocolViolated("RUN_STARTED without our protocolVersion")
    return "protocolVersion" not in started


def _check_pending(outcome: dict[str, Any], unanswered: list[str]) -> None:
    pending = outcome.get("pendingToolCallIds", [])
    if outcome["type"] == "success" and unanswered != pending:
        raise ProtocolViolated(f"pendingToolCallIds {pending} are not {unanswered}")


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
