"""Stores the work of a run's subagents: one record a message, so that another process goes on from there.

    0        the task, with the agent's configuration as it was then, which holds for the whole of the call
    1, 2 ..  answers of its model, and results of its tools; the last one of a step says what the step has used. One of
             role `summary` stands for the first messages before its model
    last     its end: what the call gives, or why it failed. A subagent that is suspended, or lost, has none

The records of a step are written in the transaction of the segment that tells of it, all beside the run in which the
subagent began: a run that goes on with it, since it answers a question, writes behind what that one has written. A run
that goes on from a point of another one has a copy of its own (copying.py), which is written with its start.
"""

from __future__ import annotations

import hashlib
import zlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple

import orjson

from karma.agents.domain import Subagent
from karma.conversations.attachments import attachments_in
from karma.conversations.domain import Compacted, Message, ToolCall
from karma.conversations.stored import dump_messages, load_messages
from karma.core.ids import AgentId, RunId
from karma.core.records import Record
from karma.mcp.offering import OfferedTool, dump_offered, load_offered
from karma.models.budgets import NamedBudget, Spent, dump_budgets, load_budgets
from karma.models.domain import (
    COMPACTED_BY_DEFAULT,
    Compaction,
    ReasoningEffort,
    Target,
    Usage,
    Usages,
    dump_compaction,
    dump_target,
    load_compaction,
    load_target,
)
from karma.models.ports import StopReason
from karma.runs.domain import NOT_EXECUTED, Progress
from karma.runs.ports import StoredStep
from karma.runs.spending import tokens_of
from karma.tools.domain import ApprovalRule, dump_rule, load_rule

MAX_RECORD_BYTES: Final = 350_000
"""Bytes of a record when compressed; an item holds at most 400 KB."""

_PACKED_BYTES: Final = 340_000
"""Bytes of stored JSON of the messages that one record of a copy has: compressed they are hardly more."""

CUT: Final = (
    "[The answer was cut off here: it had reached its limit of tokens (stopReason: max_tokens). It is not complete.]"
)


class Used(NamedTuple):
    """Use by calls of the model in a step."""

    usages: Usages = Usages()
    spent: Spent = Spent()
    turns: int = 0


class Ended(NamedTuple):
    """The end of a subagent: its answer, or why it has none."""

    text: str
    code: str = ""
    """"": it has answered."""
    stop: str = ""
    """Reason why its answer is not whole, which its text tells, too, and no record; "": it is, or there is none."""


def answer(said: str, stop: StopReason) -> Ended:
    """Return the end of one that has answered; its caller's model is told where the answer was cut off."""
    if stop is not StopReason.MAX_TOKENS:
        return Ended(said)
    return Ended(f"{said}\n\n{CUT}".lstrip(), stop=stop.value)


class Definition(Record, kw_only=True):
    """Identity of a subagent, and the configuration of its agent when it was called."""

    agent_id: AgentId
    version: int
    name: str
    call_id: str
    """The call that asked for it."""
    parent: str
    """The subagent whose model made that call; "": the run's own did."""
    path: tuple[AgentId, ...]
    """The agents from the run's own down to it."""
    system: str
    target: Target
    fallbacks: tuple[Target, ...] = ()
    reasoning: ReasoningEffort | None = None
    max_tokens: int
    max_turns: int
    tools: tuple[str, ...] = ()
    mcp_tools: tuple[OfferedTool, ...] = ()
    approvals: Mapping[str, ApprovalRule] = field(default_factory=dict)
    subagents: tuple[Subagent, ...] = ()
    budgets: tuple[NamedBudget, ...] = ()
    day_cost_micros: int | None = None
    """As in its agent's specification."""
    compaction: Compaction = COMPACTED_BY_DEFAULT
    """Summarising of its conversation."""


@dataclass(kw_only=True)
class Transcript:
    """The stored work of one subagent."""

    run_id: RunId
    """The run beside which it is stored: the one in which it began, or, of a copy, the one that goes on with that."""
    begun_by: RunId
    """The run in which it began."""
    asked_by: RunId
    """The run that asked its model last."""
    subagent: str
    definition: Definition
    messages: list[tuple[int, Message]] = field(default_factory=list)
    """Each with the number of the segment that told of it; 0 where another run's did."""
    compacted: Compacted | None = None
    """The summary by which its model knows the first of them."""
    size: int = 0
    """Number of records."""
    last_n: int = 0
    """Number of the last segment of this run that told of it; 0: none has."""
    turns: int = 0
    used: Spent = field(default_factory=Spent)
    """Use in all runs."""
    ended: Ended | None = None
    told_by: RunId | None = None
    """The run that tells its end to its caller: the one in which it ended, or, of a copy that had ended before, the one
    beside which that is stored; None: it has not ended."""


class Delegations(Record, kw_only=True):
    """All that is stored of the subagents of a run."""

    transcripts: Mapping[str, Transcript] = field(default_factory=dict)
    steps: Sequence[tuple[int, AgentId, Used]] = ()
    """Use by the steps of this run, with segment and agent."""


def subagent_id(message_id: str, call_id: str) -> str:
    """Return the id of the subagent that a call of a message asks for: the same whichever run makes the call."""
    return f"sub_{hashlib.sha256(orjson.dumps([message_id, call_id])).hexdigest()[:24]}"


def made_in(messages: Sequence[Message], call_id: str, name: str) -> tuple[str, ToolCall]:
    """Return the message that made a call, and the call; one that is not found there is made up."""
    for message in reversed(messages):
        for call in message.tool_calls:
            if call.id == call_id:
                return message.id, call
    return "", ToolCall(call_id, name, "")


def record(
    transcript: Transcript,
    *,
    by: RunId,
    message: Message | None = None,
    definition: Definition | None = None,
    used: Used | None = None,
    ended: Ended | None = None,
) -> StoredStep:
    """Make the next record of a subagent, which a run writes, and note it in the transcript."""
    body: dict[str, Any] = {}
    if message is not None:
        body["message"] = dump_messages([message]).decode()
    if definition is not None:
        body["definition"] = _dump(definition)
    if used is not None:
        body["used"] = [used.usages.dump(), used.spent.tokens, used.spent.cost_micros, used.turns]
    if ended is not None:
        body["ended"] = [ended.text, ended.code]
    data = zlib.compress(orjson.dumps(body))
    names = tuple(attachments_in([message])) if message is not None else ()
    step = StoredStep(transcript.run_id, transcript.subagent, transcript.size, data, by, attachments=names)
    transcript.size += 1
    return step


def is_too_large(step: StoredStep) -> bool:
    """Tell whether a record does not fit into an item."""
    return len(step.data) > MAX_RECORD_BYTES


def copied(steps: Iterable[StoredStep], definition: Definition, *, beside: RunId) -> list[StoredStep]:
    """Return the records of one subagent in a copy beside another run, with another definition: as few as hold them."""
    first, *rest = sorted(steps, key=lambda each: each.at)
    bodies = [_read(step) for step in (first, *rest)]
    used = [_load_used(body["used"]) for body in bodies if "used" in body]
    spent = sum((each.spent for each in used), Spent())
    made = [bodies[0]]
    made[0]["definition"] = _dump(definition)
    made[0]["used"] = [Usages().dump(), spent.tokens, spent.cost_micros, sum(each.turns for each in used)]
    asked_by = first.by
    for step, body in zip(rest, bodies[1:], strict=True):
        text = body.get("message", "[]")
        if any(message.role == "assistant" for message in load_messages(text.encode())):
            asked_by = step.by
        if len(made) > 1 and len(made[-1]["message"]) + len(text) <= _PACKED_BYTES:
            # The JSON stays as it was written: some numbers of it are exact only so.
            made[-1]["message"] = f"[{','.join(each[1:-1] for each in (made[-1]['message'], text) if each != '[]')}]"
        else:
            made.append({"message": text})
        if "ended" in body:
            made[-1]["ended"] = body["ended"]
    return [
        StoredStep(
            beside,
            first.subagent,
            at,
            zlib.compress(orjson.dumps(body)),
            asked_by if at else first.by,
            attachments=tuple(attachments_in(load_messages(body["message"].encode()))),
        )
        for at, body in enumerate(made)
    ]


def _read(step: StoredStep) -> dict[str, Any]:
    body: dict[str, Any] = orjson.loads(zlib.decompress(step.data))
    return body


def read_steps(found: Iterable[StoredStep], *, own: RunId) -> Delegations:
    """Read the records of a run's subagents, and of those of other runs with which it goes on."""
    transcripts: dict[str, Transcript] = {}
    steps: list[tuple[int, AgentId, Used]] = []
    rows: dict[str, list[StoredStep]] = defaultdict(list)
    for each in found:
        rows[each.subagent].append(each)
    for subagent, listed in rows.items():
        for step in sorted(listed, key=lambda each: each.at):
            body = _read(step)
            if "definition" in body:
                transcripts[subagent] = Transcript(
                    run_id=step.run_id,
                    begun_by=step.by,
                    asked_by=step.by,
                    subagent=subagent,
                    definition=_load(body["definition"]),
                )
            transcript, is_own = transcripts[subagent], step.by == own
            transcript.size = step.at + 1
            if "message" in body:
                n = step.n if is_own else 0
                for message in load_messages(body["message"].encode()):
                    _add(transcript, message, n)
                    if message.role == "assistant":
                        transcript.asked_by = step.by
            if "ended" in body:
                transcript.ended = Ended(*body["ended"])
                transcript.told_by = step.run_id if step.epoch == NOT_EXECUTED else step.by
            if "used" in body:
                used = _load_used(body["used"])
                transcript.turns += used.turns
                transcript.used += used.spent
                if is_own:
                    steps.append((step.n, transcript.definition.agent_id, used))
            if is_own:
                transcript.last_n = step.n
    return Delegations(transcripts=transcripts, steps=steps)


def _add(transcript: Transcript, message: Message, n: int) -> None:
    if message.role == "summary":
        size = len(transcript.messages)
        transcript.compacted = Compacted(str(message.content), size - message.keeps, size)
    else:
        transcript.messages.append((n, message))


def progress_after(done: Progress, found: Sequence[StoredStep], *, own: RunId, after: int) -> Progress:
    """Return what a run has done by a segment, with what its subagents have used in steps behind that."""
    for n, _, used in read_steps(found, own=own).steps:
        if n > after:
            tokens = tokens_of(done.usages.total) if done.spent_tokens is None else done.spent_tokens
            done = replace(
                done,
                usages=added(done.usages, used.usages),
                spent_micros=done.spent_micros + used.spent.cost_micros,
                spent_tokens=tokens + used.spent.tokens,
            )
    return done


def _load_used(body: Sequence[Any]) -> Used:
    usages, tokens, cost_micros, turns = body
    return Used(Usages.load(usages), Spent(tokens=tokens, cost_micros=cost_micros), turns)


def added(usages: Usages, more: Usages) -> Usages:
    """Return the sum of usages."""
    found = dict(usages.by_model)
    for key, usage in more.by_model.items():
        found[key] = found.get(key, Usage()) + usage
    return Usages(found)


def _dump(definition: Definition) -> dict[str, Any]:
    return {
        "agent_id": definition.agent_id,
        "version": definition.version,
        "name": definition.name,
        "call_id": definition.call_id,
        "parent": definition.parent,
        "path": list(definition.path),
        "system": definition.system,
        "target": dump_target(definition.target),
        "fallbacks": [dump_target(each) for each in definition.fallbacks],
        "reasoning": definition.reasoning,
        "max_tokens": definition.max_tokens,
        "max_turns": definition.max_turns,
        "tools": list(definition.tools),
        "mcp_tools": [dump_offered(each) for each in definition.mcp_tools],
        "approvals": {tool: dump_rule(rule) for tool, rule in definition.approvals.items()},
        "subagents": [[each.agent_id, each.name, each.description] for each in definition.subagents],
        "budgets": dump_budgets(definition.budgets),
        "day_cost_micros": definition.day_cost_micros,
        "compaction": dump_compaction(definition.compaction),
    }


def _load(body: Mapping[str, Any]) -> Definition:
    return Definition(
        agent_id=AgentId(body["agent_id"]),
        version=body["version"],
        name=body["name"],
        call_id=body["call_id"],
        parent=body["parent"],
        path=tuple(map(AgentId, body["path"])),
        system=body["system"],
        target=load_target(body["target"]),
        fallbacks=tuple(map(load_target, body["fallbacks"])),
        reasoning=ReasoningEffort(body["reasoning"]) if body["reasoning"] else None,
        max_tokens=body["max_tokens"],
        max_turns=body["max_turns"],
        tools=tuple(body["tools"]),
        mcp_tools=tuple(map(load_offered, body["mcp_tools"])),
        approvals={tool: load_rule(rule) for tool, rule in body["approvals"].items()},
        subagents=tuple(
            Subagent(agent_id=AgentId(agent_id), name=name, description=description)
            for agent_id, name, description in body["subagents"]
        ),
        budgets=load_budgets(body["budgets"]),
        day_cost_micros=body["day_cost_micros"],
        compaction=load_compaction(body["compaction"]) if body.get("compaction") else COMPACTED_BY_DEFAULT,
    )
