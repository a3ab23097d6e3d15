"""Reads the messages of a request from JSON: strictly those that ask for an answer now, leniently earlier ones.

A client resends its whole history, and cannot take back a message of it that was refused. So an error in the newest
message refuses the request, and an error in an earlier one only leaves that one out (`Unread`).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import orjson

from karma.conversations.domain import Json, Message, Role, ToolCall, is_readable_id
from karma.conversations.fields import FieldReader
from karma.core.ids import short_id

MAX_MESSAGE_BYTES = 256 * 1024
"""Bytes of the text of a new message; see karma.conversations.arrival."""
MAX_MESSAGES = 10_000
"""Messages of one request; a client with a longer conversation sends only new ones."""
MAX_HELD_CHARS = 3_000_000
"""Characters of any text of a message: the server holds none that is longer, so that this refuses no history."""
MAX_TYPE_CHARS = 256

_KEPT_ROLES: Mapping[str, Role] = {"user": "user", "assistant": "assistant", "tool": "tool"}
_ASIDE_ROLES = frozenset({"system", "developer"})
_UNKEPT_ROLES = frozenset({"activity", "reasoning"})
_ROLES = _ASIDE_ROLES | _UNKEPT_ROLES | set(_KEPT_ROLES)
_PARTS = frozenset({"text", "image", "audio", "video", "document"})
_MAX_OF_ONE = 10
"""Errors that are reported of a message that is left out."""

OF_A_MESSAGE = re.compile(r"messages\.(\d+)(\.|$)")
"""Pattern of the paths of members that belong to one message."""


class Sent(NamedTuple):
    """A message of a user, an assistant or a tool as the client sent it."""

    at: int
    """Index in `messages`."""
    message: Message
    """The message; its id is "" when the client has none."""


class Unread(NamedTuple):
    """A message that cannot be read, and is not one of those that ask for an answer now."""

    at: int
    id: str
    """Its id; "" when it has no readable one."""
    role: str
    problems: tuple[Mapping[str, str], ...]


class Aside(NamedTuple):
    """A message that tells the model the application's instructions, and is not part of the conversation."""

    at: int
    shown: Json
    """The message as the client sent it."""


def asking(messages: Sequence[tuple[int, str]]) -> frozenset[int]:
    """Return the indexes of the messages that ask for an answer now: the last one, or all tool results at the end.

    `messages` has index and role of each. A client cannot take back earlier ones, whether the server has them or not.
    """
    newest: set[int] = set()
    for at, role in reversed(messages):
        if newest and role != "tool":
            break
        newest.add(at)
        if role != "tool":
            break
    return frozenset(newest)


def said(sent: Sequence[Sent], held: Collection[str] = ()) -> tuple[Sent, ...]:
    """Leave out empty answers, which clients show while they wait for the answer, and send back with their history.

    An empty answer with an id of `held` stays: the id is enough to refer to a stored message.
    """
    return tuple(each for each in sent if not is_placeholder(each.message) or each.message.id in held)


def is_placeholder(message: Message) -> bool:
    """Tell whether a message is an answer without text and calls."""
    return message.role == "assistant" and not message.tool_calls and not str(message.content or "").strip()


@dataclass
class MessageReader(FieldReader):
    """Reads the messages of one request; errors that refuse it go to `errors`."""

    beyond: Mapping[str, str]
    """Reasons why members beyond a limit of free-form values are refused, by their paths."""

    def read(self, given: Sequence[object]) -> tuple[tuple[Sent, ...], tuple[Unread, ...], tuple[Aside, ...]]:
        """Read `messages`: those of the conversation, those that cannot be read, and the application's instructions."""
        if len(given) > MAX_MESSAGES:
            self.wrong("messages", f"must be at most {MAX_MESSAGES}; of a longer conversation send what is new")
            return (), (), ()
        sent: list[Sent] = []
        unread: list[Unread] = []
        asides: list[Aside] = []
        ids: dict[str, int] = {}
        roles = [_role(raw) for raw in given]
        present = [(i, role) for i, role in enumerate(roles) if role not in _ASIDE_ROLES and role not in _UNKEPT_ROLES]
        spoken = [(i, role) for i, role in present if not _is_placeholder(given[i])]
        newest = asking(spoken or present)  # where nothing was said, what is wrong with that is told
        beyond = {int(found[1]): name for name in self.beyond if (found := OF_A_MESSAGE.match(name))}
        for i, raw in enumerate(given):
            before = len(self.errors)
            if i in beyond:
                self.wrong(beyond[i], self.beyond[beyond[i]])
            elif not isinstance(raw, dict):
                self.wrong(f"messages.{i}", "must be an object")
            else:
                one = self._one(raw, i, ids)
                if isinstance(one, Sent):
                    sent.append(one)
                elif isinstance(one, Aside):
                    asides.append(one)
            problems = self.errors[before:]
            # An application's instructions are sent with each request; the application can correct them.
            is_preface = roles[i] in _ASIDE_ROLES and (not present or i < present[0][0])
            if problems and present and i not in newest and not is_preface:
                del self.errors[before:]
                is_named = all(problem["field"] != f"messages.{i}.id" for problem in problems)
                unread.append(Unread(i, _readable_id(raw) if is_named else "", roles[i], tuple(problems[:_MAX_OF_ONE])))
        return tuple(sent), tuple(unread), tuple(asides)

    def _one(self, raw: Mapping[str, object], i: int, ids: dict[str, int]) -> Sent | Aside | None:
        at, role, message_id = f"messages.{i}", _role(raw), raw.get("id")
        if role not in _ROLES:
            self.wrong(f"{at}.role", f"must be one of {', '.join(sorted(_ROLES))}")
        elif role in _UNKEPT_ROLES:
            pass  # some libraries give an answer and the thoughts before it one id
        elif isinstance(message_id, str) and message_id and ids.setdefault(message_id, i) != i:
            self.wrong(f"{at}.id", f"is the id of messages.{ids[message_id]}, too")
        elif role in _ASIDE_ROLES:
            before = len(self.errors)
            text = self.text(raw.get("content"), f"{at}.content")
            if len(self.errors) == before:
                return Aside(i, {"id": message_id or short_id(), "role": role, "content": text})
        elif role in _KEPT_ROLES:
            message = self._message(raw, role=_KEPT_ROLES[role], at=at)
            return None if message is None else Sent(i, message)
        return None

    def _message(self, raw: Mapping[str, object], *, role: Role, at: str) -> Message | None:
        before = len(self.errors)
        message_id, content = raw.get("id"), raw.get("content")
        if content is None and role == "user" and message_id:
            content = ""  # what the server holds by id need not be sent again
        content = self._content(content, at=at, role=role)
        if message_id is None or message_id == "":
            message_id = ""
        else:
            self.is_id(f"{at}.id", message_id)
        tool_call_id = raw.get("toolCallId")
        if role == "tool":
            self.is_id(f"{at}.toolCallId", tool_call_id)
        calls = self._tool_calls(raw.get("toolCalls"), at=at) if role == "assistant" else ()
        error = raw.get("error")
        if error is not None:
            error = self._held_text(error, f"{at}.error")
        if len(self.errors) > before:
            return None
        if error:
            content = _with_error(content, str(error))
        return Message(
            id=str(message_id),
            role=role,
            content=content,
            tool_calls=calls,
            tool_call_id=str(tool_call_id) if role == "tool" else "",
            failed=bool(error),
        )

    def _held_text(self, value: object, name: str) -> str:
        if isinstance(value, str) and len(value) <= MAX_HELD_CHARS:
            return value
        self.wrong(name, f"must be a string of at most {MAX_HELD_CHARS} characters")
        return ""

    def _content(self, value: object, *, at: str, role: Role) -> str | tuple[Json, ...]:
        if value is None and role == "assistant":
            return ""
        if isinstance(value, str):
            return self._held_text(value, f"{at}.content")
        if role == "assistant" or not isinstance(value, list):
            self.wrong(f"{at}.content", "must be a string" if role == "assistant" else "must be a string or a list")
            return ""
        parts: list[Json] = []
        for i, given in enumerate(value):
            name = f"{at}.content.{i}"
            if not isinstance(given, dict):
                self.wrong(name, "must be an object")
                continue
            part = _current(given)
            if not isinstance(part.get("type"), str) or part["type"] not in _PARTS:
                self.wrong(f"{name}.type", f"must be one of {', '.join(sorted(_PARTS))}")
            elif part["type"] == "text":
                parts.append({"type": "text", "text": self._held_text(part.get("text"), f"{name}.text")})
            elif self._is_source(part.get("source"), at=name):
                parts.append({"type": part["type"], "source": part["source"]})
        return tuple(parts)

    def _is_source(self, source: object, *, at: str) -> bool:
        if not isinstance(source, dict):
            self.wrong(f"{at}.source", "must be {type: data|url|file, value, mimeType?}")
            return False
        kind, media_type = source.get("type"), source.get("mimeType")
        wrong = {
            "type": kind not in ("data", "url", "file"),
            "value": not isinstance(source.get("value"), str),
            "mimeType": not isinstance(media_type, str | None)
            or len(media_type or "") > MAX_TYPE_CHARS
            or (kind == "data" and not media_type),
        }
        for name in [name for name, is_wrong in wrong.items() if is_wrong]:
            self.wrong(f"{at}.source.{name}", "must be data, url or file" if name == "type" else "must be a string")
        return not any(wrong.values())

    def _tool_calls(self, value: object, *, at: str) -> tuple[ToolCall, ...]:
        if value is None:
            return ()
        if not isinstance(value, list):
            self.wrong(f"{at}.toolCalls", "must be a list")
            return ()
        calls: list[ToolCall] = []
        for i, call in enumerate(value):
            here = f"{at}.toolCalls.{i}"
            if not isinstance(call, dict):
                self.wrong(here, "must be {id, type, function: {name, arguments}}")
                continue
            function = call.get("function")
            if not isinstance(function, dict):
                self.wrong(f"{here}.function", "must be {name, arguments}")
                continue
            texts = {"id": call.get("id")}
            texts |= {f"function.{name}": function.get(name) for name in ("name", "arguments")}
            read = [text for text in texts.values() if isinstance(text, str)]
            if len(read) == len(texts) and max(map(len, read)) <= MAX_HELD_CHARS:
                calls.append(ToolCall(*read))
                continue
            for name, text in texts.items():
                self._held_text(text, f"{here}.{name}")
        return tuple(calls)


def _current(part: Json) -> Json:
    """Convert a `binary` part, of protocols before 1.0, into the part that replaced it."""
    if part.get("type") != "binary":
        return part
    media_type = part.get("mimeType")
    group = media_type.partition("/")[0].lower() if isinstance(media_type, str) else ""
    kind = group if group in ("image", "audio", "video") else "document"
    for member, how in (("data", "data"), ("url", "url"), ("id", "file")):
        if part.get(member) is not None:
            return {"type": kind, "source": {"type": how, "value": part[member], "mimeType": media_type}}
    return {"type": kind}


def _role(raw: object) -> str:
    """Return a message's role; what a subagent has said is not of the conversation, and has that of what is shown."""
    role = raw.get("role") if isinstance(raw, dict) else None
    if not isinstance(raw, dict) or not isinstance(role, str):
        return ""
    return "activity" if role in {"assistant", "tool"} and raw.get("subagentRunId") else role


def _with_error(content: str | tuple[Json, ...], error: str) -> str | tuple[Json, ...]:
    """Return the content of a failed result with why it failed, in front of what it has besides.

    Nothing is added to one that says it: a client that was shown the result sends it back so.
    """
    parts = [content] if isinstance(content, str) else [str(part["text"]) for part in content if "text" in part]
    told = "\n".join(parts)
    if told == error or told.startswith(f"{error}\n") or orjson.dumps(error).decode() in told:
        return content
    if not isinstance(content, str):
        return ({"type": "text", "text": error}, *content)
    return f"{error}\n{content}" if content.strip() else error


def _is_placeholder(raw: object) -> bool:
    if not isinstance(raw, dict) or raw.get("role") != "assistant" or raw.get("toolCalls"):
        return False
    content = raw.get("content")
    return content is None or (isinstance(content, str) and not content.strip())


def _readable_id(raw: object) -> str:
    value = raw.get("id") if isinstance(raw, dict) else None
    return value if isinstance(value, str) and is_readable_id(value) else ""
