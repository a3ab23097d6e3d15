"""Bodies of the routes of MCP servers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final

import orjson
from pydantic import AfterValidator, Field, StringConstraints

from karma.agents.domain import BUILT_IN_ID
from karma.core.schemas import SERVER_URL, Body, Version, Whole, left_out, line
from karma.mcp.domain import (
    DEFAULT_RESULT_BYTES,
    DEFAULT_TIMEOUT_S,
    MAX_ALLOWED_TOOLS,
    MAX_EXPOSURES,
    MAX_EXPOSURES_BYTES,
    MAX_HEADER_VALUE_CHARS,
    MAX_HEADERS,
    MAX_HEADERS_BYTES,
    MAX_NAME_CHARS,
    MAX_TIMEOUT_S,
    MAX_TOOL_NAME_CHARS,
    MAX_URL_CHARS,
    MIN_RESULT_BYTES,
    Exposure,
)
from karma.mcp.service import NewMcpServer
from karma.tools.approval_body import ApprovalRuleBody
from karma.tools.domain import ToolApproval

_HEADER: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}")
_VALUE: Final = re.compile(r"[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?")
_OURS: Final = frozenset(
    {
        "accept",
        "accept-encoding",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "expect",
        "host",
        "keep-alive",
        "last-event-id",
        "mcp-method",
        "mcp-name",
        "mcp-protocol-version",
        "mcp-session-id",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)


def _headers(headers: dict[str, str]) -> dict[str, str]:
    """Refuse what is no header or would change what a request is; names differ in more than letter case."""
    for name, value in headers.items():
        if not _HEADER.fullmatch(name) or name.lower() in _OURS or name.lower().startswith(("mcp-", "proxy-")):
            raise ValueError("must be named as HTTP headers are, and not as those of the protocol itself")
        if not _VALUE.fullmatch(value) or len(value) > MAX_HEADER_VALUE_CHARS:
            raise ValueError(f"must have values of 1 to {MAX_HEADER_VALUE_CHARS} characters of ASCII")
    if len({name.lower() for name in headers}) < len(headers):
        raise ValueError("must name each header once")
    if len(orjson.dumps(headers)) > MAX_HEADERS_BYTES:
        raise ValueError(f"must be at most {MAX_HEADERS_BYTES} bytes together")
    return headers


def _once_each(exposures: list[ExposureBody]) -> list[ExposureBody]:
    if len({each.agent for each in exposures}) < len(exposures):
        raise ValueError("must name each agent once")
    if len(orjson.dumps([each.model_dump(mode="json") for each in exposures])) > MAX_EXPOSURES_BYTES:
        raise ValueError(f"must be at most {MAX_EXPOSURES_BYTES} bytes together")
    return exposures


ToolName = Annotated[str, StringConstraints(min_length=1, max_length=MAX_TOOL_NAME_CHARS)]


class RemoteApprovalBody(ApprovalRuleBody):
    """A rule by which a person has to approve calls of a server's tool."""

    tool: ToolName
    """Name of a tool as the server has it; `*`: each that has no rule of its own."""


class ExposureBody(Body):
    """An agent that may use the server."""

    agent: Annotated[str, StringConstraints(min_length=1, max_length=64)] = BUILT_IN_ID
    """Id or name of the agent."""
    tools: Annotated[list[ToolName], Field(max_length=MAX_ALLOWED_TOOLS)] | None = None
    """Names of the tools that it may use, as the server has them; null: all, also those that it adds later."""
    approvals: Annotated[list[RemoteApprovalBody], Field(max_length=MAX_ALLOWED_TOOLS)] = Field(default_factory=list)
    """Rules by which a person has to approve calls, at most one a tool; without one a call is made at once."""


def _to_all() -> list[ExposureBody]:
    return [ExposureBody()]


ServerName = Annotated[str, line(MAX_NAME_CHARS)]
Headers = Annotated[dict[str, str], Field(max_length=MAX_HEADERS), AfterValidator(_headers)]
Exposures = Annotated[list[ExposureBody], Field(max_length=MAX_EXPOSURES), AfterValidator(_once_each)]
TimeoutS = Annotated[Whole, Field(ge=1, le=MAX_TIMEOUT_S)]
ResultBytes = Annotated[Whole, Field(ge=MIN_RESULT_BYTES, le=DEFAULT_RESULT_BYTES)]


def _described(exposures: Sequence[ExposureBody]) -> tuple[Exposure, ...]:
    """Return exposures in the domain's words."""
    return tuple(
        Exposure(
            agent=each.agent,
            tools=None if each.tools is None else tuple(dict.fromkeys(each.tools)),
            approvals=tuple(ToolApproval(tool=rule.tool, rule=rule.rule()) for rule in each.approvals),
        )
        for each in exposures
    )


class ChangeMcpServerBody(Body):
    """Changes of an MCP server; a member that is left out stays as it is. Its address stays: create another one."""

    name: ServerName = left_out()
    """Prefix of its tools' names; runs that have begun keep the former one."""
    headers: Headers = left_out()
    """All of them; with other ones the server is asked for its tools first."""
    agents: Exposures = left_out()
    """Agents that may use it, all of them."""
    timeout_s: TimeoutS = left_out()
    max_result_bytes: ResultBytes = left_out()
    version: Version | None = None

    def changes(self) -> Mapping[str, Any]:
        """Return what the body says, in the domain's words."""
        found = {name: getattr(self, name) for name in self.model_fields_set - {"version", "agents"}}
        if "agents" in self.model_fields_set:
            found["exposures"] = _described(self.agents)
        return found


class CreateMcpServerBody(Body):
    """An MCP server of the caller's."""

    name: ServerName
    """Prefix of its tools' names, as in `<name>__<tool>`."""
    url: Annotated[str, StringConstraints(max_length=MAX_URL_CHARS, pattern=SERVER_URL)]
    headers: Headers = Field(default_factory=dict)
    """Headers that each request to it gets, such as `Authorization`; kept encrypted, and never shown again."""
    agents: Exposures = Field(default_factory=_to_all)
    """Agents that may use it; left out: the built-in one, all tools."""
    timeout_s: TimeoutS = DEFAULT_TIMEOUT_S
    """Seconds for one call."""
    max_result_bytes: ResultBytes = DEFAULT_RESULT_BYTES
    """Bytes of one result; a larger one is a failure of the call."""

    def wanted(self) -> NewMcpServer:
        """Return what the body says, in the domain's words."""
        return NewMcpServer(
            name=self.name,
            url=self.url,
            headers=self.headers,
            exposures=_described(self.agents),
            timeout_s=self.timeout_s,
            max_result_bytes=self.max_result_bytes,
        )
