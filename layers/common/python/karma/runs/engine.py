"""The turn loop of one run: model, tools, model, ... until the model calls no more tools of the server.

This module decides which events a client sees, in which order; log.py, when they are durable. A message is added to the
thread only when its turn is complete, in the transaction that logs it: a run that fails leaves no partial message.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from karma.conversations.attachments import Library, names_media
from karma.conversations.domain import History, ToolCall
from karma.conversations.repair import repair
from karma.core.clock import Clock
from karma.core.errors import Upstream
from karma.core.ids import AgentId
from karma.core.observability import count, logger
from karma.models.budgets import BudgetExceeded, BudgetName
from karma.models.domain import ModelErrorCode, Usage
from karma.models.ports import Model, ModelFailed, StopReason, call_ids_of
from karma.runs.budgets import budget_question
from karma.runs.calls import RESULTS_A_COMMIT, Activities, MakeCallWith, OpenCalls, result_message, state_of, told_of
from karma.runs.domain import OwnershipLost, Progress, RunErrorCode, RunFailed
from karma.runs.events import CALLS_OVERLAP_SINCE, Event, custom
from karma.runs.exits import Exit
from karma.runs.gate import Gate
from karma.runs.log import RunLog
from karma.runs.plan import LostTurn, RunLimits, RunPlan, is_near_window, model_request
from karma.runs.ports import Executions, Sink
from karma.runs.spending import Spending
from karma.runs.turn import Speaker, Turn, asks_again, is_refusal, message_of
from karma.tools.toolbox import Toolbox

if TYPE_CHECKING:
    from karma.runs.compaction import Compactor
    from karma.runs.subagents.delegation import Subagents

_MAX_BROKEN = 2
"""Answers of one turn that may break off and be asked for again."""


class RunEngine:
    """Executes one started run to its end."""

    def __init__(
        self,
        plan: RunPlan,
        *,
        log: RunLog,
        sink: Sink,
        model: Model,
        toolbox: Toolbox,
        library: Library,
        limits: RunLimits,
        clock: Clock,
        spending: Spending,
        executions: Executions,
        make_subagents: Callable[[Callable[[], float]], Subagents] | None = None,
    ) -> None:
        self._plan = plan
        self._spending = spending
        self._log = log
        self._sink = sink
        self._model = model
        self._toolbox = toolbox
        toolbox.begin_with(plan.state.value)
        toolbox.stand_beside([tool.name for tool in plan.frontend_tools])
        toolbox.show_by(Activities(log, sink, speaks=plan.speaks).show)
        self._library = library
        self._limits = limits
        self._clock = clock
        self._gate = Gate(plan, toolbox, clock)
        self._calls = OpenCalls(toolbox.repeatable, decided=self._gate.decided)
        self._exit = Exit(plan, log, spending, self._calls, clock=clock, executions=executions)
        self._is_pausing = False
        self._lost_by: Exception | None = None
        self._is_over_budget = False
        self._makes_room = True
        """The conversation is summarised when it comes near the context window; it is not where that has failed."""
        self._calls_tools = False
        call_ids = call_ids_of(plan.messages)
        call_ids |= plan.lost.call_ids if plan.lost else frozenset()
        self._subagents = make_subagents(self._left_s) if make_subagents is not None else None
        if self._subagents is not None:
            self._subagents.bind(toolbox, plan.subagents)
            self._subagents.call_ids |= call_ids
            call_ids = self._subagents.call_ids
            self._exit.subagents, self._gate.begun = self._subagents, self._subagents.begun_calls
            self._gate.room = self._subagents.room
        self._speaker = Speaker(
            model,
            log,
            sink,
            call_ids=call_ids,
            calls_overlap=plan.speaks >= CALLS_OVERLAP_SINCE,
            shows_reasoning=plan.shows_reasoning,
        )
        self._exit.unseen, self._exit.withdraw_half = lambda: self._speaker.unseen, self._withdraw_half

    async def run(self) -> None:
        """Run to the terminal event, until the run is paused, or hand it over before this process is stopped.

        Expected failures end the run and raise nothing; a bug ends it with INTERNAL.
        """
        try:
            await self._run()
        except TimeoutError:
            if self._exit.cancelled_for is not None:
                await self._exit.fail(RunErrorCode.CANCELLED)
            elif self._is_pausing:
                await self._exit.pause()
            elif self._plan.is_handed_over:
                await self._exit.hand_over()
            else:
                await self._exit.fail(RunErrorCode.DEADLINE_EXCEEDED)
        except RunFailed as exc:
            await self._exit.fail(exc.code)
        except ModelFailed as exc:
            self._spending.failed(exc.usage, exc.by)
            logger.warning("run.model_failed", run_id=self._plan.run_id, code=exc.code, exc_info=exc.__cause__)
            await self._exit.fail(RunErrorCode(exc.code))
        except OwnershipLost:
            await self._exit.abandon(RunErrorCode.OWNER_LOST)
        except Upstream as exc:
            logger.error("run.storage_failed", run_id=self._plan.run_id, code=exc.code)
            await self._exit.fail(RunErrorCode.STORAGE_UNAVAILABLE)
        except Exception:  # noqa: BLE001 - the edge of a run: its client must be told, and the thread freed
            logger.exception("run.broken", run_id=self._plan.run_id)
            await self._exit.fail(RunErrorCode.INTERNAL)
        finally:
            self._log.close()
            await self._log.settle()

    @property
    def was_stopped(self) -> bool:
        """Tell whether the run was cancelled, or a budget ends it: no model is to be called for it any more."""
        return self._is_over_budget or not self._plan.max_turns or self._exit.cancelled_for is not None

    async def _run(self) -> None:
        """Run until nothing is left to do, or until the run is to be left: then TimeoutError is raised."""
        await self._count_lost()
        try:
            async with asyncio.timeout(max(0.0, self._left_s())) as limit:
                ends = self._plan.ends_with_client
                stop, heed = partial(self._stop, limit), partial(self._heed, limit)
                self._log.listen(stop, heed, self._stop_agents, ends_with_client=ends)
                self._log.when_lost = partial(self._lose, limit)
                try:
                    await self._loop()
                except BudgetExceeded as exc:
                    await self._stop_for(exc)
        except TimeoutError:
            if self._lost_by is not None and self._exit.cancelled_for is None:
                raise self._lost_by from None
            raise

    def _left_s(self) -> float:
        return (self._plan.stops_at - self._clock.now()).total_seconds() - self._limits.reserve_s

    def _stop(self, limit: asyncio.Timeout, reason: str) -> None:
        with suppress(RuntimeError):  # it is ending already
            limit.reschedule(0)
            self._exit.cancelled_for = reason

    def _heed(self, limit: asyncio.Timeout, is_to_pause: bool) -> None:
        """Stop the model at once when the run is to pause; tools that are at work finish first."""
        if self._subagents is not None and self._subagents.is_stopping:
            return  # which cannot be taken back
        self._is_pausing = is_to_pause
        if is_to_pause and not self._calls_tools:
            with suppress(RuntimeError):
                limit.reschedule(0)
        elif is_to_pause and self._subagents is not None:
            self._subagents.stop()

    def _lose(self, limit: asyncio.Timeout, failure: Exception) -> None:
        """Stop the models at once when nothing may be written any more: another process has the run, or nobody can."""
        self._lost_by = failure
        if not self._calls_tools:
            with suppress(RuntimeError):
                limit.reschedule(0)
        elif self._subagents is not None:
            self._subagents.stop()

    def _stop_agents(self, agents: Collection[AgentId]) -> None:
        if self._subagents is not None:
            self._subagents.stop_agents(agents)

    async def _loop(self) -> None:
        plan = self._plan
        self._calls.expect(self._gate.sort(plan.resumed), said_at=plan.last if plan.resumed else -1)
        has_calls = plan.lost is not None and bool(plan.lost.calls)
        if not plan.progress.turns and not has_calls and not await self._begin():
            return
        if plan.resumed and not await self._execute(plan.resumed, self._toolbox.call):
            return
        if plan.lost is not None and plan.lost.calls and not await self._make_up_for(plan.lost):
            return
        if not plan.max_turns:
            await self._exit.finish()
            return
        plan.messages = await self._toolbox.refreshed(plan.messages)
        first = plan.first_shown
        plan.leave_out_refused()
        if names_media(shown := plan.messages[first:]):
            plan.messages[first:] = await asyncio.to_thread(self._library.show, plan.thread.user_id, shown)
        while self._exit.steps < self._plan.max_turns:
            if self._is_pausing or self._left_s() <= 0:
                raise TimeoutError  # also when the process was frozen, during which its loop had no time
            await self._make_room()
            turn = await self._ask_within_window()
            self._exit.steps += 1
            if not await self._go_on(turn):
                return
        raise RunFailed(RunErrorCode.MAX_TURNS)

    async def _stop_for(self, exceeded: BudgetExceeded) -> None:
        """End the run before a call of the model that a budget does not cover: with a question, if it can be answered.

        Clients from before 1.0 would take it for a success.
        """
        self._is_over_budget = True
        if self._plan.speaks >= (1, 0):
            question = budget_question(self._plan, exceeded, self._spending, self._clock.now())
            if self._subagents is not None:
                question = self._subagents.inside(question)
            await self._exit.finish(interrupts=[question])
        else:
            is_plan = exceeded.named.name is BudgetName.PLAN
            await self._exit.fail(RunErrorCode.QUOTA_EXCEEDED if is_plan else RunErrorCode.BUDGET_EXCEEDED)

    async def _begin(self) -> bool:
        """Check that there is something to ask the model; else end the run, and return False."""
        plan = self._plan
        if not plan.is_kept:
            raise RunFailed(RunErrorCode.STORAGE_UNAVAILABLE)
        if plan.asks_nothing and not plan.resumed:
            await self._exit.finish(interrupts=plan.left)
            return False
        if plan.pending:
            await self._exit.finish(pending=[call.id for call in plan.pending])
            return False
        messages = await asyncio.to_thread(repair, plan.messages)
        if not messages or messages[-1].role == "assistant":
            await self._exit.finish()
            return False
        return True

    async def _make_up_for(self, lost: LostTurn) -> bool:
        """Make the calls with which an earlier process was lost; False: the run has ended with them."""
        if lost.is_first:
            return await self._execute(lost.calls, self._toolbox.call)
        return await self._execute(lost.calls, self._toolbox.call_after_loss, is_lost=True)

    async def _count_lost(self) -> None:
        """Count, before anything else may end or pause the run, the answers that broke off with earlier processes."""
        if self._plan.lost is None or not self._plan.lost.answers:
            return
        request = await asyncio.to_thread(model_request, self._plan, self._toolbox, self._limits)
        for heard in self._plan.lost.answers.values():
            self._spending.lost(request, heard)
        self._exit.turns += self._plan.lost.asked

    async def _ask(self) -> Turn:
        """Call the model once and send what it says while it says it."""
        left_s = self._left_s()
        wanted = await asyncio.to_thread(model_request, self._plan, self._toolbox, self._limits, left_s=left_s)
        request = await self._spending.admit(wanted, heard=lambda: self._speaker.heard)
        self._exit.turns, self._exit.stop = self._exit.turns + 1, None
        turn = await self._speaker.say(request)
        if turn.ended is not None:
            self._exit.stop = turn.ended.stop
            self._spending.ended(turn.ended.usage, turn.ended.by)
            is_cut = (turn.calls or not turn.has_words) and turn.ended.stop is StopReason.MAX_TOKENS
            if is_cut and self._spending.narrowed_by is not None:
                # Nobody can make anything of a call that was cut off, or of no words.
                await self._withdraw()
                self._spending.require_whole(wanted)
        return turn

    async def _ask_until_answered(self) -> Turn:
        """Ask; withdraw an answer that broke off or was empty, and ask again: nobody continues half an answer."""
        was_empty = False
        for _ in range(_MAX_BROKEN):
            try:
                return await self._ask()
            except ModelFailed as exc:
                if not asks_again(exc, was_empty=was_empty):
                    raise
                was_empty = was_empty or exc.code is ModelErrorCode.MODEL_EMPTY_ANSWER
                self._spending.failed(exc.usage, exc.by)
                logger.warning("run.answer_broken", run_id=self._plan.run_id, code=exc.code, exc_info=exc.__cause__)
                count("RunAnswerBroken", code=exc.code.value)
            await self._withdraw()
        return await self._ask()

    async def _ask_in_words(self) -> Turn:
        """Ask; where what stands before the newest question is refused, ask once more with the words of that alone."""
        try:
            return await self._ask_until_answered()
        except ModelFailed as exc:
            changed = self._plan.put_past_in_words() if is_refusal(exc) else []
            if not changed:
                raise
            logger.warning("run.past_refused", run_id=self._plan.run_id, exc_info=exc.__cause__)
        count("RunPastRefused")
        self._exit.turns -= 1  # refused, and nothing is to be paid
        told = {"messages": changed, "model": self._plan.target.model}
        await self._log.commit([custom("karma.past_in_words", told)])
        return await self._ask_until_answered()

    async def _make_room(self) -> None:
        """Summarise the beginning of a conversation that comes near the model's context window.

        Where that fails the model is asked with all of it: it may fit.
        """
        if self._makes_room and is_near_window(self._plan, self._limits):
            compactor = await asyncio.to_thread(self._compactor, is_forced=False)
            if not compactor.covers:
                return
            try:
                await self._compact(compactor, self._exit.progress)
            except RunFailed as exc:
                logger.warning("run.not_compacted", run_id=self._plan.run_id, code=exc.code.value)
                count("RunCompactionFailed", code=exc.code.value)
                self._makes_room = False

    async def _ask_within_window(self) -> Turn:
        """Ask; where the conversation is longer than the model reads, summarise its beginning and ask once more."""
        try:
            turn = await self._ask_in_words()
            if turn.ended is None or turn.ended.stop is not StopReason.CONTEXT_FULL:
                return turn
            exceeded: Exception = RunFailed(RunErrorCode.CONTEXT_WINDOW_EXCEEDED)
            has_begun = True
        except ModelFailed as exc:
            if exc.code is not ModelErrorCode.CONTEXT_WINDOW_EXCEEDED:
                raise
            exceeded, has_begun = exc, exc.usage != Usage()
        compactor = await asyncio.to_thread(self._compactor, is_forced=True)
        if not self._plan.compaction.enabled or not compactor.covers:
            raise exceeded
        if isinstance(exceeded, ModelFailed):
            self._spending.failed(exceeded.usage, exceeded.by)
        if has_begun:
            await self._withdraw()
        else:
            self._exit.turns -= 1  # refused, and nothing is to be paid
        await self._compact(compactor, self._exit.progress)
        return await self._ask_in_words()

    def _compactor(self, *, is_forced: bool) -> Compactor:
        from karma.runs.compaction import Compactor  # local: few runs need it

        return Compactor(self._plan, log=self._log, model=self._model, spending=self._spending, is_forced=is_forced)

    async def _compact(self, compactor: Compactor, progress: Progress) -> None:
        """Let a summary stand for the beginning of the conversation; raises as `Compactor.write`."""

        async def store(told: Event, history: History) -> None:
            spending = self._spending
            done = replace(
                progress, usages=spending.usages, spent_micros=spending.spent, spent_tokens=spending.used.tokens
            )
            await self._log.commit([told], history=history, progress=done)

        record, writer = await compactor.write(left_s=self._left_s())
        await compactor.keep(record, writer, store)

    async def _withdraw(self) -> None:
        """Show clients the conversation without the turn that has just been said."""
        await self._withdraw_to(self._plan.last)

    async def _withdraw_half(self, position: int) -> None:
        """Show clients the conversation up to a position, where they were shown a turn that it does not have."""
        if self._speaker.shows_half or (self._subagents is not None and self._subagents.shows_half):
            await self._withdraw_to(position, at_end=True)

    async def _withdraw_to(self, position: int, *, at_end: bool = False) -> None:
        link = partial(self._library.linked, self._plan.thread.user_id)
        await self._log.withdraw(position, link, at_end=at_end)
        self._speaker.settle()
        if self._subagents is not None:
            self._subagents.broke_off = False

    async def _go_on(self, turn: Turn) -> bool:
        """Process a complete turn; tell whether the model must be asked again."""
        if turn.ended is None:
            return False
        stop = turn.ended.stop
        said = message_of(turn, turn.ended, asked=self._plan.target)
        kept = (said,) if said.blocks or said.content or said.tool_calls else ()
        closing = [*self._speaker.end_text(turn), *turn.held]
        if stop is StopReason.PAUSED and not turn.calls:
            await self._log.commit(closing, history=self._plan.keep(kept), progress=self._exit.progress)
            self._speaker.settle()
            return True
        if not turn.calls:
            result: dict[str, object] | None = {"stopReason": "max_tokens"} if stop is StopReason.MAX_TOKENS else None
            await self._exit.finish(keep=kept, result=result)
            return False
        return await self._call_tools(turn.calls, closing, self._plan.keep(kept))

    async def _call_tools(self, calls: Sequence[ToolCall], closing: Sequence[Event], said: History | None) -> bool:
        """Store a turn and execute its calls; tell whether the model must be asked again."""
        self._calls_tools = True
        # Recorded before the turn is stored.
        self._calls.expect(self._gate.sort(calls), said_at=self._plan.last)
        await self._log.commit(closing, history=said, progress=self._exit.progress)
        self._speaker.settle()
        return await self._execute(calls, self._toolbox.call)

    async def _execute(self, calls: Sequence[ToolCall], make: MakeCallWith, *, is_lost: bool = False) -> bool:
        """Execute stored calls of the server's tools; those that wait for an answer, and the client's, end the run."""
        self._calls_tools = True
        found = self._gate.sort(calls, is_lost=is_lost)
        self._calls.expect(found, said_at=self._plan.last)
        made = await self._calls.make(found.ready, self._gate.applied(make), run_id=self._plan.run_id)
        made, asked = self._gate.asked(made, behind=len(found.held))
        left = [call for call, _ in made if self._subagents is not None and self._subagents.is_left(call)]
        made = [(call, outcome) for call, outcome in made if call not in left]
        with_results = [call for call, _ in made]
        self._calls.leave([call for call in found.ready if call not in with_results])
        for at in range(0, len(made), RESULTS_A_COMMIT):
            batch = made[at : at + RESULTS_A_COMMIT]
            kept, state = [result_message(call, outcome) for call, outcome in batch], state_of(batch)
            # The state's event is the last, so that it is part of the segment with which the results are stored.
            told = [*told_of(kept, self._plan.speaks), *self._log.told_of(state)]
            history = self._plan.keep(kept, state=state)
            await self._log.commit(told, history=history, progress=self._exit.progress)
        self._calls_tools = False
        if self._subagents is not None and self._subagents.broke_off:
            await self._withdraw()  # not before: its messages would be torn from others that speak meanwhile
        held = [*found.held, *asked]
        held += self._subagents.questions(len(held)) if self._subagents is not None else ()
        if held or found.pending:
            await self._exit.finish(pending=found.pending, interrupts=held)
            return False
        return True
