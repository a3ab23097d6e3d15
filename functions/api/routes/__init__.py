"""The modules whose `router` the app serves; a routes module is a plural noun. Order does not matter."""

from __future__ import annotations

MODULES: tuple[str, ...] = ("auth", "users", "api_keys", "devices", "runs", "billing", "health", "realtime")
