"""The request for a run that a fire makes: what `POST /runs` takes, read by the same reader."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import orjson

from karma.agents.domain import MultitaskStrategy
from karma.core.errors import ValidationFailed
from karma.schedules.domain import MAX_RUN_BYTES, FireKey, Overlap, Schedule, ScheduleTooLarge

TYPE_CHECKING = False
if TYPE_CHECKING:
    from karma.runs.requests import RunInput

_NAMES: Final = {"threadId": "thread_id", "forwardedProps": "run", "protocolVersion": "run"}


def require_run(run: Mapping[str, Any], overlap: Overlap) -> None:
    """Check what a schedule is to run.

    Raises:
        ScheduleTooLarge: it has more than MAX_RUN_BYTES as JSON.
        ValidationFailed: a field is wrong, or does not go with `overlap`; fields are named from `run` on.
    """
    try:
        size = len(orjson.dumps(run))
    except TypeError:
        raise ValidationFailed.of("run", "numbers must fit into 64 bits") from None
    if size > MAX_RUN_BYTES:
        raise ScheduleTooLarge.of("run", f"must be at most {MAX_RUN_BYTES} bytes as JSON; show larger media by file id")
    thread = run.get("thread_id")
    if thread is not None and run.get("messages") is not None:
        raise ValidationFailed.of("run.messages", "must not be given beside thread_id: each fire adds one message")
    if thread is None and overlap is Overlap.QUEUE:
        raise ValidationFailed.of("overlap", "must be skip or allow: without a thread_id nothing has turns")
    if thread is not None and overlap is Overlap.ALLOW:
        raise ValidationFailed.of("overlap", "must be skip or queue: a thread has one active run")
    _read(run, thread_id=thread or "t", run_id="r", strategy=None)


def request_of(schedule: Schedule, key: FireKey) -> RunInput:
    """Return the request of a fire; without a thread of its own it begins one that is named by the fire.

    Raises:
        ValidationFailed: a release reads the request otherwise than the one that took it.
    """
    run = schedule.run or {}
    strategy = MultitaskStrategy.ENQUEUE if schedule.overlap is Overlap.QUEUE else MultitaskStrategy.REJECT
    asked = _read(run, thread_id=run.get("thread_id") or key.run_id, run_id=key.run_id, strategy=strategy)
    return replace(asked, schedule_id=schedule.id, webhook=run.get("webhook") or "")


def _read(run: Mapping[str, Any], *, thread_id: str, run_id: str, strategy: MultitaskStrategy | None) -> RunInput:
    from karma.runs.requests import parse_run_input

    message, messages = run.get("message"), run.get("messages")
    if message is not None:
        # Named, so that the same words are said anew by each fire, not answered anew.
        messages = [{"id": run_id, "role": "user", "content": message}]
    props = {"agent_id": run.get("agent_id"), "budget": run.get("budget")}
    asked = {
        "threadId": thread_id,
        "runId": run_id,
        "protocolVersion": "1.0",
        "state": run.get("state"),
        "messages": messages,
        "context": run.get("context") or [],
        "forwardedProps": {**props, "multitask_strategy": strategy.value if strategy else None},
    }
    try:
        return parse_run_input(orjson.dumps(asked))
    except ValidationFailed as exc:
        entries = [
            {**each, "field": _named(str(each["field"]))} if isinstance(each, Mapping) else each
            for each in exc.details or []
        ]
        raise ValidationFailed(exc.message, details=entries) from None


def _named(field: str) -> str:
    name = field.removeprefix("forwardedProps.")
    return f"run.{_NAMES.get(name, name)}"
