"""Calls of a model by its caller directly: metered in the caller's plan, answered, and kept nowhere.

What a call may cost is taken of the plan before it is made, and corrected behind it to what it has cost: whoever has
admitted a call releases it, however it ends, also where its client has left before it was made. A process that dies in
between leaves the bound taken until the month ends: nobody can tell what the provider has counted.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Final

from karma.billing.allowances import Allowance, Allowances, Metric, Reservation
from karma.conversations.domain import MAX_ADDED_BYTES
from karma.conversations.repair import repair
from karma.core.clock import Clock
from karma.core.errors import InvalidRequest, Upstream
from karma.core.ids import RunId, UserId, new_id
from karma.core.observability import count, logger
from karma.core.texts import GrowingText
from karma.identity.domain import Caller
from karma.models.budgets import Spent, afford
from karma.models.domain import ModelErrorCode, Usage
from karma.models.ports import (
    CallIds,
    Model,
    ModelFailed,
    ModelRequest,
    StopReason,
    TextDelta,
    ToolArguments,
    ToolBegun,
    ToolEnded,
    TurnEnded,
    call_ids_of,
)
from karma.models.prices import estimate, utf8_size
from karma.runs.direct_requests import DirectInput
from karma.runs.domain import ERROR_MESSAGES, RunErrorCode, RunKey
from karma.runs.ports import Configured, Runs
from karma.runs.reservations import RefusedDays, within_days
from karma.runs.spending import Spending

PATIENCE_S: Final = 10.0
"""Seconds for which a call that has not begun to answer is repeated."""
MAX_WAIT_S: Final = 3_600
"""Seconds after which a caller is told to come back at the most, whatever a provider asks."""


class ModelCallFailed(Upstream):
    """A model did not answer; the code says why."""

    status = 503
    retry_after_s = 5


class ModelCallTimedOut(ModelCallFailed):
    """A model did not answer in time."""

    status = 504
    retry_after_s = 0


class ModelCallBroken(ModelCallFailed):
    """A model's answer broke off, or is larger than an answer may be."""

    status = 502
    retry_after_s = 0


class ModelCallRejected(InvalidRequest):
    """A model does not accept the messages."""


def failure_of(code: ModelErrorCode | RunErrorCode, *, wait_s: float | None = None) -> Upstream | InvalidRequest:
    """Return the public error of a failed call; `wait_s` are the seconds that the provider asks to wait, if it does."""
    public = RunErrorCode(code.value)
    kinds: dict[RunErrorCode, type[Upstream | InvalidRequest]] = {
        RunErrorCode.MODEL_REJECTED: ModelCallRejected,
        RunErrorCode.CONTEXT_WINDOW_EXCEEDED: ModelCallRejected,
        RunErrorCode.MODEL_TIMEOUT: ModelCallTimedOut,
        RunErrorCode.MODEL_STREAM_CUT: ModelCallBroken,
        RunErrorCode.ANSWER_TOO_LARGE: ModelCallBroken,
    }
    error = kinds.get(public, ModelCallFailed)(ERROR_MESSAGES[public], code=public.value)
    if wait_s is not None and "Retry-After" in error.headers:
        error.headers["Retry-After"] = str(max(1, min(MAX_WAIT_S, math.ceil(wait_s))))
    return error


@dataclass(kw_only=True)
class DirectCall:
    """One admitted call."""

    id: str
    name: str
    """Name of the model as the caller gave it."""
    user_id: UserId
    request: ModelRequest
    spending: Spending
    ids: CallIds
    said: GrowingText = field(default_factory=GrowingText)
    heard: int = 0
    """UTF-8 bytes of the answer that have arrived."""
    calls: list[dict[str, str]] = field(default_factory=list)
    ended: TurnEnded | None = None
    is_made: bool = False
    """The model was asked."""
    settling: asyncio.Task[None] | None = None
    """Correction of what was taken for it; None: not yet."""

    @property
    def chars(self) -> int:
        """Return the characters of the answer that have arrived."""
        return self.said.size + sum(len(each["arguments"]) for each in self.calls)

    def view(self) -> dict[str, Any]:
        """Return the answer of a complete call."""
        ended = self.ended
        target = (ended.by if ended else None) or self.request.target
        stop = ended.stop if ended else StopReason.END
        return {
            "id": self.id,
            "model": self.name,
            "answered_by": {"provider": target.provider, "model": target.model},
            "content": str(self.said),
            "tool_calls": self.calls,
            "stop_reason": stop.value,
            "usage": next(iter(self.spending.usages.wire()), None),
            "cost_micros": self.spending.spent,
        }


class DirectCalls:
    """Calls models for callers."""

    def __init__(
        self,
        *,
        store: Runs,
        model: Model,
        configuration: Configured,
        allowances: Allowances,
        clock: Clock,
        default: str,
    ) -> None:
        """Build the service; `default` names the model of requests that name none."""
        self._store = store
        self._model = model
        self._configuration = configuration
        self._allowances = allowances
        self._clock = clock
        self._default = default

    async def admit(self, caller: Caller, asked: DirectInput) -> DirectCall:
        """Check a request and take what it may cost of the caller's plan; `events` makes the call, `release` ends it.

        Raises:
            Forbidden: the caller's address is not verified.
            ComponentUnavailable: the model is disabled or not configured.
            ModelNotConfigured: the deployment has no key for it.
            QuotaExceeded: the plan does not cover the call.
            BudgetExceeded: the account's day does not.
        """
        caller.require_verified()
        admitting = asyncio.create_task(asyncio.to_thread(self._admit, caller, asked))
        try:
            return await asyncio.shield(admitting)
        except asyncio.CancelledError:
            await asyncio.wait([admitting])  # what was taken for nobody is given back
            if not admitting.cancelled() and admitting.exception() is None:
                await self.release(admitting.result())
            raise

    def _admit(self, caller: Caller, asked: DirectInput) -> DirectCall:
        name, call_id = asked.model or self._default, new_id()
        choice = self._configuration.for_run(agent="", model=name)
        self._model.prepare(choice.target)
        self._model.preload(choice.target)
        request = ModelRequest(
            target=choice.target,
            fallbacks=choice.fallbacks,
            system=asked.system,
            messages=repair(asked.messages),
            tools=asked.tools,
            max_tokens=min(asked.max_tokens, choice.target.max_tokens or asked.max_tokens),
            patience_s=PATIENCE_S,
            log_keys={"call_id": call_id},
        )
        allowance = self._allowances.of(caller.user_id)
        request, reservation = within_days(self._take, request, allowance)
        spending = Spending(
            RunKey(caller.user_id, RunId(call_id)),
            reservation,
            allowances=self._allowances,
            store=self._store,
            clock=self._clock,
        )
        ids = CallIds(call_ids_of(request.messages))
        call = DirectCall(id=call_id, name=name, user_id=caller.user_id, request=request, spending=spending, ids=ids)
        spending.begin(request, at=allowance.at, heard=lambda: call.heard)
        return call

    def _take(self, days: RefusedDays, wanted: ModelRequest, allowance: Allowance) -> tuple[ModelRequest, Reservation]:
        """Take what a call may cost; where the account's day has less left, its answer gets what that can pay."""
        request, _ = afford(wanted, days.all, Spent(), allowance.at)
        reservation = allowance.reserve(Metric.MODEL_SPEND, estimate(request, allowance.at))
        self._store.take(reservation, token=new_id())
        return request, reservation

    async def events(self, call: DirectCall) -> AsyncGenerator[list[dict[str, Any]]]:
        """Make an admitted call; yield what it says, as its stream shows it, and correct what was taken of the plan.

        Raises:
            ModelCallFailed, ModelCallRejected: it was not answered.
        """
        count("DirectCall")
        call.is_made = True
        try:
            async with aclosing(self._model.stream(call.request)) as batches:
                async for batch in batches:
                    shown = [event for event in (_shown(call, each) for each in batch) if event is not None]
                    if call.chars > MAX_ADDED_BYTES:
                        raise failure_of(RunErrorCode.ANSWER_TOO_LARGE)
                    if shown:
                        yield shown
            if call.ended is None:
                raise failure_of(ModelErrorCode.MODEL_STREAM_CUT)
        except ModelFailed as exc:
            call.spending.failed(exc.usage, exc.by)
            logger.warning("call.model_failed", call_id=call.id, code=exc.code.value, exc_info=exc.__cause__)
            raise failure_of(exc.code, wait_s=exc.retry_after_s) from exc
        finally:
            await self.release(call)

    async def release(self, call: DirectCall) -> None:
        """Correct what was taken for a call, once: a call that was never made costs nothing."""
        if call.settling is None:
            if not call.is_made:
                call.spending.failed(Usage())
            elif call.ended is not None:  # also where its client has left with the last frame
                call.spending.ended(call.ended.usage, call.ended.by)
            call.settling = asyncio.create_task(self._settle(call))
        await asyncio.shield(call.settling)

    async def _settle(self, call: DirectCall) -> None:
        try:
            await asyncio.to_thread(self._store.settle, call.spending.correction())
        except Upstream as exc:
            # The bound stays taken; whoever has an answer keeps it.
            logger.error("call.not_settled", call_id=call.id, code=exc.code)


def _shown(call: DirectCall, event: object) -> dict[str, Any] | None:
    """Note an event of the model, and return it as a stream shows it; None: it is not shown.

    Raises:
        ModelFailed: as `CallIds.begin`.
    """
    if isinstance(event, TextDelta):
        call.said.add(event.text)
        call.heard += utf8_size(event.text)
        return {"type": "text", "delta": event.text}
    if isinstance(event, ToolBegun):
        call_id = call.ids.begin(event.id)
        call.calls.append({"id": call_id, "name": event.name, "arguments": ""})
        return {"type": "tool_call", "id": call_id, "name": event.name}
    if isinstance(event, ToolArguments):
        call.heard += utf8_size(event.delta)
        return {"type": "tool_call_arguments", "id": call.ids[event.id], "delta": event.delta}
    if isinstance(event, ToolEnded):
        call_id = call.ids[event.call_id]
        made = next(each for each in call.calls if each["id"] == call_id)
        made["arguments"] = event.arguments
        return {"type": "tool_call_end", "id": call_id}
    if isinstance(event, TurnEnded):
        call.ended = event
    return None
