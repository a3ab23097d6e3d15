"""A run from its request to its terminal event, as a function that a crash test can kill; the model is scripted."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from karma.core.clock import SystemClock
from karma.core.dynamo.tables import bind_names
from karma.core.ids import RunId
from karma.integrations.sqs import SqsQueue
from karma.models.ports import ModelEvent, ModelRequest, StopReason
from karma.runs.domain import RunKey
from karma.runs.plan import RunLimits
from karma.runs.repository import RunRepository
from karma.runs.requests import parse_run_input
from karma.runs.service import RunService
from karma.runs.watchdog import QueueWatchdog
from karma.tools.toolbox import Tool, ToolContext, WhenLost, described
from tests.fakes.agents import catalogue
from tests.fakes.attachments import library
from tests.fakes.configuration import as_built
from tests.fakes.runs import KeptFrames, ScriptedModel, SetClock, caller, ended, text, tool
from tests.support.plans import allowances
from tests.support.run_services import executor, run_service


@dataclass(frozen=True)
class Nothing:
    word: str = described("Anything", default="")


async def note(asked: Nothing, _: ToolContext) -> object:
    return {"noted": asked.word}


NOTE = Tool(
    name="note",
    description="Note",
    parameters=Nothing,
    permission="device:read",
    when_lost=WhenLost.CALL_AGAIN,
    timeout_s=5,
    run=note,
)


class Telling(ScriptedModel):
    """Calls the tool, and says that it is done once it has the result."""

    async def stream(self, request: ModelRequest) -> AsyncGenerator[Sequence[ModelEvent]]:
        called = [*text("Let me see."), *tool("c1", "note", '{"word":"a"}'), *ended(StopReason.TOOL_USE)]
        self.turns = [[*text("Done."), *ended()] if request.messages[-1].role == "tool" else called]
        async for batch in super().stream(request):
            yield batch


def run_once(event: dict[str, Any], context: object) -> dict[str, Any]:
    """Serve the request, or go on with its run an hour later, whichever the event tells."""
    bind_names(event["tables"])
    more: dict[str, Any] = {
        "store": RunRepository(),
        "model": Telling(),
        "tools": [NOTE],
        "library": library(),
        "allowances": allowances(),
        "limits": RunLimits(),
    }
    if event["deliver"] == "request":
        service = run_service(
            watchdog=QueueWatchdog(SqsQueue(event["queue"])),
            agents=catalogue(tools=("note",)),
            configuration=as_built(),
            clock=SystemClock(),
            **more,
        )
        asyncio.run(_serve(service, event["body"]))
    else:
        later = SetClock(datetime.now(UTC) + timedelta(hours=1))
        asyncio.run(executor(clock=later, **more).go_on(RunKey(caller().user_id, RunId("r1"))))
    return {}


async def _serve(service: RunService, body: dict[str, Any]) -> None:
    started = await service.start(caller(), parse_run_input(orjson.dumps(body)))
    await started.execute(KeptFrames())
