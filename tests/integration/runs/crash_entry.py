"""A run from its request to its terminal event, as a function that a crash test can kill; the model is scripted."""

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from karma.billing.repository.usage import UsageRepository
from karma.core.clock import SystemClock
from karma.core.dynamo.tables import bind_names
from karma.core.ids import RunId
from karma.integrations.sqs import SqsQueue
from karma.models.ports import StopReason
from karma.runs.domain import RunKey
from karma.runs.plan import RunLimits
from karma.runs.repository import RunRepository
from karma.runs.requests import parse_run_input
from karma.runs.service import RunService
from karma.runs.watchdog import QueueWatchdog, attend
from karma.tools.toolbox import Tool, ToolContext, described
from tests.fakes.agents import catalogue
from tests.fakes.configuration import as_built
from tests.fakes.runs import KeptFrames, ScriptedModel, SetClock, caller, ended, library, text, tool
from tests.support.plans import allowances


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
    timeout_s=5,
    run=note,
)


def run_once(event: dict[str, Any], context: object) -> dict[str, Any]:
    """Handle the request at the first delivery; run the watchdog, an hour later, at the second."""
    bind_names(event["tables"])
    store = RunRepository()
    if event["deliver"] == "request":
        model = ScriptedModel(
            [*text("Let me see."), *tool("c1", "note", '{"word":"a"}'), *ended(StopReason.TOOL_USE)],
            [*text("Done."), *ended()],
        )
        service = RunService(
            store=store,
            watchdog=QueueWatchdog(SqsQueue(event["queue"])),
            model=model,
            agents=catalogue(tools=("note",)),
            configuration=as_built(),
            tools=[NOTE],
            library=library(),
            allowances=allowances(),
            spending=UsageRepository(),
            clock=SystemClock(),
            limits=RunLimits(),
        )
        asyncio.run(_serve(service, event["body"]))
        return {}
    later = SetClock(datetime.now(UTC) + timedelta(hours=1))
    attend(store, later, QueueWatchdog(SqsQueue(event["queue"])), RunKey(caller().user_id, RunId("r1")))
    return {}


async def _serve(service: RunService, body: dict[str, Any]) -> None:
    started = await service.start(caller(), parse_run_input(orjson.dumps(body)))
    await started.execute(KeptFrames())
