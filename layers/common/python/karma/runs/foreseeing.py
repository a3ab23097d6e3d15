"""Foresees a thread as a request will find it, once the active run has ended for it.

its messages    with results of the calls that the run would leave open, as its end writes them
its use         with what the run has used, at the most: what it has reserved counts as freed nowhere

A run that is alive goes on meanwhile: what it adds, and the calls that it begins, until it hears that it is to end are
not foreseen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from karma.conversations.domain import Conversation, MakingWay, Message, Thread, ThreadChanged
from karma.conversations.history import awaited_calls
from karma.core.ids import RunId
from karma.models.budgets import Spent, bound_of
from karma.models.prices import text_of
from karma.runs.budgets import of_thread
from karma.runs.calls import not_made
from karma.runs.domain import NOT_EXECUTED, Checkpoint, Run, RunEnd, RunKey, RunStatus
from karma.runs.ending import read_log
from karma.runs.plan import shown_to_model
from karma.runs.ports import Runs
from karma.runs.reckoning import reckoned, request_of
from karma.runs.setup import RunSetup, load_setup, target_of
from karma.tools.json_arguments import is_readable


def foreseen(store: Runs, thread: Thread, run_id: RunId, *, at: datetime) -> Thread:
    """Return a thread as it will be when its active run has ended for a request that comes now. Blocks: three reads.

    That run is still named as the active one. Where the thread has a budget the run's log is read, too, and where the
    run has stored more since the thread was read, the thread is read again: its checkpoint is then of what is there.

    Raises:
        ThreadChanged: the run is not the active one any more.
    """
    key = RunKey(thread.key.user_id, run_id)
    run = store.run(key)
    if run is None:
        return _made_way(thread, run_id, at)
    stored, checkpoint = store.setup(key), store.last_checkpoint(key)
    setup = load_setup(stored) if stored else None
    position = checkpoint.position if checkpoint is not None else run.answers
    if position >= thread.next_message:
        thread = store.thread(thread.key)
        if thread.active_run_id != run_id:
            raise ThreadChanged
    noted = _made_way(thread, run_id, at)
    conversation = thread.conversation(position)
    if of_thread(thread.spending):
        used = _used_at_most(store, run, setup, checkpoint, conversation, at=at)
        tokens, micros = thread.spending.tokens + used.tokens, thread.spending.cost_micros + used.cost_micros
        noted = replace(noted, spending=replace(thread.spending, tokens=tokens, cost_micros=micros))
    return _with_results(noted, _results(setup, conversation.messages), behind=position)


def _made_way(thread: Thread, run_id: RunId, at: datetime) -> Thread:
    return replace(thread, making_way=MakingWay(run_id, at))


def _results(setup: RunSetup | None, messages: Sequence[Message]) -> list[Message]:
    """Make results for the calls of the last turn that have none, except those that the client's tools answer."""
    frontend = {tool.name for tool in setup.frontend_tools} if setup is not None else set()
    return [not_made(call) for call in awaited_calls(messages) if call.name not in frontend or not is_readable(call)]


def _with_results(thread: Thread, results: Sequence[Message], *, behind: int) -> Thread:
    if not results:
        return thread
    n = thread.next_message
    forks = thread.forks if behind == n - 1 else {**thread.forks, n: behind}
    messages = (*thread.messages, *results)
    return replace(thread, messages=messages, next_message=len(messages), forks=forks, restored_to=None)


def _used_at_most(
    store: Runs,
    run: Run,
    setup: RunSetup | None,
    checkpoint: Checkpoint | None,
    conversation: Conversation,
    *,
    at: datetime,
) -> Spent:
    """Return what a run has used if it ends now, as for one whose process is lost, with all of a call at hand."""
    if run.spent_known is not None:
        return run.spent_known
    log = read_log(store, run.key)
    if all(segment.epoch == NOT_EXECUTED for segment in log):
        return Spent()
    how = reckoned(store, run, log, setup, checkpoint, RunEnd(status=RunStatus.CANCELLED, was=run.status, at=at))
    used = how.spent if how.cost_micros is not None else Spent(cost_micros=run.reserved_micros)
    if setup is None or awaited_calls(conversation.messages):
        return used
    beside = setup.system if setup.beside_tokens is None else (text_of(setup.beside_tokens),)
    messages = shown_to_model(conversation.messages, conversation.compacted)
    request = request_of(
        target_of(run, setup), beside, messages, max_tokens=setup.max_tokens, fallbacks=setup.fallbacks
    )
    return used + Spent(tokens=bound_of(request, at).tokens)
