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
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING

from karma.agents.service import Catalogue
from karma.billing.allowances import Allowances, Reservation
from karma.conversations.attachments import Library
from karma.conversations.domain import ThreadKey
from karma.core.clock import Clock
from karma.core.errors import NotFound, Upstream
from karma.core.ids import AgentId
from karma.core.observability import count, logger
from karma.identity.domain import Caller
from karma.mcp.offering import McpTools
from karma.models.domain import Target
from karma.models.ports import Model
from karma.runs.domain import (
    NOT_EXECUTED,
    Run,
    RunKey,
)
from karma.runs.engine import RunEngine
from karma.runs.log import RunLog
from karma.runs.plan import RunLimits, RunPlan, toolbox_of, tools_of_subagents
from karma.runs.ports import Configured, Executions, Runs, Sink, StoredStep
from karma.runs.reservations import reserved_for
from karma.runs.setup import RunSetup, load_setup, target_of
from karma.runs.spending import Spending
from karma.runs.turns import wake_next
from karma.tools.toolbox import Tool, Toolbox

if TYPE_CHECKING:
    from karma.runs.places import Places
    from karma.runs.subagents.delegation import Subagents
    from karma.runs.taking import TakenRun


class NoClient:
    """Sink of a run whose clients, if there are any, read its log."""

    is_lost = False
    """Nobody knows of one that has left, as on platforms that do not report it."""

    def write(self, data: bytes) -> None:
        """Drop the frames."""


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
        mcp: McpTools,
        agents: Catalogue,
        configuration: Configured,
        ask_title: Callable[[ThreadKey], None] = lambda _: None,
        places: Callable[[], Places],
    ) -> None:
        """Build the executor.

        `ask_title` lets a title be proposed for a thread, after a run of it; it may block. `places` are built where it
        goes on with a run. Where agents call others, these are found in `agents` and `configuration`.
        """
        self._agents, self._configuration = agents, configuration
        self._ask_title = ask_title
        self._places = places
        self._store = store
        self._executions = executions
        self._model = model
        self._tools = tools
        self._library = library
        self._allowances = allowances
        self._clock = clock
        self.mcp = mcp
        self.limits = limits
        self.own_tools = frozenset(tool.name for tool in tools)
        """Names of the server's tools."""

    def toolbox(self, setup: RunSetup, thread: ThreadKey) -> Toolbox:
        """Return the tools of a run, as far as its caller may use them."""
        more = [*self.mcp.tools(setup.mcp_tools, thread_id=thread.thread_id), *tools_of_subagents(setup.subagents)]
        return toolbox_of(self._tools, setup.tools, setup.caller, self._library, more=more)

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
        agent_id: AgentId,
        warnings: int = 0,
    ) -> asyncio.Task[None]:
        """Send the first events of a run that was stored, and start to execute it; the task raises nothing.

        `warnings` is the number of the request's parts that were left out, for the log.
        """
        log = self._log(plan, sink, head=1, writer=writer, epoch=1)
        sink.write(first)
        self._model.preload(plan.target)
        own = partial(self._engine, plan, log, sink, toolbox, reserved, max_tokens, agent_id)
        engine = None if plan.carried else own()

        async def run() -> None:
            # Counted and logged here, after the first event was sent.
            count("RunStarted")
            logger.info("run.started", run_id=plan.run_id, warnings=warnings)
            begun = own(await asyncio.to_thread(self._delegated, plan)) if engine is None else engine
            await self._run(plan, log, begun)

        return asyncio.get_running_loop().create_task(run(), name=f"run {plan.run_id}")

    async def go_on(self, key: RunKey, *, deadline: datetime | None = None) -> bool:
        """Take a run over if its process is lost or has handed it over, or if it has none yet, and execute it.

        Args:
            key: the run; one that is alive, has ended or does not exist is left alone.
            deadline: moment at which the platform stops this process; None: never.

        Returns:
            Whether the run was taken over.

        Raises:
            NoPlace: its account has no place for it (karma.runs.places); it waits.
            Upstream: the database could not be reached before the run was taken over, or the model is not configured.
        """
        from karma.runs.taking import Taker  # who starts runs takes none over

        places = self._places()
        taker = Taker(
            self._store,
            self._model,
            self._library,
            self._clock,
            limits=self.limits,
            own_tools=self.own_tools,
            places=places,
            executions=self._executions,
        )
        taken = await asyncio.to_thread(taker.take, key, deadline)
        if taken is None:
            return False
        try:
            await self._execute(taken)
        finally:
            await asyncio.to_thread(places.leave, taken.place)
        return True

    async def _execute(self, taken: TakenRun) -> None:
        """Execute a run that this process has taken over, to its end or until another process has to go on."""
        key = taken.run.key
        plan, setup, claim = taken.plan, taken.setup, taken.claim
        turns = plan.progress.turns
        if claim.epoch == NOT_EXECUTED + 1:
            count("RunStarted")
            logger.info("run.started", run_id=key.run_id)
        else:
            logger.warning("run.taken_over", run_id=key.run_id, epoch=claim.epoch, segment=claim.n, turns=turns)
            count("RunTakenOver")
        sink = NoClient()
        last = taken.last_message
        log = self._log(
            plan,
            sink,
            head=claim.n,
            writer=claim.writer,
            epoch=claim.epoch,
            last_message=last,
            subagents=taken.subagents,
        )
        self._model.preload(plan.target)
        toolbox = self.toolbox(setup, plan.thread)
        plan.begun = plan.begun if toolbox.writes_state else None
        run, agent_id = await asyncio.to_thread(self._budgeted, taken.run), taken.run.agent_id
        plan.budgets, reserved = run.budgets, reserved_for(run)
        engine = self._engine(plan, log, sink, toolbox, reserved, setup.max_tokens, agent_id, taken.delegated)
        await self._run(plan, log, engine)

    def _budgeted(self, run: Run) -> Run:
        """Return a run with the budgets that hold for it: once it waited for its turn, its agent's are those of now."""
        if not run.paused_ms or run.resumed_epoch or run.agent_id is None:  # who resumes it stores those of then
            return run
        from karma.runs.budgets import of_agent_now

        with suppress(NotFound):  # then those stay with which it began
            return replace(run, budgets=of_agent_now(run, self._agents.get(run.agent_id).spec))
        return run

    def target_of(self, key: RunKey) -> Target | None:
        """Return the model of a stored run; None: there is no such run."""
        run = self._store.run(key)
        if run is None:
            return None
        stored = self._store.setup(key)
        return target_of(run, load_setup(stored) if stored else None)

    async def _run(self, plan: RunPlan, log: RunLog, engine: RunEngine) -> None:
        await engine.run()
        if log.has_ended:
            await self._wake_next(plan.thread)
        if plan.asks_title and log.has_ended and not engine.was_stopped:
            try:
                await asyncio.to_thread(self._ask_title, plan.thread)
            except Upstream as exc:
                logger.warning("run.title_not_asked", run_id=plan.run_id, code=exc.code)

    async def _wake_next(self, thread: ThreadKey) -> None:
        try:
            await asyncio.to_thread(wake_next, self._store, self._executions, thread)
        except Exception:  # noqa: BLE001  this run has ended, and its client was told; nothing may break that
            # The watchdog of the run whose turn it is finds that it is.
            logger.exception("run.next_not_asked_for")

    def _delegated(self, plan: RunPlan) -> list[StoredStep]:
        if plan.delegated is not None:
            return plan.delegated  # read for the first events
        runs = [RunKey(plan.key.user_id, each) for each in plan.carried]
        return [step for each in runs for step in self._store.delegated(each)]

    def _log(
        self,
        plan: RunPlan,
        sink: Sink,
        *,
        head: int,
        writer: str,
        epoch: int,
        last_message: int | None = None,
        subagents: Sequence[str] = (),
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
            state=plan.state,
            subagents=subagents,
        )

    def _engine(
        self,
        plan: RunPlan,
        log: RunLog,
        sink: Sink,
        toolbox: Toolbox,
        reserved: Reservation,
        max_tokens: int,
        agent_id: AgentId | None,
        delegated: Sequence[StoredStep] = (),
    ) -> RunEngine:
        spending = Spending(
            plan.key,
            reserved,
            progress=plan.progress,
            budgets=plan.budgets,
            allowances=self._allowances,
            store=self._store,
            clock=self._clock,
        )
        limits = replace(self.limits, max_tokens=max_tokens)
        make_subagents = None
        if plan.subagents:
            make_subagents = self._subagents(plan, log, sink, spending, toolbox.caller, limits, agent_id, delegated)
        return RunEngine(
            plan,
            log=log,
            sink=sink,
            model=self._model,
            toolbox=toolbox,
            library=self._library,
            limits=limits,
            clock=self._clock,
            spending=spending,
            executions=self._executions,
            make_subagents=make_subagents,
        )

    def _subagents(
        self,
        plan: RunPlan,
        log: RunLog,
        sink: Sink,
        spending: Spending,
        caller: Caller,
        limits: RunLimits,
        agent_id: AgentId | None,
        delegated: Sequence[StoredStep],
    ) -> Callable[[Callable[[], float]], Subagents]:
        from karma.runs.subagents.composition import crew_of  # most agents call no others

        make = crew_of(
            store=self._store,
            model=self._model,
            tools=self._tools,
            mcp=self.mcp,
            library=self._library,
            clock=self._clock,
            agents=self._agents,
            configuration=self._configuration,
            max_tokens=self.limits.max_tokens,
        )
        return partial(
            make,
            plan,
            log=log,
            sink=sink,
            spending=spending,
            caller=caller,
            limits=limits,
            agent_id=agent_id,
            delegated=delegated,
        )
