from __future__ import annotations

from dataclasses import dataclass

from karma.core.settings import FunctionSettings


@dataclass(frozen=True, kw_only=True)
class Settings(FunctionSettings):
    """Variables of the WebSocket's function."""

    identity_table: str
    realtime_table: str
