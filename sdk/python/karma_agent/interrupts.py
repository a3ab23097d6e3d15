"""Interrupts of a run, and the answers with which the next run of its thread goes on.

async for event in (stream := client.run("Move the arm", thread_id="t1")):
questions = interrupts_of(event) or questions
async for event in client.run([], thread_id="t1", resume=[approve(each) for each in questions]):
...
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def interrupts_of(event: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the interrupts with which a run ends; [] for any other event than an end with some."""
    outcome = event.get("outcome")
    if event.get("type") != "RUN_FINISHED" or not isinstance(outcome, Mapping) or outcome.get("type") != "interrupt":
        return []
    return list(outcome["interrupts"])


def arguments_of(interrupt: Mapping[str, Any]) -> Any:
    """Return the arguments with which the call is made that an interrupt asks about.

    None: it asks about no call, or they are too long to be shown: `metadata.arguments` is the beginning of their JSON.
    """
    metadata = interrupt.get("metadata") or {}
    text = metadata.get("arguments")
    return None if not isinstance(text, str) or metadata.get("argumentsCut") else json.loads(text)


def approve(interrupt: Mapping[str, Any], *, edited_args: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Approve a call, with the model's arguments or with others."""
    edited = {} if edited_args is None else {"editedArgs": dict(edited_args)}
    return answer(interrupt, {"approved": True, **edited})


def refuse(interrupt: Mapping[str, Any], *, reason: str = "") -> dict[str, Any]:
    """Refuse a call; the model is told why."""
    return answer(interrupt, {"approved": False, **({"reason": reason} if reason else {})})


def answer(interrupt: Mapping[str, Any], payload: object) -> dict[str, Any]:
    """Answer an interrupt by what its `responseSchema` asks for."""
    return {"interruptId": interrupt["id"], "status": "resolved", "payload": payload}


def cancel(interrupt: Mapping[str, Any]) -> dict[str, Any]:
    """Cancel an interrupt: also one that has expired."""
    return {"interruptId": interrupt["id"], "status": "cancelled"}
