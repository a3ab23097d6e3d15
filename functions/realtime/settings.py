from __future__ import annotations

from dataclasses import dataclass

from karma.core.settings import FunctionSettings


@dataclass(frozen=True, kw_only=True)
class Settings(FunctionSettings):
    """What the WebSocket's function is given."""

    realtime_table: str
