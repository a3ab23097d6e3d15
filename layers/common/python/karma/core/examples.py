"""Example values of the OpenAPI document that several contexts use: users, times, lists, ids of other contexts.

Those of one context alone are in its own `examples.py`, whose FIELDS have the same form:

field                  for a field of any body or answer without an example of its own
Model                  for one answer as a whole
Model.field            for a field of one body or answer; overrides `field`
operation.parameter    for a parameter of one operation; overrides the plain name of the parameter

Loaded when somebody asks for the document, never at a cold start: karma/http/openapi_examples.py puts them together.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

USER = "01994b8e-7d52-7c60-9a41-5f0f4a1b2c3d"
DEVICE = "01994b90-2f1a-7e35-8c77-0d9e6b4a5f21"
AGENT = "01994b8f-c3d7-7b42-9e10-64a8f2d05b7e"
BEGAN = "2026-03-01T08:00:00.000Z"
LATER = "2026-03-01T08:05:00.000Z"
TOKEN = "q4Tn0yXbVw8rJm2sKd6eLz1uHcPf3GaiR7oE5vB9xYk"  # noqa: S105  an example

_KARMA = {"app": "karma-cloud", "version": "0.1.0"}
_DATABASE = {"status": "healthy", "latency_ms": 4.1}

FIELDS: Mapping[str, Any] = {
    "user_id": USER,
    "device_id": DEVICE,
    "agent_id": AGENT,
    "created_at": BEGAN,
    "updated_at": LATER,
    "received_at": BEGAN,
    "at": BEGAN,
    "ts": BEGAN,
    "expires_at": "2026-03-02T08:00:00.000Z",
    "finished_at": LATER,
    "version": 3,
    "limit": 20,
    "Idempotency-Key": "greenhouse-1",
    "offset": 0,
    "page": 1,
    "page_size": 20,
    "total": 1,
    "total_capped": False,
    "next_cursor": None,
    "has_more": False,
    "cursor": "eyJrIjoiazEiLCJwIjp7fX0.c2lnbmF0dXJl",
    "order": "desc",
    "sort": "created_at",
    "if-match": '"3"',
    "if-none-match": "*",
    "email": "ada@example.com",
    "accepted": True,
    "tags": ["tomatoes"],
    "from": "2026-03-01T00:00:00Z",
    "to": "2026-03-02T00:00:00Z",
    "error": None,
    "type": "text",
    "size": 2048,
    "metadata": {"source": "boot"},
    "description": "Answers questions about devices",
    "system_prompt": "You look after a greenhouse. Answer briefly.",
    "tools": ["searchDatabase"],
    "temperature": 0.7,
    "built_in": False,
    "progress": 0,
    "success": True,
    "component": "database",
    "timestamp": 1772352000000,
    "AboutData": {**_KARMA, "docs": "/docs", "openapi": "/openapi.json"},
    "HealthData": {
        "status": "healthy",
        **_KARMA,
        "services": {"database": _DATABASE, "redis": {**_DATABASE, "replaced": "dynamodb"}},
    },
    "DetailedHealthData": {
        "status": "healthy",
        **_KARMA,
        "stage": "prod",
        "timestamp": BEGAN,
        "components": {"database": _DATABASE},
    },
    "ComponentHealthData": {"component": "database", **_DATABASE},
    "AgioHealthData": {
        "status": "healthy",
        "version": "0.1.0",
        "timestamp": BEGAN,
        "components": {"database": "healthy", "cache": "healthy", "llm": "not_checked"},
    },
}
