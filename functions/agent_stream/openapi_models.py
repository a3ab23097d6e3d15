"""The part of the stream URL's OpenAPI document about calls of models."""

from __future__ import annotations

from agent_stream.openapi_parts import NULL, REF, Schema, either, failures, object_of
from karma.configuration.domain import MAX_NAME_CHARS, MAX_TOKENS
from karma.runs.direct_requests import MAX_SYSTEM_CHARS
from karma.runs.requests import MAX_BODY_BYTES, MAX_TOOLS

_CALL = "01994b95-0a6e-7d19-a5b8-3c2d1e0f9a88"


def call(path: str) -> Schema:
    """Describe `POST /llm/messages`."""
    example = {"model": "claude-haiku-5-5", "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 100}
    answer = {
        "id": _CALL,
        "model": "claude-haiku-5-5",
        "answered_by": {"provider": "anthropic", "model": "claude-haiku-5-5"},
        "content": "Hello!",
        "tool_calls": [],
        "stop_reason": "end",
        "usage": {"provider": "anthropic", "model": "claude-haiku-5-5", "inputTokens": 9, "outputTokens": 3},
        "cost_micros": 3,
    }
    whole = {"success": True, "data": answer, "timestamp": 1772352000000}
    frames = (
        "Frames of `ModelEvent`: pieces of text and of calls of tools, last `end` with the whole answer, or `error`."
    )
    return {
        "tags": ["models"],
        "description": (
            "Call a configured model once, outside of any conversation; nothing is kept. The call counts in the plan's "
            "model spend: its upper bound is taken before, and corrected to its cost after. A repeat is another call."
        ),
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": {"$ref": REF + "ModelCall"}, "example": example}},
        },
        "responses": {
            "200": {
                "description": "The answer, as a stream where `stream` is true",
                "content": {
                    "application/json": {"schema": {"$ref": REF + "ModelAnswer"}, "example": whole},
                    "text/event-stream": {
                        "schema": {"type": "string", "description": frames},
                        "x-event": {"$ref": REF + "ModelEvent"},
                        "example": 'data: {"type":"text","delta":"Hello!"}\n\n',
                    },
                },
            },
            **failures(path, 400, 401, 402, 403, 404, 409, 413, 415, 422, 429, 500, 502, 503, 504),
        },
    }


_ANSWER: Schema = {
    "id": {"type": "string"},
    "model": {"type": "string"},
    "answered_by": object_of(["provider", "model"], {"provider": {"type": "string"}, "model": {"type": "string"}}),
    "content": {"type": "string"},
    "tool_calls": {
        "type": "array",
        "items": object_of(
            ["id", "name", "arguments"],
            {"id": {"type": "string"}, "name": {"type": "string"}, "arguments": {"type": "string"}},
        ),
    },
    "stop_reason": {"enum": ["end", "tool_use", "max_tokens", "paused", "refused", "context_full"]},
    "usage": either({"type": "object"}, NULL),
    "cost_micros": {"type": "integer", "minimum": 0},
}


def _event(kind: str, optional: Schema | None = None, **properties: Schema) -> Schema:
    return object_of(["type", *properties], {"type": {"const": kind}, **properties, **(optional or {})})


_STRING: Schema = {"type": "string"}
_WAIT: Schema = {"retry_after_s": {"type": "integer", "minimum": 1, "description": "Seconds to wait before a repeat"}}

MODEL_SCHEMAS: Schema = {
    "ModelEvent": {
        "oneOf": [
            _event("text", delta=_STRING),
            _event("tool_call", id=_STRING, name=_STRING),
            _event("tool_call_arguments", id=_STRING, delta=_STRING),
            _event("tool_call_end", id=_STRING),
            _event("end", **_ANSWER),
            _event("error", _WAIT, code=_STRING, message=_STRING, retryable={"type": "boolean"}),
        ]
    },
    "ModelCall": object_of(
        ["messages"],
        {
            "model": either(
                {"type": "string", "maxLength": MAX_NAME_CHARS},
                NULL,
                description="Name of a model of `GET /llm/models`; without it the deployment's own",
            ),
            "system": either({"type": "string", "maxLength": MAX_SYSTEM_CHARS}, NULL),
            "messages": {
                "type": "array",
                "items": {"$ref": REF + "Message"},
                "description": "At least one is the user's. Media are `data` sources.",
            },
            "tools": either({"type": "array", "maxItems": MAX_TOOLS, "items": {"$ref": REF + "Tool"}}, NULL),
            "max_tokens": either({"type": "integer", "minimum": 1, "maximum": MAX_TOKENS}, NULL),
            "stream": either({"type": "boolean"}, NULL),
        },
        additionalProperties=False,
        description=f"At most {MAX_BODY_BYTES} bytes; messages and tools as in a run, but each error is refused.",
    ),
    "ModelAnswer": object_of(
        ["success", "data", "timestamp"],
        {
            "success": {"const": True},
            "data": object_of(_ANSWER, _ANSWER),
            "timestamp": {"type": "integer"},
        },
    ),
}
