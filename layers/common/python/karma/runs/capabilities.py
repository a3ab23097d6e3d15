"""Abilities of the agent, in the shape of AG-UI's AgentCapabilities; only true ones are declared."""

from __future__ import annotations

from collections.abc import Collection

from karma.agents.domain import BUILT_IN_DESCRIPTION, BUILT_IN_STEPS, Agent
from karma.identity.domain import Caller
from karma.runs.answers import CapabilitiesData
from karma.runs.plan import RunLimits, tools_of_subagents
from karma.tools.domain import ON_REQUEST
from karma.tools.server_tools import declared_tools
from karma.tools.toolbox import Toolbox


def capabilities(caller: Caller, *, agent: Agent | None = None, without: Collection[str] = ()) -> CapabilitiesData:
    """Describe an agent for this caller, None is the built-in one, without the tools that are disabled."""
    limits = RunLimits()
    declared = [
        tool
        for tool in declared_tools()
        if tool.name not in without
        and (tool.name not in ON_REQUEST if agent is None else tool.name in agent.spec.tools)
    ]
    subagents = agent.spec.subagents if agent is not None else ()
    toolbox = Toolbox([*declared, *tools_of_subagents(subagents)], caller, shorten=str)
    items = [
        {"name": tool.name, "description": tool.description, "parameters": tool.parameters} for tool in toolbox.specs()
    ]
    return {
        "identity": {
            "name": "Karma" if agent is None else agent.spec.name,
            "type": "karma",
            "description": BUILT_IN_DESCRIPTION if agent is None else agent.spec.description,
        },
        "transport": {"streaming": True, "websocket": False, "httpBinary": False},
        "tools": {"supported": True, "items": items, "parallelCalls": True, "clientProvided": True},
        "state": {"snapshots": True, "deltas": True, "persistentState": True},
        "multiAgent": {
            "supported": True,
            "delegation": True,
            "handoffs": False,
            "subagents": [{"name": each.name, "description": each.description} for each in subagents],
        },
        "humanInTheLoop": {"supported": True, "approvals": True, "interrupts": True, "approveWithEdits": True},
        "multimodal": {"input": {"image": True, "pdf": True, "audio": False, "video": False, "file": False}},
        "execution": {
            "codeExecution": False,
            "maxIterations": BUILT_IN_STEPS if agent is None else agent.spec.max_steps,
            "maxExecutionTime": int(limits.run_timeout_s * 1000),
        },
    }
