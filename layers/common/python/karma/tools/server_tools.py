"""All tools of the server, which agents may be allowed."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

from karma.tools.device_tools import DeviceServices, DeviceTools
from karma.tools.file_tools import Awaited, FileTools
from karma.tools.state_tools import update_state_tool
from karma.tools.toolbox import Tool


def server_tools(services: Callable[[], DeviceServices], awaited: Callable[[], Awaited]) -> list[Tool]:
    """Return the tools; `services` is called when a tool of devices is, `awaited` when one of files is."""
    return [*DeviceTools(services).tools(), *FileTools(awaited).tools(), update_state_tool()]


def declared_tools() -> list[Tool]:
    """Return every tool, to be described and not called."""
    return server_tools(_undialled, _undialled)


def _undialled() -> NoReturn:
    raise RuntimeError("tools are described here, not called")
