"""The setup of a run: all that another process needs, beside its log and its thread, to go on with it.

It is written once, in the transaction that starts the run, and never changes: what an admin or the agent's owner edits
later holds for later runs. Stored as compressed JSON; the parts of a client's request that the model is not shown are
not in it.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import orjson

from karma.conversations.domain import Json
from karma.conversations.messages import Aside, Sent
from karma.core.errors import PayloadTooLarge
from karma.core.ids import UserId
from karma.identity.domain import Caller, Locale, Role
from karma.models.domain import Target, dump_target, load_target
from karma.models.ports import ToolSpec
from karma.runs.events import Version

MAX_SETUP_BYTES: Final = 1_000_000
"""Bytes of a setup when compressed; with the new messages it is part of one transaction of 4 MB."""


class PlacedAside(NamedTuple):
    """A `system` or `developer` message of the client, which a snapshot must show at its place: clients drop others."""

    before: str
    """Id of the client's message that follows it; "": it was the last one."""
    shown: Json


@dataclass(frozen=True, kw_only=True)
class RunSetup:
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
    )
