"""Messages of subagents in a snapshot of a conversation, each marked as theirs, behind the call that asked for them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from karma.runs.domain import RunKey
from karma.runs.events import Version
from karma.runs.opening import Link, Shown, Tell, shown
from karma.runs.plan import RunPlan
from karma.runs.ports import Runs
from karma.runs.setup import RunSetup
from karma.runs.subagents.steps import Delegations, Transcript, read_steps, subagent_id


def telling(store: Runs, plan: RunPlan, *, link: Link) -> Tell:
    """Return what adds to a run's conversation what subagents have said in earlier runs, with which it goes on.

    What is read for it is kept in the plan, for the process that executes the run.
    """

    def tell(conversation: Sequence[Shown]) -> Sequence[Shown]:
        plan.delegated = [step for each in plan.carried for step in store.delegated(RunKey(plan.key.user_id, each))]
        found = read_steps(plan.delegated, own=plan.run_id)
        return _among(found, conversation, speaks=plan.speaks, link=link, until=None)

    return tell


def with_subagents(
    store: Runs, key: RunKey, setup: RunSetup, conversation: Sequence[Shown], *, link: Link, until: int | None
) -> list[Shown]:
    """Return a run's conversation with what its subagents have said in whole turns. Blocks.

    Args:
        store: where their steps are stored; one Query for each run in which some began.
        key: the run.
        setup: what it was started with.
        conversation: its own messages.
        link: as in `opening`.
        until: number of the segment after which nothing is shown; None: all is.
    """
    runs = [RunKey(key.user_id, each) for each in (*setup.carried, key.run_id)]
    found = read_steps([step for each in runs for step in store.delegated(each)], own=key.run_id)
    return _among(found, conversation, speaks=setup.speaks, link=link, until=until)


def _among(
    found: Delegations, conversation: Sequence[Shown], *, speaks: Version, link: Link, until: int | None
) -> list[Shown]:
    left = dict(found.transcripts)

    def said(transcript: Transcript) -> list[Shown]:
        messages = [each for n, each in transcript.messages[1:] if until is None or n <= until]
        tag = {"subagentRunId": transcript.subagent}
        return [(each.id, {**shown(each, speaks), **tag}) for each in link(messages)]

    def placed(messages: Sequence[Shown]) -> Iterator[Shown]:
        waiting: list[Transcript] = []
        for message_id, message in messages:
            if message["role"] != "tool":
                for each in waiting:
                    yield from placed(said(each))
                # Not by the calls' ids: some models number the calls of each turn anew.
                asked = [subagent_id(message_id, call["id"]) for call in message.get("toolCalls", ())]  # type: ignore[attr-defined]
                waiting = [left.pop(each) for each in asked if each in left]
            yield message_id, message
        for each in waiting:
            yield from placed(said(each))

    return list(placed(conversation))
