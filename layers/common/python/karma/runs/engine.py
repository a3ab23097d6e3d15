"""The turn loop of one run: model, tools, model, ... until the model calls no more tools of the server.

This module decides which events a client sees, in which order; log.py, when they are durable. A message is added to the
thread only when its turn is complete, in the transaction that logs it: a run that fails leaves no partial message.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from karma.conversations.attachments import Library, names_media
from karma.conversations.domain import MAX_ADDED_BYTES, History, Message, ToolCall
from karma.conversations.repair import repair
from karma.conversations.stored import dump_messages
from karma.core.clock import Clock
from karma.core.errors import Upstream
from karma.core.observability import count, logger
from karma.models.domain import Usage
from karma.models.ports import (
    Model,
    ModelFailed,
    StopReason,
)
from karma.models.prices import estimated_usage
from karma.runs import events
from karma.runs.calls import MakeCall, outcome_of, result_message, told_of, with_call_ids
from karma.runs.domain import (
    ERROR_MESSAGES,
    OwnershipLost,
    Progress,
    RunEnd,
    RunErrorCode,
    RunFailed,
    RunPause,
    RunStatus,
    WishesChanged,
    cancel_reason,
)
from karma.runs.events import Event
from karma.runs.log import RunLog
from karma.runs.plan import LostTurn, RunLimits, RunPlan, model_request
from karma.runs.ports import Executions, Sink
from karma.runs.spending import Budget
from karma.runs.turn import Speaker, Turn
from karma.tools.toolbox import Toolbox, ToolOutcome, is_readable

_MAX_BROKEN = 2
"""Answers of one turn that may break off and be asked for again."""
_RESULTS_A_COMMIT = 16
"""Results per transaction; each has at most 64 KB (twice that when escaped once more)."""


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
        budget: Budget,
        executions: Executions,
    ) -> None:
        self._plan = plan
        self._budget = budget
        self._log = log
        self._sink = sink
        self._model = model
        self._toolbox = toolbox
        self._library = library
        self._limits = limits
        self._clock = clock
        self._executions = executions
        self._turns = plan.progress.turns
        self._cancelled_for: str | None = None
        """Reason for which it is cancelled, "" where none was given; None: it is not."""
        self._is_pausing = False
        self._calls_tools = False
        self._began_at = plan.last
        self._said_at = -1
        """Position of the last message that called tools of the server; -1: none."""
        self._own: dict[ToolCall, asyncio.Task[ToolOutcome] | None] = {}
        """Its calls of the server's tools, in order, with their tasks, whose results follow it; None: not begun yet."""
        self._known: dict[str, dict[str, object]] = {}
        """Facts that each tool knows about its effect, by the id of the call."""
        call_ids = {call.id for message in plan.messages for call in message.tool_calls}
        call_ids |= plan.lost.call_ids if plan.lost else frozenset()
        self._speaker = Speaker(model, log, sink, call_ids=call_ids)

    async def run(self) -> None:
        """Run to the terminal event, until the run is paused, or hand it over before this process is stopped.

        Expected failures end the run and raise nothing; a bug ends it with INTERNAL.
        """
        try:
            async with asyncio.timeout(max(0.0, self._left_s())) as limit:
                ends = self._plan.ends_with_client
                stop, heed = partial(self._stop, limit), partial(self._heed, limit)
                self._log.listen(stop, heed, ends_with_client=ends)
                await self._loop()
        except TimeoutError:
            if self._cancelled_for is not None:
                await self._fail(RunErrorCode.CANCELLED)
            elif self._is_pausing:
                await self._pause()
            elif self._plan.is_handed_over:
                await self._hand_over()
            else:
                await self._fail(RunErrorCode.DEADLINE_EXCEEDED)
        except RunFailed as exc:
            await self._fail(exc.code)
        except ModelFailed as exc:
            self._budget.failed(exc.usage, exc.by)
            logger.warning("run.model_failed", run_id=self._plan.run_id, code=exc.code, exc_info=exc.__cause__)
            await self._fail(RunErrorCode(exc.code))
        except OwnershipLost:
            await self._abandon(RunErrorCode.OWNER_LOST)
        except Upstream as exc:
            logger.error("run.storage_failed", run_id=self._plan.run_id, code=exc.code)
            await self._fail(RunErrorCode.STORAGE_UNAVAILABLE)
        except Exception:  # noqa: BLE001 - the edge of a run: its client must be told, and the thread freed
            logger.exception("run.broken", run_id=self._plan.run_id)
            await self._fail(RunErrorCode.INTERNAL)
        finally:
            self._log.close()
            await self._log.settle()

    def _left_s(self) -> float:
        return (self._plan.stops_at - self._clock.now()).total_seconds() - self._limits.reserve_s

    def _stop(self, limit: asyncio.Timeout, reason: str) -> None:
        with suppress(RuntimeError):  # it is ending already
            limit.reschedule(0)
            self._cancelled_for = reason

    def _heed(self, limit: asyncio.Timeout, is_to_pause: bool) -> None:
        """Stop the model at once when the run is to pause; tools that are at work finish first."""
        self._is_pausing = is_to_pause
        if is_to_pause and not self._calls_tools:
            with suppress(RuntimeError):
                limit.reschedule(0)

    async def _loop(self) -> None:
        plan = self._plan
        if not plan.progress.turns and not await self._begin():
            return
        if plan.lost is not None and not await self._make_up_for(plan.lost):
            return
        plan.messages = await self._toolbox.refreshed(plan.messages)
        if names_media(plan.messages):
            user_id = plan.thread.user_id
            plan.messages = await asyncio.to_thread(self._library.show, user_id, plan.messages)
        while self._turns < self._plan.max_turns:
            if self._is_pausing or self._left_s() <= 0:
                raise TimeoutError  # also when the process was frozen, during which its loop had no time
            self._turns += 1
            turn = await self._ask_until_answered()
            if not await self._go_on(turn):
                return
        raise RunFailed(RunErrorCode.MAX_TURNS)

    async def _begin(self) -> bool:
        """Check that there is something to ask the model; else end the run, and return False."""
        plan = self._plan
        if not plan.is_kept:
            raise RunFailed(RunErrorCode.STORAGE_UNAVAILABLE)
        if plan.pending:
            await self._finish(pending=[call.id for call in plan.pending])
            return False
        messages = await asyncio.to_thread(repair, plan.messages)
        if not messages or messages[-1].role == "assistant":
            await self._finish()
            return False
        return True

    async def _make_up_for(self, lost: LostTurn) -> bool:
        """Finish the step in which an earlier process was lost; False: the run has ended with it."""
        if lost.calls:
            return await self._execute(lost.calls, self._toolbox.call_after_loss)
        if lost.answers:
            # Its usage was lost with the process.
            request = await asyncio.to_thread(model_request, self._plan, self._toolbox, self._limits)
            for chars in lost.answers:
                self._budget.lost(request, estimated_usage(request, chars))
        return True

    async def _pause(self) -> None:
        """Leave the run to whoever resumes it: what is open here, a later process makes anew."""
        await self._log.settle()
        if self._log.has_ended:
            return None  # the write of its end was under way, and went through
        how = RunPause(
            at=self._clock.now(),
            turns=self._turns,
            usages=self._budget.usages.wire(),
            cost_micros=self._budget.spent,
        )
        try:
            await self._log.pause(events.run_paused(self._plan.run_id), how)
        except WishesChanged:
            return await self._go_on_elsewhere()
        except (OwnershipLost, Upstream) as exc:
            # Who takes the run over finds the wish.
            logger.warning("run.pause_failed", run_id=self._plan.run_id, reason=type(exc).__name__)
            return None
        logger.info("run.paused", run_id=self._plan.run_id, turns=self._turns)
        count("RunPaused")
        return None

    async def _go_on_elsewhere(self) -> None:
        """End the run if it was cancelled while it was being paused; if it was resumed, let another process go on."""
        try:
            reason = cancel_reason(await asyncio.to_thread(self._log.wishes))
        except Upstream:
            reason = None  # whoever goes on finds it
        if reason is None:
            return await self._hand_over()
        self._cancelled_for = reason
        return await self._fail(RunErrorCode.CANCELLED)

    async def _hand_over(self) -> None:
        """Let another process go on: what is open here, it makes anew from the last checkpoint."""
        await self._log.settle()
        if self._log.has_ended:
            return  # the write of its end was under way, and went through
        try:
            await self._log.release()
            await asyncio.to_thread(self._executions.request, self._plan.key)
        except (OwnershipLost, Upstream) as exc:
            # The watchdog, which is armed, sees that the lease is over.
            logger.warning("run.hand_over_failed", run_id=self._plan.run_id, reason=type(exc).__name__)
            return
        logger.info("run.handed_over", run_id=self._plan.run_id, turns=self._turns)
        count("RunHandedOver")

    async def _ask(self) -> Turn:
        """Call the model once and send what it says while it says it."""
        left_s = self._left_s()
        request = await asyncio.to_thread(model_request, self._plan, self._toolbox, self._limits, left_s=left_s)
        await self._budget.admit(request)
        turn = await self._speaker.say(request)
        if turn.ended is not None:
            self._budget.ended(turn.ended.usage, turn.ended.by)
        return turn

    async def _ask_until_answered(self) -> Turn:
        """Ask; withdraw an answer that broke off, and ask again: nobody continues half an answer.

        A failure before the answer began is not repeated here, since `karma.models.retrying` has done that.
        """
        for _ in range(_MAX_BROKEN):
            try:
                return await self._ask()
            except ModelFailed as exc:
                if not exc.is_transient or exc.usage == Usage():
                    raise
                self._budget.failed(exc.usage, exc.by)
                logger.warning("run.answer_broken", run_id=self._plan.run_id, code=exc.code, exc_info=exc.__cause__)
                count("RunAnswerBroken", code=exc.code.value)
            await self._log.withdraw(self._plan.last, partial(self._library.linked, self._plan.thread.user_id))
        return await self._ask()

    async def _go_on(self, turn: Turn) -> bool:
        """Process a complete turn; tell whether the model must be asked again."""
        if turn.ended is None:
            return False
        stop = turn.ended.stop
        if stop is StopReason.REFUSED:
            # A refused turn is not stored: the model would refuse again as long as it sees it.
            raise RunFailed(RunErrorCode.MODEL_REFUSED)
        if stop is StopReason.CONTEXT_FULL:
            raise RunFailed(RunErrorCode.CONTEXT_WINDOW_EXCEEDED)
        if stop is StopReason.MAX_TOKENS and turn.calls:
            raise RunFailed(RunErrorCode.MAX_TOKENS)
        said = Message(
            id=turn.message_id,
            role="assistant",
            content=str(turn.said),
            tool_calls=tuple(turn.calls),
            blocks=with_call_ids(turn.ended.blocks, turn.calls),
            model=(turn.ended.by or self._plan.target).model,
        )
        kept = (said,) if said.blocks or said.content or said.tool_calls else ()
        closing = [*self._speaker.end_text(turn), *turn.held]
        if stop is StopReason.PAUSED and not turn.calls:
            await self._log.commit(closing, history=self._keep(kept), progress=self._progress)
            return True
        if not turn.calls:
            result: dict[str, object] | None = {"stopReason": "max_tokens"} if stop is StopReason.MAX_TOKENS else None
            await self._finish(keep=kept, result=result)
            return False
        return await self._call_tools(turn.calls, closing, self._keep(kept))

    async def _call_tools(self, calls: Sequence[ToolCall], closing: Sequence[Event], said: History | None) -> bool:
        """Store a turn and execute its calls; tell whether the model must be asked again."""
        self._calls_tools = True
        # Recorded before the turn is stored: from then on each of these calls gets a result, however the run ends.
        self._said_at, self._own = self._plan.last, dict.fromkeys(self._split(calls)[0])
        await self._log.commit(closing, history=said, progress=self._progress)
        return await self._execute(calls, self._toolbox.call)

    def _split(self, calls: Sequence[ToolCall]) -> tuple[list[ToolCall], list[str]]:
        """Return the calls that are executed here, and the ids of those of the client's tools.

        A call with unreadable arguments is executed here, and fails, so that the model corrects it.
        """
        pending = [call.id for call in calls if self._is_frontend(call) and is_readable(call)]
        return [call for call in calls if call.id not in pending], pending

    async def _execute(self, calls: Sequence[ToolCall], make: MakeCall) -> bool:
        """Execute stored calls of the server's tools; calls of the client's stay pending and end the run."""
        self._calls_tools = True
        own, pending = self._split(calls)
        self._said_at = self._plan.last
        run_id = self._plan.run_id
        self._known = {call.id: {} for call in own}
        tasks = [asyncio.ensure_future(make(call, run_id=run_id, known=self._known[call.id])) for call in own]
        self._own = dict(zip(own, tasks, strict=True))
        found = list(zip(own, await asyncio.gather(*tasks), strict=True))
        for at in range(0, len(found), _RESULTS_A_COMMIT):
            kept = [result_message(call, outcome) for call, outcome in found[at : at + _RESULTS_A_COMMIT]]
            await self._log.commit(told_of(kept, self._plan.speaks), history=self._keep(kept), progress=self._progress)
        self._calls_tools = False
        if pending:
            await self._finish(pending=pending)
            return False
        return True

    def _missing_results(self) -> History | None:
        """Make results for open calls of the server's tools when a run ends: their outcomes, or that it ended."""
        stored = self._log.last_message
        if stored is None or stored < self._said_at:
            return None  # the turn was not kept
        left = list(self._own.items())[stored - self._said_at :]
        results = [
            result_message(call, outcome_of(task if at < _RESULTS_A_COMMIT else None, self._known.get(call.id, {})))
            for at, (call, task) in enumerate(left)
        ]
        return History(self._plan.thread, stored + 1, tuple(results), stored) if results else None

    @property
    def _progress(self) -> Progress:
        return Progress(turns=self._turns, usages=self._budget.usages, spent_micros=self._budget.spent)

    def _is_frontend(self, call: ToolCall) -> bool:
        return not self._toolbox.has(call.name) and any(tool.name == call.name for tool in self._plan.frontend_tools)

    def _keep(self, messages: Sequence[Message]) -> History | None:
        """Add messages to the conversation, and return the write that stores them.

        Raises:
            RunFailed: the messages are larger than one write may be; none is stored.
        """
        if not messages:
            return None
        if len(dump_messages(messages)) > MAX_ADDED_BYTES:
            raise RunFailed(RunErrorCode.ANSWER_TOO_LARGE)
        history = History(self._plan.thread, self._plan.stored, tuple(messages), self._plan.last)
        self._plan.messages.extend(messages)
        self._plan.stored += len(messages)
        self._plan.last = self._plan.stored - 1
        return history

    async def _finish(
        self,
        *,
        keep: Sequence[Message] = (),
        pending: Sequence[str] = (),
        result: dict[str, object] | None = None,
    ) -> None:
        terminal = events.run_finished(
            thread_id=self._plan.thread.thread_id,
            run_id=self._plan.run_id,
            pending_tool_call_ids=pending,
            usage=self._budget.usages.wire(),
            result=result,
            speaks=self._plan.speaks,
        )
        history = self._keep(keep)
        await self._log.finish(terminal, self._end(RunStatus.FINISHED, pending=pending), history=history)
        count("RunFinished")

    async def _fail(self, code: RunErrorCode) -> None:
        await self._log.settle()  # what is stored is known when no write is under way
        if self._log.has_ended:
            return  # the write of its end was under way, and went through
        missing = self._missing_results()
        results = missing.messages if missing else ()
        told: dict[str, Any] = {"message": ERROR_MESSAGES[code], "code": code, "usage": self._budget.usages.wire()}
        status = RunStatus.CANCELLED if code is RunErrorCode.CANCELLED else RunStatus.FAILED
        if status is RunStatus.CANCELLED:
            thread_id, run_id = self._plan.thread.thread_id, self._plan.run_id
            terminal = events.run_cancelled(thread_id=thread_id, run_id=run_id, **told, speaks=self._plan.speaks)
        else:
            terminal = events.run_error(**told, speaks=self._plan.speaks)
        try:
            how = self._end(status, code=code, results=len(results))
            await self._log.finish(terminal, how, before=told_of(results, self._plan.speaks), history=missing)
            self._tell_end(code)
        except (OwnershipLost, Upstream):
            # The watchdog ends the log; the client gets the error from here.
            await self._abandon(code)
        except Exception:  # noqa: BLE001 - the edge of a run, as in run()
            logger.exception("run.broken", run_id=self._plan.run_id)
            await self._abandon(code)

    def _tell_end(self, code: RunErrorCode) -> None:
        if code is RunErrorCode.CANCELLED:
            logger.info("run.cancelled", run_id=self._plan.run_id, turns=self._turns)
            count("RunCancelled")
        else:
            count("RunFailed", code=code.value)

    async def _abandon(self, code: RunErrorCode) -> None:
        logger.error("run.abandoned", run_id=self._plan.run_id, code=code.value)
        count("RunAbandoned")
        await self._log.give_up(events.run_error(message=ERROR_MESSAGES[code], code=code))

    def _end(
        self, status: RunStatus, *, code: RunErrorCode | None = None, pending: Sequence[str] = (), results: int = 0
    ) -> RunEnd:
        if status is RunStatus.FINISHED:
            last = self._plan.last  # stored with the end itself
        else:
            last = self._began_at if self._log.last_message is None else self._log.last_message + results
        return RunEnd(
            status=status,
            at=self._clock.now(),
            error_code=code.value if code and status is RunStatus.FAILED else "",
            cancel_reason=self._cancelled_for or "" if status is RunStatus.CANCELLED else "",
            turns=self._turns,
            usages=self._budget.usages.wire(),
            cost_micros=self._budget.spent,
            correction=self._budget.correction(),
            pending_tool_call_ids=tuple(pending),
            last_message=last,
        )
