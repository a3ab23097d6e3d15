"""CORS of the front end at every endpoint: request headers that browsers may send, response headers they may read."""

REQUEST_HEADERS = (
    "accept",
    "authorization",
    "cache-control",
    "content-type",
    "idempotency-key",
    "if-match",
    "if-none-match",
    "last-event-id",
    "x-api-key",
    "x-request-id",
)
"""Spelled out: with credentials, browsers take `*` literally."""
RESPONSE_HEADERS = (
    "etag",
    "idempotent-replayed",
    "location",
    "ratelimit",
    "ratelimit-policy",
    "retry-after",
    "x-process-time",
    "x-request-id",
)
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
PREFLIGHT_MAX_AGE_S = 600
