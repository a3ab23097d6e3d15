"""The work of one subagent: the same turns of model and tools as a run's, within the run of whoever called it.

Each step is stored in the transaction of the segment that tells of it (steps.py), so that whoever takes the run over
goes on from there. It ends with its answer, or with the code of what was wrong; the run goes on in either case. It is
left unfinished where the run ends with a question, is paused, or goes on in another process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final

from karma.billing.allowances import Adjustment
from karma.conversations.attachments import names_media
from karma.conversations.domain import Message, ToolCall
from karma.conversations.history import awaited_calls, stopped
from karma.core.errors import Upstream
from karma.core.ids import RunId
from karma.core.observability import count, logger
from karma.models.budgets import BudgetExceeded
from karma.models.domain import ModelErrorCode, Usage
from karma.models.ports import ModelFailed, ModelRequest, StopReason
from karma.runs import events
from karma.runs.calls import RESULTS_A_COMMIT, Activities, MakeCallWith, OpenCalls, result_message, told_of
from karma.runs.decisions import failure
from karma.runs.domain import ERROR_MESSAGES, OwnershipLost, RunErrorCode, RunFailed
from karma.runs.events import Event
from karma.runs.gate import Gate
from karma.runs.interrupts import Inside, Interrupt
from karma.runs.plan import RunPlan, is_near_window, model_request, toolbox_of
from karma.runs.ports import AtWork, DelegatedWork, StoredStep
from karma.runs.spending import Share, ShareExceeded
from karma.runs.subagents.day import AgentDay
from karma.runs.subagents.leaving import AgentStopped, Left, SubagentLeft
from karma.runs.subagents.share import SharePurse
from karma.runs.subagents.steps import Ended, Transcript, Used, added, answer, is_too_large, record
from karma.runs.subagents.voice import SubagentVoice
from karma.runs.turn import Speaker, Turn, asks_again, message_of, said_with_calls
from karma.tools.domain import GivenInput, ToolApproval
from karma.tools.toolbox import Toolbox, ToolOutcome

if TYPE_CHECKING:
    from karma.runs.compaction import Compactor
    from karma.runs.subagents.delegation import Subagents

AGENT_STOPPED: Final = "The agent was stopped: it works no more in this run"
_MAX_BROKEN = 2
"""Answers of one turn that may break off and be asked for again."""


class SubagentWork:
    """One subagent at work."""

    def __init__(self, crew: Subagents, transcript: Transcript, *, root: ToolCall, message_id: str) -> None:
        """Build it.

        Args:
            crew: the run's subagents.
            transcript: what is stored of it.
            root: the call of the run's own conversation that led to it.
            message_id: the message with the call that asked for it; "" if nobody knows.
        """
        self._crew = crew
        self.transcript = transcript
        self.subagent, self.definition, self.root = transcript.subagent, transcript.definition, root
        self._message_id = message_id
        self._voice = SubagentVoice(crew.log, crew.sink, self.subagent, speaks=crew.plan.speaks)
        shows = self.definition.reasoning is not None and crew.plan.speaks >= events.CURRENT
        self.speaker = Speaker(
            crew.model,
            self._voice,
            self._voice,
            call_ids=crew.call_ids,
            calls_overlap=crew.plan.speaks >= events.CALLS_OVERLAP_SINCE or not self._voice.is_heard,
            shows_reasoning=shows,
            is_heard=self._voice.is_heard,
        )
        self._share = Share(self.subagent, self.definition.budgets, transcript.used)
        self.messages = [message for _, message in transcript.messages]
        self._toolbox = self._own_toolbox()
        self._plan = self._own_plan()
        self._gate = Gate(self._plan, self._toolbox, crew.clock)
        self._gate.begun, self._gate.room = crew.begun_calls, crew.room
        self.day = AgentDay(crew.spending, crew.store, crew.clock, user_id=crew.plan.thread.user_id, of=self.definition)
        self._purse = SharePurse(crew.spending, self._share, self.day, crew.clock)
        self._turns = transcript.turns
        self._counted_turns = transcript.turns
        self._steps = sum(message.role == "assistant" for message in self.messages)
        """Its model's answers that came to their end, which alone take of the steps that its agent may make."""
        self._makes_room = True
        """A summary is written before the window is met; False: it could not be written."""
        self._used = Used()
        """Use by its calls since the last step that was stored."""

    def _own_toolbox(self) -> Toolbox:
        crew, own = self._crew, self.definition
        more = [*crew.mcp.tools(own.mcp_tools, thread_id=crew.plan.thread.thread_id), *crew.tools_for(own.subagents)]
        toolbox = toolbox_of(crew.tools, own.tools, crew.caller, crew.library, more=more)
        crew.bind(toolbox, own.subagents, parent=self)
        toolbox.show_by(Activities(self._voice, self._voice, speaks=crew.plan.speaks).show)
        return toolbox

    def _own_plan(self) -> RunPlan:
        run, own = self._crew.plan, self.definition
        rules = [ToolApproval(tool=tool, rule=rule) for tool, rule in own.approvals.items()]
        return RunPlan(
            run_id=run.run_id,
            thread=run.thread,
            target=own.target,
            max_turns=own.max_turns,
            system=(own.system,),
            messages=self.messages,
            stored=0,
            speaks=run.speaks,
            frontend_tools=(),
            fallbacks=own.fallbacks,
            reasoning=own.reasoning,
            until=run.until,
            compacted=self.transcript.compacted,
            compaction=own.compaction,
            approvals=self._toolbox.approvals(rules),
            decisions=run.decisions,
            left=run.left,
        )

    def begun(self) -> list[Event]:
        """Return what tells clients that it begins, where they do not see it at work already."""
        if self.subagent in self._crew.log.open_subagents:
            return []
        own = self.definition
        started = events.subagent_started(
            self.subagent,
            name=own.name,
            call_id=own.call_id,
            message_id=self._message_id,
            parent=own.parent,
        )
        return [started]

    def _broken_off(self) -> list[Event]:
        """Return what ends an answer that is not kept; the run withdraws it when its subagents are silent."""
        self._crew.broke_off |= self.speaker.shows_half
        self.speaker.settle()
        return self._voice.breaking_off()

    @property
    def _at_work(self) -> AtWork:
        return AtWork(self.subagent, self.definition.agent_id)

    async def begin(self, step: StoredStep) -> None:
        """Store that it begins, and tell of it."""
        await self._voice.commit(self.begun(), delegated=DelegatedWork([step], begun=self._at_work))

    async def run(self) -> Ended | Left:
        """Work until there is an answer, or none is to be had.

        Raises:
            OwnershipLost, Upstream: what it did could not be stored; the run cannot go on either.
        """
        if self.transcript.ended is not None:
            return self.transcript.ended
        is_listed = self.transcript.begun_by == self._plan.run_id or self.transcript.last_n
        listed = None if is_listed else DelegatedWork([], begun=self._at_work)
        await self._voice.commit(self.begun(), delegated=listed)
        try:
            return await self._loop()
        except SubagentLeft as exc:
            await self.day.give_back()
            return exc.left
        except BudgetExceeded as exc:
            if self._share.tokens or self.day.reserved:
                await self._keep([], [])  # an answer that was cut off is paid for
            return Left(exceeded=exc)
        except ShareExceeded as exc:
            return await self._fail(RunErrorCode.BUDGET_EXCEEDED, exc.exceeded.message)
        except AgentStopped:
            await self._crew.end_below(self)
            self._crew.spending.stopped(self._share)
            made = partial(stopped, repeatable=self._toolbox.repeatable)
            return await self._fail(RunErrorCode.CANCELLED, AGENT_STOPPED, map(made, awaited_calls(self.messages)))
        except RunFailed as exc:
            self._crew.spending.stopped(self._share)
            return await self._fail(exc.code, str(exc))
        except ModelFailed as exc:
            self._crew.spending.failed(exc.usage, exc.by, self._share)
            logger.warning("run.model_failed", run_id=self._plan.run_id, code=exc.code, exc_info=exc.__cause__)
            code = RunErrorCode(exc.code)
            return await self._fail(code, ERROR_MESSAGES[code])
        except (OwnershipLost, Upstream):
            raise
        except Exception:  # noqa: BLE001 - the edge of a subagent: a broken one must not end the run
            logger.exception("run.subagent_broken", run_id=self._plan.run_id)
            self._crew.spending.stopped(self._share)
            return await self._fail(RunErrorCode.INTERNAL, ERROR_MESSAGES[RunErrorCode.INTERNAL])

    async def _loop(self) -> Ended:
        await self._count_lost()
        if self._crew.is_stopped(self.definition.path):
            raise AgentStopped
        if self.transcript.size > 1:
            self.messages[:] = await self._toolbox.refreshed(self.messages)
        if waiting := awaited_calls(self.messages):
            await self._execute(waiting, is_lost=self._crew.is_lost)
        if names_media(self.messages):
            user_id = self._plan.thread.user_id
            self.messages[:] = await asyncio.to_thread(self._crew.library.show, user_id, self.messages)
        while self._steps < self.definition.max_turns:
            await self._make_room()
            turn = await self._ask_within_window()
            self._steps += 1
            ended = await self._go_on(turn)
            if ended is not None:
                return ended
        raise RunFailed(RunErrorCode.MAX_TURNS)

    async def _count_lost(self) -> None:
        """Count the answers that broke off with the processes that were lost, as the run does with its own."""
        plan = self._crew.plan
        lost = plan.lost.answers_of(self.subagent, after=self.transcript.last_n) if plan.lost is not None else ()
        if lost:
            request = await self._request()
            for heard in lost:
                self._crew.spending.lost(request, heard, self._share)
            self._turns += plan.lost.asked_of(self.subagent, after=self.transcript.last_n) if plan.lost else 0

    async def _request(self) -> ModelRequest:
        limits = replace(self._crew.limits, max_tokens=self.definition.max_tokens)
        return await asyncio.to_thread(
            model_request, self._plan, self._toolbox, limits, left_s=max(0.0, self._crew.left_s())
        )

    async def _ask(self) -> Turn:
        path = self.definition.path
        if self._crew.must_stop or self._crew.is_stopped(path):
            raise self._given_up
        wanted = await self._request()
        asked = self._crew.spending.admit(wanted, self._share, heard=lambda: self.speaker.heard)
        admitted = await self._crew.until_stopped(asked, path)
        if admitted is None:
            raise self._given_up
        try:
            afforded = await self.day.reserve(admitted)
        except (ShareExceeded, Upstream, asyncio.CancelledError):
            self._crew.spending.withdrawn(self._share)
            raise
        if afforded.by is not None:
            self._crew.spending.narrow(self._share, afforded)
        self._turns += 1
        turn = await self._crew.until_stopped(self.speaker.say(afforded.request), path)
        if turn is None:
            raise self._given_up
        if turn.ended is not None:
            self._crew.spending.ended(turn.ended.usage, turn.ended.by, self._share)
            is_cut = (turn.calls or not turn.has_words) and turn.ended.stop is StopReason.MAX_TOKENS
            if is_cut and (self._share.narrowed_by or self._share.narrowed_by_run):
                # Nobody can make anything of a call that was cut off, or of no words.
                await self._voice.commit(self._broken_off())
                self._purse.require_whole(wanted)
        return turn

    @property
    def _given_up(self) -> Exception:
        return AgentStopped() if self._crew.is_stopped(self.definition.path) else SubagentLeft(Left(is_stopped=True))

    async def _ask_until_answered(self) -> Turn:
        """Ask; end an answer that breaks off or is empty as it is, and ask again: it is not of the conversation."""
        was_empty = False
        for _ in range(_MAX_BROKEN):
            try:
                return await self._ask()
            except ModelFailed as exc:
                if not asks_again(exc, was_empty=was_empty):
                    raise
                was_empty = was_empty or exc.code is ModelErrorCode.MODEL_EMPTY_ANSWER
                self._crew.spending.failed(exc.usage, exc.by, self._share)
                logger.warning("run.answer_broken", run_id=self._plan.run_id, code=exc.code, exc_info=exc.__cause__)
                count("RunAnswerBroken", code=exc.code.value)
            await self._voice.commit(self._broken_off())
        return await self._ask()

    async def _make_room(self) -> None:
        """Summarise the beginning of a conversation that comes near its model's window; where that fails, go on."""
        limits = replace(self._crew.limits, max_tokens=self.definition.max_tokens)
        if not self._makes_room or not is_near_window(self._plan, limits):
            return
        try:
            await self._summarise(await self._compactor(is_forced=False))
        except RunFailed as exc:
            logger.warning("run.not_compacted", run_id=self._plan.run_id, code=exc.code.value)
            count("RunCompactionFailed", code=exc.code.value)
            self._makes_room = False

    async def _ask_within_window(self) -> Turn:
        """Ask; where the conversation is longer than the model reads, summarise its beginning and ask once more."""
        try:
            turn = await self._ask_until_answered()
            if turn.ended is None or turn.ended.stop is not StopReason.CONTEXT_FULL:
                return turn
            exceeded: Exception = RunFailed(RunErrorCode.CONTEXT_WINDOW_EXCEEDED)
        except ModelFailed as exc:
            if exc.code is not ModelErrorCode.CONTEXT_WINDOW_EXCEEDED:
                raise
            exceeded = exc
        compactor = await self._compactor(is_forced=True)
        if not self._plan.compaction.enabled or not compactor.covers:
            raise exceeded
        if isinstance(exceeded, ModelFailed):
            self._crew.spending.failed(exceeded.usage, exceeded.by, self._share)
            self._turns -= exceeded.usage == Usage()  # refused, and nothing is to be paid
        await self._voice.commit(self._broken_off())
        await self._summarise(compactor)
        return await self._ask_until_answered()

    async def _compactor(self, *, is_forced: bool) -> Compactor:
        from karma.runs.compaction import Compactor  # local: few subagents need it

        crew = self._crew
        make = partial(Compactor, log=self._voice, model=crew.model, spending=self._purse, is_forced=is_forced)
        return await asyncio.to_thread(make, self._plan)

    async def _summarise(self, compactor: Compactor) -> None:
        if not compactor.covers:
            return
        writing = compactor.write(left_s=max(0.0, self._crew.left_s()))
        written = await self._crew.until_stopped(writing, self.definition.path)
        if written is None:
            raise self._given_up
        await compactor.keep(*written, lambda told, history: self._keep(history.messages, [told]))

    async def _go_on(self, turn: Turn) -> Ended | None:
        """Process a complete turn; return the end, None where the model must be asked again."""
        if turn.ended is None:
            return None
        stop = turn.ended.stop
        said = message_of(turn, turn.ended, asked=self._plan.target)
        closing = [*self.speaker.end_text(turn), *turn.held]
        is_over = not turn.calls and stop is not StopReason.PAUSED
        # A turn that says nothing is over where all was said before.
        text = str(turn.said) if turn.has_words else said_with_calls(self.messages)
        ended = answer(text, stop) if is_over else None
        await self._keep([said], closing, ended=ended)
        self.speaker.settle()
        if turn.calls:
            await self._execute(turn.calls)
        return ended

    async def _execute(self, calls: Sequence[ToolCall], *, is_lost: bool = False) -> None:
        """Make calls of tools, and store their results.

        Raises:
            SubagentLeft: some have none yet.
        """
        found = self._gate.sort(calls, is_lost=is_lost)
        make = self._toolbox.call_after_loss if is_lost else self._toolbox.call
        made = await OpenCalls().make(
            found.ready, self._gate.applied(self._unless_stopped(make)), run_id=self._plan.run_id
        )
        made, asked = self._gate.asked(made, behind=len(found.held))
        left = Left(interrupts=[self._inside(each) for each in (*found.held, *asked)])
        is_left = bool(found.held or asked)
        kept: list[Message] = []
        for call, outcome in made:
            unfinished = self._crew.unfinished.pop(call.id, None)
            if unfinished is None:
                kept.append(result_message(call, outcome))
            else:
                left.add(unfinished)
                is_left = True
        for at in range(0, len(kept), RESULTS_A_COMMIT):
            batch = kept[at : at + RESULTS_A_COMMIT]
            await self._keep(batch, told_of(batch, self._plan.speaks))
        if is_left:
            raise AgentStopped if self._crew.is_stopped(self.definition.path) else SubagentLeft(left)

    def _unless_stopped(self, make: MakeCallWith) -> MakeCallWith:
        """Return a way to make calls that makes none once the agent was stopped; those at work finish."""

        async def made(
            call: ToolCall, *, run_id: RunId, known: dict[str, object], given: GivenInput | None
        ) -> ToolOutcome:
            if self._crew.is_stopped(self.definition.path):
                return ToolOutcome(failure(AGENT_STOPPED), failed=True, effect="none")
            return await make(call, run_id=run_id, known=known, given=given)

        return made

    def _inside(self, interrupt: Interrupt) -> Interrupt:
        if interrupt.inside is not None:
            return interrupt  # of an earlier run, which is as it was
        runs = (*self._crew.plan.carried, self._plan.run_id)
        return replace(interrupt, inside=Inside(root=self.root, subagent=self.subagent, runs=runs))

    async def _fail(self, code: RunErrorCode, message: str, results: Iterable[Message] = ()) -> Ended:
        """Store that it has failed, with results of calls that are not to be made any more."""
        ended, kept = Ended(message, code.value), list(results)
        await self._keep(kept, [*self._broken_off(), *told_of(kept, self._plan.speaks)], ended=ended)
        count("SubagentFailed", code=code.value)
        return ended

    async def _keep(self, messages: Sequence[Message], told: Iterable[Event], *, ended: Ended | None = None) -> None:
        """Store messages, and the end with the last of them, in the transaction that tells of them."""
        rows: list[Message | None] = [*messages] or [None]
        used = self._take_used()
        run_id = self._plan.run_id
        steps = [
            record(
                self.transcript,
                by=run_id,
                message=each,
                used=used if at == len(rows) - 1 else None,
                ended=ended if at == len(rows) - 1 else None,
            )
            for at, each in enumerate(rows)
        ]
        if any(map(is_too_large, steps)):
            self.transcript.size -= len(steps)
            raise RunFailed(RunErrorCode.ANSWER_TOO_LARGE)
        closing = list(told)
        if ended is not None:
            closing.append(self._end_event(ended))
        spent, self._used = self.day.counted(used.spent), Used()
        self._crew.note_used(self.definition.agent_id, used)  # also if the run is cancelled while it is stored
        self.transcript.ended = ended
        over = self.subagent if ended is not None else ""
        await self._voice.commit(closing, delegated=DelegatedWork(steps, spent, ended=over, thread=self._plan.thread))
        self._voice.stored()
        self.messages.extend(each for each in messages if each.role != "summary")

    def _take_used(self) -> Used:
        """Return what calls have used since the last step that was stored."""
        usages, spent = self._share.take()
        before, self._counted_turns, turns = self._used, self._turns, self._turns - self._counted_turns
        self._used = Used(added(before.usages, usages), before.spent + spent, before.turns + turns)
        return self._used

    def close(self) -> tuple[Used, Adjustment | None]:
        """Return what its calls have used that no step says, and what its agent's day lacks of that."""
        self._crew.spending.stopped(self._share)
        used = self._take_used()
        of_day, self._used = self.day.counted(used.spent), Used()
        return used, of_day

    def _end_event(self, ended: Ended) -> Event:
        if ended.code:
            return events.subagent_error(self.subagent, message=ended.text, code=ended.code)
        return events.subagent_finished(self.subagent, stop=ended.stop)
