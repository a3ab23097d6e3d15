"""Goes back to points of runs: in the thread itself, as a new run there, or as a new run in a thread of its own.

    restore, in place     the thread goes on behind the point; nothing is deleted, what came later stays reachable
    restore, a new run    begins in the same thread, in a branch behind the point
    fork                  begins in a new thread with a copy of the conversation up to the point

A new run is recorded as one that began without a client (background.py) and with a first checkpoint, so whoever takes
it from the queue goes on from there: calls that were open at the point are made, in the new run, under the rules that
hold now: what its agent does not have any more is not called, and what has to be approved by now is asked about.

    1. the watchdog's message     finds nothing if the process dies here
    2. the transaction            the run, its checkpoint and messages, and its thread: all or nothing
    3. the execution's message    a process that dies before it leaves that to the watchdog, or to a repeat
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Final

from karma.agents.domain import Agent
from karma.agents.service import Catalogue
from karma.billing.allowances import Allowances
from karma.configuration.current import RunChoice
from karma.configuration.domain import ComponentUnavailable
from karma.conversations.attachments import Library
from karma.conversations.domain import (
    MAX_ADDED_BYTES,
    Conversation,
    Message,
    Thread,
    ThreadChanged,
    ThreadGone,
    ThreadKey,
    conversation_of,
)
from karma.conversations.history import awaited_calls, late_results
from karma.core.clock import Clock
from karma.core.errors import AlreadyExists, Conflict, NotFound, ValidationFailed
from karma.core.ids import ThreadId, new_id
from karma.core.records import Record
from karma.core.requests import IdempotencyKey
from karma.identity.domain import Caller
from karma.mcp.offering import McpTools
from karma.models.budgets import Spent, afford
from karma.models.domain import Target
from karma.runs import events
from karma.runs.begun_calls import begun_calls, made_up_for, passed_over_calls
from karma.runs.budgets import asked_budget, budgets_of
from karma.runs.checkpoints import CheckpointService, FoundPoint
from karma.runs.domain import (
    NOBODYS,
    NOT_EXECUTED,
    Checkpoint,
    CheckpointKind,
    Progress,
    Run,
    RunExists,
    RunKey,
    RunStatus,
    Segment,
)
from karma.runs.drafts import MAX_COPIED_BYTES, Drafting, Drafts, is_large, require_room
from karma.runs.fork_repeats import (
    begun_before,
    digest_of,
    forked_before,
    own_thread_of,
    require_thread,
    run_key_of,
)
from karma.runs.left_questions import passed_over
from karma.runs.modifications import Modifications, changed, changed_setup, common
from karma.runs.plan import RunLimits, RunPlan, model_request, toolbox_of, tools_of_subagents
from karma.runs.points import Earlier, Noted, PointId
from karma.runs.ports import Configured, Executions, Runs, Watchdog
from karma.runs.reservations import RefusedDays, agent_day, first_reservations, within_days
from karma.runs.restoring import Restored, Restorer, as_it_was, require_free, states_from
from karma.runs.rollback import effects_behind
from karma.runs.setup import RunSetup, dump_setup
from karma.runs.watchdog import FIRST_LOOK, Inspector
from karma.runs.words import asked_in
from karma.tools.toolbox import Tool

if TYPE_CHECKING:
    from karma.runs.subagents.copying import CopiedWork

_TRIES: Final = 3


class Forked(Record):
    """A new run in a thread of its own, and its first checkpoint, the point at which it goes on."""

    run: Run
    point: PointId


class _Asked(Record):
    """A request for a new run from a point."""

    caller: Caller
    found: FoundPoint
    wanted: Modifications
    description: str
    key: RunKey
    thread: ThreadKey
    digest: str
    by: Noted | None = None
    """The request as it is noted where it goes back in the point's thread."""


class _Added(Record):
    """Messages that a new run adds to its thread before it is executed."""

    thread: Thread
    messages: tuple[Message, ...]
    after: int
    """Position of the message that they follow; -1: they are the first ones."""
    last: int
    """Position of the last message of the run's branch."""
    follows: int
    """Position behind which the run begins: that message, or, where a user asks with it, the one before."""
    conversation: Conversation
    is_draft: bool
    """They are more than one transaction adds: the thread, a new one, is stored before the run."""


class ForkService:
    """Goes back to points of the runs of one owner at a time; another owner's are NotFound in all calls."""

    def __init__(
        self,
        points: CheckpointService,
        *,
        store: Runs,
        watchdog: Watchdog,
        executions: Executions,
        tools: Sequence[Tool],
        limits: RunLimits,
        mcp: McpTools,
        agents: Catalogue,
        configuration: Configured,
        library: Library,
        allowances: Allowances,
        drafts: Drafts,
        clock: Clock,
    ) -> None:
        self._drafting = Drafting(drafts, clock)
        self._points = points
        self._store = store
        self._watchdog = watchdog
        self._executions = executions
        self._inspector = Inspector(store, executions, clock)
        self._tools, self._mcp = tools, mcp
        self._limits = limits
        self._agents = agents
        self._configuration = configuration
        self._library = library
        self._allowances = allowances
        self._clock = clock
        self.in_place = Restorer(store, points, tools=tools, clock=clock)
        """Goes back in the thread itself, without a run."""

    def restore_as_run(
        self, caller: Caller, checkpoint_id: str, wanted: Modifications, *, key: IdempotencyKey | None
    ) -> Restored:
        """Begin a run in the same thread that goes on from a point, with changes; a repeat with the key returns it.

        Raises:
            AppError: as `fork`.
            Gone: the run that the key's first request began was deleted with its thread.
            ThreadBusy: the thread has an active run.
        """
        caller.require_verified()
        for _ in range(_TRIES):
            found, by, done = self.in_place.find(caller.user_id, checkpoint_id, key=key, as_run=True)
            asked = self._asked(caller, found, wanted, "", key, found.thread.key, by=by)
            try:
                run = self._again(asked) or within_days(self._begin, asked, require_free(found).thread)
            except (ThreadChanged, AlreadyExists):
                continue
            kept = common(found.messages, changed(found.messages, wanted))
            then = found if done is None else as_it_was(found, done.size)
            effects = effects_behind(self._store, then, then.thread, self._tools, kept=kept)
            return Restored(found.thread.key, run, effects)
        raise ThreadChanged

    def fork(
        self,
        caller: Caller,
        checkpoint_id: str,
        wanted: Modifications,
        *,
        description: str = "",
        key: IdempotencyKey | None,
    ) -> Forked:
        """Begin a run in a new thread that goes on from a point, with changes; a repeat with the key returns it.

        Raises:
            Forbidden: the caller's address is not verified.
            NotFound: the caller has no such point, its thread was deleted, or its agent.
            ValidationFailed: a change is not possible; the field is named.
            ComponentUnavailable: the agent or its model is disabled.
            PayloadTooLarge: the conversation has more than 12 MB, or names too many attachments.
            QuotaExceeded: the plan has no room for another run, or for what its first model call may cost.
            IdempotencyKeyReused: the key belongs to another request.
            Gone: the thread that the key's first request made was deleted.
            Conflict: RUN_TOO_OLD: what the run was started with was not stored.
        """
        caller.require_verified()
        own = own_thread_of(caller, key)
        try:
            found = self._points.find(caller.user_id, checkpoint_id)
            asked = self._asked(caller, found, wanted, description, key, own)
            run = self._again(asked)
            if run is None:
                run = within_days(self._begin, asked, Thread(key=own))
            else:
                require_thread(self._store, own, run)
        except (NotFound, ThreadChanged, ThreadGone, RunExists):
            again = forked_before(self._store, self._inspector, caller, checkpoint_id, wanted, description, key=key)
            if again is None:
                raise
            run = again
        return Forked(run, PointId(run.key.run_id, 1))

    def _asked(
        self,
        caller: Caller,
        found: FoundPoint,
        wanted: Modifications,
        description: str,
        key: IdempotencyKey | None,
        thread: ThreadKey,
        *,
        by: Noted | None = None,
    ) -> _Asked:
        digest = digest_of(found.point.id, wanted, description)
        return _Asked(caller, found, wanted, description, run_key_of(caller, key), thread, digest, by)

    def _own(self, agent: Agent) -> frozenset[str]:
        return frozenset(tool.name for tool in self._tools) & frozenset(agent.spec.tools)

    def _again(self, asked: _Asked) -> Run | None:
        return begun_before(self._store, self._inspector, asked.key, asked.digest)

    def _begin(self, days: RefusedDays, asked: _Asked, thread: Thread) -> Run:
        """Store the new run in the point's thread, or in a new one, and ask for its execution."""
        found, caller = asked.found, asked.caller
        if found.setup is None:
            raise Conflict("What this run was started with was not stored", code="RUN_TOO_OLD")
        messages = changed(found.messages, asked.wanted, passed_over=partial(passed_over_calls, self._store, found))
        agent, choice = self._configured(found, asked.wanted)
        setup = changed_setup(found.setup, asked.wanted, own=sorted(self._own(agent)))
        setup = self._of_now(setup, agent, choice, asked)
        work = self._work(asked, setup, messages)
        added = _added(found, messages, thread, work)
        thread, last = added.thread, added.last
        more = [*self._mcp.tools(setup.mcp_tools, thread_id=thread.key.thread_id), *tools_of_subagents(setup.subagents)]
        toolbox = toolbox_of(self._tools, setup.tools, caller, self._library, more=more)
        setup = replace(setup, approvals=toolbox.approvals(agent.spec.approvals))
        others = [each.name for each in setup.subagents]
        begun = made_up_for(begun_calls(self._store, found), toolbox, setup.approvals, others)
        still = {call.id for call in awaited_calls(messages)}
        decisions = {name: each for name, each in begun.items() if name in still}
        setup = replace(setup, decisions={**decisions, **(work.decisions if work else {})})
        allowance = self._allowances.of(caller.user_id)
        plan = self._plan(asked, setup, added.conversation, thread=thread, last=last)
        plan.budgets = budgets_of(asked_budget(found.run), agent.spec, None, thread.spending, allowance.day_cost_micros)
        limits = replace(self._limits, max_tokens=setup.max_tokens)
        request, _ = afford(model_request(plan, toolbox, limits), days.of(plan.budgets), Spent(), allowance.at)
        reservations = first_reservations(allowance, request, agent_day(agent.id, allowance.at, plan.budgets))
        run = _run(asked, agent, plan, added, at=allowance.at, reserved=reservations[-1].amount)
        state, kept = states_from(found, setup, thread)
        self._watchdog.arm(run.key, delay=FIRST_LOOK)
        if added.is_draft:
            draft = self._drafting.draft(thread.key, added.messages, reservations=reservations)
            added = replace(added, thread=draft, messages=(), after=last)
        try:
            self._store.start(
                run,
                thread=added.thread,
                segment=self._first_segment(run, setup, state),
                state=kept,
                messages=added.messages,
                setup=dump_setup(setup),
                after=added.after if added.thread.next_message else None,
                checkpoint=self._checkpoint(last, len(messages), asked.description),
                reservations=reservations,
                answers=passed_over(self._store, thread, by=run),
                delegated=work.steps if work else (),
                also=self._store.noting(asked.by, Earlier(thread.next_message, run.key.run_id)) if asked.by else None,
            )
        except RunExists:
            if (again := self._again(asked)) is None:
                raise
            return again
        self._executions.request(run.key)
        return run

    def _work(self, asked: _Asked, setup: RunSetup, messages: Sequence[Message]) -> CopiedWork | None:
        """Return what subagents have done whose calls are open at the point; None: there can be none."""
        if not setup.subagents or not awaited_calls(messages):
            return None
        from karma.runs.subagents.copying import Copier  # most agents call no others

        copier = Copier(
            self._store,
            agents=self._agents,
            configuration=self._configuration,
            mcp=self._mcp,
            tools=self._tools,
            library=self._library,
            caller=asked.caller,
        )
        return copier.copy(asked.found, messages, setup.subagents, beside=asked.key.run_id)

    def _configured(self, found: FoundPoint, wanted: Modifications) -> tuple[Agent, RunChoice]:
        agent = self._agents.find(found.run.agent_id or "")
        model = wanted.model or agent.spec.model
        try:
            return agent, self._configuration.for_run(agent=agent.spec.name, model=model)
        except ComponentUnavailable as exc:
            if wanted.model is None or exc.details == {"type": "agent", "name": agent.spec.name}:
                raise
            raise ValidationFailed.of("modifications.model", "must be a configured model that is enabled") from None

    def _of_now(self, setup: RunSetup, agent: Agent, choice: RunChoice, asked: _Asked) -> RunSetup:
        """Return a setup with the rights of this caller and the tools that the agent has now, as far as it has them."""
        own = self._own(agent) - choice.disabled_tools
        is_other = asked.wanted.model is not None or setup.target is None
        limit = choice.target.max_tokens
        most = setup.max_tokens if limit is None or not is_other else min(limit, setup.max_tokens)
        return replace(
            setup,
            caller=asked.caller,
            decisions={},
            left=(),
            has_state=True,
            tools=tuple(name for name in setup.tools if name in own),
            mcp_tools=self._mcp.still_offered(setup.mcp_tools, asked.caller, agent.id),
            subagents=tuple(each for each in setup.subagents if each in agent.spec.subagents),
            carried=(),
            target=choice.target if is_other else setup.target,
            fallbacks=choice.fallbacks if is_other else setup.fallbacks,
            max_tokens=most,
        )

    def _plan(
        self, asked: _Asked, setup: RunSetup, conversation: Conversation, *, thread: Thread, last: int
    ) -> RunPlan:
        return RunPlan(
            run_id=asked.key.run_id,
            thread=thread.key,
            target=setup.target or Target(model=asked.found.run.model),
            fallbacks=setup.fallbacks,
            max_turns=setup.max_turns,
            system=setup.system,
            messages=list(late_results(conversation.messages)),
            compacted=conversation.compacted,
            stored=last + 1,
            last=last,
            speaks=setup.speaks,
            frontend_tools=setup.frontend_tools,
            until=self._clock.now(),
        )

    def _first_segment(self, run: Run, setup: RunSetup, state: object) -> Segment:
        started = events.run_started(
            thread_id=run.thread_id, run_id=run.key.run_id, parent_run_id=run.parent_run_id, speaks=setup.speaks
        )
        return Segment(
            key=run.key,
            n=1,
            writer=new_id(),
            epoch=NOT_EXECUTED,
            lease_until=self._clock.now() + NOBODYS,
            events=(started.data, events.state_snapshot(state).data),
        )

    def _checkpoint(self, last: int, messages: int, description: str) -> Checkpoint:
        return Checkpoint(
            n=1,
            epoch=NOT_EXECUTED,
            position=last,
            progress=Progress(messages=messages),
            kind=CheckpointKind.FORK,
            at=self._clock.now(),
            description=description,
        )


def _run(asked: _Asked, agent: Agent, plan: RunPlan, added: _Added, *, at: datetime, reserved: int) -> Run:
    return Run(
        key=asked.key,
        thread_id=added.thread.key.thread_id,
        status=RunStatus.RUNNING,
        model=plan.target.model,
        created_at=at,
        agent_id=agent.id,
        agent_version=agent.version,
        parent_run_id=asked.found.run.key.run_id,
        input_query=asked_in(plan.messages),
        asked_hash=asked.digest,
        answers=added.last,
        begins_at=added.thread.next_message + len(added.messages),
        follows=added.follows,
        reserved_micros=reserved,
        budgets=tuple(plan.budgets),
    )


def _added(found: FoundPoint, messages: Sequence[Message], thread: Thread, work: CopiedWork | None) -> _Added:
    """Return what of a changed conversation is to be added to the point's thread, or to a new one.

    The run begins with this work of its subagents.

    Summaries of what was changed are left out: they would tell a model of what was there before.

    Raises:
        PayloadTooLarge: it is too large.
        ConversationTooLong: the thread is.
    """
    beside, named = (work.size, work.attachments) if work is not None else (0, ())
    shared = common(found.messages, messages)
    path = found.path(shared)
    branch = [*(found.thread.messages[each] for each in path), *messages[shared:]]
    new = tuple(branch[len(path) :] if thread.version else branch)
    if thread.version and new:
        thread.require_room()
    require_room(new, most=MAX_ADDED_BYTES if thread.version else MAX_COPIED_BYTES, beside=beside, named=named)
    after = path[-1] if thread.version and path else -1
    is_draft = not thread.version and is_large(new, beside=beside)
    if is_draft:
        # Not the id that a key makes: what an earlier process left under it is being removed.
        thread = replace(thread, key=thread.key._replace(thread_id=ThreadId(new_id())))
    last = thread.next_message + len(new) - 1 if new else after
    places = [*(path if thread.version else ()), *range(thread.next_message, thread.next_message + len(new))]
    asks = bool(branch) and branch[-1].role == "user"
    follows = [-1, *places][-2] if asks else last
    return _Added(thread, new, after, last, follows, conversation_of(branch), is_draft)
