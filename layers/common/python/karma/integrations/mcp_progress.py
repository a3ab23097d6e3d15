"""Reads what an MCP server says of a call before its answer, in both eras alike: how far it is, that tools changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from karma.integrations.mcp_messages import quoted
from karma.mcp.ports import CallProgress

METHOD: Final = "notifications/progress"
TOOLS_CHANGED: Final = "notifications/tools/list_changed"
MAX_NUMBER: Final = 2**53
"""Largest number that is told: clients in JavaScript read no larger one exactly."""
MAX_MESSAGE_CHARS: Final = 200


class ProgressReader:
    """Tells of the progress of one call, which only goes up; whatever else the server says is passed over."""

    def __init__(self, token: int, tell: Callable[[CallProgress], None], outdated: Callable[[], None]) -> None:
        """Listen for a token, which no other call under way has; `outdated` is called for each change of the tools."""
        self.token = token
        self._tell = tell
        self._outdated = outdated
        self._told: float = -1

    def heed(self, message: Mapping[str, Any]) -> None:
        """Read a notification."""
        params = message.get("params")
        if message.get("method") == TOOLS_CHANGED:
            self._outdated()
            return
        if message.get("method") != METHOD or not isinstance(params, dict):
            return
        token, progress = params.get("progressToken"), _number(params.get("progress"))
        if type(token) is not int or token != self.token or progress is None or progress <= self._told:
            return
        self._told = progress
        total = _number(params.get("total"))
        is_bound = total is not None and total > 0 and total >= progress
        words = quoted(params.get("message"))[:MAX_MESSAGE_CHARS]
        self._tell(CallProgress(progress, total if is_bound else None, words))


def _number(value: object) -> int | float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if 0 <= value <= MAX_NUMBER else None
