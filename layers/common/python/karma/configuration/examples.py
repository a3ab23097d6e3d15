"""Examples of the OpenAPI document for configuration: see karma/core/examples.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from karma.core.examples import BEGAN, USER

FIELDS: Mapping[str, Any] = {
    "component_name": "fast-model",
    "enabled": False,
    "validate_only": False,
    "max_tokens": 4096,
    "message": "Configuration updated",
    "change_type": "updated",
    "changed_by": USER,
    "old_config": {"enabled": True},
    "new_config": {"enabled": False},
    "rolled_back_to": None,
    "config": {"enabled": False},
    **dict.fromkeys(("ConfigView.name", "ConfigSummaryView.name"), "fast-model"),
    **dict.fromkeys(("ConfigView.type", "ConfigSummaryView.type"), "model"),
    **dict.fromkeys(("ConfigView.description", "ConfigSummaryView.description"), "Short answers"),
    "ConfigView.provider": "anthropic",
    "ConfigView.model": "claude-haiku-5-5",
    "ConfigView.base_url": "http://vllm.internal:8000/v1",
    "ConfigView.secret": "vllm",
    "ConfigView.images": False,
    "ConfigView.fallback": "claude-haiku-5-5",
    "context_window": 131072,
    "ConfigView.prices": [
        {"since": "2026-01-01T00:00:00.000Z", "input": 2.5, "output": 10.0, "cache_write": 2.5, "cache_read": 1.25}
    ],
    "is_default": False,
    "images": True,
    "basis": "published",
    **dict.fromkeys(("RatesView.input", "RatesView.cache_write"), 2.0),
    "RatesView.output": 10.0,
    "RatesView.cache_read": 0.1,
    "ModelView.name": "fast-model",
    "ModelView.provider": "anthropic",
    "ModelView.model": "claude-haiku-5-5",
    "ModelView.description": "Short answers",
    "ModelView.fallback": None,
    "ConfigChangeView.timestamp": BEGAN,
}
