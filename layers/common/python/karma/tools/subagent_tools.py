"""Other agents as tools: what a model is told of them. The engine of the run carries their calls out."""

from __future__ import annotations

from typing import Final, NoReturn

from karma.core.records import Record
from karma.tools.toolbox import Tool, ToolContext, WhenLost, described

MAX_TASK_CHARS: Final = 32_000
"""Characters of what a subagent is asked to do."""
_DAY_S: Final = 24 * 3600.0
"""As long as a run may take: the run ends its subagents, not their tool."""


class AgentTask(Record):
    """Arguments of a call of a subagent."""

    task: str = described(
        "What it is to do, with all that it has to know: it does not see this conversation",
        minLength=1,
        maxLength=MAX_TASK_CHARS,
    )


def subagent_tool(name: str, description: str) -> Tool:
    """Return the tool by which a model calls an agent; `Toolbox.bind` says how.

    A call is known by its run and its id: called again, it goes on where it was.
    """
    return Tool(
        name=name,
        description=description,
        parameters=AgentTask,
        permission="agent:run",
        when_lost=WhenLost.CALL_AGAIN,
        timeout_s=_DAY_S,
        run=_not_bound,
    )


async def _not_bound(_: AgentTask, context: ToolContext) -> NoReturn:
    raise RuntimeError(f"call {context.call_id}: no run executes this subagent")
