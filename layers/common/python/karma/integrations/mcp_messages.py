"""Messages of the Model Context Protocol: requests of both eras, and what the answers say.

Since revision 2026-07-28 a request says everything itself (`_meta`, headers). Before, a handshake came first, and a
session might follow from it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import orjson

from karma.conversations.domain import Json
from karma.core import freeform, surrogates
from karma.core.json_patch import spelled
from karma.integrations.mcp_inputs import cannot_answer, needed
from karma.mcp.domain import HANDSHAKE, MODERN, McpErrorCode, McpFailed
from karma.mcp.headers import encoded

CLIENT_INFO: Final = {"name": "karma-cloud", "version": "1.0.0"}
INVALID_PARAMS: Final = -32602
"""Also: the server does not know the tool."""
UNSUPPORTED_VERSION: Final = -32022
HEADER_MISMATCH: Final = -32020
CAPABILITY_MISSING: Final = -32021
"""The tool asks its user something, and the client did not say that it can."""
MAX_MESSAGE_CHARS: Final = 500
_LOST: Final = (-32000, -32001)
"""Errors of relays and official packages: they lost the connection, or the patience, for an answer."""

_SMALL_BYTES: Final = 16 * 1024
"""Bytes of a result that is turned into what a model is shown in less than ten milliseconds."""
_REPEATED_LEVELS: Final = freeform.MAX_LEVELS + 4
"""Levels of structured content (mcp_streams), thus of a text that repeats it; orjson reads 1,024 and writes 254."""
_UNAUTHORIZED = frozenset({401, 403})
_REDIRECTS = frozenset({300, 301, 302, 303, 305, 307, 308})
AWAY = frozenset({429, 502, 503, 504})
"""Statuses that say nothing about which revisions a server knows."""
_META: Final = "io.modelcontextprotocol"


class NotSpoken(Exception):
    """The server does not know what it was asked, as one of another era would not; the message says how it showed."""


class McpSessionOver(NotSpoken):
    """The server has ended the session; nothing was carried out."""


class RpcError(Exception):
    """The server answered a request with an error of JSON-RPC; its text is the server's."""

    def __init__(self, code: int, message: str, supported: Sequence[str], *, is_unknown: bool) -> None:
        super().__init__(message)
        self.code = code
        self.supported = supported
        self.is_unknown = is_unknown
        """It says that an answer was lost behind the server, or in it: the request may have been carried out."""


def request_body(method: str, params: Json, *, version: str, request_id: int | None, can_ask: bool = False) -> bytes:
    """Return a request; without an id it is a notification, which nobody answers.

    `can_ask` tells the server that there is somebody who fills in forms.
    """
    told: dict[str, Any] = dict(params)
    if version == MODERN:
        told["_meta"] = {
            **told.get("_meta", {}),
            f"{_META}/protocolVersion": version,
            f"{_META}/clientCapabilities": {"elicitation": {"form": {}}} if can_ask else {},
            f"{_META}/clientInfo": CLIENT_INFO,
        }
    numbered = {} if request_id is None else {"id": request_id}
    return orjson.dumps({"jsonrpc": "2.0", **numbered, "method": method, "params": told})


def request_headers(method: str, params: Json, *, version: str, session: str) -> dict[str, str]:
    """Return the headers by which a request says what it is."""
    headers = {
        "Content-Type": "application/json",
        "Accept": "application/json, text/event-stream",
        "Accept-Encoding": "identity",
        "User-Agent": "karma-cloud",
    }
    if method != "initialize":
        headers["MCP-Protocol-Version"] = version
    if version == MODERN:
        headers["Mcp-Method"] = method
        if method == "tools/call":
            headers["Mcp-Name"] = encoded(str(params["name"]))
    if session:
        headers["Mcp-Session-Id"] = session
    return headers


def resuming_headers(*, version: str, session: str, last_event_id: str) -> dict[str, str]:
    """Return the headers by which the events behind one of a stream are asked for."""
    headers = {
        "Accept": "text/event-stream",
        "Accept-Encoding": "identity",
        "User-Agent": "karma-cloud",
        "MCP-Protocol-Version": version,
        "Last-Event-ID": last_event_id,
    }
    return {**headers, "Mcp-Session-Id": session} if session else headers


def handshake() -> Json:
    """Return the parameters of `initialize`."""
    return {"protocolVersion": HANDSHAKE[0], "capabilities": {}, "clientInfo": CLIENT_INFO}


def require_answer(status: int, headers: Mapping[str, str], *, in_session: bool) -> None:
    """Refuse answers whose body says nothing that matters.

    Raises:
        McpFailed: the server cannot be asked.
        McpSessionOver: the request was one of a session.
    """
    if status in _UNAUTHORIZED:
        is_oauth = "resource_metadata" in headers.get("www-authenticate", "")
        wants = (
            "wants a login by OAuth, which cannot be given here" if is_oauth else "refuses the headers that it was sent"
        )
        raise McpFailed(McpErrorCode.UNAUTHORIZED, f"The server {wants} (status {status})")
    if status in _REDIRECTS:
        raise McpFailed(McpErrorCode.REDIRECTED, f"The server redirects (status {status}); name its own address")
    if status in AWAY:
        raise McpFailed(McpErrorCode.UNREACHABLE, f"The server cannot answer now (status {status})")
    if status == 404 and in_session:
        raise McpSessionOver("The server ends the session that it has just begun")
    if headers.get("content-encoding", "identity") != "identity":
        raise McpFailed(McpErrorCode.BAD_ANSWER, "The server compresses what it was asked to send plainly")


def result_of(message: Mapping[str, Any], status: int = 200) -> dict[str, Any]:
    """Return the result of an answer, which came with a status of HTTP.

    Raises:
        RpcError: it is an error.
        McpInputNeeded: the server asks for something that can be given.
        McpFailed: it is neither, or asks for something else.
    """
    error, result = message.get("error"), message.get("result")
    if isinstance(error, dict):
        data = error.get("data")
        supported = data.get("supported") if isinstance(data, dict) else None
        code = error.get("code")
        if code == CAPABILITY_MISSING:
            raise cannot_answer(quoted(error.get("message")))
        raise RpcError(
            code if isinstance(code, int) else 0,
            quoted(error.get("message")),
            [each for each in supported if isinstance(each, str)] if isinstance(supported, list) else (),
            is_unknown=status >= 500 or (status < 400 and code in _LOST),
        )
    if not isinstance(result, dict):
        raise McpFailed(McpErrorCode.BAD_ANSWER, "The server's answer has no result")
    if result.get("resultType") == "input_required":
        raise needed(result)
    return result


def require_end(result: Mapping[str, Any]) -> None:
    """Refuse results that are none by now, or of a kind that nobody knows here: what the call does is not known.

    Raises:
        McpFailed: the result is such a one.
    """
    kind = result.get("resultType", "complete")
    if kind == "task" or (isinstance(result.get("task"), dict) and "content" not in result):
        told = "The server goes on with the call as a task, whose result is not awaited here"
        raise McpFailed(McpErrorCode.BAD_ANSWER, f"{told}: what becomes of it is not known")
    if kind != "complete":
        raise McpFailed(McpErrorCode.BAD_ANSWER, f"The server's result is of an unknown type: {quoted(kind)[:64]}")


def quoted(text: object) -> str:
    """Return a text of the server's, short enough to be shown."""
    return surrogates.whole(text)[:MAX_MESSAGE_CHARS] if isinstance(text, str) else ""


async def shown_result(result: Mapping[str, Any], max_bytes: int) -> object:
    """Return what a model is shown of a call's result; a large one takes a thread, since others use the loop.

    Raises:
        McpFailed: it is too large, or its structured content alone, of which nothing is left out.
    """
    size = len(orjson.dumps(result))
    _require_size(0 if size <= max_bytes else len(orjson.dumps(result.get("structuredContent"))), max_bytes)
    value = to_model(result) if size <= _SMALL_BYTES else await asyncio.to_thread(to_model, result)
    _require_size(len(orjson.dumps(value)), max_bytes)
    return value


def _require_size(size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise McpFailed(
            McpErrorCode.TOO_LARGE, f"The call was carried out; its result is larger than {max_bytes} bytes"
        )


def to_model(result: Mapping[str, Any]) -> object:
    """Return what a model is shown of a call's result: structured content where there is some, and contents beside it.

    By the protocol a text there repeats the structured content for clients that do not know it. One that is no JSON of
    it says something else, such as why a call failed, and is shown.
    Images, sounds and binary resources are named, not shown: a model's tool result is text.
    """
    structured = result.get("structuredContent")
    blocks = result.get("content")
    shown = [_block(each) for each in blocks if isinstance(each, dict)] if isinstance(blocks, list) else []
    if structured is not None:
        repeated = _spelled_in(structured) if any(isinstance(each, str) for each in shown) else frozenset()
        more = [each for each in shown if not isinstance(each, str) or not _repeats(each, repeated)]
        if structured in ({}, [], "") and more and all(isinstance(each, str) for each in more):
            return "\n".join(map(str, more))  # it says nothing beside them
        return {"structuredContent": structured, "content": more} if more else structured
    texts = [each for each in shown if isinstance(each, str)]
    if len(texts) == len(shown):
        return "\n".join(texts)
    return {"content": shown}


def _spelled_in(structured: object) -> frozenset[bytes]:
    """Return what texts may repeat of structured content: it, what its server wraps (`{"result": …}`), and each item.

    There may be as many texts as items, so that each text is looked up.
    """
    wrapped = list(structured.values()) if isinstance(structured, dict) and len(structured) == 1 else []
    items = [each for value in (structured, *wrapped) if isinstance(value, list) for each in value]  # a text an item
    return frozenset(map(spelled, (structured, *wrapped, *items)))


def _repeats(text: str, known: Collection[bytes]) -> bool:
    """Tell whether a text is blank, or one of the values that are `known` as `_spelled_in` returns them."""
    text = text.strip()
    if not text or spelled(text) in known:
        return True
    with suppress(ValueError):
        value = freeform.loads(freeform.large_as_texts(text.encode()), levels=_REPEATED_LEVELS, replace_surrogates=True)
        return spelled(value) in known
    return False


def _block(block: Mapping[str, Any]) -> object:
    kind = block.get("type")
    if kind == "text":
        return surrogates.whole(str(block.get("text", "")))
    if kind == "resource_link":
        return {name: block[name] for name in ("type", "uri", "name", "description", "mimeType") if name in block}
    if kind == "resource" and isinstance(inner := block.get("resource"), dict):
        names = ("uri", "mimeType", "text")
        return {"type": "resource", **{name: inner[name] for name in names if name in inner}, **_size(inner, "blob")}
    return {
        "type": quoted(kind),
        **({"mimeType": block["mimeType"]} if "mimeType" in block else {}),
        **_size(block, "data"),
    }


def _size(block: Mapping[str, Any], name: str) -> Json:
    data = block.get(name)
    return {"left_out": f"{len(data)} characters in Base64"} if isinstance(data, str) else {}
