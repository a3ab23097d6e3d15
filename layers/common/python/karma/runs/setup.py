"""The setup of a run: all that another process needs, beside its log and its thread, to go on with it.

It is written once, in the transaction that starts the run, and never changes: what an admin or the agent's owner edits
later holds for later runs. Stored as compressed JSON; the parts of a client's request that the model is not shown are
not in it.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Any, Final, NamedTuple

import orjson

from karma.agents.domain import Subagent
from karma.conversations.domain import Json, Message
from karma.conversations.messages import Aside, Sent
from karma.conversations.stored import dump_messages, load_messages
from karma.core.errors import PayloadTooLarge
from karma.core.ids import AgentId, RunId, UserId
from karma.core.records import Record
from karma.identity.domain import Caller, Locale, Role
from karma.mcp.offering import Offer, OfferedTool, dump_offered, load_offered
from karma.models.domain import (
    COMPACTED_BY_DEFAULT,
    Compaction,
    ReasoningEffort,
    Target,
    dump_compaction,
    dump_target,
    load_compaction,
    load_target,
)
from karma.models.ports import ToolSpec
from karma.runs.decisions import CallDecision, dump_decision, load_decision
from karma.runs.domain import Run
from karma.runs.events import Version
from karma.runs.interrupts import Interrupt, dump_interrupt, load_interrupt
from karma.tools.domain import ApprovalRule, dump_rule, load_rule

MAX_SETUP_BYTES: Final = 900_000
"""Bytes of a setup when compressed; with the new messages and the state it is part of one transaction of 4 MB."""


class PlacedAside(NamedTuple):
    """A `system` or `developer` message of the client, which a snapshot must show at its place: clients drop others."""

    before: str
    """Id of the client's message that follows it; "": it was the last one."""
    shown: Json


class RunSetup(Record, kw_only=True):
    """All that a run was started with, beside its messages and its state."""

    caller: Caller
    """Its tools have the rights that the caller had when the run was admitted."""
    system: tuple[str, ...]
    tools: tuple[str, ...]
    """Names of the server's tools that it may use."""
    frontend_tools: tuple[ToolSpec, ...]
    max_tokens: int
    max_turns: int
    speaks: Version
    asides: tuple[PlacedAside, ...]
    target: Target | None = None
    """Its model; None in setups of releases that knew only the model's id, which the run has."""
    fallbacks: tuple[Target, ...] = ()
    waiting: tuple[Message, ...] = ()
    """Messages that the client of a run of the queue has sent, with which it begins when its turn has come; () for
    others, whose thread has them."""
    reasoning: ReasoningEffort | None = None
    """As in `karma.models.ports.ModelRequest`."""
    compaction: Compaction = COMPACTED_BY_DEFAULT
    approvals: Mapping[str, ApprovalRule] = field(default_factory=dict)
    """Rules by which calls have to be approved, by tool."""
    decisions: Mapping[str, CallDecision] = field(default_factory=dict)
    """Decisions about calls that waited for an answer, by id of the call."""
    left: tuple[Interrupt, ...] = ()
    """Questions of earlier runs that wait on."""
    has_state: bool = True
    """Its state is its client's, or a point's; else it begins with what its thread has then."""
    changes: Json | None = None
    """The changes that the client of a run of the queue had made to its thread's state, as `changes_of` returns it: it
    begins with what its thread has by then, and these. None: it did not wait, or an older release stored it."""
    mcp_tools: tuple[OfferedTool, ...] = ()
    """Tools of the caller's MCP servers, as they were offered when it started."""

    subagents: tuple[Subagent, ...] = ()
    """Agents that its model may call."""
    carried: tuple[RunId, ...] = ()
    """As `RunPlan.carried`."""
    beside_tokens: int | None = None
    """Upper bound of the tokens of what its model is sent beside its messages; None: a release did not note it."""

    @property
    def repeatable(self) -> frozenset[str]:
        """As `Offer.repeatable`."""
        return Offer(tools=self.mcp_tools).repeatable

    @property
    def more_names(self) -> frozenset[str]:
        """Return the names by which its model calls them, and tools of MCP servers."""
        return frozenset([*(tool.name for tool in self.mcp_tools), *(each.name for each in self.subagents)])


def user_of(caller: Caller) -> dict[str, object]:
    """Return what a state says of who is asking."""
    return {"id": caller.user_id, "name": caller.name, "avatar": caller.avatar}


def placed(asides: Sequence[Aside], sent: Sequence[Sent]) -> tuple[PlacedAside, ...]:
    """Name, for each aside, the message of the client that follows it."""
    following = sorted((each for each in sent if each.message.id), key=lambda each: each.at)
    return tuple(
        PlacedAside(next((each.message.id for each in following if each.at > aside.at), ""), aside.shown)
        for aside in asides
    )


def with_asides(shown: Sequence[tuple[str, Json]], asides: Sequence[PlacedAside], *, last: int) -> list[Json]:
    """Put asides into a conversation, given as ids and messages as they are shown.

    One whose following message is not there, or that had none, comes after position `last` of the list, the message
    that the run answers.
    """
    ids = {message_id for message_id, _ in shown}
    out: list[Json] = []
    unplaced = [aside.shown for aside in asides if aside.before not in ids]
    for at, (message_id, message) in enumerate(shown):
        out += [aside.shown for aside in asides if aside.before == message_id]
        out.append(message)
        if at == last:
            out += unplaced
    return out if 0 <= last < len(shown) else out + unplaced


def dump_setup(setup: RunSetup) -> bytes:
    """Return a setup as it is stored.

    Raises:
        PayloadTooLarge: it is larger than one transaction can take beside the messages.
    """
    caller = setup.caller
    body = {
        "caller": {
            "user_id": caller.user_id,
            "role": caller.role.value,
            "method": caller.method,
            "scopes": sorted(caller.scopes),
            "email_verified": caller.email_verified,
            "name": caller.name,
            "avatar": caller.avatar,
            "locale": caller.locale.value,
        },
        "system": setup.system,
        "tools": setup.tools,
        "frontend_tools": [list(tool) for tool in setup.frontend_tools],
        "max_tokens": setup.max_tokens,
        "max_turns": setup.max_turns,
        "speaks": setup.speaks,
        "asides": [list(aside) for aside in setup.asides],
        "target": dump_target(setup.target) if setup.target else None,
        "fallbacks": [dump_target(target) for target in setup.fallbacks],
        "waiting": dump_messages(setup.waiting).decode() if setup.waiting else None,
        "reasoning": setup.reasoning,
        "compaction": dump_compaction(setup.compaction),
        "approvals": {tool: dump_rule(rule) for tool, rule in setup.approvals.items()},
        "decisions": {call_id: dump_decision(each) for call_id, each in setup.decisions.items()},
        "left": [dump_interrupt(each) for each in setup.left],
        "has_state": setup.has_state,
        "changes": setup.changes,
        "mcp_tools": [dump_offered(tool) for tool in setup.mcp_tools],
        "subagents": [[each.agent_id, each.name, each.description] for each in setup.subagents],
        "carried": setup.carried,
        "beside_tokens": setup.beside_tokens,
    }
    data = zlib.compress(orjson.dumps(body))
    if len(data) > MAX_SETUP_BYTES:
        raise PayloadTooLarge(
            f"tools, context and system messages take more than {MAX_SETUP_BYTES} bytes together when compressed"
        )
    return data


def load_setup(data: bytes) -> RunSetup:
    """Read a setup that `dump_setup` wrote."""
    body: dict[str, Any] = orjson.loads(zlib.decompress(data))
    caller = body["caller"]
    return RunSetup(
        caller=Caller(
            user_id=UserId(caller["user_id"]),
            role=Role(caller["role"]),
            method=caller["method"],
            scopes=frozenset(caller["scopes"]),
            email_verified=caller["email_verified"],
            name=caller["name"],
            avatar=caller["avatar"],
            locale=Locale(caller["locale"]),
        ),
        system=tuple(body["system"]),
        tools=tuple(body["tools"]),
        frontend_tools=tuple(ToolSpec(*tool) for tool in body["frontend_tools"]),
        max_tokens=body["max_tokens"],
        max_turns=body["max_turns"],
        speaks=(body["speaks"][0], body["speaks"][1]),
        asides=tuple(PlacedAside(*aside) for aside in body["asides"]),
        target=load_target(body["target"]) if body.get("target") else None,
        fallbacks=tuple(map(load_target, body.get("fallbacks", ()))),
        waiting=tuple(load_messages(body["waiting"].encode())) if body.get("waiting") else (),
        reasoning=ReasoningEffort(body["reasoning"]) if body.get("reasoning") else None,
        compaction=load_compaction(body["compaction"]) if body.get("compaction") else COMPACTED_BY_DEFAULT,
        approvals={tool: load_rule(rule) for tool, rule in body.get("approvals", {}).items()},
        decisions={call_id: load_decision(each) for call_id, each in body.get("decisions", {}).items()},
        left=tuple(map(load_interrupt, body.get("left", ()))),
        has_state=body.get("has_state", True),
        changes=body.get("changes"),
        mcp_tools=tuple(map(load_offered, body.get("mcp_tools", ()))),
        subagents=tuple(
            Subagent(agent_id=AgentId(agent_id), name=name, description=description)
            for agent_id, name, description in body.get("subagents", ())
        ),
        carried=tuple(map(RunId, body.get("carried", ()))),
        beside_tokens=body.get("beside_tokens"),
    )


def target_of(run: Run, setup: RunSetup | None) -> Target:
    """Return the model of a stored run; releases before there were targets stored its id alone."""
    return (setup and setup.target) or Target(model=run.model)
