"""The messages and the state that a client of AG-UI 1.0 holds: what @ag-ui/client's reducer makes of events."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import jsonpatch

Message = dict[str, Any]


class HeldMessages:
    """A client's messages, in its order."""

    def __init__(self, held: Iterable[Mapping[str, Any]] = ()) -> None:
        self.messages: list[Message] = [dict(each) for each in held]
        self.state: Any = None

    def take(self, event: Mapping[str, Any]) -> None:
        """Take an event as the client does: what begins again goes on, and snapshots keep the client's order."""
        kind = event["type"]
        if kind == "MESSAGES_SNAPSHOT":
            owned = event.get("metadata", {}).get("@ag-ui/client", {}).get("authoritativeActivityTypes", [])
            self._merge([dict(each) for each in event["messages"]], owned)
        elif kind == "ACTIVITY_SNAPSHOT":
            self._message(event["messageId"], "activity").update(
                {name: event[name] for name in ("activityType", "content", "subagentRunId") if name in event}
            )
        elif kind == "ACTIVITY_DELTA":
            activity = self._find(event["messageId"])
            activity["content"] = jsonpatch.apply_patch(activity["content"], event["patch"])
        elif kind == "STATE_SNAPSHOT":
            self.state = event["snapshot"]
        elif kind == "STATE_DELTA":
            self.state = jsonpatch.apply_patch(self.state, event["delta"])
        elif kind in {"TEXT_MESSAGE_START", "REASONING_MESSAGE_START"}:
            self._message(event["messageId"], event["role"])
        elif kind in {"TEXT_MESSAGE_CONTENT", "REASONING_MESSAGE_CONTENT"}:
            message = self._find(event["messageId"])
            message["content"] = message.get("content", "") + event["delta"]
        elif kind == "TOOL_CALL_START":
            calls = self._message(event["parentMessageId"], "assistant").setdefault("toolCalls", [])
            if event["toolCallId"] not in [call["id"] for call in calls]:
                function = {"name": event["toolCallName"], "arguments": ""}
                calls.append({"id": event["toolCallId"], "type": "function", "function": function})
        elif kind == "TOOL_CALL_ARGS":
            calls = [call for each in self.messages for call in each.get("toolCalls", ())]
            (call,) = [call for call in calls if call["id"] == event["toolCallId"]]
            call["function"] = {**call["function"], "arguments": call["function"]["arguments"] + event["delta"]}
        elif kind == "TOOL_CALL_RESULT":
            self._answer(event)

    @property
    def conversation(self) -> list[Message]:
        """Return what was said, called and answered, without failures, which events tell otherwise."""
        return [
            {name: value for name, value in each.items() if name not in {"error", "metadata"} and value not in ("", [])}
            for each in self.messages
            if each["role"] != "reasoning"
        ]

    @property
    def said(self) -> list[Message]:
        """Return the conversation without what was shown of calls while they were made."""
        return [each for each in self.conversation if each["role"] != "activity"]

    @property
    def thoughts(self) -> dict[str, str]:
        """Return the reasoning, by id."""
        return {each["id"]: each["content"] for each in self.messages if each["role"] == "reasoning"}

    def _find(self, message_id: str) -> Message:
        (message,) = [each for each in self.messages if each["id"] == message_id]
        return message

    def _message(self, message_id: str, role: str) -> Message:
        if message_id not in [each["id"] for each in self.messages]:
            self.messages.append({"id": message_id, "role": role})
        return self._find(message_id)

    def _answer(self, event: Mapping[str, Any]) -> None:
        """Put a result behind the message with its call, and the results that are there."""
        call = event["toolCallId"]
        result = {"id": event["messageId"], "role": "tool", "content": event["content"], "toolCallId": call}
        asked = [call in [each["id"] for each in message.get("toolCalls", ())] for message in self.messages]
        at = asked.index(True) + 1 if True in asked else len(self.messages)
        while at < len(self.messages) and self.messages[at]["role"] == "tool":
            at += 1
        self.messages.insert(at, result)

    def _merge(self, shown: list[Message], owned: list[str]) -> None:
        new = {each["id"]: each for each in shown}
        thinks = any(each["role"] == "reasoning" for each in shown)
        kept = [
            new.pop(each["id"], each)
            for each in self.messages
            if each["id"] in new
            or (each["role"] == "reasoning" and not thinks)
            or (each["role"] == "activity" and each["activityType"] not in owned)
        ]
        self.messages = [*kept, *new.values()]
