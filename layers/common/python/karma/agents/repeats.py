"""A request that is sent once more, because its response was lost: it gets the answer that there is, and no second run.

The same run id with the same messages on the same thread is the same request. While its run goes on it gets the log of
it from the beginning, as it is written, or is told that its process was lost; when the run has ended, the conversation
with its answer as one snapshot:

    RUN_STARTED, MESSAGES_SNAPSHOT, STATE_SNAPSHOT, RUN_FINISHED or RUN_ERROR

Another request with a run id that was used is refused (RunExists). The same messages under another run id are the same
request while their run goes on: a second click, or a retry. When it has ended, they ask for another answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from datetime import datetime

from karma.agents.branches import merge
from karma.agents.domain import Run, RunStatus, ThreadKey
from karma.agents.events import frame, frames, parse
from karma.agents.opening import Link, snapshots_of
from karma.agents.ports import RunStore, Sink
from karma.agents.requests import RunInput
from karma.agents.watchdog import Inspector
from karma.core.clock import Clock
from karma.core.errors import AppError
from karma.core.observability import count, logger

_POLL_S = 0.25
_MAX_POLL_S = 1.0
_PAGE = 50


def is_repeat(run: Run, asked: RunInput) -> bool:
    """Tell whether a request asks what the one asked that began this run."""
    return run.thread_id == asked.thread_id and bool(run.asked_hash) and run.asked_hash == asked.digest


def redeliver(
    run: Run,
    asked: RunInput,
    *,
    store: RunStore,
    link: Link,
    clock: Clock,
    until: datetime,
    own: Collection[str],
) -> Callable[[Sink], asyncio.Task[None]]:
    """Return what starts to deliver a run's answer once more; its task raises nothing."""

    async def deliver(sink: Sink) -> None:
        count("RunRepeated")
        try:
            if run.status is RunStatus.RUNNING:
                await _follow(run, sink, store=store, clock=clock, until=until)
            else:
                sink.write(await asyncio.to_thread(_answer, run, asked, store, link, own))
        except AppError as exc:
            # The stream ends without its last event: its client asks once more.
            logger.warning("run.not_redelivered", run_id=run.key.run_id, code=exc.code)

    return lambda sink: asyncio.get_running_loop().create_task(deliver(sink), name=f"repeat {run.key.run_id}")


async def _follow(run: Run, sink: Sink, *, store: RunStore, clock: Clock, until: datetime) -> None:
    after, pause_s = 0, _POLL_S
    inspector = Inspector(store, clock)
    while clock.now() < until and not sink.is_lost:
        segments = await asyncio.to_thread(store.segments, run.key, after=after, limit=_PAGE)
        for segment in segments:
            after = segment.n
            sink.write(frames(segment.events, n=after))
            if segment.terminal:
                return
        if not segments:
            # A run whose process died writes no more; once its lease is over it is ended here, and the end is read.
            await asyncio.to_thread(inspector.look, run.key)
        pause_s = _POLL_S if segments else min(_MAX_POLL_S, pause_s * 1.5)
        await asyncio.sleep(0 if segments else pause_s)


def _answer(run: Run, asked: RunInput, store: RunStore, link: Link, own: Collection[str]) -> bytes:
    key = ThreadKey(run.key.user_id, run.thread_id)
    thread = store.thread(key)
    if 0 <= run.last_message < thread.next_message:
        conversation = [thread.messages[position] for position in thread.way_to(run.last_message)]
    else:
        conversation = list(merge(thread, asked.sent, own=own).conversation)
    (first,) = store.segments(run.key, after=0, limit=1)
    started, *rest = first.events
    state = [data for data in rest if parse(data).type == "STATE_SNAPSHOT"]
    tail = store.tail(run.key)
    end = [tail.events[-1]] if tail is not None else []
    n = tail.n if tail is not None else first.n
    shown = [started, *snapshots_of(link(conversation), asked), *state]
    return b"".join(map(frame, shown)) + frames(end, n=n)
