"""Tools that run on the server: declared once, called with the rights of the run's caller.

    @dataclass(frozen=True)
    class Search:
        query: str = described("What to look for")
        limit: int = described("At most this many", default=10, minimum=1, maximum=50)

    Tool(name="search", description="...", parameters=Search, permission="device:read", when_lost=WhenLost.CALL_AGAIN,
         timeout_s=10, run=search)

The dataclass gives the schema that the model sees and checks the arguments that it sends. A failure becomes the call's
result, which the model sees; it does not end the run.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Any, NamedTuple, Union, get_args, get_origin, get_type_hints

import orjson

from karma.conversations.attachments import MAX_RESULT_BYTES
from karma.conversations.domain import Message, ToolCall
from karma.core import freeform, surrogates
from karma.core.errors import AppError
from karma.core.ids import RunId
from karma.core.observability import count, logger
from karma.identity.domain import Caller
from karma.models.ports import ToolSpec

_TYPES: Mapping[type, str] = {str: "string", int: "integer", float: "number", bool: "boolean", dict: "object"}

_REFRESHED = 4
"""The latest failed results of a conversation, so many, for which news are looked up when a run begins."""
_REFRESH_S = 3.0


UNKNOWN_OUTCOME = "The process that made this call was lost: it may have taken effect or not. It was not made again."


class WhenLost(StrEnum):
    """Rule for a call whose process was lost before its result was recorded, so that nobody knows its effect."""

    CALL_AGAIN = "call_again"
    """Calling it twice has the effect of calling it once: it only reads, or knows a call by its run and id."""
    LOOK_UP = "look_up"
    """`look_up` tells whether the call had its effect; it is made again only if it had none."""
    ASK = "ask"
    """It is not made again: the model is told that its outcome is unknown, and can ask the user."""


class ToolFailed(Exception):
    """A tool could not do its work; the message is for the model and, through it, for the user."""


class BadArguments(ToolFailed):
    """The arguments are not those of the tool's declaration."""


class ToolOutcome(NamedTuple):
    """Result of a call, as JSON text."""

    content: str
    failed: bool = False


class ToolContext(NamedTuple):
    """Caller and call for which a tool runs."""

    caller: Caller
    run_id: RunId
    call_id: str
    """Id that the model's provider gave: unique in its run only, as some gateways count anew in each conversation."""
    known: dict[str, object]
    """Facts about the call's effect so far, set by the tool; part of a failed result, also when the call is cut off."""


@dataclass(frozen=True, kw_only=True)
class Tool:
    """One tool."""

    name: str
    description: str
    parameters: type
    """A frozen dataclass; its fields are declared with `described`."""
    permission: str
    when_lost: WhenLost
    timeout_s: float
    run: Callable[[Any, ToolContext], Awaitable[object]]
    """Gets an instance of `parameters`; returns a value that orjson renders; raises ToolFailed or AppError."""
    look_up: Callable[[Any, ToolContext], Awaitable[object]] | None = None
    """For `WhenLost.LOOK_UP`: gets what `run` gets; returns what it would have returned, None if it has no effect."""
    look_again: Callable[[Mapping[str, object], Caller], Awaitable[object]] | None = None
    """Gets `known` of a call that failed or was cut off; returns newer facts, None when there are none."""


def described(text: str, *, default: object = MISSING, **schema: object) -> Any:
    """Declare a parameter; further keywords go into its JSON Schema (`minimum`, `maximum`, `enum`, ...)."""
    metadata = {"description": text, **schema}
    return field(metadata=metadata) if default is MISSING else field(default=default, metadata=metadata)


class Toolbox:
    """The tools that one caller may use."""

    def __init__(self, tools: Sequence[Tool], caller: Caller, shorten: Callable[[str], str]) -> None:
        """Make a toolbox; `shorten` is given each long result, may block, and returns the text that the model sees."""
        self._tools = {tool.name: tool for tool in tools if caller.may(tool.permission)}
        self._caller = caller
        self._shorten = shorten

    def has(self, name: str) -> bool:
        """Tell whether this caller has a tool of that name."""
        return name in self._tools

    def specs(self) -> list[ToolSpec]:
        """List the tools as a model is told of them."""
        return [ToolSpec(tool.name, tool.description, schema_of(tool.parameters)) for tool in self._tools.values()]

    async def refreshed(self, messages: Sequence[Message]) -> list[Message]:
        """Add newer facts about the effects of their calls to the latest failed results."""
        names = {call.id: call.name for message in messages for call in message.tool_calls}
        shown = list(messages)
        failed = [i for i, message in enumerate(shown) if message.role == "tool" and message.failed]
        for i in failed[-_REFRESHED:]:
            tool = self._tools.get(names.get(shown[i].tool_call_id, ""))
            if tool is None or tool.look_again is None:
                continue
            try:
                known = freeform.loads(str(shown[i].content), levels=None)
                async with asyncio.timeout(_REFRESH_S):
                    by_now = await tool.look_again(known, self._caller) if isinstance(known, dict) else None
            except (ValueError, TimeoutError, AppError):
                continue  # it stays as it was told
            if by_now is not None:
                shown[i] = replace(shown[i], content=orjson.dumps({**known, "by_now": by_now}).decode())
        return shown

    async def call_after_loss(self, call: ToolCall, *, run_id: RunId, known: dict[str, object]) -> ToolOutcome:
        """Execute a call that a lost process may have made, as the tool's declaration demands; else as `call`."""
        tool = self._tools.get(call.name)
        if tool is not None and tool.when_lost is WhenLost.ASK:
            return _failure(UNKNOWN_OUTCOME)
        if tool is None or tool.when_lost is WhenLost.CALL_AGAIN or tool.look_up is None:
            return await self.call(call, run_id=run_id, known=known)
        look_up = tool.look_up

        async def unless_done(arguments: Any, context: ToolContext) -> object:
            found = await look_up(arguments, context)
            return await tool.run(arguments, context) if found is None else found

        return await self._call(replace(tool, run=unless_done), call, run_id, known)

    async def call(self, call: ToolCall, *, run_id: RunId, known: dict[str, object] | None = None) -> ToolOutcome:
        """Execute one call of a run. Failures, even bugs of a tool, become outcomes; only cancellation raises.

        The tool records facts about its effect in `known`, which stay available when the call is cancelled.
        """
        known = {} if known is None else known
        tool = self._tools.get(call.name)
        if tool is None:
            return _failure(
                f"Unknown tool: {call.name}" if is_readable(call) else "The arguments are not a JSON object"
            )
        return await self._call(tool, call, run_id, known)

    async def _call(self, tool: Tool, call: ToolCall, run_id: RunId, known: dict[str, object]) -> ToolOutcome:
        try:
            arguments = parse_arguments(tool.parameters, call.arguments)
            async with asyncio.timeout(tool.timeout_s):
                value = await tool.run(arguments, ToolContext(self._caller, run_id, call.id, known))
        except ToolFailed as exc:
            return _failure(str(exc), known)
        except AppError as exc:
            return _failure(exc.message, known)
        except TimeoutError:
            return _failure(f"{tool.name} did not finish within {tool.timeout_s:g} s", known)
        except Exception:  # noqa: BLE001 - the edge of a tool: a broken one must not end the run
            logger.exception("tool.broken", tool=tool.name)
            return _failure(f"{tool.name} failed unexpectedly", known)
        count("ToolCalled", tool=tool.name)
        try:
            content = orjson.dumps(value)
        except orjson.JSONEncodeError:
            # The effect has happened; only its description cannot be shown.
            logger.exception("tool.unreadable", tool=tool.name)
            return _failure(f"{tool.name} was carried out, but its result cannot be shown")
        if freeform.may_be_deep(content) and freeform.is_deeper(value):
            return _failure(f"{tool.name} found what is {freeform.TOO_DEEP}")
        if len(content) <= MAX_RESULT_BYTES:
            return ToolOutcome(content.decode())
        try:
            return ToolOutcome(await asyncio.to_thread(self._shorten, content.decode()))
        except AppError as exc:
            return _failure(exc.message)


def is_readable(call: ToolCall) -> bool:
    """Tell whether a call's arguments are a JSON object, or empty."""
    try:
        return not call.arguments.strip() or isinstance(
            freeform.loads(call.arguments, levels=freeform.MAX_LEVELS + 1, replace_surrogates=True), dict
        )
    except ValueError:
        return False


def schema_of(parameters: type) -> dict[str, object]:
    """Render a parameters dataclass as a JSON Schema."""
    hints = get_type_hints(parameters)
    properties: dict[str, object] = {}
    required: list[str] = []
    for each in fields(parameters):
        schema: dict[str, object] = {"type": _TYPES[_plain(hints[each.name])], **each.metadata}
        if each.default is MISSING:
            required.append(each.name)
        elif each.default is not None:
            schema["default"] = each.default
        properties[each.name] = schema
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def parse_arguments(parameters: type, text: str) -> object:
    """Parse the JSON text of a call's arguments.

    Raises:
        BadArguments: the text is not the JSON of such arguments; the message says why.
    """
    try:
        data = freeform.loads(text if text.strip() else "{}", levels=None, replace_surrogates=True)
    except freeform.NotJson:
        raise BadArguments("The arguments are not valid JSON") from None
    except freeform.TooDeep as exc:
        raise BadArguments(f"{exc.member or 'The arguments'}: {freeform.TOO_DEEP}") from None
    if not isinstance(data, dict):
        raise BadArguments("The arguments must be an object")
    declared = fields(parameters)
    unknown = sorted(set(data) - {each.name for each in declared})
    if unknown:
        raise BadArguments(f"Unknown argument: {unknown[0][:64]}")
    hints = get_type_hints(parameters)
    values = {each.name: _value(each, hints[each.name], data) for each in declared}
    return parameters(**values)


def _value(each: Field[Any], hint: object, data: Mapping[str, object]) -> object:
    value = data.get(each.name)
    if freeform.is_deeper(value):
        raise BadArguments(f"{each.name}: {freeform.TOO_DEEP}")
    if value is None:
        if each.default is MISSING:
            raise BadArguments(f"Missing argument: {each.name}")
        return each.default
    plain = _plain(hint)
    if plain is float and type(value) is int:
        value = float(value)
    if type(value) is not plain:
        raise BadArguments(f"{each.name} must be of type {_TYPES[plain]}")
    low, high = each.metadata.get("minimum"), each.metadata.get("maximum")
    if isinstance(value, int | float) and ((low is not None and value < low) or (high is not None and value > high)):
        raise BadArguments(f"{each.name} must be between {low} and {high}")
    length = each.metadata.get("maxLength")
    if isinstance(value, str) and length is not None and len(value) > length:
        raise BadArguments(f"{each.name} must be at most {length} characters")
    return value


def _plain(hint: object) -> type:
    """Return the type of `X | None` and `dict[str, object]`."""
    if get_origin(hint) in {Union, types.UnionType}:
        hint = next(arg for arg in get_args(hint) if arg is not type(None))
    origin = get_origin(hint)
    plain = origin or hint
    assert isinstance(plain, type)  # noqa: S101  a declaration's mistake, not an input
    return plain


def _failure(message: str, known: Mapping[str, object] = MappingProxyType({})) -> ToolOutcome:
    # Messages quote what devices and models wrote: half of a surrogate pair must not end the run.
    return ToolOutcome(orjson.dumps({"error": surrogates.whole(message), **known}).decode(), failed=True)
