"""The calls that subagents have made, named to whoever leaves the call of the conversation that led to them.

A subagent's call is as good as what was done within it: each acting call there is named, at the answer of the
conversation that led to it, and the subagent itself is not. Where its records cannot be read, it is named itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from karma.conversations.domain import Thread, ToolCall
from karma.conversations.repair import arguments_of
from karma.runs.begun_calls import asked_about, begun_by_answer
from karma.runs.domain import Run, RunKey
from karma.runs.effects import STRENGTH, Acting, Effect, EffectStatus, ThreadCalls, status_of
from karma.runs.interrupts import Interrupt
from karma.runs.left_calls import ENDED_BY_ITSELF, runs_about
from karma.runs.ports import Runs
from karma.runs.subagents.steps import Transcript, read_steps, subagent_id


class _Beside(NamedTuple):
    """The work that is stored beside one run, and all that was asked about it."""

    transcripts: Mapping[str, Transcript]
    asked: Sequence[Interrupt]


def with_inside(store: Runs, thread: Thread, effects: Sequence[Effect], of: Acting) -> tuple[Effect, ...]:
    """Return effects with what subagents did in their place; without calls of theirs nothing is read.

    Else the runs that made these calls or went on with them: a Get, a Query and a BatchGet each.
    """
    if not any(each.name in of.agents for each in effects):
        return tuple(effects)
    calls, told = ThreadCalls(thread), list[Effect]()
    for each in effects:
        found = _inside(store, thread, calls, each, of) if each.name in of.agents else None
        told += [each] if found is None else found
    return tuple(told)


def _inside(store: Runs, thread: Thread, calls: ThreadCalls, effect: Effect, of: Acting) -> list[Effect] | None:
    """Return what was done within a call; None: nothing can be read of it."""
    at = [n for n in range(thread.next_message) if thread.messages[n].id == effect.message_id]
    runs = runs_about(store, thread, calls, at)
    subagent, statuses, is_known = (
        subagent_id(effect.message_id, effect.tool_call_id),
        dict[ToolCall, EffectStatus](),
        False,
    )
    asked = [each for run in runs for each in _questions(store, run)]
    for run in runs:
        view = _Beside(read_steps(store.delegated(run.key), own=run.key.run_id).transcripts, asked)
        transcript = view.transcripts.get(subagent)
        if transcript is None:
            continue
        is_known = True
        for call, status in _made(store, run.key, view, transcript, of):
            if call not in statuses or STRENGTH[status] > STRENGTH[statuses[call]]:
                statuses[call] = status
    if not is_known:
        return None
    return [Effect(call.id, call.name, status, effect.message_id) for call, status in statuses.items()]


def _questions(store: Runs, run: Run) -> Sequence[Interrupt]:
    return list(store.interrupts(run.key.user_id, run.interrupt_ids).values()) if run.interrupt_ids else []


def _made(
    store: Runs, key: RunKey, view: _Beside, transcript: Transcript, of: Acting
) -> Iterator[tuple[ToolCall, EffectStatus]]:
    others = {each.name for each in transcript.definition.subagents}
    for answer_id, call, status in _calls(store, key, view, transcript):
        inner = view.transcripts.get(subagent_id(answer_id, call.id)) if call.name in others else None
        if inner is not None:
            yield from _made(store, key, view, inner, of)
        elif status is not None and (call.name in others or of.has(call.name)):
            yield call, status


def _calls(
    store: Runs, key: RunKey, view: _Beside, transcript: Transcript
) -> Iterator[tuple[str, ToolCall, EffectStatus | None]]:
    """Yield the calls of a subagent's model, each with the id of its answer."""
    answer_id, left = "", dict[str, ToolCall]()
    for _, message in transcript.messages:
        if message.role == "assistant":
            answer_id, left = message.id, {call.id: call for call in message.tool_calls}
        elif message.role == "tool" and message.tool_call_id in left:
            yield answer_id, left.pop(message.tool_call_id), status_of(message)
    for call in left.values() if transcript.ended is None else ():
        yield answer_id, call, _left(store, key, view, transcript, call)


def _left(store: Runs, key: RunKey, view: _Beside, transcript: Transcript, call: ToolCall) -> EffectStatus | None:
    """Return what is known of a call without a result; None: it was not made, or its tool waits for an answer."""
    about = [
        each
        for each in view.asked
        if each.call is not None
        and each.call.id == call.id
        and each.inside
        and each.inside.subagent == transcript.subagent
    ]
    if about:
        begun = (begun_by_answer(asked_about(store, each)) for each in about)
        return "unknown" if any(how is not None and how.is_unknown for how in begun) else None
    run = store.run(RunKey(key.user_id, transcript.asked_by))
    rule = transcript.definition.approvals.get(call.name)
    waits = rule is not None and rule.applies_to(arguments_of(call.arguments))
    return None if waits or (run is not None and run.status in ENDED_BY_ITSELF) else "unknown"
