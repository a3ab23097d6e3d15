"""Starting runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial

from karma.agents.domain import Agent
from karma.agents.service import Catalogue
from karma.billing.allowances import Allowance, Allowances, Metric, Reservation
from karma.configuration.current import RunChoice
from karma.conversations.arrival import Admitted, MessageAdmission, recognise
from karma.conversations.attachments import Library
from karma.conversations.branches import Merged, merge
from karma.conversations.domain import MAX_ADDED_BYTES, Thread, ThreadGone, ThreadKey
from karma.conversations.history import awaited_calls, late_results
from karma.conversations.messages import said
from karma.conversations.stored import dump_messages
from karma.core.clock import Clock
from karma.core.errors import (
    AppError,
    PayloadTooLarge,
    QuotaExceeded,
    StorageThrottled,
    Upstream,
    ValidationFailed,
)
from karma.core.ids import UserId, new_id
from karma.core.observability import logger
from karma.identity.domain import Caller
from karma.runs.domain import LEASE, Run, RunExists, RunKey, RunStatus, Segment, ThreadBusy, ThreadChanged, Wish
from karma.runs.execution import Executor
from karma.runs.opening import Link, opening
from karma.runs.plan import RunLimits, RunPlan, model_request
from karma.runs.ports import Configured, Executions, Runs, Sink, Watchdog
from karma.runs.repeats import has_left, is_repeat, redeliver
from karma.runs.requests import RunInput, application_text
from karma.runs.setup import RunSetup, dump_setup, placed
from karma.runs.spending import first_reservations
from karma.runs.watchdog import FIRST_LOOK, Inspector
from karma.tools.toolbox import Toolbox

_ATTEMPTS = 3
_INTERRUPTING_ATTEMPTS = 6
"""Attempts of a request that ends what is active: each run that it ends takes one, and others may come between."""
_PAUSE_S = 0.05
_LOGGED_NOTES = 20
_FOLLOW = timedelta(minutes=10)
"""Time for which a running run is followed for a repeated request, where the platform stops this process no earlier."""
_END_POLL_S = 0.25
_END_POLLS = 16
"""Polls for the end of a run that was asked to end; it reads the wish twice a second."""


@dataclass(frozen=True)
class StartedRun:
    """A run whose first segment is committed, newly or by an earlier equal request."""

    key: RunKey
    execute: Callable[[Sink], asyncio.Task[None]]
    """Starts to execute the run; the task ends when the run has ended, and raises nothing."""


@dataclass(kw_only=True)
class _Asking:
    """A request for a run, with the data that was read for it."""

    caller: Caller
    asked: RunInput
    deadline: datetime | None
    agent: Agent
    choice: RunChoice
    allowance: Allowance
    thread: Thread
    """The thread as it was last read."""
    before: Run | None
    """The run that has the requested id already; None: the id is free."""
    admitted: Admitted | None = None
    """The request's messages, once they were checked."""

    @property
    def key(self) -> RunKey:
        return RunKey(self.caller.user_id, self.asked.run_id)

    @property
    def state(self) -> object:
        """The application's state, with who is asking as `user` where an object has no such member of its own."""
        state = self.asked.state
        if not isinstance(state, dict) or "user" in state:
            return state
        return {**state, "user": {"id": self.caller.user_id, "name": self.caller.name, "avatar": self.caller.avatar}}

    def run(self, plan: RunPlan, *, at: datetime, reserved: Reservation) -> Run:
        return Run(
            key=self.key,
            thread_id=self.asked.thread_id,
            status=RunStatus.RUNNING,
            model=self.choice.target.model,
            created_at=at,
            agent_id=self.agent.id,
            agent_version=self.agent.version,
            answers=plan.last,
            begins_at=plan.stored,
            parent_run_id=self.asked.parent_run_id,
            asked_hash=self.asked.digest,
            reserved_micros=reserved.amount,
        )

    def setup(self, plan: RunPlan, tools: Sequence[str], limits: RunLimits) -> RunSetup:
        return RunSetup(
            caller=self.caller,
            system=tuple(plan.system),
            tools=tuple(tools),
            frontend_tools=tuple(plan.frontend_tools),
            max_tokens=limits.max_tokens,
            max_turns=plan.max_turns,
            speaks=plan.speaks,
            asides=placed(self.asked.asides, self.asked.sent),
            target=self.choice.target,
            fallbacks=tuple(self.choice.fallbacks),
        )


@dataclass(frozen=True)
class _Recorded:
    """A run that was stored, with all data that its execution needs."""

    plan: RunPlan
    first: bytes
    """Frames of its first events."""
    toolbox: Toolbox
    max_tokens: int
    reserved: Reservation
    """Reservation for the highest cost of the first call of the model."""
    writer: str


class RunService:
    """Starts runs for callers."""

    def __init__(
        self,
        *,
        store: Runs,
        watchdog: Watchdog,
        executions: Executions,
        executor: Executor,
        agents: Catalogue,
        configuration: Configured,
        library: Library,
        allowances: Allowances,
        clock: Clock,
    ) -> None:
        self._store = store
        self._agents = agents
        self._configuration = configuration
        self._watchdog = watchdog
        self._inspector = Inspector(store, executions, clock)
        self._executor = executor
        self.own_tools = executor.own_tools
        self._library = library
        self._arrivals = MessageAdmission(library)
        self._allowances = allowances
        self._clock = clock

    async def start(self, caller: Caller, asked: RunInput, *, deadline: datetime | None = None) -> StartedRun:
        """Store a run and make it its thread's active one.

        Args:
            caller: owner of the run; its tools have the caller's permissions.
            asked: the request.
            deadline: moment at which the platform stops this process; None: never.

        Raises:
            Forbidden: the caller's address is not verified; nothing was stored.
            ValidationFailed: a new message has a part that the model would not accept; nothing was stored.
            ValidationFailed: neither the thread nor the request has a message; nothing was stored.
            NotFound: there is no such agent; nothing was stored.
            ModelNotConfigured: the deployment has no key for its model; nothing was stored.
            ComponentUnavailable: the agent or its model is disabled; nothing was stored.
            RunExists, ThreadBusy: another request used the run id, or the thread has an active run.
            ThreadGone: the thread was deleted.
            PayloadTooLarge: the new messages are larger than one transaction may be.
            QuotaExceeded: the caller's plan has no room for another run, for what its first model call may cost, or for
                its attachments; nothing was stored.
        """
        caller.require_verified()
        asking = await self._read(caller, asked, deadline)
        attempt = 0
        while True:
            try:
                if (again := await self._again(asking)) is not None:
                    return self._repeat(again, asking)
                recorded = await self._record(asking)
                return StartedRun(asking.key, partial(self._execute, asking, recorded))
            except (RunExists, QuotaExceeded):
                asking.before = asking.before or await asyncio.to_thread(self._store.run, asking.key)
                asking.thread = await asyncio.to_thread(self._store.thread, asking.thread.key)
                if asking.before is None or (again := await self._again(asking)) is None:
                    raise
                return self._repeat(again, asking)
            except (ThreadChanged, StorageThrottled) as exc:
                attempt += 1
                if attempt == (_INTERRUPTING_ATTEMPTS if asked.interrupts else _ATTEMPTS):
                    raise await self._told(exc, asking.thread.key) from exc
                await asyncio.sleep(_PAUSE_S * 2 ** (attempt - 1))
                asking.thread = await asyncio.to_thread(self._store.thread, asking.thread.key)

    async def _read(self, caller: Caller, asked: RunInput, deadline: datetime | None) -> _Asking:
        thread_key = ThreadKey(caller.user_id, asked.thread_id)
        (agent, choice, thread), allowance, before = await asyncio.gather(
            asyncio.to_thread(self._prepare, asked.agent, thread_key, is_new=asked.opens_thread),
            asyncio.to_thread(self._allowances.of, caller.user_id),
            asyncio.to_thread(self._store.run, RunKey(caller.user_id, asked.run_id)),
        )
        return _Asking(
            caller=caller,
            asked=asked,
            deadline=deadline,
            agent=agent,
            choice=choice,
            allowance=allowance,
            thread=thread,
            before=before,
        )

    async def _record(self, asking: _Asking) -> _Recorded:
        """Plan a run and store it with its first events, all or nothing."""
        asked, thread = asking.asked, asking.thread
        if asking.admitted is None:
            asking.admitted = await self._admitted(thread, asked)
        admitted = asking.admitted
        merged = await asyncio.to_thread(self._merge, thread, asked, admitted)
        plan = await asyncio.to_thread(self._plan, asking, merged)
        first = await asyncio.to_thread(
            opening, asked, merged, asking.state, link=self._link(asking), is_lighter=admitted.is_lighter
        )
        await self._free(thread, Wish.MOVED_ON)
        tools = sorted(set(asking.agent.spec.tools) - asking.choice.disabled_tools)
        toolbox = self._executor.toolbox(tools, asking.caller)
        limits = self._executor.limits
        limits = replace(limits, max_tokens=asking.choice.target.max_tokens or limits.max_tokens)
        request = await asyncio.to_thread(model_request, plan, toolbox, limits)
        reservations = first_reservations(asking.allowance, request)
        now, writer = self._clock.now(), new_id()
        # The moment of its allowance, so that its reservations and their correction are of one month.
        run = asking.run(plan, at=asking.allowance.at, reserved=reservations[-1])
        segment = Segment(key=run.key, n=1, writer=writer, epoch=1, lease_until=now + LEASE, events=first.log)
        setup = await asyncio.to_thread(dump_setup, asking.setup(plan, tools, limits))
        await self._store_run(run, segment, setup, thread, merged, admitted, asking.allowance, reservations)
        plan.is_kept = await self._is_kept(run.key.user_id, admitted)
        return _Recorded(plan, first.data, toolbox, limits.max_tokens, reservations[-1], writer)

    def _execute(self, asking: _Asking, recorded: _Recorded, sink: Sink) -> asyncio.Task[None]:
        """Start to execute a stored run."""
        return self._executor.begin(
            recorded.plan,
            sink=sink,
            first=recorded.first,
            writer=recorded.writer,
            toolbox=recorded.toolbox,
            reserved=recorded.reserved,
            max_tokens=recorded.max_tokens,
            warnings=len(asking.asked.warnings),
        )

    def _link(self, asking: _Asking) -> Link:
        return partial(self._library.linked, asking.caller.user_id)

    def _plan(self, asking: _Asking, merged: Merged) -> RunPlan:
        asked, agent, thread = asking.asked, asking.agent, asking.thread
        messages = list(late_results(merged.conversation))
        asks_anew = bool(messages) and messages[-1].role == "user"
        application = application_text(asked.instructions, asked.context)
        return RunPlan(
            run_id=asked.run_id,
            thread=thread.key,
            target=asking.choice.target,
            fallbacks=asking.choice.fallbacks,
            max_turns=agent.spec.max_steps,
            system=(agent.spec.system_prompt, application) if application else (agent.spec.system_prompt,),
            messages=messages,
            stored=thread.next_message + len(merged.new),
            last=thread.latest + len(merged.new) if merged.new else merged.after,
            speaks=asked.speaks,
            frontend_tools=asked.tools,
            pending=() if asks_anew else [call for call in awaited_calls(messages) if call.name not in self.own_tools],
            until=self._clock.now() + timedelta(seconds=self._executor.limits.run_timeout_s),
            deadline=asking.deadline,
            ends_with_client=asked.ends_with_client,
            asks_title=thread.asks_title,
        )

    def _prepare(self, agent: str, thread: ThreadKey, *, is_new: bool) -> tuple[Agent, RunChoice, Thread]:
        found = self._agents.find(agent)
        choice = self._configuration.for_run(agent=found.spec.name, model=found.spec.model)
        self._executor.prepare(choice.target)
        return found, choice, Thread(key=thread) if is_new else self._store.thread(thread)

    def _merge(self, thread: Thread, asked: RunInput, admitted: Admitted) -> Merged:
        merged = merge(thread, admitted.sent, admitted.notes, own=self.own_tools)
        for note in merged.notes[:_LOGGED_NOTES]:
            logger.warning("run.input_ignored", run_id=asked.run_id, field=note.field, reason=note.reason)
        if len(dump_messages(merged.new)) > MAX_ADDED_BYTES:
            raise PayloadTooLarge(f"New messages exceed {MAX_ADDED_BYTES} bytes; send larger media by file id")
        return merged

    async def _admitted(self, thread: Thread, asked: RunInput) -> Admitted:
        admit = self._arrivals.admit
        admitted = await asyncio.to_thread(admit, thread.key.user_id, thread.messages, asked.sent, asked.unread)
        if not said(asked.sent) and not thread.messages:
            raise ValidationFailed.of("messages", "must hold a message of the user: the thread has none to answer")
        return admitted

    async def _store_run(
        self,
        run: Run,
        segment: Segment,
        setup: bytes,
        thread: Thread,
        merged: Merged,
        admitted: Admitted,
        allowance: Allowance,
        reservations: Sequence[Reservation],
    ) -> None:
        """Store a run, all or nothing; each of its attachments counts towards its owner's storage once."""
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
            setup=setup,
            after=merged.after,
            attachments=sizes,
            reservations=[*room, *reservations],
        )

    async def _is_kept(self, user_id: UserId, admitted: Admitted) -> bool:
        """Store the attachments of a run's messages, after the run: a refused run leaves none. False: it failed."""
        try:
            await asyncio.to_thread(self._library.keep, user_id, admitted.kept)
        except Upstream as exc:
            logger.error("run.attachments_not_kept", code=exc.code)
            return False
        return True

    def _repeat(self, run: Run, asking: _Asking) -> StartedRun:
        again = redeliver(
            run,
            asking.asked,
            store=self._store,
            link=self._link(asking),
            inspector=self._inspector,
            clock=self._clock,
            until=self._followed_until(asking.deadline),
            own=self.own_tools,
        )
        return StartedRun(run.key, again)

    def _followed_until(self, deadline: datetime | None) -> datetime:
        """Return the moment at which a stream that follows a run ends, before the platform stops its process."""
        margin = timedelta(seconds=self._executor.limits.reserve_s)
        return self._clock.now() + _FOLLOW if deadline is None else deadline - margin

    async def _again(self, asking: _Asking) -> Run | None:
        """Return the run that answers this request already, by its id or as the thread's active one, else None.

        The request may be a second click or a retry: a second run would, for example, move a device twice.

        Raises:
            RunExists: the run of its id answers another request.
            ThreadBusy: the active run answers another request, and its client waits for it.
            ThreadGone: the thread was deleted.
        """
        asked, thread, before = asking.asked, asking.thread, asking.before
        if thread.is_deleted:
            raise ThreadGone
        user_id = thread.key.user_id
        run = before
        if run is None and thread.active_run_id is not None:
            run = await asyncio.to_thread(self._store.run, RunKey(user_id, thread.active_run_id))
        if run is None:
            return None
        sent = await asyncio.to_thread(recognise, user_id, thread.messages, asked.sent, asked.unread)
        is_same = before is not None or run.agent_id == asking.agent.id
        if not is_same or not await asyncio.to_thread(is_repeat, run, thread, asked, sent, own=self.own_tools):
            if before is not None:
                raise RunExists(asked.run_id)
            moved_on = asked.interrupts or await asyncio.to_thread(has_left, run, thread, sent, own=self.own_tools)
            if not moved_on:
                await self._free(thread, Wish.NEXT)
            return None
        if before is not None or not await asyncio.to_thread(self._inspector.has_ended, run.key):
            return run
        ended = await asyncio.to_thread(self._store.run, run.key)
        return ended if ended is not None and ended.status is RunStatus.FINISHED else None

    async def _free(self, thread: Thread, wish: Wish) -> None:
        """End the thread's active run if its process is lost, else ask its writer to end it.

        Raises:
            ThreadBusy: the run goes on.
            ThreadChanged: the run has ended; read the thread again.
        """
        run_id = thread.active_run_id
        if run_id is None:
            return
        key = RunKey(thread.key.user_id, run_id)
        is_over = self._inspector.is_over if wish is Wish.MOVED_ON else self._inspector.has_ended
        if not await asyncio.to_thread(is_over, key):
            await asyncio.to_thread(self._store.wish, key, wish, at=self._clock.now())
            if wish is Wish.NEXT or not await self._ends(key):
                raise ThreadBusy(run_id)
        raise ThreadChanged

    async def _told(self, met: AppError, key: ThreadKey) -> AppError:
        """Return ThreadBusy with the thread's active run when other requests changed the thread first each time."""
        if isinstance(met, ThreadChanged):
            active = (await asyncio.to_thread(self._store.thread, key)).active_run_id
            if active is not None:
                return ThreadBusy(active)
        return met

    async def _ends(self, key: RunKey) -> bool:
        """Wait for a run that was asked to end; False: it goes on."""
        for _ in range(_END_POLLS):
            await asyncio.sleep(_END_POLL_S)
            tail = await asyncio.to_thread(self._store.tail, key)
            if tail is None or tail.terminal:
                return True
        return False
