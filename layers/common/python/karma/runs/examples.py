"""Examples of the OpenAPI document for runs: see karma/core/examples.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_RUN = "01994b95-0a6e-7d19-a5b8-3c2d1e0f9a87"

FIELDS: Mapping[str, Any] = {
    "run_id": _RUN,
    "thread_id": "01994b94-9b20-7e83-b6c4-d2e1f0a98765",
    "parent_run_id": None,
    "agent_version": 3,
    "error_code": None,
    "cancel_reason": None,
    "paused_at": None,
    "ended": True,
    "CancelRunBody.reason": "No longer needed",
    "AgioRunControl.message": "Run cancelled successfully",
    "AgioRunControl.status": "cancelled",
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
    "next_after": 1,
    "finished": False,
    "events": [{"type": "RUN_STARTED", "threadId": "01994b94-9b20-7e83-b6c4-d2e1f0a98765", "runId": _RUN}],
    "RunData.messages": [
        {"id": "01994b98-3e5f-7c41-b2a3-d4c5b6a79808", "role": "user", "content": "Which are online?"}
    ],
    **dict.fromkeys(("RunView.model", "RunUsage.model"), "claude-sonnet-5-5"),
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
    "RunView.cost_micros": 18250,
    "get_run.messages": True,
}
