"""Modifications by which a fork of a run, or its restoring as a new one, differs from the run it goes on from. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, field, replace
from itertools import takewhile

from karma.conversations.domain import Message, ToolCall
from karma.conversations.history import awaited_calls
from karma.core.errors import ValidationFailed
from karma.core.ids import new_id
from karma.core.records import Record
from karma.runs.setup import RunSetup


class GivenResult(Record):
    """A result that stands in the place of a tool's, or is given to a call that had none yet."""

    content: str
    failed: bool = False


class Modifications(Record, kw_only=True):
    """Changes; what is None or empty stays as it was."""

    keep_messages: int | None = None
    """Number of messages that are kept, from the first one on."""
    messages: Mapping[str, str] = field(default_factory=dict)
    """New texts of messages of the user and of answers, by the id of the message."""
    tool_results: Mapping[str, GivenResult] = field(default_factory=dict)
    """Results by the id of their call."""
    modified_query: str | None = None
    """The user's last message in other words; what followed it is left out."""
    message: str | None = None
    """The user's next message."""
    system_prompt: str | None = None
    model: str | None = None
    tools: tuple[str, ...] | None = None
    """Names of the server's tools."""
    max_steps: int | None = None
    max_tokens: int | None = None

    @property
    def are_none(self) -> bool:
        """Tell whether nothing is changed."""
        return self == Modifications()

    @property
    def told(self) -> Mapping[str, object]:
        """Return them as JSON, to tell one request from another."""
        return asdict(self)


def changed(
    messages: Sequence[Message],
    wanted: Modifications,
    *,
    passed_over: Callable[[Sequence[ToolCall]], Sequence[Message]] = lambda _: (),
) -> list[Message]:
    """Return a conversation with the changes made: cut, then edited, then asked anew.

    Messages that did not change are the same objects, so that what is in common is known.

    Args:
        messages: the conversation.
        wanted: the changes.
        passed_over: makes the results of calls that are open where the user's next message comes.

    Raises:
        ValidationFailed: a change names a message or a call that is not there, or leaves nothing to go on from.
    """
    kept = _cut(messages, wanted.keep_messages)
    kept = _edited(kept, wanted.messages)
    kept = _with_results(kept, wanted.tool_results)
    if wanted.modified_query is not None:
        kept = _asked_anew(kept, wanted.modified_query)
    if wanted.message is not None:
        results = passed_over(awaited_calls(kept))
        kept = [*kept, *results, Message(id=new_id(), role="user", content=wanted.message)]
    if not kept:
        raise ValidationFailed.of("modifications.message", "must be given: there is no message to go on from")
    if kept[-1].role == "assistant" and not awaited_calls(kept):
        raise ValidationFailed.of(
            "modifications.message", "must be given, or modified_query: an answer that called nothing ends there"
        )
    return kept


def common(messages: Sequence[Message], after: Sequence[Message]) -> int:
    """Return the number of first messages that a changed conversation has in common with the one before."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] is pair[1], zip(messages, after, strict=False)))


def changed_setup(setup: RunSetup, wanted: Modifications, *, own: Sequence[str]) -> RunSetup:
    """Return what a run is started with, with the changes that need no configuration.

    Args:
        setup: that of the run before.
        wanted: the changes.
        own: names of the server's tools that its agent has now.

    Raises:
        ValidationFailed: `tools` names another one.
    """
    for at, name in enumerate(wanted.tools or ()):
        if name not in own:
            raise ValidationFailed.of(
                f"modifications.tools.{at}", f"must be one of the agent's tools: {', '.join(sorted(own))}"
            )
    return replace(
        setup,
        system=setup.system if wanted.system_prompt is None else (wanted.system_prompt, *setup.system[1:]),
        tools=setup.tools if wanted.tools is None else wanted.tools,
        max_turns=setup.max_turns if wanted.max_steps is None else wanted.max_steps,
        max_tokens=setup.max_tokens if wanted.max_tokens is None else wanted.max_tokens,
    )


def _cut(messages: Sequence[Message], keep: int | None) -> list[Message]:
    if keep is not None and keep > len(messages):
        raise ValidationFailed.of(
            "modifications.keep_messages", f"must be at most {len(messages)}, the messages up to this point"
        )
    return list(messages[:keep])


def _edited(messages: Sequence[Message], texts: Mapping[str, str]) -> list[Message]:
    ids = {message.id: message.role for message in messages}
    for at, message_id in enumerate(texts):
        if ids.get(message_id, "tool") == "tool":
            raise ValidationFailed.of(
                f"modifications.messages.{at}.id", "must be the id of a user's message or an answer up to this point"
            )
    # Blocks are the provider's own form of an answer: one with other words has none.
    return [
        replace(each, content=texts[each.id], blocks=()) if each.id in texts and each.role != "tool" else each
        for each in messages
    ]


def _with_results(messages: Sequence[Message], results: Mapping[str, GivenResult]) -> list[Message]:
    out = list(messages)
    for at, (call_id, given) in enumerate(results.items()):
        # Gateways count the ids of calls anew in each turn: the last call of an id is meant.
        found = [i for i, each in enumerate(out) if each.role == "tool" and each.tool_call_id == call_id]
        is_open = any(call.id == call_id for call in awaited_calls(out))
        if is_open:
            out.append(
                Message(id=new_id(), role="tool", content=given.content, tool_call_id=call_id, failed=given.failed)
            )
        elif found:
            out[found[-1]] = replace(out[found[-1]], content=given.content, failed=given.failed, effect="told")
        else:
            raise ValidationFailed.of(
                f"modifications.tool_results.{at}.tool_call_id", "must be the id of a call up to this point"
            )
    return out


def _asked_anew(messages: Sequence[Message], text: str) -> list[Message]:
    last = max((i for i, each in enumerate(messages) if each.role == "user"), default=None)
    if last is None:
        raise ValidationFailed.of(
            "modifications.modified_query", "must be absent: no message of the user is up to this point"
        )
    return [*messages[:last], replace(messages[last], content=text)]
