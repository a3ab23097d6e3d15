"""The part of the stream URL's OpenAPI document about chats."""

from __future__ import annotations

from agent_stream.openapi_parts import NULL, REF, Schema, either, failures, object_of
from karma.agents.domain import MAX_NAME_CHARS
from karma.conversations.fields import MAX_TEXT_CHARS
from karma.http.envelope import style_of
from karma.http.headers import MAX_KEY_CHARS

_RUN, _THREAD = "01994b95-0a6e-7d19-a5b8-3c2d1e0f9a87", "01994b94-9b20-7e83-b6c4-d2e1f0a98765"


def chat(path: str) -> Schema:
    """Describe `POST /chat`."""
    answer = {
        "run_id": _RUN,
        "session_id": _THREAD,
        "response": "Hello!",
        "metrics": {"total_tokens": 12, "duration": 0.9},
    }
    bare = style_of(path) == "agio"
    whole = answer if bare else {"success": True, "data": answer, "timestamp": 1772352000000}
    frames = (
        "Frames with `event:` and JSON `data:`: `run_started {run_id, session_id, timestamp}`, "
        "`step_started {step, type}`, `content_delta {content}`, `tool_call_started {tool, args}`, "
        "`tool_call_completed {tool, result}`, and last `run_completed` with the fields of the whole answer, or "
        "`error {error, code, run_id}`."
    )
    return {
        "tags": ["runs"],
        "description": (
            "Say something to an agent. The run is one like any other, in the thread that `session_id` names, and does "
            "not end with its client. With an `Idempotency-Key`, a repeat gets the run that there is."
        ),
        "parameters": [
            {
                "name": "Idempotency-Key",
                "in": "header",
                "required": False,
                "schema": {"type": "string", "maxLength": MAX_KEY_CHARS},
                "example": "5b7f6c1e-order-4711",
                "description": "Names the run.",
            }
        ],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {"$ref": REF + "ChatRequest"},
                    "example": {"agent_id": "karma", "message": "Hello", "stream": False},
                }
            },
        },
        "responses": {
            "200": {
                "description": "The answer, as a stream unless `stream` is false",
                "content": {
                    "text/event-stream": {
                        "schema": {"type": "string", "description": frames},
                        "x-event": {"$ref": REF + "ChatEvent"},
                        "example": 'event: content_delta\ndata: {"content":"Hello!"}\n\n',
                    },
                    "application/json": {
                        "schema": {"$ref": REF + ("ChatAnswer" if bare else "ChatEnvelope")},
                        "example": whole,
                    },
                },
            },
            **failures(path, 400, 401, 402, 403, 404, 409, 413, 415, 422, 429, 500, 502, 503),
        },
    }


_TEXT: Schema = {"type": "string"}
_ANSWER: Schema = object_of(
    ["run_id", "session_id", "response", "metrics"],
    {
        "run_id": {"type": "string"},
        "session_id": {
            "type": "string",
            "description": "Thread of the run, also of one that named none",
        },
        "response": {"type": "string"},
        "stop_reason": {"const": "max_tokens", "description": "The response was cut off; absent: it is whole"},
        "metrics": object_of(
            ["total_tokens", "duration"],
            {
                "total_tokens": either({"type": "integer", "minimum": 0}, NULL),
                "duration": {"type": "number", "description": "Seconds"},
            },
        ),
    },
)

CHAT_SCHEMAS: Schema = {
    "ChatRequest": object_of(
        ["agent_id", "message"],
        {
            "agent_id": {"type": "string", "minLength": 1, "maxLength": MAX_NAME_CHARS, "description": "Id or name"},
            "message": {"type": "string", "minLength": 1, "maxLength": MAX_TEXT_CHARS},
            "user_id": either(
                {"type": "string", "pattern": "^[0-9a-f-]{36}$"},
                NULL,
                description="The caller's own id, if it is given",
            ),
            "session_id": either(
                {"type": "string", "pattern": r"^[!\x22$-~]{1,128}$"}, NULL, description="Thread to go on with"
            ),
            "stream": either({"type": "boolean"}, NULL, default=True),
        },
        additionalProperties=False,
    ),
    "ChatAnswer": _ANSWER,
    "ChatEvent": either(
        object_of(
            ["run_id", "session_id", "timestamp"],
            {"run_id": _TEXT, "session_id": _TEXT, "timestamp": {"type": "string", "format": "date-time"}},
        ),
        object_of(["step", "type"], {"step": {"type": "integer", "minimum": 1}, "type": {"const": "llm_call"}}),
        object_of(["content"], {"content": _TEXT}),
        object_of(["tool", "args"], {"tool": _TEXT, "args": {"description": "Any JSON value"}}),
        object_of(["tool", "result"], {"tool": _TEXT, "result": {"description": "Any JSON value"}}),
        {"$ref": REF + "ChatAnswer"},
        object_of(["error", "code"], {"error": _TEXT, "code": _TEXT, "run_id": _TEXT}),
        description="The data of an event, by the names and in the order of the stream's description",
    ),
    "ChatEnvelope": object_of(
        ["success", "data", "timestamp"],
        {"success": {"const": True}, "data": {"$ref": REF + "ChatAnswer"}, "timestamp": {"type": "integer"}},
    ),
}
