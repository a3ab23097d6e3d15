"""What the agent can do, in the shape of AG-UI's AgentCapabilities; only what is true is declared."""

from __future__ import annotations

from karma.agents.builtins import declared_tools
from karma.agents.catalogue.domain import BUILT_IN_STEPS
from karma.agents.engine import Limits
from karma.agents.tools import Toolbox
from karma.identity.domain import Caller


def capabilities(caller: Caller) -> dict[str, object]:
    """Describe the agent as this caller meets it."""
    limits = Limits()
    toolbox = Toolbox(declared_tools(), caller)
    items = [
        {"name": tool.name, "description": tool.description, "parameters": tool.parameters} for tool in toolbox.specs()
    ]
    return {
        "identity": {
            "name": "Karma",
            "type": "karma",
            "description": "Finds, reads and controls the user's EOS devices",
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
