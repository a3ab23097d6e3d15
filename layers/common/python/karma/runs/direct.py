"""Calls of a model by its caller directly: metered in the caller's plan, answered, and kept nowhere.

What a call may cost is taken of the plan before it is made, and corrected behind it to what it has cost. A process that
dies in between leaves the bound taken until the month ends: nobody can tell what the provider has counted.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Final

from karma.billing.allowances import Allowances, Metric
from karma.conversations.domain import MAX_ADDED_BYTES
from karma.conversations.repair import repair
from karma.core.clock import Clock
from karma.core.errors import InvalidRequest, Upstream
from karma.core.ids import RunId, UserId, new_id
from karma.core.observability import count, logger
from karma.core.texts import GrowingText
from karma.identity.domain import Caller
from karma.models.domain import ModelErrorCode
from karma.models.ports import (
    Model,
    ModelFailed,
    ModelRequest,
    StopReason,
    TextDelta,
    ToolArguments,
    ToolBegun,
    ToolEnded,
    TurnEnded,
)
from karma.models.prices import estimate
from karma.runs.direct_requests import DirectInput
from karma.runs.domain import ERROR_MESSAGES, RunErrorCode, RunKey
from karma.runs.ports import Configured, Runs
from karma.runs.spending import Budget

PATIENCE_S: Final = 10.0
"""Seconds for which a call that has not begun to answer is repeated."""


class ModelCallFailed(Upstream):
    """A model did not answer; the code says why."""

    status = 503


class ModelCallTimedOut(ModelCallFailed):
    """A model did not answer in time."""

    status = 504


class ModelCallBroken(ModelCallFailed):
    """A model's answer broke off, or is larger than an answer may be."""

    status = 502


class ModelCallRejected(InvalidRequest):
    """A model does not accept the messages."""


def failure_of(code: ModelErrorCode | RunErrorCode) -> Upstream | InvalidRequest:
    """Return the public error of a failed call."""
    public = RunErrorCode(code.value)
    kinds: dict[RunErrorCode, type[Upstream | InvalidRequest]] = {
        RunErrorCode.MODEL_REJECTED: ModelCallRejected,
        RunErrorCode.CONTEXT_WINDOW_EXCEEDED: ModelCallRejected,
        RunErrorCode.MODEL_TIMEOUT: ModelCallTimedOut,
        RunErrorCode.MODEL_STREAM_CUT: ModelCallBroken,
        RunErrorCode.ANSWER_TOO_LARGE: ModelCallBroken,
    }
    return kinds.get(public, ModelCallFailed)(ERROR_MESSAGES[public], code=public.value)


@dataclass(kw_only=True)
class DirectCall:
    """One admitted call."""

    id: str
    name: str
    """Name of the model as the caller gave it."""
    user_id: UserId
    request: ModelRequest
    budget: Budget
    said: GrowingText = field(default_factory=GrowingText)
    calls: list[dict[str, str]] = field(default_factory=list)
    ended: TurnEnded | None = None

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
            "usage": next(iter(self.budget.usages.wire()), None),
            "cost_micros": self.budget.spent,
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
        """Check a request and take what it may cost of the caller's plan; `events` makes the call and corrects this.

        Raises:
            Forbidden: the caller's address is not verified.
            ComponentUnavailable: the model is disabled or not configured.
            ModelNotConfigured: the deployment has no key for it.
            QuotaExceeded: the plan does not cover the call.
        """
        caller.require_verified()
        return await asyncio.to_thread(self._admit, caller, asked)

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
        reservation = allowance.reserve(Metric.MODEL_SPEND, estimate(request, allowance.at))
        self._store.take(reservation)
        budget = Budget(
            RunKey(caller.user_id, RunId(call_id)),
            reservation,
            allowances=self._allowances,
            store=self._store,
            clock=self._clock,
        )
        budget.begin(request, at=allowance.at)
        return DirectCall(id=call_id, name=name, user_id=caller.user_id, request=request, budget=budget)

    async def events(self, call: DirectCall) -> AsyncGenerator[list[dict[str, Any]]]:
        """Make an admitted call; yield what it says, as its stream shows it, and correct what was taken of the plan.

        Raises:
            ModelCallFailed, ModelCallRejected: it was not answered.
        """
        count("DirectCall")
        try:
            async with aclosing(self._model.stream(call.request)) as batches:
                async for batch in batches:
                    shown = [event for event in (_shown(call, each) for each in batch) if event is not None]
                    if call.said.size + sum(len(each["arguments"]) for each in call.calls) > MAX_ADDED_BYTES:
                        raise failure_of(RunErrorCode.ANSWER_TOO_LARGE)
                    if shown:
                        yield shown
            if call.ended is None:
                raise failure_of(ModelErrorCode.MODEL_STREAM_CUT)
            call.budget.ended(call.ended.usage, call.ended.by)
        except ModelFailed as exc:
            call.budget.failed(exc.usage, exc.by)
            logger.warning("call.model_failed", call_id=call.id, code=exc.code.value, exc_info=exc.__cause__)
            raise failure_of(exc.code) from exc
        finally:
            await asyncio.shield(asyncio.create_task(self._settle(call)))

    async def _settle(self, call: DirectCall) -> None:
        try:
            await asyncio.to_thread(self._store.settle, call.budget.correction())
        except Upstream as exc:
            # The bound stays taken; whoever has an answer keeps it.
            logger.error("call.not_settled", call_id=call.id, code=exc.code)


def _shown(call: DirectCall, event: object) -> dict[str, Any] | None:
    """Note an event of the model, and return it as a stream shows it; None: it is not shown."""
    if isinstance(event, TextDelta):
        call.said.add(event.text)
        return {"type": "text", "delta": event.text}
    if isinstance(event, ToolBegun):
        call.calls.append({"id": event.id, "name": event.name, "arguments": ""})
        return {"type": "tool_call", "id": event.id, "name": event.name}
    if isinstance(event, ToolArguments):
        return {"type": "tool_call_arguments", "id": event.id, "delta": event.delta}
    if isinstance(event, ToolEnded):
        made = next(each for each in call.calls if each["id"] == event.call_id)
        made["arguments"] = event.arguments
        return {"type": "tool_call_end", "id": event.call_id}
    if isinstance(event, TurnEnded):
        call.ended = event
    return None
