"""The part of the stream URL's OpenAPI document about the stream of what changes."""

from __future__ import annotations

from agent_stream.openapi_parts import Schema, failures, parameter

_ID = "sse-01994b95-0a6e-7d19-a5b8-3c2d1e0f9a89:4"
_CHANNEL = "user:01994b94-9b20-7e83-b6c4-d2e1f0a98765"
_EVENT: Schema = {
    "type": "object",
    "properties": {"type": {"enum": ["ack", "event", "error"]}},
    "required": ["type"],
    "additionalProperties": True,
}
"""Everything beside the type is described in docs/realtime.schema.json."""


def live(path: str) -> Schema:
    """Describe `GET /realtime/stream`."""
    return {
        "tags": ["realtime"],
        "description": (
            "For clients whose WebSocket does not open: the same channels, rights and messages as docs/realtime.md has "
            "them. First comes the acknowledgement of each channel, then events. The response ends after up to 55 "
            "seconds; come back with the last `id:`, as EventSource does by itself, and what is missing comes, or "
            "acknowledgements with `gap: true`. An account may have 4 open, the whole deployment 100."
        ),
        "parameters": [
            parameter(
                "channels",
                "query",
                {"type": "string", "pattern": r"^[^ ]+( [^ ]+){0,49}$", "maxLength": 6450},
                _CHANNEL,
                "Names of up to 50 channels, separated by spaces",
                required=True,
            ),
            parameter(
                "held",
                "query",
                {"type": "string", "maxLength": 6000},
                '{"' + _CHANNEL + '":{"objects":{},"head":{"epoch":"q8Zk3","seq":4}}}',
                "JSON: by channel what the client holds already, as `subscribe` takes it",
            ),
            parameter(
                "after", "query", {"type": "string", "maxLength": 64}, _ID, "As Last-Event-ID, which goes before it"
            ),
            parameter(
                "Last-Event-ID", "header", {"type": "string", "maxLength": 64}, _ID, "Id of the last event that came"
            ),
        ],
        "responses": {
            "200": {
                "description": "The messages",
                "content": {
                    "text/event-stream": {
                        "schema": {
                            "type": "string",
                            "description": "Frames whose `data:` is a message of docs/realtime.schema.json: `ack`, "
                            "`event`, or, before an end, `error`.",
                        },
                        "x-event": _EVENT,
                        "example": 'data: {"type":"ack","action":"subscribe","channel":"'
                        + _CHANNEL
                        + '","objects":{},"events":[],"missed":0,"head":{"epoch":"q8Zk3","seq":4},"gap":false}\nid: '
                        + _ID
                        + "\n\n",
                    }
                },
            },
            **failures(path, 401, 403, 404, 422, 429, 500, 503),
        },
    }
