from __future__ import annotations

from karma.core.settings import FunctionSettings


class Settings(FunctionSettings, kw_only=True):
    """Variables of the WebSocket's function."""

    identity_table: str
    realtime_table: str
    devices_table: str
    work_table: str
    agents_table: str
