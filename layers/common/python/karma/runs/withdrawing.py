"""Withdraws open questions: of an agent that is stopped, and behind the point to which a conversation went back."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from karma.conversations.domain import Thread
from karma.conversations.history import awaited_calls
from karma.core.ids import AgentId, UserId
from karma.runs.domain import Run, RunKey, RunStatus
from karma.runs.interrupts import Interrupt
from karma.runs.ports import Runs

LOOKED_AT: Final = 1_000
"""The newest runs of an account whose questions are looked at: each ends with its questions, and is listed as ended."""
_AT_ONCE: Final = 100
_LATELY: Final = timedelta(minutes=1)
"""Time after which a run that an answer began is in the lists, which are eventually consistent, at the latest."""


class Withdrawn(NamedTuple):
    """The questions of an agent that is stopped."""

    questions: Sequence[Interrupt]
    """Those that were open, and are cancelled."""
    begun: Collection[RunKey]
    """Runs that began lately with the answer to another one, to make its call; they may have ended."""


def withdraw_questions(
    store: Runs, user_id: UserId, agent_id: AgentId, *, just_ended: Collection[RunKey], at: datetime
) -> Withdrawn:
    """Cancel the open questions whose calls are an agent's, also within runs of others. Blocks.

    Their calls get a result that says that they were not made, once their conversations go on. `just_ended` are runs
    that the list, which is eventually consistent, may still show as running.
    """
    withdrawn: dict[str, Interrupt] = {}
    begun: set[RunKey] = set()
    for run in _interrupted(store, user_id, just_ended):
        for each in store.interrupts(user_id, run.interrupt_ids).values():
            if not (each.answer is None or _is_recent(each, at)) or not _is_of(store, run, each, agent_id):
                continue
            if each.answer is None and store.lapse(each, at=at):
                withdrawn[each.id] = each
                continue
            # Somebody answered it just now, maybe since it was read.
            now = each if each.answer is not None else store.interrupts(user_id, [each.id]).get(each.id)
            if now is not None and now.answer is not None and not now.has_lapsed:
                begun.add(RunKey(user_id, now.answer.by))
    return Withdrawn(list(withdrawn.values()), begun)


def _is_recent(question: Interrupt, at: datetime) -> bool:
    answer = question.answer
    return answer is not None and not question.has_lapsed and answer.at > at - _LATELY


def withdraw_left(store: Runs, thread: Thread, position: int, *, at: datetime) -> None:
    """Cancel the open questions of a thread that are not part of its conversation up to a position. Blocks.

    Whoever goes there again, or answers one, is told that its call was not made. It may be called twice, and late.
    """
    if not thread.interrupts:
        return
    awaited = {call.id for call in awaited_calls(thread.conversation(position).messages)}
    for each in store.interrupts(thread.key.user_id, thread.interrupts).values():
        is_part = each.awaited.id in awaited if each.call is not None else _ended_at(store, each.key) == position
        if each.answer is None and not is_part:
            store.lapse(each, at=at)


def _ended_at(store: Runs, key: RunKey) -> int | None:
    run = store.run(key)
    return None if run is None else run.last_message


def _interrupted(store: Runs, user_id: UserId, just_ended: Collection[RunKey]) -> Iterator[Run]:
    for key in just_ended:
        run = store.run(key)
        if run is not None and run.interrupt_ids:
            yield run
    start: dict[str, str] | None = None
    for _ in range(LOOKED_AT // _AT_ONCE):
        page = store.runs(user_id, limit=_AT_ONCE, start=start)
        yield from (run for run in page.runs if run.status is RunStatus.INTERRUPTED and run.interrupt_ids)
        start = page.last
        if start is None:
            return


def _is_of(store: Runs, run: Run, question: Interrupt, agent_id: AgentId) -> bool:
    """Tell whether the call that waits for an answer is made by an agent, or by one that it has called."""
    if run.agent_id == agent_id:
        return True
    if question.inside is None:
        return False
    from karma.runs.subagents.steps import read_steps  # most questions are of the run's own agent

    stored = [step for each in question.inside.runs for step in store.delegated(RunKey(run.key.user_id, each))]
    works = read_steps(stored, own=run.key.run_id).transcripts
    asking = works.get(question.inside.subagent)
    return asking is not None and agent_id in asking.definition.path
