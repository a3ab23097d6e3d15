"""Consumer of the queue of executions: goes on with runs whose process was lost or has handed them over.

Another kind of message names a thread, for which a title is to be proposed (karma.threads.titles).

The same package as the stream, since it executes runs with the same engine, tools and model; no client waits here. A
message names one run and is delivered alone, since it may take the function's whole time. A message that comes late or
twice finds a run that is alive or has ended, and does nothing.
"""

from __future__ import annotations

import asyncio
from functools import cache
from typing import TYPE_CHECKING, Any

from agent_stream import services
from karma.conversations.domain import ThreadKey
from karma.core.batch import Ids, each_message
from karma.core.clock import epoch_ms, from_epoch_ms
from karma.runs.domain import RunKey
from karma.runs.watchdog import read_message
from karma.threads import messages

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext


@cache
def loop() -> asyncio.AbstractEventLoop:
    """Return the loop of this process: the model's client belongs to it for as long as the process lives."""
    return asyncio.new_event_loop()


def lambda_handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Execute the run that a message names, to its end or until this process has to hand it over."""

    def handle(key: RunKey | ThreadKey) -> str:
        if isinstance(key, ThreadKey):
            is_given = loop().run_until_complete(services.titles().propose(key))
            return "titled" if is_given else "left alone"
        now_ms = epoch_ms(services.clock().now())
        deadline = from_epoch_ms(now_ms + context.get_remaining_time_in_millis())
        is_taken = loop().run_until_complete(services.executor().go_on(key, deadline=deadline))
        return "executed" if is_taken else "left alone"

    return each_message(event, context.aws_request_id, name="run.execute", read=_read, handle=handle)


def _read(body: str) -> tuple[RunKey | ThreadKey, Ids]:
    if '"thread_id"' in body:
        thread = messages.read_message(body)
        return thread, {"user_id": thread.user_id}
    key = read_message(body)
    return key, {"user_id": key.user_id, "run_id": key.run_id}
