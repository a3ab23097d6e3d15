"""The OpenAPI document of the stream URL, written by hand for the routes: loaded when it is first asked for.

Bodies are read by karma.runs.requests, whose limits are repeated here; tests/integration/permissions/test_bodies.py
sends bodies that this document forbids, and expects a refusal that names the field.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from agent_stream.openapi_chat import CHAT_SCHEMAS, chat
from agent_stream.openapi_live import live
from agent_stream.openapi_models import MODEL_SCHEMAS, call
from agent_stream.openapi_parts import NULL as _NULL
from agent_stream.openapi_parts import REF as _REF
from agent_stream.openapi_parts import Schema
from agent_stream.openapi_parts import either as _either
from agent_stream.openapi_parts import failures as _failures
from agent_stream.openapi_parts import object_of as _object
from agent_stream.openapi_parts import parameter as _parameter
from karma.agents.domain import MAX_NAME_CHARS
from karma.conversations.fields import MAX_TEXT_CHARS
from karma.conversations.media import MAX_MEDIA_CHARS
from karma.conversations.messages import MAX_HELD_CHARS, MAX_MESSAGE_BYTES, MAX_TYPE_CHARS
from karma.core.health import VERSION
from karma.models.budgets import LIMITS
from karma.runs.requests import MAX_BODY_BYTES, MAX_TOOLS, MAX_VERSION_CHARS

EVENTS = (
    "RUN_STARTED",
    "MESSAGES_SNAPSHOT",
    "CUSTOM",
    "STATE_SNAPSHOT",
    "STATE_DELTA",
    "REASONING_START",
    "REASONING_MESSAGE_START",
    "REASONING_MESSAGE_CONTENT",
    "REASONING_MESSAGE_END",
    "REASONING_END",
    "TEXT_MESSAGE_START",
    "TEXT_MESSAGE_CONTENT",
    "TEXT_MESSAGE_END",
    "TOOL_CALL_START",
    "TOOL_CALL_ARGS",
    "TOOL_CALL_END",
    "TOOL_CALL_RESULT",
    "ACTIVITY_SNAPSHOT",
    "ACTIVITY_DELTA",
    "SUBAGENT_STARTED",
    "SUBAGENT_FINISHED",
    "SUBAGENT_ERROR",
    "RUN_FINISHED",
    "RUN_ERROR",
)
"""Events of AG-UI 1.0 in the streams of our runs."""

_THREAD = "01994b94-9b20-7e83-b6c4-d2e1f0a98765"
_RUN = "01994b95-0a6e-7d19-a5b8-3c2d1e0f9a87"
_ID_PATTERN = r"^[!\x22$-~]{1,128}$"
_RUN_ID_PATTERN = r"^(?!\.{1,2}$)[!\x22$&-.0->@-\[\]-~]{1,128}$"
"""Pattern of run ids that URLs can hold: karma.conversations.domain.is_in_urls."""
_MESSAGE = "01994b98-3e5f-7c41-b2a3-d4c5b6a79808"


class Described(Protocol):
    """Attributes of a route that the document uses: agent_stream.app.Route."""

    @property
    def method(self) -> str: ...  # noqa: D102
    @property
    def path(self) -> str: ...  # noqa: D102
    @property
    def permission(self) -> str: ...  # noqa: D102


def document(routes: Iterable[Described]) -> Schema:
    """Describe every route; KeyError: a route is not known here."""
    paths: dict[str, Any] = {
        "/health": {
            "get": {
                "operationId": "stream_health",
                "tags": ["health"],
                "security": [],
                "description": "Say that the function answers.",
                "responses": {
                    "200": _json("OK", {"$ref": _REF + "Health"}, {"status": "ok"}),
                    **_failures("/health", 422, 500),
                },
            }
        }
    }
    for route in routes:
        name, describe = _OPERATIONS[f"{route.method} {route.path}"]
        operation: Schema = describe(route.path)
        operation |= {"operationId": name, "security": [{"bearer": []}, {"api_key": []}]}
        operation["description"] += f"\n\nPermission: `{route.permission}`"
        paths.setdefault(route.path, {})[route.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": "karma-cloud streams", "version": VERSION, "description": _ABOUT},
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": _SCHEMAS,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
                "api_key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            },
        },
    }


_ABOUT = (
    "Answers of runs are server-sent events, one AG-UI 1.0 event a frame: `data: <JSON>`, with `id: <n>` on the last "
    "event of each committed segment, and a comment every 10 seconds. A failure before the first byte has a status and "
    "the API's error body; one behind it is a RUN_ERROR. The rest of the API is described at its own `/openapi.json`."
)


def _run(path: str) -> Schema:
    example = {"threadId": _THREAD, "runId": _RUN, "messages": [_USER_EXAMPLE]}
    return {
        "tags": ["runs"],
        "description": (
            "Start a run, of the built-in agent or of the one that `forwardedProps.agent_id` names, and stream it to "
            "its last event. The run does not end with its client."
        ),
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": {"$ref": _REF + "RunAgentInput"}, "example": example}},
        },
        "responses": {
            "200": {"description": "The run", "content": {"text/event-stream": _events()}},
            **_failures(path, 400, 401, 402, 403, 404, 409, 410, 413, 415, 422, 429, 500, 503),
        },
    }


def _attach(path: str) -> Schema:
    page = {
        "success": True,
        "data": {"segments": [{"n": 1, "events": [_STARTED]}], "next_after": 1, "finished": False},
        "timestamp": 1772352000000,
    }
    whole: Schema = {"type": "integer", "minimum": 0, "maximum": 10**8 - 1, "default": 0}
    return {
        "tags": ["runs"],
        "description": (
            "Replay a run's log from segment n+1 and follow it for up to 55 seconds; come back with the last `id:`, "
            "and drop before that what came after it, since it comes again. "
            "Asked for `application/json` alone it is one page. "
            "With `join=true` the conversation and the state as they are come first, then what follows: for a client "
            "that holds any part of the conversation, or none."
        ),
        "parameters": [
            _parameter("run_id", "path", {"type": "string"}, _RUN, "The run"),
            _parameter("after", "query", whole, 0, "The last segment that is known; `Last-Event-ID` goes before it"),
            _parameter(
                "limit",
                "query",
                {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100},
                100,
                "Segments of a page",
            ),
            _parameter(
                "join",
                "query",
                {"type": "boolean", "default": False},
                True,
                "Begin with the conversation; a position, as of a client that comes back, goes before it",
            ),
            _parameter("Last-Event-ID", "header", whole, 0, "The last id that came, which goes before `after`"),
        ],
        "responses": {
            "200": {
                "description": "The log",
                "content": {
                    "text/event-stream": _events(),
                    "application/json": {"schema": {"$ref": _REF + "EventsPage"}, "example": page},
                },
            },
            **_failures(path, 401, 403, 404, 422, 429, 500, 503),
        },
    }


_OPERATIONS = {
    "POST /api/chat": ("agio_chat", chat),
    "POST /api/v1/chat": ("chat", chat),
    "POST /api/v1/llm/messages": ("call_model", call),
    "POST /api/agent": ("run_agent", _run),
    "POST /api/v1/agent": ("run_agent_v1", _run),
    "GET /api/v1/runs/{run_id}/events": ("stream_run_events", _attach),
    "GET /api/v1/realtime/stream": ("stream_changes", live),
}


def _json(about: str, schema: Schema, example: object) -> Schema:
    return {"description": about, "content": {"application/json": {"schema": schema, "example": example}}}


def _events() -> Schema:
    names = ", ".join(EVENTS)
    return {
        "schema": {
            "type": "string",
            "description": f"Frames of `Event`, whose types are {names}. The last is RUN_FINISHED or RUN_ERROR.",
        },
        "example": 'data: {"type":"RUN_STARTED","threadId":"' + _THREAD + '","runId":"' + _RUN + '"}\nid: 1\n\n',
    }


_STARTED = {"type": "RUN_STARTED", "threadId": _THREAD, "runId": _RUN, "protocolVersion": "1.0"}
_USER_EXAMPLE = {"id": _MESSAGE, "role": "user", "content": "Which devices are online?"}


_ID = _either({"type": "string", "pattern": _ID_PATTERN}, {"const": ""}, _NULL, examples=[_MESSAGE])
_RUN_ID = _either({"type": "string", "pattern": _RUN_ID_PATTERN}, {"const": ""}, _NULL, examples=[_RUN])
_REQUIRED_ID: Schema = {"type": "string", "pattern": _ID_PATTERN, "examples": ["call_1"]}
_TEXT: Schema = {"type": "string", "maxLength": MAX_TEXT_CHARS, "examples": ["Answer in one sentence."]}
_BUDGET: Schema = {
    "type": "object",
    "description": "What the run may use at the most: tokens of input and output together, and micro-dollars",
    "properties": {name: {"type": "integer", "minimum": 1, "maximum": most} for name, most in LIMITS.items()},
    "additionalProperties": False,
}
_CONTENT: Schema = {
    "type": "string",
    "maxLength": MAX_MESSAGE_BYTES,
    "description": (
        f"A new message of a user has at most {MAX_MESSAGE_BYTES} bytes of text; a longer result of a tool is kept "
        "whole and shown to the model by its beginning. What the server holds already is not measured."
    ),
    "examples": ["Which devices are online?"],
}
_HELD: Schema = {"type": "string", "maxLength": MAX_HELD_CHARS, "examples": ["Which devices are online?"]}
"""A text that a client received and may have to send again, however long it is."""
_PARTS: Schema = {"type": "array", "items": {"$ref": _REF + "ContentPart"}}


def _message(role: str, required: Iterable[str] = (), *, description: str = "", **properties: Schema) -> Schema:
    told = {"description": description} if description else {}
    return _object(["role", *required], {"role": {"const": role}, "id": _ID, **properties}, **told)


_SCHEMAS: Schema = {
    "Health": _object(["status"], {"status": {"const": "ok"}}),
    "RunAgentInput": {
        "type": "object",
        "description": (
            f"AG-UI 1.0's, at most {MAX_BODY_BYTES} bytes. What is absent gets a default or is made; unknown members "
            "are passed over."
        ),
        "properties": {
            "threadId": _ID,
            "runId": _RUN_ID,
            "parentRunId": _ID,
            "protocolVersion": _either(
                {"type": "string", "maxLength": MAX_VERSION_CHARS, "description": "Major version 1"}, _NULL
            ),
            "state": {"description": "Any JSON value; null is read as `{}`", "examples": [{"page": "devices"}]},
            "messages": _either({"type": "array", "items": {"$ref": _REF + "Message"}}, _NULL),
            "tools": _either({"type": "array", "maxItems": MAX_TOOLS, "items": {"$ref": _REF + "Tool"}}, _NULL),
            "context": _either(
                {"type": "array", "items": {"$ref": _REF + "Context"}},
                {"type": "object", "maxProperties": 0, "description": "The same as an empty list"},
                _NULL,
            ),
            "forwardedProps": {
                "properties": {
                    "agent_id": _either({"type": "string", "minLength": 1, "maxLength": MAX_NAME_CHARS}, _NULL),
                    "multitask_strategy": _either({"enum": ["reject", "interrupt"]}, _NULL),
                    "budget": _either(_BUDGET, _NULL),
                    "on_disconnect": _either({"enum": ["continue", "cancel"]}, _NULL),
                }
            },
            "resume": _either({"type": "array", "items": {}}, _NULL),
        },
    },
    **CHAT_SCHEMAS,
    **MODEL_SCHEMAS,
    "Message": {
        "oneOf": [
            _message(
                "user",
                content=_either(_CONTENT, _PARTS, examples=["Which devices are online?"]),
                description="Without `content` it is the one of this id that the server holds",
            ),
            _message(
                "assistant",
                content=_either(_HELD, _NULL),
                toolCalls=_either({"type": "array", "items": {"$ref": _REF + "ToolCall"}}, _NULL),
            ),
            _message(
                "tool",
                ["content", "toolCallId"],
                content=_either(_HELD, _PARTS, examples=["done"]),
                toolCallId=_REQUIRED_ID,
                error=_either({"type": "string", "maxLength": MAX_HELD_CHARS}, _NULL),
            ),
            _message("system", ["content"], content=_TEXT, id={}),
            _message("developer", ["content"], content=_TEXT, id={}),
            _object(["role"], {"role": {"enum": ["activity", "reasoning"]}}, description="Passed over"),
        ]
    },
    "ContentPart": {
        "oneOf": [
            _object(["type", "text"], {"type": {"const": "text"}, "text": _HELD}),
            _object(
                ["type", "source"],
                {"type": {"enum": ["image", "audio", "video", "document"]}, "source": {"$ref": _REF + "Source"}},
            ),
            _object(
                ["type"],
                {
                    "type": {"const": "binary"},
                    "mimeType": {"type": "string", "maxLength": MAX_TYPE_CHARS},
                    "data": {"type": "string", "maxLength": MAX_MEDIA_CHARS},
                    "url": {"type": "string"},
                    "id": {"type": "string", "description": "`devices/<device id>/files/<file id>`"},
                },
                description="Of protocols before 1.0: `data`, `url` or `id` is needed, the first of them counts",
            ),
        ]
    },
    "Source": _object(
        ["type", "value"],
        {
            "type": {"enum": ["data", "url", "file"]},
            "value": {
                "type": "string",
                "maxLength": MAX_MEDIA_CHARS,
                "description": "Base64 or a `data:` URL; an https: URL; `devices/<device id>/files/<file id>`; for "
                "what a conversation holds also the URL that a snapshot gave, or `attachments/<id>`",
            },
            "mimeType": _either(
                {"type": "string", "maxLength": MAX_TYPE_CHARS},
                _NULL,
                description="Needed with `data`; what the bytes are counts",
            ),
        },
        examples=[{"type": "url", "value": "https://example.com/a.png", "mimeType": "image/png"}],
    ),
    "ToolCall": _object(
        ["id", "function"],
        {
            "id": {"type": "string", "maxLength": MAX_HELD_CHARS, "examples": ["call_1"]},
            "type": {"const": "function"},
            "function": _object(
                ["name", "arguments"],
                {
                    "name": {"type": "string", "maxLength": MAX_HELD_CHARS, "examples": ["searchDatabase"]},
                    "arguments": {"type": "string", "maxLength": MAX_HELD_CHARS, "examples": ["{}"]},
                },
            ),
        },
    ),
    "Tool": _object(
        ["name"],
        {
            "name": {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$", "examples": ["confirmAction"]},
            "description": _TEXT,
            "parameters": _either(
                {
                    "type": "object",
                    "additionalProperties": True,
                    "description": "A JSON Schema of type object, without oneOf, anyOf and allOf at its top level",
                },
                _NULL,
            ),
        },
    ),
    "Context": _object(["description", "value"], {"description": _TEXT, "value": _TEXT}),
    "Event": _object(
        ["type"], {"type": {"enum": list(EVENTS)}}, description="An event of AG-UI 1.0", additionalProperties=True
    ),
    "EventsPage": _object(
        ["success", "data", "timestamp"],
        {
            "success": {"const": True},
            "data": _object(
                ["segments", "next_after", "finished"],
                {
                    "segments": {
                        "type": "array",
                        "items": _object(
                            ["n", "events"],
                            {
                                "n": {"type": "integer"},
                                "events": {"type": "array", "items": {"$ref": _REF + "Event"}},
                            },
                        ),
                    },
                    "next_after": {"type": "integer"},
                    "finished": {"type": "boolean"},
                },
            ),
            "timestamp": {"type": "integer", "description": "Unix time in milliseconds"},
        },
    ),
    "Error": _object(
        ["success", "error", "timestamp"],
        {
            "success": {"const": False},
            "error": _object(
                ["code", "type", "message", "details", "path", "request_id"],
                {
                    "code": {"type": "string", "description": "Part of the contract", "examples": ["NOT_FOUND"]},
                    "type": {"type": "string"},
                    "message": {"type": "string"},
                    "details": {"description": "`{}`, an object, or for 422 a list of `{field, message, type}`"},
                    "path": {"type": "string"},
                    "request_id": {"type": "string"},
                },
            ),
            "timestamp": {"type": "integer", "description": "Unix time in milliseconds"},
        },
    ),
    "AgioError": _object(
        ["error"],
        {
            "error": _object(
                ["type", "message"],
                {
                    "type": {"type": "string"},
                    "message": {"type": "string"},
                    "path": {"type": "string"},
                    "details": {"description": "An object, or for 422 a list of `{field, message, type}`"},
                },
            )
        },
    ),
}
