"""Consumer of the queue of executions: goes on with runs whose process was lost or has handed them over.

Messages of the queue of short work name a thread, for which a title is to be proposed (karma.threads.titles), or a
question that nobody answered in time (karma.runs.expiry): runs, which take minutes, do not hold those up.

The same package as the stream, since it executes runs with the same engine, tools and model; no client waits here. A
message names one run and is delivered alone, since it may take the function's whole time. A message that comes late or
twice finds a run that is alive or has ended, and does nothing. One whose account has no place for it
(karma.runs.places) is done with at once, too: the run is woken, and what is no run comes again later.

Runs of free plans are sent on to a queue and processes of their own, so that they never hold all (docs/adr/0049).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from agent_stream import services
from karma.billing.plans import PlanName
from karma.conversations.domain import ThreadKey
from karma.core.batch import Ids, each_message
from karma.core.clock import epoch_ms, from_epoch_ms
from karma.core.records import Record
from karma.integrations.sqs import SqsQueue
from karma.runs.domain import RunKey
from karma.runs.expiry import is_expiry, read_expiry
from karma.runs.places import NoPlace
from karma.runs.watchdog import put_back, read_message, read_waited_as, send_on, was_sent_on
from karma.threads import messages

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext

    from karma.core.ids import UserId

_WAITS: Final = "waits for a place"


class _Asked(Record):
    """A message of one of the queues."""

    of: RunKey | ThreadKey | tuple[RunKey, int]
    """The run to execute, the thread to name, or the run and number of a question."""
    body: str


@cache
def loop() -> asyncio.AbstractEventLoop:
    """Return the loop of this process: the model's client belongs to it for as long as the process lives."""
    return asyncio.new_event_loop()


def lambda_handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Execute the run that a message names, to its end or until this process has to hand it over."""

    def handle(asked: _Asked) -> str:
        key = asked.of
        if not isinstance(key, RunKey | ThreadKey):
            run, n = key
            return _short(asked, run.user_id, lambda: services.expiry().expire(run, n), done="expired")
        if isinstance(key, ThreadKey):
            return _short(asked, key.user_id, lambda: services.titles().propose(key), done="titled")
        if _is_sent_on(asked.body, key.user_id):
            return "sent on"
        now_ms = epoch_ms(services.clock().now())
        deadline = from_epoch_ms(now_ms + context.get_remaining_time_in_millis())
        is_taken, waited_as = False, read_waited_as(asked.body)
        try:
            is_taken = loop().run_until_complete(services.executor().go_on(key, deadline=deadline))
        except NoPlace:
            waited_as = ""  # it waits again
            return _WAITS
        finally:
            if waited_as and not is_taken:  # also one that cannot be executed now: the next ones could
                services.places().pass_over(key, waited_as)
        return "executed" if is_taken else "left alone"

    return each_message(event, context.aws_request_id, name="run.execute", read=_read, handle=handle)


def _is_sent_on(body: str, user_id: UserId) -> bool:
    """Send the message of a run of a free plan on to the queue of these, if it does not come from there."""
    url = "" if was_sent_on(body) else services.execution_settings().free_runs_queue_url
    if not url or services.subscription_service().terms(user_id).plan.name != PlanName.FREE:
        return False
    send_on(SqsQueue(url), body, user_id)
    return True


def _short(asked: _Asked, user_id: UserId, work: Callable[[], Awaitable[bool]], *, done: str) -> str:
    """Do what is no run in its account's place for that; without one, the message comes again later."""
    try:
        with services.places().short_work(user_id):
            is_done = loop().run_until_complete(work())
    except NoPlace:
        put_back(SqsQueue(services.execution_settings().short_work_queue_url), asked.body, user_id)
        return _WAITS
    return done if is_done else "left alone"


def _read(body: str) -> tuple[_Asked, Ids]:
    if is_expiry(body):
        run, n = read_expiry(body)
        return _Asked((run, n), body), {"user_id": run.user_id, "run_id": run.run_id}
    if '"thread_id"' in body:
        thread = messages.read_message(body)
        return _Asked(thread, body), {"user_id": thread.user_id}
    key = read_message(body)
    return _Asked(key, body), {"user_id": key.user_id, "run_id": key.run_id}
