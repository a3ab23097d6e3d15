"""Abilities of the agent, in the shape of AG-UI's AgentCapabilities; only true ones are declared."""

from __future__ import annotations

from collections.abc import Collection

from karma.agents.domain import BUILT_IN_DESCRIPTION, BUILT_IN_STEPS
from karma.identity.domain import Caller
from karma.runs.answers import CapabilitiesData
from karma.runs.plan import RunLimits
from karma.tools.device_tools import declared_tools
from karma.tools.toolbox import Toolbox


def capabilities(caller: Caller, *, without: Collection[str] = ()) -> CapabilitiesData:
    """Describe the agent for this caller, without the tools that are disabled."""
    limits = RunLimits()
    toolbox = Toolbox([tool for tool in declared_tools() if tool.name not in without], caller, shorten=str)
    items = [
        {"name": tool.name, "description": tool.description, "parameters": tool.parameters} for tool in toolbox.specs()
    ]
    return {
        "identity": {
            "name": "Karma",
            "type": "karma",
            "description": BUILT_IN_DESCRIPTION,
        },
        "transport": {"streaming": True, "websocket": False, "httpBinary": False},
        "tools": {"supported": True, "items": items, "parallelCalls": True, "clientProvided": True},
        "state": {"snapshots": True, "deltas": False},
        "multimodal": {"input": {"image": True, "pdf": True, "audio": False, "video": False, "file": False}},
        "execution": {
            "codeExecution": False,
            "maxIterations": BUILT_IN_STEPS,
            "maxExecutionTime": int(limits.run_timeout_s * 1000),
        },
    }
