"""Repairs a stored conversation so that a model accepts it, whatever is in the store.

Threads live for years and were written by many hands: clients that bring their own history, models that broke off,
earlier releases of ours. A model's API takes a conversation only as a whole, so that one wrong message would block
every later one. Every request's messages go through `repair`: it never raises, is pure, and changes nothing in the
store. Its result satisfies:

- it begins with a turn of the user, and no message is empty;
- the ids of tool calls are unique and consist of characters that the API accepts;
- so do their names: a name that it refuses, which a model made up or a client brought, is shown as one that is like it;
- the results of an assistant's calls follow it directly, in the order of the calls, one each; a call without a result
  gets `UNANSWERED`, a result without a call is left out;
- a turn's `blocks` name the same calls as its `tool_calls`.

The form of blocks and media depends on the API: integrations/anthropic.py.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from karma.conversations.domain import Json, Message, ToolCall, whole_arguments
from karma.core import freeform

UNANSWERED = '{"error":"This call was not answered."}'
"""Result for a call whose run ended, or whose user went on, before there was one."""

GREETED = "(The assistant opens the conversation.)"
"""User's turn that is added when a thread begins with the assistant's greeting."""

_CALL_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_MAX_NAME_CHARS = 64
_NOT_IN_NAMES = re.compile(r"[^a-zA-Z0-9_-]")
_NAMELESS = "nameless"


@dataclass
class _Turn:
    """An assistant's message with the results of its calls."""

    said: Message
    results: list[Message | None]


def repair(messages: Iterable[Message]) -> list[Message]:
    """Return the conversation as a model accepts it; [] when it is empty."""
    seen: dict[str, Message] = {}
    taken: dict[str, int] = {}
    turns: list[Message | _Turn] = []
    waiting: dict[str, list[tuple[_Turn, int]]] = {}
    early: dict[str, Message] = {}
    for message in messages:
        if message.role == "tool":
            slots = waiting.get(message.tool_call_id)
            if slots:
                turn, at = slots.pop()
                turn.results[at] = replace(message, tool_call_id=turn.said.tool_calls[at].id)
            else:
                early.setdefault(message.tool_call_id, message)
            continue
        if seen.get(message.id) == message:
            continue
        seen[message.id] = message
        if message.role == "user":
            if not _is_blank(message.content):
                turns.append(message)
            continue
        asked = _calls(message)
        turn = _Turn(_renamed(message, asked, taken), [None] * len(asked))
        for at, call in enumerate(asked):
            waiting.setdefault(call.id, []).append((turn, at))
        if turn.said.tool_calls or not _is_blank(message.content) or _speaks(turn.said.blocks):
            turns.append(turn)
    # A result before its call is used when none comes after it.
    for call_id, result in early.items():
        for turn, at in waiting.get(call_id, [])[:1]:
            turn.results[at] = replace(result, tool_call_id=turn.said.tool_calls[at].id)
    return list(_opened(_flat(turns)))


def _flat(turns: Sequence[Message | _Turn]) -> Iterator[Message]:
    for turn in turns:
        if isinstance(turn, Message):
            yield turn
            continue
        yield turn.said
        for call, result in zip(turn.said.tool_calls, turn.results, strict=True):
            yield result or Message(
                id=f"unanswered-{call.id}", role="tool", content=UNANSWERED, tool_call_id=call.id, failed=True
            )


def _opened(messages: Iterator[Message]) -> Iterator[Message]:
    first = next(messages, None)
    if first is None:
        return
    if first.role == "assistant":
        yield Message(id="opening", role="user", content=GREETED)
    yield first
    yield from messages


def _is_blank(content: str | Sequence[Json]) -> bool:
    if isinstance(content, str):
        return not content.strip()
    return not any(part.get("type") != "text" or str(part.get("text") or "").strip() for part in content)


def _speaks(blocks: Sequence[Json]) -> bool:
    """Tell whether blocks of an answer say something, or call a tool that the provider runs itself."""
    return any(
        block.get("type") == "server_tool_use" or (block.get("type") == "text" and str(block.get("text") or "").strip())
        for block in blocks
    )


def _calls(message: Message) -> list[ToolCall]:
    """Return the calls of a turn as a model can be shown them: with valid names, each id once.

    None is left out for its name: without the call and its result the model would make it again and again.
    """
    found: dict[str, ToolCall] = {}
    for call in message.tool_calls:
        found.setdefault(call.id, call._replace(name=shown_name(call.name)))
    return list(found.values())


def shown_name(name: str) -> str:
    """Return the name under which a model is shown a call: its own, or one like it that APIs accept."""
    return _NOT_IN_NAMES.sub("_", name)[:_MAX_NAME_CHARS] or _NAMELESS


def _renamed(message: Message, calls: Sequence[ToolCall], taken: dict[str, int]) -> Message:
    """Replace the ids of calls that are invalid or used before; others stay."""
    given = {call.id: call._replace(id=_own_id(call.id, taken)) for call in calls}
    if not message.tool_calls and not message.blocks:
        return message
    blocks = tuple(_blocks(message.blocks, given)) if message.blocks else ()
    return replace(message, tool_calls=tuple(given.values()), blocks=blocks)


def _own_id(call_id: str, taken: dict[str, int]) -> str:
    """Return an unused id; `taken` has for each used one the number of the next id that is derived from it."""
    own, n = call_id, taken.get(call_id, 0)
    while own in taken or not _CALL_ID.fullmatch(own):
        # Derived from the old one, so that the same history gives the same request and meets the model's cache.
        own = f"call_{hashlib.sha256(f'{call_id}#{n}'.encode('utf-8', 'replace')).hexdigest()[:24]}"
        n += 1
    taken[call_id] = n
    taken.setdefault(own, 0)
    return own


def _blocks(blocks: Sequence[Json], given: dict[str, ToolCall]) -> Iterator[Json]:
    """Yield the blocks with the new ids of calls: without dropped calls, and with calls that had no block."""
    left = dict(given)
    for block in blocks:
        if block.get("type") != "tool_use":
            yield block
            continue
        call = left.pop(str(block.get("id")), None)
        if call is not None:
            arguments = block.get("input")
            yield tool_use(call, arguments if isinstance(arguments, dict) else None)
    yield from map(tool_use, left.values())


def tool_use(call: ToolCall, arguments: Json | None = None) -> Json:
    """Make the block of a call; arguments that are no JSON object are passed as text, as the model wrote them."""
    if arguments is None:
        arguments = arguments_of(call.arguments)
    return {"type": "tool_use", "id": call.id, "name": call.name, "input": arguments}


def arguments_of(text: str) -> Json:
    """Parse the arguments of a call; a text that is no JSON object becomes `{"unreadable": text}`."""
    try:
        value = freeform.loads(whole_arguments(text), levels=freeform.MAX_LEVELS + 1, replace_surrogates=True)
    except ValueError:
        value = None
    return value if isinstance(value, dict) else {"unreadable": text}
