"""The ways in which a process leaves a run that it executes: with its end, with a pause, or to another process."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from karma.billing.allowances import Adjustment
from karma.conversations.domain import History, Message
from karma.core.clock import Clock
from karma.core.errors import Upstream
from karma.core.observability import count, logger
from karma.models.ports import Heard, StopReason
from karma.runs import events
from karma.runs.calls import OpenCalls, told_of
from karma.runs.domain import ERROR_MESSAGES, OwnershipLost, Progress, RunEnd, RunErrorCode, RunPause, RunStatus
from karma.runs.interrupts import Interrupt
from karma.runs.log import RunLog
from karma.runs.pause_events import StoppedAnswers, answer_stopped, run_paused
from karma.runs.plan import RunPlan
from karma.runs.ports import Executions
from karma.runs.spending import Spending
from karma.runs.wishes import WishesChanged, cancel_reason
from karma.runs.words import answered_in

if TYPE_CHECKING:
    from karma.runs.subagents.delegation import Subagents


class Exit:
    """Writes how a process leaves its run, with the results of calls that are open then."""

    def __init__(
        self, plan: RunPlan, log: RunLog, spending: Spending, calls: OpenCalls, *, clock: Clock, executions: Executions
    ) -> None:
        self._plan = plan
        self._log = log
        self._spending = spending
        self._calls = calls
        self._clock = clock
        self._executions = executions
        self._began_at, self._began_with = plan.last, plan.stored
        self._given_up: dict[str, Heard] = {}
        """Calls of models that this process has given up, as `StoppedAnswers`."""
        self.subagents: Subagents | None = None
        """Its subagents; None: its agent calls no others."""
        self.unseen: Callable[[], int] = lambda: 0
        """Tells how many UTF-8 bytes of the run's own answer at hand its clients were not shown."""
        self.withdraw_half: Callable[[int], Awaitable[None]] | None = None
        """Withdraws the answer that clients were shown half of, so that they have the conversation up to a position."""
        self.turns = plan.progress.turns
        """Calls of the model so far, of all the run's processes, also those whose answers were stopped or broke off."""
        self.steps = plan.progress.steps
        """Answers of the model that came to their end, which alone take of the steps that its agent may make."""
        self.stop: StopReason | None = None
        """Reason why the model ended its last answer; None: it has given none, or none to its end, in this process."""
        self.cancelled_for: str | None = None
        """Reason for which the run is cancelled, "" where none was given; None: it is not."""

    @property
    def progress(self) -> Progress:
        """Return the work that the run has done."""
        return Progress(
            turns=self.turns,
            steps=self.steps,
            usages=self._spending.usages,
            spent_micros=self._spending.used.cost_micros,
            spent_tokens=self._spending.used.tokens,
            messages=len(self._plan.messages),
        )

    async def finish(
        self,
        *,
        keep: Sequence[Message] = (),
        pending: Sequence[str] = (),
        interrupts: Sequence[Interrupt] = (),
        result: dict[str, object] | None = None,
    ) -> None:
        """End the run with RUN_FINISHED, and with the messages `keep`.

        `pending` are calls of the client's tools, `interrupts` the questions that a later run is to answer. With both
        the client is told of its calls alone, as the protocol has it: the run that its results begin asks.
        """
        asked = [] if pending else [interrupt.wire(of=len(interrupts)) for interrupt in interrupts]
        terminal = events.run_finished(
            thread_id=self._plan.thread.thread_id,
            run_id=self._plan.run_id,
            pending_tool_call_ids=pending,
            interrupts=asked,
            usage=self._spending.usages.wire(),
            result=result,
            speaks=self._plan.speaks,
        )
        history = self._plan.keep(keep)
        status = RunStatus.INTERRUPTED if asked else RunStatus.FINISHED
        await self._settle()
        how = self._end(status, pending=pending, interrupts=interrupts)
        before = events.asked_in_words(asked, self._plan.speaks)
        if self.subagents is not None:
            before += self.subagents.suspended(interrupts if asked else ())
        await self._log.finish(terminal, how, before=before, history=history)
        count("RunInterrupted" if asked else "RunFinished")

    async def fail(self, code: RunErrorCode) -> None:
        """End the run as failed, or as cancelled for `CANCELLED`; open calls of the server's tools get a result."""
        await self._log.settle()  # what is stored is known when no write is under way
        if self._log.has_ended:
            return  # the write of its end was under way, and went through
        missing = self._missing_results(is_cancelled=code is RunErrorCode.CANCELLED)
        results = missing.messages if missing else ()
        status = RunStatus.CANCELLED if code is RunErrorCode.CANCELLED else RunStatus.FAILED
        try:
            await self._withdraw(code)
            await self._settle()
            how = self._end(status, code=code, results=results)
            terminal = self._terminal(code)
            before = told_of(results, self._plan.speaks)
            if missing is not None:
                before += self._log.told_of(missing.state)
                missing = replace(missing, state=self._plan.kept(missing.state))
            await self._log.finish(terminal, how, before=before, history=missing)
            self._tell_end(code)
        except (OwnershipLost, Upstream):
            await self.abandon(code)  # it goes on in another process
        except Exception:  # noqa: BLE001 - the edge of a run, as in run()
            logger.exception("run.broken", run_id=self._plan.run_id)
            await self.abandon(code)

    async def _withdraw(self, code: RunErrorCode) -> None:
        """Withdraw the half answer with which a run fails; a model that refuses has said why, who cancels knows.

        Raises:
            OwnershipLost: another process has the run.
        """
        if self.withdraw_half is None or code in {RunErrorCode.CANCELLED, RunErrorCode.MODEL_REFUSED}:
            return
        try:
            await self.withdraw_half(self._began_at if self._log.last_message is None else self._log.last_message)
        except OwnershipLost:
            raise
        except Exception as exc:  # noqa: BLE001 - nothing is lost by it, and the run's end matters more
            logger.warning("run.half_answer_stays", run_id=self._plan.run_id, reason=type(exc).__name__)

    def _terminal(self, code: RunErrorCode) -> events.Event:
        told: dict[str, Any] = {"message": ERROR_MESSAGES[code], "code": code, "usage": self._spending.usages.wire()}
        if code is not RunErrorCode.CANCELLED:
            return events.run_error(**told, speaks=self._plan.speaks)
        thread_id, run_id = self._plan.thread.thread_id, self._plan.run_id
        return events.run_cancelled(thread_id=thread_id, run_id=run_id, **told, speaks=self._plan.speaks)

    async def _settle(self) -> None:
        """Learn what was reserved where an answer was lost: the end gives back what was not used."""
        await self._spending.settle()
        if self.subagents is not None:
            await self.subagents.settle()

    def _missing_results(self, *, is_cancelled: bool) -> History | None:
        stored = self._log.last_message
        if stored is not None:
            return self._calls.missing_results(self._plan.thread, stored, n=stored + 1)
        # Calls of an earlier run that have not begun stay open: the answers to its questions can be given again, but
        # for those that a cancelled run was to make, which nobody wants any more.
        began = self._began_at if is_cancelled or self._calls.has_begun else None
        return self._calls.missing_results(self._plan.thread, began, n=self._began_with)

    def _tell_end(self, code: RunErrorCode) -> None:
        if code is RunErrorCode.CANCELLED:
            logger.info("run.cancelled", run_id=self._plan.run_id, turns=self.turns)
            count("RunCancelled")
        else:
            count("RunFailed", code=code.value)

    async def abandon(self, code: RunErrorCode) -> None:
        """Leave the run with a failure that cannot be written: the log is another process's, or cannot be reached.

        The client is not told of it, since it ends nothing: another process goes on.
        """
        has_ended = await self._log.give_up()
        logger.error("run.abandoned", run_id=self._plan.run_id, code=code.value, has_ended=has_ended)
        count("RunAbandoned")

    def _end(
        self,
        status: RunStatus,
        *,
        code: RunErrorCode | None = None,
        pending: Sequence[str] = (),
        interrupts: Sequence[Interrupt] = (),
        results: Sequence[Message] = (),
    ) -> RunEnd:
        if status in {RunStatus.FINISHED, RunStatus.INTERRUPTED}:
            last = self._plan.last  # stored with the end itself
        else:
            last = (self._began_at if self._log.last_message is None else self._log.last_message) + len(results)
        of_days = self.subagents.close() if self.subagents is not None else ()
        self._spending.stopped()
        how = RunEnd(
            status=status,
            at=self._clock.now(),
            error_code=code.value if code and status is RunStatus.FAILED else "",
            cancel_reason=self.cancelled_for or "" if status is RunStatus.CANCELLED else "",
            stop_reason=self._stop_reason(status),
            turns=self.turns,
            steps=self.steps,
            usages=self._spending.usages.wire(),
            cost_micros=self._spending.spent,
            correction=self._spending.correction(),
            of_days=of_days,
            delegated=self.subagents.uses() if self.subagents is not None else (),
            left=self.subagents.at_work if self.subagents is not None else (),
            pending_tool_call_ids=tuple(pending),
            interrupts=tuple(interrupts),
            last_message=last,
            response=answered_in(self._plan.messages),
        )
        if not self._plan.left:
            return how
        from karma.runs.left_questions import with_ends  # few runs are left with any

        return with_ends(how, self._plan.key, self._plan.left, [*self._plan.messages, *results])

    def _stop_reason(self, status: RunStatus) -> str:
        """Return the reason of the last answer; one that ends with calls of an earlier process's has called tools."""
        if self.stop is not None:
            return self.stop.value
        goes_on = self.steps > 0 and status in {RunStatus.FINISHED, RunStatus.INTERRUPTED}
        return StopReason.TOOL_USE.value if goes_on else ""

    async def pause(self) -> None:
        """Leave the run to whoever resumes it: what is open here, a later process makes anew."""
        await self._log.settle()
        if self._log.has_ended:
            return None  # the write of its end was under way, and went through
        stopped = self._stop_answers()
        if self.subagents is not None:
            await self.subagents.give_back()
            self.subagents.close()  # their days count it with the next step, or with the run's end
        how = RunPause(
            at=self._clock.now(),
            turns=self.turns,
            usages=self._spending.usages.wire(),
            cost_micros=self._spending.spent,
            correction=await self._given_back(),
            delegated=self.subagents.uses() if self.subagents is not None else (),
        )
        try:
            await self._log.pause(run_paused(self._plan.run_id, stopped=stopped), how)
        except WishesChanged:
            return await self._go_on_elsewhere()
        except (OwnershipLost, Upstream) as exc:
            # Who takes the run over finds the wish.
            logger.warning("run.pause_failed", run_id=self._plan.run_id, reason=type(exc).__name__)
            return None
        logger.info("run.paused", run_id=self._plan.run_id, turns=self.turns)
        count("RunPaused")
        return None

    async def _given_back(self) -> Adjustment | None:
        """Return what a paused run gives back of what is reserved: who goes on reserves anew. None: not known."""
        try:
            await self._spending.settle()
        except Upstream as exc:
            logger.warning("run.reserved_not_given_back", run_id=self._plan.run_id, code=exc.code)
            return None  # it stays reserved until the run's end
        return self._spending.correction()

    def _stop_answers(self) -> StoppedAnswers:
        """Count the calls of models that this process gives up, and return what the next one counts them by."""
        unseen = {"": self.unseen(), **(self.subagents.unseen if self.subagents is not None else {})}
        for name, meter in self._spending.under_way.items():
            self._given_up[name or self._plan.run_id] = meter.heard(unseen.get(name, 0))
        self._spending.stopped()
        return self._given_up

    async def _go_on_elsewhere(self) -> None:
        """End the run if it was cancelled while it was being paused; if it was resumed, let another process go on."""
        try:
            reason = cancel_reason(await asyncio.to_thread(self._log.wishes))
        except Upstream:
            reason = None  # whoever goes on finds it
        if reason is None:
            return await self.hand_over()
        self.cancelled_for = reason
        return await self.fail(RunErrorCode.CANCELLED)

    async def hand_over(self) -> None:
        """Let another process go on: what is open here, it makes anew from the last checkpoint."""
        await self._log.settle()
        if self._log.has_ended:
            return  # the write of its end was under way, and went through
        if self.subagents is not None:
            await self.subagents.give_back()
        try:
            if stopped := self._stop_answers():
                await self._log.commit([answer_stopped(self._plan.run_id, stopped=stopped)])
            await self._log.release()
            await asyncio.to_thread(self._executions.request, self._plan.key)
        except (OwnershipLost, Upstream) as exc:
            # The watchdog, which is armed, sees that the lease is over.
            logger.warning("run.hand_over_failed", run_id=self._plan.run_id, reason=type(exc).__name__)
            return
        logger.info("run.handed_over", run_id=self._plan.run_id, turns=self.turns)
        count("RunHandedOver")
