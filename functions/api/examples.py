"""Examples of the OpenAPI document: a value for each field, put together to bodies, answers and parameters.

Loaded when somebody asks for the document, never at a cold start. A field's own `examples` go before this table, and
`Model.field` goes before `field`. An optional field of a body that is named nowhere is left out; a field of an answer
that is named nowhere leaves its operations without an example, which tests/contract/api/test_examples.py reports.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_REF = "#/components/schemas/"

_USER = "01994b8e-7d52-7c60-9a41-5f0f4a1b2c3d"
_DEVICE = "01994b90-2f1a-7e35-8c77-0d9e6b4a5f21"
_FILE = "01994b93-51c4-7a08-b3d2-7e1f90ac6d54"
_RUN = "01994b95-0a6e-7d19-a5b8-3c2d1e0f9a87"
_AGENT = "01994b8f-c3d7-7b42-9e10-64a8f2d05b7e"
_TASK = "01994b99-6d2e-7f17-84c5-e6d7f8091a2b"
_SUBTASK = "01994b99-6d2f-7a28-95d6-f7e8091a2b3c"
_PROJECT = "01994b9b-2d5e-7d4a-b7f8-19a2b3c4d5e6"
_AVATAR = "01994b9a-0b4c-7c39-a6e7-08f91a2b3c4d"
_NOTICE = "01994b9b-2e6f-7d5a-b8f9-1a2b3c4d5e6f"
_BEGAN = "2026-03-01T08:00:00.000Z"
_LATER = "2026-03-01T08:05:00.000Z"
_SHA256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
_SHA256_BASE64 = "n4bQgYhMfWWaL+qgxVrQFaO/TxsrC4Is0V1sFbDwCgg="
_TOKEN = "q4Tn0yXbVw8rJm2sKd6eLz1uHcPf3GaiR7oE5vB9xYk"  # noqa: S105  an example
_JWT = "eyJhbGciOiJIUzI1NiIsImtpZCI6ImsxIn0.eyJzdWIiOiIwMTk5NGI4ZSJ9.c2lnbmF0dXJl"
_STORE = "https://files.example.com/devices/boot.log?X-Amz-Signature=5d1f"
_PEM = "-----BEGIN CERTIFICATE-----\nMIIC...\n-----END CERTIFICATE-----\n"

FIELDS: Mapping[str, Any] = {
    # Who and when
    "id": _DEVICE,
    "user_id": _USER,
    "device_id": _DEVICE,
    "file_id": _FILE,
    "run_id": _RUN,
    "agent_id": _AGENT,
    "command_id": "01994b91-8e03-7f61-92ab-15c0d7e6f348",
    "key_id": "01994b92-44f9-7c2d-8d05-a9b1c2d3e4f5",
    "event_id": "evt_1SabcdEFghIJklMNopQR",
    "created_at": _BEGAN,
    "updated_at": _LATER,
    "modified_at": _LATER,
    "issued_at": _BEGAN,
    "requested_at": _BEGAN,
    "received_at": _BEGAN,
    "at": _BEGAN,
    "ts": _BEGAN,
    "expires_at": "2026-03-02T08:00:00.000Z",
    "last_heartbeat": _LATER,
    "sent_at": _LATER,
    "acknowledged_at": _LATER,
    "finished_at": _LATER,
    "accessed_at": None,
    "version": 3,
    # Lists
    "limit": 20,
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
    # Accounts
    "email": "ada@example.com",
    "password": "correct horse battery",
    "current_password": "correct horse battery",
    "name": "Greenhouse",
    "avatar": "https://example.com/ada.png",
    "role": "user",
    "locale": "en",
    "email_verified": True,
    "disabled": False,
    "disabled_at": None,
    "accepted": True,
    "token": _TOKEN,
    "refresh_token": _TOKEN,
    "access_token": _JWT,
    "token_type": "bearer",
    "expires_in": 1800,
    "prefix": "karma_7Qm2xK",
    "key": "karma_7Qm2xKd6eLz1uHcPf3GaiR7oE5vB9xYkq4Tn0yXbVw8",
    "scopes": ["device:read", "run:read"],
    "last_used_at": None,
    "event": "session.started",
    "actor_id": _USER,
    "address": "203.0.113.7",
    "user_agent": "Mozilla/5.0",
    "request_id": "JKJaXmPLvHcESHA=",
    "provider": "github",
    "linked_at": _BEGAN,
    "has_password": True,
    "authorization_url": "https://github.com/login/oauth/authorize?client_id=karma&state=" + _TOKEN,
    "state": _TOKEN,
    "redirect": "https://app.example.com/devices",
    "q": "ada",
    # Devices
    "model": "EOS-3A",
    "mac": "AA:BB:CC:00:11:22",
    "serial_number": "EOS-3A-0001",
    "ip": "192.168.1.20",
    "firmware_version": "1.4.2",
    "capabilities": {"relay": True},
    "hardware": {"revision": "B"},
    "network": {"ssid": "greenhouse"},
    "location": {"room": "north"},
    "tags": ["tomatoes"],
    "status": "online",
    "latest": {"temp_c": {"value": 21.5, "ts": _BEGAN}},
    "thing_name": "EOS-3A-0001",
    "certificate_id": "5c8f" * 16,
    "certificate_pem": _PEM,
    "private_key": "-----BEGIN RSA PRIVATE KEY-----\nMIIE...\n-----END RSA PRIVATE KEY-----\n",
    "ca_pem": _PEM,
    "mqtt_host": "mqtt.example.com",
    "mqtt_port": 8883,
    "basic_ingest_rule": "karma_prod_data",
    "metric": "temp_c",
    "from": "2026-03-01T00:00:00Z",
    "to": "2026-03-02T00:00:00Z",
    "day": "2026-03-01",
    "resolution": "raw",
    "value": 21.5,
    "command": "set_relay",
    "params": {"on": True},
    "serial": False,
    "ttl_s": 60,
    "wait_s": 5,
    "requested_by": _USER,
    "result": {"on": True},
    "error": None,
    "late_result": None,
    "reason": "WRONG_VALUE",
    "field": 'samples[3].m["temp_c"]',
    "refused": [{"field": 'samples[3].m["temp_c"]', "reason": "WRONG_VALUE"}],
    "refused_count": 1,
    "taken": True,
    "letter_id": "1795250341254-0f1e2d3c4b5a6978",
    "topic": "dt/karma/EOS-3A-0001/telemetry",
    "payload_base64": "eyJib290Ijo=",
    "truncated": False,
    # Files
    "path": "/logs",
    "parent_path": "/",
    "type": "text",
    "category": "log",
    "size": 2048,
    "sha256": _SHA256,
    "metadata": {"source": "boot"},
    "permissions": {"support": "read"},
    "part_numbers": [1],
    "checksums": {"1": _SHA256_BASE64},
    "mime_type": "text/plain",
    "extension": "log",
    "is_directory": False,
    "storage_url": None,
    "thumbnail_url": None,
    "checksum_md5": "098f6bcd4621d373cade4e832627b4f6",
    "checksum_sha256": _SHA256,
    "rejection": None,
    "part_size": 8388608,
    "part_count": 1,
    "part_number": 1,
    "headers": {"x-amz-checksum-sha256": _SHA256_BASE64},
    "url": _STORE,
    # Agents and runs
    "tag": "support",
    "description": "Answers questions about devices",
    "system_prompt": "You look after a greenhouse. Answer briefly.",
    "tools": ["searchDatabase"],
    "memory": None,
    "knowledge": None,
    "max_steps": 8,
    "temperature": 0.7,
    "built_in": False,
    "thread_id": "01994b94-9b20-7e83-b6c4-d2e1f0a98765",
    "parent_run_id": None,
    "agent_version": 3,
    "error_code": None,
    "turns": 2,
    "pending_tool_call_ids": [],
    "duration_ms": 4200,
    "duration": 4.2,
    "total_tokens": 512,
    "input_query": "Which devices are online?",
    "response_content": "One: Greenhouse.",
    "inputTokens": 480,
    "outputTokens": 32,
    "totalTokens": 512,
    "cachedInputTokens": 0,
    "cacheWriteInputTokens": 0,
    "after": 0,
    "n": 1,
    "events": [{"type": "RUN_STARTED", "threadId": "01994b94-9b20-7e83-b6c4-d2e1f0a98765", "runId": _RUN}],
    "next_after": 1,
    "finished": False,
    # Projects, tasks and avatars
    "project_id": _PROJECT,
    "owner_id": _USER,
    "invitation_id": _USER,
    "invited_by": _USER,
    "invited_at": _BEGAN,
    "declined": False,
    "joined_at": _BEGAN,
    "task_id": _TASK,
    "subtask_id": _SUBTASK,
    "avatar_id": _AVATAR,
    "priority": 5,
    "progress": 0,
    "subtask_count": 1,
    "completed_count": 0,
    "ref": "count",
    "dependencies": [],
    "created_by": _USER,
    "avatar_url": "https://example.com/moss.png",
    "skills": ["gardening"],
    "base_model": "claude-sonnet-5-5",
    "performance": {},
    "abilities": {},
    "earnings": {},
    "is_public": False,
    "price": 9.99,
    "rating": None,
    "review_count": 0,
    "download_count": 0,
    # Configuration and notices
    "component_name": "fast-model",
    "config": {"enabled": False},
    "enabled": False,
    "validate_only": False,
    "max_tokens": 4096,
    "success": True,
    "message": "Configuration updated",
    "change_type": "updated",
    "changed_by": _USER,
    "old_config": {"enabled": True},
    "new_config": {"enabled": False},
    "rolled_back_to": None,
    "notice_id": _NOTICE,
    "unread": True,
    "unread_count": 1,
    "severity": "info",
    "text": "The API key build server was made.",
    "data": {"api_key_id": "01994b92-44f9-7c2d-8d05-a9b1c2d3e4f5"},
    "read_at": None,
    # Billing
    "plan": "pro",
    "entitled_plan": "pro",
    "title": "Pro",
    "devices": 50,
    "seats": 5,
    "storage_gb": 100,
    "runs_per_month": 5000,
    "model_spend_minor_per_month": 10000,
    "lookup_key": "pro_monthly",
    "amount_minor": 2900,
    "currency": "usd",
    "interval": "month",
    "current_period_start": "2026-03-01T00:00:00.000Z",
    "current_period_end": "2026-04-01T00:00:00.000Z",
    "cancel_at_period_end": False,
    "cancel_at": None,
    "trial_end": None,
    "grace_until": None,
    "pause_collection": None,
    "behavior": "keep_as_draft",
    "resumes_at": None,
    "stripe_subscription_id": "sub_1SabcdEFghIJklMNopQR",
    "stripe_customer_id": "cus_TabcdEFghIJkl",
    "object_id": "in_1SabcdEFghIJklMNopQR",
    "customer_id": "cus_TabcdEFghIJkl",
    "subscription_id": "sub_1SabcdEFghIJklMNopQR",
    "account": None,
    "livemode": True,
    "from_user_id": None,
    "handled_at": None,
    "note": "",
    "attempts": 1,
    "last_error": "StripeUnavailable",
    "queued": True,
    # The rest
    "component": "database",
    "ticket": _TOKEN,
    "timestamp": 1772352000000,
}

_AVATARS = ("AvatarView", "AvatarSummaryView", "CreateAvatarBody", "ChangeAvatarBody")

MODEL_FIELDS: Mapping[str, Any] = {
    "RunData.messages": [
        {"id": "01994b98-3e5f-7c41-b2a3-d4c5b6a79808", "role": "user", "content": "Which are online?"}
    ],
    **dict.fromkeys(("UserView.id", "ManagedUserView.id"), _USER),
    **dict.fromkeys(("UserView.name", "ManagedUserView.name", "Register.name", "PatchProfile.name"), "Ada"),
    "FileView.id": _FILE,
    **dict.fromkeys(("FileView.name", "CreateFileRequest.name", "ChangeFileRequest.name"), "boot.log"),
    "FileView.status": "ready",
    "CreateDirectoryRequest.name": "2026",
    "CommandView.id": FIELDS["command_id"],
    "CommandView.status": "succeeded",
    "ApiKeyView.id": FIELDS["key_id"],
    **dict.fromkeys(("ApiKeyView.name", "CreateApiKey.name"), "build server"),
    "AuditEntryView.id": "01994b96-7c15-7a4f-8e2b-b0c9d8e7f601",
    "AuditEntryView.details": {"method": "password"},
    "TelemetryData.points": [{"ts": _BEGAN, "value": 21.5}],
    "DeadLetterView.id": "1795250341254-0f1e2d3c4b5a6978",
    **dict.fromkeys((f"{model}.id" for model in ("AgentView", "AgentSummaryView")), _AGENT),
    **dict.fromkeys(
        (f"{model}.name" for model in ("AgentBody", "ReplaceAgentBody", "AgentView", "AgentSummaryView")), "gardener"
    ),
    **dict.fromkeys(
        (
            f"{model}.model"
            for model in ("AgentBody", "ReplaceAgentBody", "AgentView", "AgentSummaryView", "RunView", "RunUsage")
        ),
        "claude-sonnet-5-5",
    ),
    **dict.fromkeys(("RunView.id", "AgioRun.id"), _RUN),
    "RunView.status": "finished",
    "AgioRun.status": "completed",
    "RunUsage.provider": "anthropic",
    "CapabilitiesData.identity": {"name": "Karma", "type": "karma"},
    "CapabilitiesData.transport": {"streaming": True, "websocket": False, "httpBinary": False},
    "CapabilitiesData.tools": {"supported": True, "items": [], "parallelCalls": True, "clientProvided": True},
    "CapabilitiesData.state": {"snapshots": True, "deltas": False},
    "CapabilitiesData.multimodal": {"input": {"image": True, "pdf": True}},
    "CapabilitiesData.execution": {"codeExecution": False, "maxIterations": 8, "maxExecutionTime": 840000},
    "ProjectView.id": _PROJECT,
    **dict.fromkeys(("ProjectView.status", "CreateProjectRequest.status", "ChangeProjectRequest.status"), "active"),
    **dict.fromkeys(("ProjectView.description", "CreateProjectRequest.description"), "Everything under glass"),
    "ProjectView.role": "owner",
    "InviteRequest.user_id": None,
    **dict.fromkeys(("InviteRequest.role", "InvitationView.role", "ReceivedInvitationView.role"), "member"),
    "InvitationView.id": _USER,
    "InvitationView.email": None,
    "ReceivedInvitationView.project_name": "Greenhouse",
    "MemberView.role": "member",
    "ChangeMemberRequest.role": "viewer",
    **dict.fromkeys(("CreateTaskBody.title", "ChangeTaskBody.title", "TaskView.title"), "Inventory"),
    **dict.fromkeys(("SubtaskBody.title", "SubtaskView.title"), "Count"),
    **dict.fromkeys(
        (f"{model}.description" for model in ("CreateTaskBody", "ChangeTaskBody", "TaskView", "SubtaskBody")),
        "Once a month",
    ),
    "SubtaskView.description": "Once a month",
    "TaskView.id": _TASK,
    "SubtaskView.id": _SUBTASK,
    **dict.fromkeys(("TaskView.status", "SubtaskView.status"), "pending"),
    **dict.fromkeys((f"{model}.id" for model in _AVATARS), _AVATAR),
    **dict.fromkeys((f"{model}.name" for model in _AVATARS), "Moss"),
    **dict.fromkeys((f"{model}.role" for model in _AVATARS), "gardener"),
    **dict.fromkeys((f"{model}.status" for model in _AVATARS), "idle"),
    "NoticeView.id": _NOTICE,
    "NoticeView.type": "api_key_created",
    "NoticeView.title": "An API key was made",
    **dict.fromkeys(("ConfigView.name", "ConfigSummaryView.name"), "fast-model"),
    **dict.fromkeys(("ConfigView.type", "ConfigSummaryView.type"), "model"),
    **dict.fromkeys(("ConfigView.description", "ConfigSummaryView.description"), "Short answers"),
    "ConfigView.provider": "anthropic",
    "ConfigView.model": "claude-haiku-5-5",
    "ConfigChangeView.timestamp": _BEGAN,
    "PlanView.name": "pro",
    "SubscriptionView.status": "active",
    "RunView.cost_micros": 18_250,
    "UsageView.metric": "runs_per_month",
    "UsageView.used": 41,
    "UsageView.allowed": 200,
    "UsageView.resets_at": "2026-12-01T00:00:00.000Z",
    "InboxEventView.id": FIELDS["event_id"],
    "InboxEventView.type": "invoice.paid",
    "InboxEventView.status": "unhandled",
    "InboxEventView.expires_at": None,
    "DismissEvent.reason": "A test of last year's shop",
    "TicketData.expires_in": 30,
    "TicketData.url": "wss://live.example.com/prod",
}

_HEALTHY = {"status": "healthy", "app": "karma-cloud", "version": "0.1.0"}
_DATABASE = {"status": "healthy", "latency_ms": 4.1}

ANSWERS: Mapping[str, Any] = {
    "root": {"app": "karma-cloud", "version": "0.1.0", "docs": "/docs", "openapi": "/openapi.json"},
    "health": {**_HEALTHY, "services": {"database": _DATABASE, "redis": {**_DATABASE, "replaced": "dynamodb"}}},
    "detailed": {**_HEALTHY, "stage": "prod", "timestamp": _BEGAN, "components": {"database": _DATABASE}},
    "component_health": {"component": "database", **_DATABASE},
    "agio_health": {
        "status": "healthy",
        "version": "0.1.0",
        "timestamp": _BEGAN,
        "components": {"database": "healthy", "cache": "healthy", "llm": "not_checked"},
    },
}
"""Of operations whose answer has no schema, by their ids."""

PARAMETERS: Mapping[str, Any] = {
    "cancel_command.force": True,
    "get_run.messages": True,
    "list_inbox.status": "unhandled",
    "end_oauth.code": "4f1c2d3e4a5b6c7d8e9f",
    "end_oauth.error": "access_denied",
    "list_users.disabled": True,
    "get_command.wait_s": 10,
    "list_agents.offset": 20,
}
"""Of parameters that mean something else in one operation."""


class Lacking(LookupError):
    """No example of a field; says which."""


def complete(document: dict[str, Any]) -> None:
    """Give every operation the examples that can be put together."""
    schemas = document["components"]["schemas"]
    for operations in document["paths"].values():
        for operation in operations.values():
            name = operation["operationId"]
            for parameter in operation.get("parameters", ()):
                value = PARAMETERS.get(f"{name}.{parameter['name']}", FIELDS.get(parameter["name"], ...))
                allowed = _choices(parameter["schema"], schemas)
                if allowed and value not in allowed:
                    value = allowed[0]
                if value is not ...:
                    parameter.setdefault("example", value)
            contents = [operation.get("requestBody", {}).get("content", {})]
            contents += [
                response.get("content", {}) for status, response in operation["responses"].items() if int(status) < 300
            ]
            for content in contents:
                _complete(content, name, schemas, is_body=content is contents[0])


def _complete(content: Mapping[str, Any], name: str, schemas: Mapping[str, Any], *, is_body: bool) -> None:
    media = content.get("application/json")
    if media is None:
        return
    if not is_body and name in ANSWERS:
        media["example"] = ANSWERS[name]
        return
    try:
        media["example"] = example_of(media["schema"], schemas, is_body=is_body)
    except Lacking:
        return


def example_of(schema: Mapping[str, Any], schemas: Mapping[str, Any], *, is_body: bool, of: str = "") -> Any:
    """Put an example of a schema together.

    Raises:
        Lacking: a field has none.
    """
    if "$ref" in schema:
        of = schema["$ref"].removeprefix(_REF)
        schema = schemas[of]
    for fixed in ("examples", "enum"):
        if schema.get(fixed):
            return schema[fixed][0]
    if "const" in schema:
        return schema["const"]
    if "properties" in schema:
        return _object(schema, schemas, is_body=is_body, of=of)
    if schema.get("type") == "array":
        return [example_of(schema["items"], schemas, is_body=is_body, of=of)]
    several = [each for each in schema.get("anyOf", ()) if each.get("type") != "null"]
    if several:
        return example_of(several[0], schemas, is_body=is_body, of=of)
    raise Lacking(of)


def _object(schema: Mapping[str, Any], schemas: Mapping[str, Any], *, is_body: bool, of: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, inner in schema["properties"].items():
        where = f"{of}.{name}"
        if where in MODEL_FIELDS:
            found[name] = MODEL_FIELDS[where]
        elif _is_put_together(inner, schemas):
            found[name] = example_of(inner, schemas, is_body=is_body, of=where)
        elif name in FIELDS:
            allowed = _choices(inner, schemas)
            found[name] = allowed[0] if allowed and FIELDS[name] not in allowed else FIELDS[name]
        elif not is_body or name in schema.get("required", ()):
            found[name] = example_of(inner, schemas, is_body=is_body, of=where)
        if is_body and found.get(name, ...) is None:
            del found[name]  # as absent as the others
    return found


def _choices(schema: Mapping[str, Any], schemas: Mapping[str, Any]) -> Sequence[Any]:
    """Return what a closed set holds; empty: the schema is none."""
    if "$ref" in schema:
        return _choices(schemas[schema["$ref"].removeprefix(_REF)], schemas)
    several = schema.get("anyOf", ())
    return schema.get("enum") or next((found for each in several if (found := _choices(each, schemas))), ())


def _is_put_together(schema: Mapping[str, Any], schemas: Mapping[str, Any]) -> bool:
    """Tell whether a field has its own example, or is made of objects of ours."""
    if schema.get("examples") or "const" in schema:
        return True
    if "$ref" in schema:
        return "properties" in schemas[schema["$ref"].removeprefix(_REF)]
    if schema.get("type") == "array":
        return _is_put_together(schema["items"], schemas)
    return any(_is_put_together(each, schemas) for each in schema.get("anyOf", ()))
