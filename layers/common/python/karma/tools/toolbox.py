"""Tools that run on the server: declared once, called with the rights of the run's caller.

    class Search(Record):
        query: str = described("What to look for")
        limit: int = described("At most this many", default=10, minimum=1, maximum=50)

    Tool(name="search", description="...", parameters=Search, permission="device:read", when_lost=WhenLost.CALL_AGAIN,
         timeout_s=10, run=search)

The dataclass gives the schema that the model sees, and checks its arguments. A failure is the call's result alone.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import MISSING, Field, field, fields, replace
from enum import StrEnum
from functools import cache, partial
from types import MappingProxyType
from typing import Any, NamedTuple, Union, get_args, get_origin, get_type_hints

import orjson

from karma.conversations.attachments import MAX_RESULT_BYTES
from karma.conversations.domain import CallEffect, Json, Message, ToolCall, whole_arguments
from karma.conversations.state import State
from karma.core import freeform, surrogates
from karma.core.errors import AppError, Upstream
from karma.core.ids import RunId
from karma.core.observability import count, logger
from karma.core.records import Record
from karma.identity.domain import Caller
from karma.models.ports import ToolSpec
from karma.tools.domain import AT_ONCE, ApprovalPolicy, ApprovalRule, GivenInput, ToolApproval
from karma.tools.failures import BadArguments, ToolFailed, Unfinished, words_of
from karma.tools.inputs import InputRequest, InputRequired
from karma.tools.json_arguments import JsonArguments, is_readable

_TYPES: Mapping[type, str] = {
    str: "string",
    int: "integer",
    float: "number",
    bool: "boolean",
    dict: "object",
    list: "array",
}

_REFRESHED = 4
"""The latest failed results of a conversation, so many, for which news are looked up when a run begins."""
_REFRESH_S = 3.0
_MAX_TOLD = 128
"""Tools that a failed result names at the most, and characters of a name that nobody has declared."""

UNKNOWN_OUTCOME = "The process that made this call was lost: it may have taken effect or not. It was not made again."

MAX_AT_ONCE = 8
"""Calls of one run that are made side by side; others wait for their turn."""


class WhenLost(StrEnum):
    """Rule for a call whose process was lost before its result was recorded, so that nobody knows its effect."""

    CALL_AGAIN = "call_again"
    """Calling it twice has the effect of calling it once: it only reads, or knows a call by its run and id."""
    LOOK_UP = "look_up"
    """`look_up` tells whether the call had its effect; it is made again only if it had none."""
    ASK = "ask"
    """It is not made again before somebody has said what became of it: the run asks (karma.runs.gate)."""


class ToolOutcome(NamedTuple):
    """Result of a call, as JSON text."""

    content: str
    failed: bool = False
    state: State | None = None
    """The run's state after the call; None: the call did not change it."""
    is_open: bool = False
    """The call has no result yet, and `content` is "": a later run or process makes it again."""
    effect: CallEffect = "told"
    """Knowledge of what the call has changed, beside that."""
    asks: InputRequest | None = None
    """The request that the tool of an open call makes of its user; None: there is none."""


class Words(str):
    """A tool's result in words, which the model is told as they are."""

    __slots__ = ()


class SharedState:
    """The state of a run while its tools are called; a call that fails leaves it as it was."""

    def __init__(self, value: object) -> None:
        self.value: Any = value
        """JSON; a tool replaces it, and never changes it in place."""
        self.turn = asyncio.Lock()
        """Held by the one call that may change it."""


def _unseen(*_: object) -> None:
    """Show nothing: nobody watches."""


class ToolContext(NamedTuple):
    """Caller and call for which a tool runs."""

    caller: Caller
    run_id: RunId
    call_id: str
    """Id that the model's provider gave: unique in its run only, as some gateways count anew in each conversation."""
    known: dict[str, object]
    """Facts about the call's effect so far, set by the tool; part of a failed result, also when the call is cut off."""
    state: SharedState
    """For tools that declare `writes_state`; others must not change it."""
    given: GivenInput | None = None
    """Answers that the call's user has given before, for tools that raise InputRequired; None: nobody can be asked."""
    show: Callable[[str, Json], None] = _unseen
    """Shows clients how far the call is: a type of activity, and all that is known by now. No model sees it."""


class Tool(Record, kw_only=True):
    """One tool."""

    name: str
    description: str
    parameters: type | JsonArguments
    """A frozen dataclass, its fields declared with `described`; or the schema of a tool that was declared elsewhere."""
    permission: str
    when_lost: WhenLost
    timeout_s: float
    run: Callable[[Any, ToolContext], Awaitable[object]]
    """Gets an instance of `parameters`, for a schema an object; returns a value that orjson renders; raises ToolFailed
    or AppError, and InputRequired where somebody can be asked."""
    look_up: Callable[[Any, ToolContext], Awaitable[object]] | None = None
    """For `WhenLost.LOOK_UP`: gets what `run` gets; returns what it would have returned, None if it has no effect."""
    approval: ApprovalRule = AT_ONCE
    """Whether a person has to approve a call, where the agent has no rule of its own for the tool."""
    look_again: Callable[[Mapping[str, object], Caller], Awaitable[object]] | None = None
    """Gets `known` of a call that failed or was cut off; returns newer facts, None when there are none."""
    reaches: str = ""
    """Id of the server or agent that its calls reach, which another one may take its name from; "": a tool of ours."""
    writes_state: bool = False
    """It may change the run's state; such calls of a turn are made one after the other, in the order of the calls."""


def described(text: str, *, default: object = MISSING, **schema: object) -> Any:
    """Declare a parameter; further keywords go into its JSON Schema (`minimum`, `maximum`, `enum`, ...)."""
    metadata = {"description": text, **schema}
    return field(metadata=metadata) if default is MISSING else field(default=default, metadata=metadata)


class Toolbox:
    """The tools that one caller may use."""

    def __init__(self, tools: Sequence[Tool], caller: Caller, shorten: Callable[[str], str]) -> None:
        """Make a toolbox; `shorten` is given each long result, may block, and returns the text that the model sees."""
        self._tools = {tool.name: tool for tool in tools if caller.may(tool.permission)}
        self._free = asyncio.Semaphore(MAX_AT_ONCE)
        self._caller = caller
        self._state = SharedState({})
        self._shorten = shorten
        self._show: Callable[[str, str, Json], None] = _unseen
        self._beside: Sequence[str] = ()

    @property
    def caller(self) -> Caller:
        """Return whose rights its tools have."""
        return self._caller

    @property
    def writes_state(self) -> bool:
        """Tell whether any of the tools may change the run's state."""
        return any(tool.writes_state for tool in self._tools.values())

    @property
    def repeatable(self) -> frozenset[str]:
        """Return the names of tools whose server says that a second call has no further effect."""
        again = [each for each in self._tools.values() if each.when_lost is WhenLost.CALL_AGAIN]
        return frozenset(each.name for each in again if isinstance(each.parameters, JsonArguments))

    def begin_with(self, state: object) -> None:
        """Take the state with which the run goes on, before any call is made."""
        self._state.value = state

    def show_by(self, show: Callable[[str, str, Json], None]) -> None:
        """Say what shows clients how far a call is, which it is given by its id, as `ToolContext.show` is."""
        self._show = show

    def stand_beside(self, names: Sequence[str]) -> None:
        """Say which further tools the model is offered, which the run's client carries out."""
        self._beside = [name for name in names if name not in self._tools]

    def bind(self, name: str, run: Callable[[Any, ToolContext], Awaitable[object]]) -> None:
        """Say what carries out the calls of a tool; nothing where this caller has not got it."""
        if name in self._tools:
            self._tools[name] = replace(self._tools[name], run=run)

    def has(self, name: str) -> bool:
        """Tell whether this caller has a tool of that name."""
        return name in self._tools

    def approvals(self, of_agent: Sequence[ToolApproval]) -> dict[str, ApprovalRule]:
        """Return the rules by which calls have to be approved: an agent's, for other tools their own."""
        rules = {tool.name: tool.approval for tool in self._tools.values()}
        rules |= {each.tool: each.rule for each in of_agent if each.tool in rules}
        return {name: rule for name, rule in rules.items() if rule.policy is not ApprovalPolicy.NEVER}

    def reaches(self, name: str) -> str:
        """Return the id of what calls of a tool reach, as `Tool.reaches`; "" where this caller has not got it."""
        return self._tools[name].reaches if name in self._tools else ""

    def parameters(self, name: str) -> Json:
        """Return the JSON Schema of a tool's arguments."""
        return schema_of(self._tools[name].parameters)

    def check(self, call: ToolCall) -> None:
        """Check a call's arguments; those of a tool that this caller has not got are not known.

        Raises:
            BadArguments: the tool does not take them.
        """
        tool = self._tools.get(call.name)
        if tool is not None:
            parse_arguments(tool.parameters, call.arguments)

    def arguments(self, call: ToolCall) -> dict[str, object] | None:
        """Return a call's arguments; None: its tool is not this caller's, or does not take them."""
        tool = self._tools.get(call.name)
        if tool is None:
            return None
        try:
            parse_arguments(tool.parameters, call.arguments)
        except BadArguments:
            return None
        return dict(freeform.loads(whole_arguments(call.arguments), levels=None, replace_surrogates=True))

    def asks_after_loss(self, call: ToolCall) -> bool:
        """Tell whether nobody but a person can say what became of a call whose process was lost."""
        tool = self._tools.get(call.name)
        return tool is not None and tool.when_lost is WhenLost.ASK

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

    async def call_after_loss(
        self, call: ToolCall, *, run_id: RunId, known: dict[str, object], given: GivenInput | None = None
    ) -> ToolOutcome:
        """Execute a call that a lost process may have made, as the tool's declaration demands; else as `call`."""
        tool = self._tools.get(call.name)
        if tool is not None and tool.when_lost is WhenLost.ASK:
            return _failure(UNKNOWN_OUTCOME, effect="unknown")
        if tool is None or tool.when_lost is WhenLost.CALL_AGAIN or tool.look_up is None:
            return await self.call(call, run_id=run_id, known=known, given=given)
        look_up = tool.look_up

        async def unless_done(arguments: Any, context: ToolContext) -> object:
            found = await look_up(arguments, context)
            return await tool.run(arguments, context) if found is None else found

        return await self._call(replace(tool, run=unless_done), call, run_id, known, given)

    async def call(
        self,
        call: ToolCall,
        *,
        run_id: RunId,
        known: dict[str, object] | None = None,
        given: GivenInput | None = None,
    ) -> ToolOutcome:
        """Execute one call of a run. Failures, even bugs of a tool, become outcomes; only cancellation raises.

        The tool records facts about its effect in `known`, which stay available when the call is cancelled. `given` is
        None where its user cannot be asked for anything.
        """
        known = {} if known is None else known
        tool = self._tools.get(call.name)
        if tool is None:
            return self._unknown(call)
        return await self._call(tool, call, run_id, known, given)

    def _unknown(self, call: ToolCall) -> ToolOutcome:
        """Return the outcome of a call that no tool of ours takes; it names the tools that the model may call."""
        if call.name in self._beside and not is_readable(call):
            return _failure("The arguments are not a JSON object", effect="none")
        known = {"tools": [*self._tools, *self._beside][:_MAX_TOLD]}
        return _failure(f"Unknown tool: {call.name[:_MAX_TOLD]}", known, effect="none")

    async def _call(
        self, tool: Tool, call: ToolCall, run_id: RunId, known: dict[str, object], given: GivenInput | None
    ) -> ToolOutcome:
        if not tool.writes_state:
            return await self._made(tool, call, run_id, known, given)
        async with self._state.turn:
            before = self._state.value
            try:
                outcome = await self._made(tool, call, run_id, known, given)
            except BaseException:
                self._state.value = before
                raise
            if outcome.failed or outcome.is_open:
                self._state.value = before
            return outcome if self._state.value is before else outcome._replace(state=State(self._state.value))

    async def _made(
        self, tool: Tool, call: ToolCall, run_id: RunId, known: dict[str, object], given: GivenInput | None
    ) -> ToolOutcome:
        try:
            arguments = parse_arguments(tool.parameters, call.arguments)
            # What waits for its turn does not spend its time.
            async with self._free, asyncio.timeout(tool.timeout_s):
                show = partial(self._show, call.id)
                context = ToolContext(self._caller, run_id, call.id, known, self._state, given, show)
                value = await tool.run(arguments, context)
        except InputRequired as exc:
            return ToolOutcome("", is_open=True, asks=exc.request)
        except Unfinished:
            return ToolOutcome("", is_open=True)
        except ToolFailed as exc:
            return _failure(str(exc), known, effect=exc.effect)
        except AppError as exc:
            return _failure(words_of(exc), known, effect="unknown" if isinstance(exc, Upstream) else "told")
        except TimeoutError:
            return _failure(f"{tool.name} did not finish within {tool.timeout_s:g} s", known, effect="unknown")
        except Exception:  # noqa: BLE001 - the edge of a tool: a broken one must not end the run
            logger.exception("tool.broken", tool=tool.name)
            return _failure(f"{tool.name} failed unexpectedly", known, effect="unknown")
        count("ToolCalled", tool=tool.name)
        try:
            content = value.encode("utf-8", "replace") if isinstance(value, Words) else orjson.dumps(value)
        except orjson.JSONEncodeError:
            # The effect has happened; only its description cannot be shown.
            logger.exception("tool.unreadable", tool=tool.name)
            return _failure(f"{tool.name} was carried out, but its result cannot be shown", effect="done")
        if freeform.may_be_deep(content) and freeform.is_deeper(value):
            return _failure(f"{tool.name} found what is {freeform.TOO_DEEP}", effect="done")
        if len(content) <= MAX_RESULT_BYTES:
            return ToolOutcome(content.decode())
        try:
            return ToolOutcome(await asyncio.to_thread(self._shorten, content.decode()))
        except AppError as exc:
            return _failure(exc.message, effect="done")


def schema_of(parameters: type | JsonArguments) -> Json:
    """Return the JSON Schema of a tool's parameters, which all its calls share: it is not to be changed."""
    return parameters.schema if isinstance(parameters, JsonArguments) else _schema_of_fields(parameters)


@cache
def _schema_of_fields(parameters: type) -> Json:
    """Render a record of parameters as a JSON Schema; once, since each request to a model names it."""
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


def parse_arguments(parameters: type | JsonArguments, text: str) -> object:
    """Parse the JSON text of a call's arguments.

    Raises:
        BadArguments: the text is not the JSON of such arguments; the message says why.
    """
    try:
        data = freeform.loads(whole_arguments(text), levels=None, replace_surrogates=True)
    except freeform.NotJson:
        raise BadArguments("The arguments are not valid JSON") from None
    except freeform.OutOfBounds as exc:
        raise BadArguments(f"{exc.member or 'The arguments'}: {exc.told}") from None
    if not isinstance(data, dict):
        raise BadArguments("The arguments must be an object")
    if isinstance(parameters, JsonArguments):
        return parameters.checked(data)
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


def _failure(message: str, known: Json = MappingProxyType({}), *, effect: CallEffect = "told") -> ToolOutcome:
    # Messages quote what devices and models wrote: half of a surrogate pair must not end the run.
    return ToolOutcome(orjson.dumps({"error": surrogates.whole(message), **known}).decode(), failed=True, effect=effect)
