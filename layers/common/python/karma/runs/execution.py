"""Executes stored runs: those that a request has just begun, and those whose process was lost or has handed them over.

A lost run goes on from its last durable point, in the same thread and the same log:

    1. the claim     is the next segment, under a new writer and epoch; whoever else writes that number loses the run.
                     It closes what was open, and has clients shown the conversation anew, without the unfinished turn
    2. calls         of the last stored turn that have no result follow the declaration of their tool (WhenLost)
    3. the turn      that was broken off is made anew under a new message id; the lost tokens are charged by estimate

A run whose processes die one after the other without reaching a checkpoint is ended: it would go on for ever.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import orjson

from karma.billing.allowances import Allowances, Reservation
from karma.conversations.attachments import Library
from karma.conversations.domain import ThreadKey
from karma.conversations.history import awaited_calls, late_results
from karma.core.clock import Clock
from karma.core.errors import Upstream
from karma.core.ids import new_id
from karma.core.observability import count, logger
from karma.identity.domain import Caller
from karma.models.domain import Target
from karma.models.ports import Model
from karma.runs import events
from karma.runs.domain import (
    ENGINE_SCHEMA,
    LEASE,
    MAX_TAKE_OVERS,
    Checkpoint,
    OwnershipLost,
    Progress,
    Run,
    RunKey,
    RunStatus,
    Segment,
    Wish,
    WishesChanged,
    cancel_reason,
)
from karma.runs.ending import cancel_lost, end_lost, pause_lost, read_log
from karma.runs.engine import RunEngine
from karma.runs.log import RunLog
from karma.runs.plan import LostTurn, RunLimits, RunPlan
from karma.runs.ports import Executions, Runs, Sink
from karma.runs.setup import RunSetup, load_setup
from karma.runs.spending import Budget, reserved_for
from karma.tools.toolbox import Tool, Toolbox


class NoClient:
    """Sink of a run whose clients, if there are any, read its log."""

    is_lost = False
    """Nobody knows of one that has left, as on platforms that do not report it."""

    def write(self, data: bytes) -> None:
        """Drop the frames."""


@dataclass(frozen=True)
class _Taken:
    """A run that this process has taken over."""

    plan: RunPlan
    setup: RunSetup
    run: Run
    claim: Segment
    """The segment by which this process became the writer of its log."""


class Executor:
    """Executes runs."""

    def __init__(
        self,
        *,
        store: Runs,
        executions: Executions,
        model: Model,
        tools: Sequence[Tool],
        library: Library,
        allowances: Allowances,
        clock: Clock,
        limits: RunLimits,
        ask_title: Callable[[ThreadKey], None] = lambda _: None,
    ) -> None:
        """Build the executor; `ask_title` lets a title be proposed for a thread, after a run of it. May block."""
        self._ask_title = ask_title
        self._store = store
        self._executions = executions
        self._model = model
        self._tools = tools
        self._library = library
        self._allowances = allowances
        self._clock = clock
        self.limits = limits
        self.own_tools = frozenset(tool.name for tool in tools)
        """Names of the server's tools."""

    def prepare(self, target: Target) -> None:
        """Check what must work before a run starts, as `Model.prepare`."""
        self._model.prepare(target)

    def toolbox(self, names: Iterable[str], caller: Caller) -> Toolbox:
        """Return the named tools of the server, as far as the caller may use them."""
        allowed = set(names)

        def shorten(text: str) -> str:
            return self._library.shorten(caller.user_id, text)

        return Toolbox([tool for tool in self._tools if tool.name in allowed], caller, shorten)

    def begin(
        self,
        plan: RunPlan,
        *,
        sink: Sink,
        first: bytes,
        writer: str,
        toolbox: Toolbox,
        reserved: Reservation,
        max_tokens: int,
        warnings: int = 0,
    ) -> asyncio.Task[None]:
        """Send the first events of a run that was stored, and start to execute it; the task raises nothing.

        `warnings` is the number of the request's parts that were left out, for the log.
        """
        log = self._log(plan, sink, head=1, writer=writer, epoch=1)
        sink.write(first)
        self._model.preload(plan.target)
        engine = self._engine(plan, log, sink, toolbox, reserved, max_tokens)

        async def run() -> None:
            # Counted and logged here, after the first event was sent.
            count("RunStarted")
            logger.info("run.started", run_id=plan.run_id, warnings=warnings)
            await self._run(plan, log, engine)

        return asyncio.get_running_loop().create_task(run(), name=f"run {plan.run_id}")

    async def go_on(self, key: RunKey, *, deadline: datetime | None = None) -> bool:
        """Take a run over if its process is lost or has handed it over, and execute it.

        Args:
            key: the run; one that is alive, has ended or does not exist is left alone.
            deadline: moment at which the platform stops this process; None: never.

        Returns:
            Whether the run was taken over.

        Raises:
            Upstream: the database could not be reached before the run was taken over, or the model is not configured.
        """
        taken = await asyncio.to_thread(self._take, key, deadline)
        if taken is None:
            return False
        plan, setup, claim = taken.plan, taken.setup, taken.claim
        turns = plan.progress.turns
        logger.warning("run.taken_over", run_id=key.run_id, epoch=claim.epoch, segment=claim.n, turns=turns)
        count("RunTakenOver")
        sink = NoClient()
        last = plan.last if turns else None
        log = self._log(plan, sink, head=claim.n, writer=claim.writer, epoch=claim.epoch, last_message=last)
        self._model.preload(plan.target)
        toolbox = self.toolbox(setup.tools, setup.caller)
        engine = self._engine(plan, log, sink, toolbox, reserved_for(taken.run), setup.max_tokens)
        await self._run(plan, log, engine)
        return True

    def target_of(self, key: RunKey) -> Target | None:
        """Return the model of a stored run; None: there is no such run."""
        run = self._store.run(key)
        if run is None:
            return None
        stored = self._store.setup(key)
        return _target_of(run, load_setup(stored) if stored else None)

    async def _run(self, plan: RunPlan, log: RunLog, engine: RunEngine) -> None:
        await engine.run()
        if plan.asks_title and log.has_ended:
            try:
                await asyncio.to_thread(self._ask_title, plan.thread)
            except Upstream as exc:
                logger.warning("run.title_not_asked", run_id=plan.run_id, code=exc.code)

    def _take(self, key: RunKey, deadline: datetime | None) -> _Taken | None:
        tail, run = self._store.tail(key), self._store.run(key)
        now = self._clock.now()
        if tail is None or tail.terminal or not tail.is_expired(now) or run is None:
            return None
        if run.status is not RunStatus.RUNNING or run.engine_schema > ENGINE_SCHEMA:
            return None
        stored, checkpoint = self._store.setup(key), self._store.last_checkpoint(key)
        setup = load_setup(stored) if stored else None
        self._model.prepare(_target_of(run, setup))
        until = run.created_at + timedelta(seconds=self.limits.run_timeout_s, milliseconds=run.paused_ms)
        tried = tail.epoch - max(checkpoint.epoch if checkpoint else 1, run.resumed_epoch)
        try:
            wishes = self._store.wishes(key)
            reason = cancel_reason(wishes)
            if reason is not None:
                cancel_lost(self._store, tail, run, now, reason=reason)
                return None
            if Wish.PAUSE in wishes:
                pause_lost(self._store, tail, run, now)
                return None
            if setup is None or tried >= MAX_TAKE_OVERS or now >= until:
                end_lost(self._store, tail, run, now)
                return None
            return self._own(run, tail, setup, checkpoint, until=until, deadline=deadline)
        except OwnershipLost:
            return None  # its writer, or another process, wrote first
        except WishesChanged:
            return self._take(key, deadline)  # each time because of another request

    def _own(
        self,
        run: Run,
        tail: Segment,
        setup: RunSetup,
        checkpoint: Checkpoint | None,
        *,
        until: datetime,
        deadline: datetime | None,
    ) -> _Taken:
        thread = self._store.thread(ThreadKey(run.key.user_id, run.thread_id))
        if thread.is_deleted:
            raise OwnershipLost(f"the thread of run {run.key.run_id} is being deleted")
        log = read_log(self._store, run.key)
        at = checkpoint.n if checkpoint else 0
        parsed = [(each.n, each.epoch, event) for each in log for event in map(events.parse, each.events)]
        call_ids = frozenset(event.ref for _, _, event in parsed if event.type == "TOOL_CALL_START")
        broken: Counter[int] = Counter()
        for n, epoch, event in parsed:
            if n > at and _is_delta(event):
                broken[epoch] += len(orjson.loads(event.data)["delta"])
        position = checkpoint.position if checkpoint else run.answers
        # Read before the segment is written: had another process written since, this segment would be refused.
        messages = list(late_results([thread.messages[each] for each in thread.path_to(position)]))
        claim = Segment(
            key=run.key,
            n=tail.n + 1,
            writer=new_id(),
            epoch=tail.epoch + 1,
            lease_until=self._clock.now() + LEASE,
            events=tuple(e.data for e in events.open_after(data for each in log for data in each.events).closing()),
            shows=position,  # always: the lost process may have sent text that it did not commit any more
        )
        self._store.append(claim)
        run = self._store.run(run.key) or run  # with all that the lost process has reserved for it
        asks_anew = bool(messages) and messages[-1].role == "user"
        target = _target_of(run, setup)
        awaited = () if asks_anew else awaited_calls(messages)
        plan = RunPlan(
            run_id=run.key.run_id,
            thread=thread.key,
            target=target,
            fallbacks=setup.fallbacks,
            max_turns=setup.max_turns,
            system=setup.system,
            messages=messages,
            stored=thread.next_message,
            last=position,
            speaks=setup.speaks,
            frontend_tools=setup.frontend_tools,
            is_kept=bool(checkpoint) or all(self._library.has(run.key.user_id, each) for each in messages[-1:]),
            pending=() if checkpoint else [call for call in awaited if call.name not in self.own_tools],
            until=until,
            deadline=deadline,
            asks_title=thread.asks_title,
            progress=_progress(checkpoint, target),
            lost=LostTurn(calls=awaited if checkpoint else (), answers=tuple(broken.values()), call_ids=call_ids),
        )
        return _Taken(plan, setup, run, claim)

    def _log(
        self, plan: RunPlan, sink: Sink, *, head: int, writer: str, epoch: int, last_message: int | None = None
    ) -> RunLog:
        return RunLog(
            self._store,
            sink,
            self._clock,
            key=plan.key,
            thread=plan.thread,
            head=head,
            writer=writer,
            epoch=epoch,
            last_message=last_message,
        )

    def _engine(
        self, plan: RunPlan, log: RunLog, sink: Sink, toolbox: Toolbox, reserved: Reservation, max_tokens: int
    ) -> RunEngine:
        budget = Budget(
            plan.key,
            reserved,
            progress=plan.progress,
            allowances=self._allowances,
            store=self._store,
            clock=self._clock,
        )
        return RunEngine(
            plan,
            log=log,
            sink=sink,
            model=self._model,
            toolbox=toolbox,
            library=self._library,
            limits=replace(self.limits, max_tokens=max_tokens),
            clock=self._clock,
            budget=budget,
            executions=self._executions,
        )


def _target_of(run: Run, setup: RunSetup | None) -> Target:
    """Return the model of a stored run; releases before there were targets stored its id alone."""
    return (setup and setup.target) or Target(model=run.model)


def _progress(checkpoint: Checkpoint | None, target: Target) -> Progress:
    if checkpoint is None:
        return Progress()
    return replace(checkpoint.progress, usages=checkpoint.progress.usages.named(target))


def _is_delta(event: events.Event) -> bool:
    return event.type in {"TEXT_MESSAGE_CONTENT", "TOOL_CALL_ARGS"}
