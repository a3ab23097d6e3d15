"""Starting runs, and reading them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial

import orjson

from karma.agents.arrival import Admitted, Arrivals, recognise
from karma.agents.attachments import Library
from karma.agents.branches import Merged, has_moved_on, late_results, merge
from karma.agents.catalogue.domain import Agent
from karma.agents.catalogue.service import Catalogue
from karma.agents.domain import (
    LEASE,
    MAX_ADDED_BYTES,
    Json,
    Run,
    RunExists,
    RunKey,
    RunStatus,
    Segment,
    Thread,
    ThreadBusy,
    ThreadChanged,
    ThreadKey,
    Wish,
    is_readable_id,
)
from karma.agents.engine import Limits, Plan, RunEngine, model_request
from karma.agents.events import CURRENT
from karma.agents.history import application_text, awaited_calls
from karma.agents.log import RunLog
from karma.agents.opening import MAX_SNAPSHOT_BYTES, Link, opening, shown
from karma.agents.ports import Configured, Model, RunPage, RunStore, Sink, Spending, Watchdog
from karma.agents.repeats import is_repeat, redeliver
from karma.agents.requests import RunInput
from karma.agents.spending import Budget, first_reservations
from karma.agents.stored import dump_messages
from karma.agents.tools import Tool, Toolbox
from karma.agents.watchdog import FIRST_LOOK, Inspector
from karma.billing.allowances import Allowance, Allowances, Metric, Reservation
from karma.configuration.current import RunChoice
from karma.core.clock import Clock, epoch_ms, iso
from karma.core.errors import (
    AppError,
    InvalidRequest,
    NotFound,
    PayloadTooLarge,
    QuotaExceeded,
    StorageThrottled,
    Upstream,
    ValidationFailed,
)
from karma.core.ids import AgentId, RunId, UserId, new_id
from karma.core.observability import count, logger
from karma.core.paging import fitting
from karma.identity.domain import Caller

MAX_OFFSET_ROWS = 1_000
"""How deep pages by number go; cursors have no end."""

_ATTEMPTS = 3
_PAUSE_S = 0.05
_LOGGED_NOTES = 20
_END_POLL_S = 0.25
_END_POLLS = 16
"""A run hears once a second that it shall end."""


@dataclass(frozen=True)
class StartedRun:
    """A run whose first segment is committed, or one that was before and is asked for once more."""

    key: RunKey
    execute: Callable[[Sink], asyncio.Task[None]]
    """Begin to execute; the task ends when the run has ended, and raises nothing."""


class RunService:
    """Starts runs for callers."""

    def __init__(
        self,
        *,
        store: RunStore,
        watchdog: Watchdog,
        model: Model,
        agents: Catalogue,
        configuration: Configured,
        tools: Sequence[Tool],
        library: Library,
        allowances: Allowances,
        spending: Spending,
        clock: Clock,
        limits: Limits,
    ) -> None:
        self._store = store
        self._agents = agents
        self._configuration = configuration
        self._watchdog = watchdog
        self._model = model
        self._tools = tools
        self._own = frozenset(tool.name for tool in tools)
        self._library = library
        self._arrivals = Arrivals(library)
        self._allowances = allowances
        self._spending = spending
        self._clock = clock
        self._limits = limits

    async def start(self, caller: Caller, asked: RunInput, *, deadline: datetime | None = None) -> StartedRun:
        """Record a run and make it its thread's active one.

        Args:
            caller: whose run it is, and whose rights its tools have.
            asked: what was asked for.
            deadline: when the platform stops this process; None where it does not.

        Raises:
            ValidationFailed: a tool of the client has the name of one of ours, or a new message has a part that the
                model would not take; nothing was recorded.
            ValidationFailed: `messages` brings nothing to a thread that has no messages; nothing was recorded.
            NotFound: there is no such agent; nothing was recorded.
            ModelNotConfigured: nothing was recorded.
            ComponentUnavailable: the agent or its model is disabled; nothing was recorded.
            RunExists, ThreadBusy: the run id was used, or the thread has an active run.
            PayloadTooLarge: more new messages than one transaction holds.
            QuotaExceeded: the caller's plan has no room for another run, for what its first model call may cost, or for
                its attachments; nothing was recorded.
        """
        self._refuse_own_names(asked)
        key = RunKey(caller.user_id, asked.run_id)
        thread_key = ThreadKey(caller.user_id, asked.thread_id)
        (agent, choice, thread), allowance, before = await asyncio.gather(
            asyncio.to_thread(self._prepare, asked.agent, thread_key, is_new=asked.opens_thread),
            asyncio.to_thread(self._allowances.of, caller.user_id),
            asyncio.to_thread(self._store.run, key),
        )
        admitted: Admitted | None = None
        user = {"id": caller.user_id, "name": caller.name, "avatar": caller.avatar}
        # Only an object has room for who is asking; any other state is the application's alone.
        state = {**asked.state, "user": user} if isinstance(asked.state, dict) else asked.state
        writer = new_id()
        link = partial(self._library.linked, caller.user_id)
        toolbox = self._toolbox(agent, choice, caller)
        limits = replace(self._limits, max_tokens=choice.max_tokens or self._limits.max_tokens)
        for attempt in range(_ATTEMPTS):
            try:
                if (again := await self._again(thread, asked, agent, before)) is not None:
                    return self._repeat(again, asked, link, deadline)
                if admitted is None:
                    admitted = await self._admitted(thread, asked)
                merged = await asyncio.to_thread(self._merge, thread, asked, admitted)
                plan = await asyncio.to_thread(
                    self._plan, asked, merged, thread, agent=agent, choice=choice, deadline=deadline
                )
                first = await asyncio.to_thread(
                    opening, asked, merged, state, link=link, is_lighter=admitted.is_lighter
                )
                await self._free(thread, asked)
                request = await asyncio.to_thread(model_request, plan, toolbox, limits)
                reservations = first_reservations(allowance, request)
                now = self._clock.now()
                run = Run(
                    key=key,
                    thread_id=asked.thread_id,
                    status=RunStatus.RUNNING,
                    model=choice.model,
                    created_at=now,
                    agent_id=agent.id,
                    agent_version=agent.version,
                    answers=plan.last,
                    begins_at=plan.stored,
                    parent_run_id=asked.parent_run_id,
                    asked_hash=asked.digest,
                )
                segment = Segment(key=key, n=1, writer=writer, epoch=1, lease_until=now + LEASE, events=first.log)
                await self._record(run, segment, thread, merged, admitted, allowance, reservations)
                plan.is_kept = await self._is_kept(caller.user_id, admitted)
                break
            except (RunExists, QuotaExceeded):
                before = before or await asyncio.to_thread(self._store.run, key)
                thread = await asyncio.to_thread(self._store.thread, thread_key)
                if before is None or (again := await self._again(thread, asked, agent, before)) is None:
                    raise
                return self._repeat(again, asked, link, deadline)
            except (ThreadChanged, StorageThrottled) as exc:
                if attempt == _ATTEMPTS - 1:
                    raise await self._told(exc, thread_key) from exc
                await asyncio.sleep(_PAUSE_S * 2**attempt)
                thread = await asyncio.to_thread(self._store.thread, thread_key)

        def execute(sink: Sink) -> asyncio.Task[None]:
            log = RunLog(self._store, sink, self._clock, key=key, thread=thread_key, head=1, writer=writer, epoch=1)
            sink.write(first.data)
            self._model.preload()
            engine = RunEngine(
                plan,
                log=log,
                sink=sink,
                model=self._model,
                toolbox=toolbox,
                library=self._library,
                limits=limits,
                clock=self._clock,
                budget=Budget(
                    reservations[-1], allowances=self._allowances, spending=self._spending, clock=self._clock
                ),
            )
            return asyncio.get_running_loop().create_task(run_it(engine), name=f"run {key.run_id}")

        async def run_it(engine: RunEngine) -> None:
            # Told from here, when the first event is on its way.
            count("RunStarted")
            logger.info("run.started", run_id=key.run_id, warnings=len(asked.warnings))
            await engine.run()

        return StartedRun(key, execute)

    def _toolbox(self, agent: Agent, choice: RunChoice, caller: Caller) -> Toolbox:
        def shorten(text: str) -> str:
            return self._library.shorten(caller.user_id, text)

        allowed = set(agent.spec.tools) - choice.disabled_tools
        return Toolbox([tool for tool in self._tools if tool.name in allowed], caller, shorten)

    def _plan(
        self,
        asked: RunInput,
        merged: Merged,
        thread: Thread,
        *,
        agent: Agent,
        choice: RunChoice,
        deadline: datetime | None,
    ) -> Plan:
        messages = list(late_results(merged.conversation))
        asks_anew = bool(messages) and messages[-1].role == "user"
        application = application_text(asked.instructions, asked.context)
        return Plan(
            run_id=asked.run_id,
            thread=thread.key,
            model=choice.model,
            max_turns=agent.spec.max_steps,
            system=(agent.spec.system_prompt, application) if application else (agent.spec.system_prompt,),
            messages=messages,
            stored=thread.next_message + len(merged.new),
            last=thread.latest + len(merged.new) if merged.new else merged.after,
            speaks=asked.speaks,
            frontend_tools=asked.tools,
            pending=() if asks_anew else [call for call in awaited_calls(messages) if call.name not in self._own],
            deadline=self._latest_end(deadline),
        )

    def _latest_end(self, deadline: datetime | None) -> datetime:
        latest = self._clock.now() + timedelta(seconds=self._limits.run_timeout_s)
        return min(latest, deadline) if deadline else latest

    def _refuse_own_names(self, asked: RunInput) -> None:
        wrong = [
            {"field": f"tools.{i}.name", "message": f"is the name of a tool of the server: {tool.name}"}
            for i, tool in enumerate(asked.tools)
            if tool.name in self._own
        ]
        if wrong:
            raise ValidationFailed(
                "Request validation failed", details=[{**each, "type": "value_error"} for each in wrong]
            )

    def _prepare(self, agent: str, thread: ThreadKey, *, is_new: bool) -> tuple[Agent, RunChoice, Thread]:
        found = self._agents.find(agent)
        choice = self._configuration.for_run(agent=found.spec.name, model=found.spec.model)
        self._model.prepare()
        return found, choice, Thread(key=thread) if is_new else self._store.thread(thread)

    def _merge(self, thread: Thread, asked: RunInput, admitted: Admitted) -> Merged:
        merged = merge(thread, admitted.sent, admitted.notes, own=self._own)
        for note in merged.notes[:_LOGGED_NOTES]:
            logger.warning("run.input_ignored", run_id=asked.run_id, field=note.field, reason=note.reason)
        if len(dump_messages(merged.new)) > MAX_ADDED_BYTES:
            raise PayloadTooLarge(f"New messages exceed {MAX_ADDED_BYTES} bytes; send larger media by file id")
        return merged

    async def _admitted(self, thread: Thread, asked: RunInput) -> Admitted:
        admit = self._arrivals.admit
        admitted = await asyncio.to_thread(admit, thread.key.user_id, thread.messages, asked.sent, asked.unread)
        if not asked.sent and not thread.messages:
            raise ValidationFailed.of("messages", "must hold a message of the user: the thread has none to answer")
        return admitted

    async def _record(
        self,
        run: Run,
        segment: Segment,
        thread: Thread,
        merged: Merged,
        admitted: Admitted,
        allowance: Allowance,
        reservations: Sequence[Reservation],
    ) -> None:
        """Store a run, all or nothing; what its messages refer to takes room of its owner's storage once."""
        new = await asyncio.to_thread(self._store.unkept, run.key.user_id, list(admitted.kept))
        sizes = {name: len(admitted.kept[name]) for name in new}
        room = [allowance.reserve(Metric.STORAGE, sum(sizes.values()))] if sizes else []
        # Armed before the lease is taken: from then on the run cannot be forgotten. For a run that does not start
        # the message finds nothing.
        await asyncio.to_thread(self._watchdog.arm, run.key, delay=FIRST_LOOK)
        await asyncio.to_thread(
            self._store.start,
            run,
            thread=thread,
            segment=segment,
            messages=merged.new,
            after=merged.after,
            attachments=sizes,
            reservations=[*room, *reservations],
        )

    async def _is_kept(self, user_id: UserId, admitted: Admitted) -> bool:
        """Keep what a run's messages refer to, once it is stored: of a run that was refused nothing stays."""
        try:
            await asyncio.to_thread(self._library.keep, user_id, admitted.kept)
        except Upstream as exc:
            logger.error("run.attachments_not_kept", code=exc.code)
            return False
        return True

    def _repeat(self, run: Run, asked: RunInput, link: Link, deadline: datetime | None) -> StartedRun:
        again = redeliver(
            run,
            asked,
            store=self._store,
            link=link,
            clock=self._clock,
            until=self._latest_end(deadline),
            own=self._own,
        )
        return StartedRun(run.key, again)

    async def _again(self, thread: Thread, asked: RunInput, agent: Agent, before: Run | None) -> Run | None:
        """Return the run that answers this very request: the one of its id, or the thread's active one.

        A second click, or the retry of a request that seemed lost: to do its work again would move the device twice.

        Raises:
            RunExists: the run of its id answers another request.
            ThreadBusy: the active run does, and its client waits for it.
        """
        user_id = thread.key.user_id
        run = before
        if run is None and thread.active_run_id is not None:
            run = await asyncio.to_thread(self._store.run, RunKey(user_id, thread.active_run_id))
        if run is None:
            return None
        sent = await asyncio.to_thread(recognise, user_id, thread.messages, asked.sent, asked.unread)
        is_same = before is not None or run.agent_id == agent.id
        if not is_same or not await asyncio.to_thread(is_repeat, run, thread, asked, sent, own=self._own):
            if before is not None:
                raise RunExists(asked.run_id)
            if not has_moved_on(thread, asked.sent):
                await self._free(thread, asked)
            return None
        if before is not None or await asyncio.to_thread(Inspector(self._store, self._clock).look, run.key) is not None:
            return run
        ended = await asyncio.to_thread(self._store.run, run.key)
        return ended if ended is not None and ended.status is RunStatus.FINISHED else None

    async def _free(self, thread: Thread, asked: RunInput) -> None:
        """End the thread's active run if its process is dead, or have it ended if its client does not wait for it.

        Raises:
            ThreadBusy: it is alive.
            ThreadChanged: it was ended; read the thread again.
        """
        run_id = thread.active_run_id
        if run_id is None:
            return
        key = RunKey(thread.key.user_id, run_id)
        if await asyncio.to_thread(Inspector(self._store, self._clock).look, key) is not None:
            wish = Wish.MOVED_ON if has_moved_on(thread, asked.sent) else Wish.NEXT
            await asyncio.to_thread(self._store.wish, key, wish, at=self._clock.now())
            if wish is Wish.NEXT or not await self._ends(key):
                raise ThreadBusy(run_id)
        raise ThreadChanged

    async def _told(self, met: AppError, key: ThreadKey) -> AppError:
        """Name the run that the thread has by now, where others were faster with it each time."""
        if isinstance(met, ThreadChanged):
            active = (await asyncio.to_thread(self._store.thread, key)).active_run_id
            if active is not None:
                return ThreadBusy(active)
        return met

    async def _ends(self, key: RunKey) -> bool:
        """Wait for a run that was asked to end."""
        for _ in range(_END_POLLS):
            await asyncio.sleep(_END_POLL_S)
            tail = await asyncio.to_thread(self._store.tail, key)
            if tail is None or tail.terminal:
                return True
        return False


class RunReader:
    """Reads runs of their owner."""

    def __init__(self, store: RunStore) -> None:
        self._store = store

    def get(self, user_id: UserId, run_id: RunId) -> Run:
        """Read one run.

        Raises:
            NotFound: none of this user's.
        """
        run = self._store.run(RunKey(user_id, run_id)) if is_readable_id(run_id) else None
        if run is None:
            raise NotFound(f"Run '{run_id[:128]}' not found")
        return run

    def messages(self, run: Run) -> list[Json] | None:
        """Read the conversation of a run's branch, also of one that nobody goes on with.

        Returns None where the run has none yet, and where it is larger than an answer may be.
        """
        if run.last_message < 0:
            return None
        thread = self._store.thread(ThreadKey(run.key.user_id, run.thread_id))
        found = [shown(thread.messages[position], CURRENT) for position in thread.way_to(run.last_message)]
        return found if len(orjson.dumps(found)) <= MAX_SNAPSHOT_BYTES else None

    def page(
        self,
        user_id: UserId,
        *,
        limit: int,
        start: dict[str, str] | None = None,
        agent_id: AgentId | None = None,
    ) -> RunPage:
        """List runs, newest first; with an agent only its."""
        return self._store.runs(user_id, limit=limit, start=start, agent_id=agent_id)

    def numbered(self, user_id: UserId, *, offset: int, limit: int, agent_id: AgentId | None = None) -> list[Run]:
        """List runs from a position on, newest first; what stands before it is read and paid for too.

        Raises:
            InvalidRequest: INVALID_PAGE, beyond `MAX_OFFSET_ROWS`.
        """
        wanted = offset + limit
        if wanted > MAX_OFFSET_ROWS:
            raise InvalidRequest(
                f"Pages by number end at {MAX_OFFSET_ROWS} rows; go on with `cursor` of /api/v1/runs",
                code="INVALID_PAGE",
            )
        found: list[Run] = []
        start: dict[str, str] | None = None
        while True:
            page = self._store.runs(user_id, limit=wanted - len(found), start=start, agent_id=agent_id)
            found += page.runs
            start = page.last
            if start is None or len(found) >= wanted:
                return found[offset:]

    def count(self, user_id: UserId, *, agent_id: AgentId | None = None) -> int:
        """Count runs; those of an agent no further than `MAX_OFFSET_ROWS`."""
        if agent_id is None:
            return self._store.count(user_id)
        return self._store.count_of_agent(user_id, agent_id, most=MAX_OFFSET_ROWS)

    def segments(self, user_id: UserId, run_id: RunId, *, after: int, limit: int) -> list[Segment]:
        """Read segments of a run above `after`; at most 1 MB."""
        return self._store.segments(RunKey(user_id, run_id), after=after, limit=limit)

    def first_segments(self, user_id: UserId, run_id: RunId, *, after: int, limit: int) -> list[Segment]:
        """Read segments above `after`, as many as fit into an answer; at the end of a run its terminal event once more.

        Who comes back at the end of a log is told at once that it is the end.
        """
        found = self.segments(user_id, run_id, after=after, limit=limit)
        if found or not after:
            return fitting(found, lambda segment: sum(len(data) + 1 for data in segment.events))
        tail = self._store.tail(RunKey(user_id, run_id))
        return [replace(tail, events=tail.events[-1:])] if tail is not None and tail.terminal else []


def events_view(segments: Sequence[Segment], *, after: int) -> dict[str, object]:
    """Shape a page of a run's log for `GET /runs/{id}/events`; events are JSON already and are not parsed again."""
    return {
        "segments": [
            {"n": segment.n, "events": [orjson.Fragment(data) for data in segment.events]} for segment in segments
        ],
        "next_after": segments[-1].n if segments else after,
        "finished": bool(segments) and segments[-1].terminal,
    }


def run_view(run: Run) -> dict[str, object]:
    """Shape a run for `GET /runs`."""
    return {
        "id": run.key.run_id,
        "thread_id": run.thread_id,
        "parent_run_id": run.parent_run_id or None,
        "status": run.status.value,
        "agent_id": run.agent_id,
        "agent_version": run.agent_version,
        "model": run.model,
        "error_code": run.error_code or None,
        "turns": run.turns,
        "usage": run.usage,
        "cost_micros": run.cost_micros,
        "pending_tool_call_ids": list(run.pending_tool_call_ids),
        "created_at": iso(run.created_at),
        "finished_at": iso(run.finished_at) if run.finished_at else None,
        "duration_ms": epoch_ms(run.finished_at) - epoch_ms(run.created_at) if run.finished_at else None,
    }


def agio_run_view(run: Run) -> dict[str, object]:
    """Shape a run for Agio's list.

    Its texts are in its log (`/api/v1/runs/{id}/events`): those are null.
    """
    usage = run.usage or {}
    lasted = run.finished_at - run.created_at if run.finished_at else None
    return {
        "id": run.key.run_id,
        "agent_id": run.agent_id,
        "user_id": run.key.user_id,
        "status": "completed" if run.status is RunStatus.FINISHED else run.status.value,
        "input_query": None,
        "response_content": None,
        "metrics": {
            "total_tokens": usage.get("totalTokens"),
            "duration": lasted.total_seconds() if lasted is not None else None,
        },
        "created_at": iso(run.created_at),
    }
