"""CUSTOM events of a run whose process leaves it: paused, resumed, or handed over in the middle of answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import orjson

from karma.conversations.domain import Json
from karma.models.domain import Usage
from karma.models.ports import Heard
from karma.runs.events import Event, custom

PAUSED: Final = "karma.run_paused"
STOPPED: Final = "karma.answer_stopped"

StoppedAnswers = Mapping[str, Heard]
"""Reports on each answer that was given up, by the id of the run or of its subagent; of what it said, the UTF-8
bytes that nobody was shown: thoughts may be for nobody's eyes, and older clients do not hear subagents; of the rest the
log has the deltas.
"""
_COUNTS: Final = {
    "inputTokens": "input_tokens",
    "outputTokens": "output_tokens",
    "cachedInputTokens": "cached_input_tokens",
    "cacheWriteInputTokens": "cache_write_input_tokens",
    "reasoningTokens": "reasoning_tokens",
}


def run_paused(run_id: str, *, stopped: StoppedAnswers | None = None) -> Event:
    """Make a CUSTOM event: no process executes the run until it is resumed, and streams of it end without its end.

    `stopped` are calls of models that were given up: whoever goes on makes them anew, and counts them, also those that
    had said nothing yet.
    """
    return custom(PAUSED, _with_stopped(run_id, stopped))


def answer_stopped(run_id: str, *, stopped: StoppedAnswers) -> Event:
    """Make a CUSTOM event: calls of models were given up, as at a pause, and another process goes on at once."""
    return custom(STOPPED, _with_stopped(run_id, stopped))


def stopped_by(event: Event) -> StoppedAnswers:
    """Return what a CUSTOM event tells as stopped; none: it is another one."""
    body = orjson.loads(event.data)
    if body.get("name") not in {PAUSED, STOPPED}:
        return {}
    value = body["value"]
    unseen, known = value.get("unseen", {}), value.get("counted", {})
    return {each: _heard(int(unseen.get(each, 0)), known.get(each)) for each in value.get("stopped", ())}


def _heard(unseen: int, counted: Json | None) -> Heard:
    if counted is None:
        return Heard(unseen)
    usage = Usage(**{own: counted[name] for name, own in _COUNTS.items() if name in counted})  # type: ignore[arg-type]
    return Heard(unseen, usage, (str(counted["provider"]), str(counted["model"])))


def _counted(heard: Heard) -> Mapping[str, object] | None:
    if heard.by is None:
        return None
    provider, model = heard.by
    return heard.usage.wire(provider=provider, model=model) or {"provider": provider, "model": model}


def _with_stopped(run_id: str, stopped: StoppedAnswers | None) -> Mapping[str, object]:
    if not stopped:
        return {"runId": run_id}
    unseen = {each: heard.said for each, heard in stopped.items() if heard.said}
    counted = {each: told for each, heard in stopped.items() if (told := _counted(heard)) is not None}
    more = {name: value for name, value in (("unseen", unseen), ("counted", counted)) if value}
    return {"runId": run_id, "stopped": list(stopped), **more}


def run_resumed(run_id: str) -> Event:
    """Make a CUSTOM event: the run, which was paused, goes on; its next events come from another process."""
    return custom("karma.run_resumed", {"runId": run_id})
