"""A request for a run, with all that was read and decided for it until the run is stored."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from karma.agents.domain import Agent, MultitaskStrategy
from karma.billing.allowances import Allowance, DayExceeded, Reservation
from karma.configuration.current import RunChoice
from karma.conversations.arrival import Admitted
from karma.conversations.attachments import Library
from karma.conversations.branches import Merged, merge
from karma.conversations.domain import MAX_ADDED_BYTES, Json, Message, Thread, ThreadChanged
from karma.conversations.state import EMPTY, State, changes_of, with_changes, with_user, without_user
from karma.conversations.stored import dump_messages
from karma.core.errors import AppError, PayloadTooLarge, QuotaExceeded
from karma.core.ids import RunId
from karma.core.json_patch import is_same
from karma.core.observability import logger
from karma.core.records import Record
from karma.identity.domain import Caller
from karma.mcp.offering import McpTools, Offer
from karma.models.budgets import BudgetExceeded
from karma.models.ports import ModelRequest
from karma.models.prices import input_tokens
from karma.runs.askers import Askers, require_asker
from karma.runs.chains import NO_CHAIN, Chain, chain_of
from karma.runs.domain import NOT_KNOWN, Run, RunKey, RunStatus
from karma.runs.opening import Opening
from karma.runs.plan import RunLimits, RunPlan, toolbox_of, tools_of_subagents
from karma.runs.ports import Also, Runs
from karma.runs.requests import RunInput
from karma.runs.reservations import RefusedDays, agent_day, first_reservations
from karma.runs.resuming import Resolved, Resumption, questions_of
from karma.runs.rollback import RolledBack
from karma.runs.setup import RunSetup, load_setup, placed, user_of
from karma.runs.turns import MAX_QUEUE, QueuePlace, changes_beside, place_of
from karma.runs.words import asked_in
from karma.tools.toolbox import Tool, Toolbox

_ATTEMPTS = 3
_LOGGED_NOTES = 20
_INTERRUPTING_ATTEMPTS = 6
"""Attempts of a request that ends what is active: each run that it ends takes one, and others may come between."""
_ENQUEUING_ATTEMPTS = MAX_QUEUE + 6
"""Those of one that waits for its turn: each of the others that may wait can come first, and turns can end between."""
_ANSWERED = frozenset({RunStatus.FINISHED, RunStatus.INTERRUPTED})
"""States of a run that has given its answer."""
_DECIDED = _ANSWERED | {RunStatus.CANCELLED}


@dataclass(kw_only=True)
class Asking:
    """A request for a run, with the data that was read for it."""

    caller: Caller
    asked: RunInput
    deadline: datetime | None
    agent: Agent
    choice: RunChoice
    allowance: Allowance
    thread: Thread
    """The thread as it was last read."""
    offer: Offer
    """Tools of the caller's MCP servers, and what is missing of them."""
    before: Run | None
    """The run that has the requested id already; None: the id is free."""
    questions: Resumption = field(default_factory=Resumption)
    """The open questions of earlier runs, with the request's answers."""
    askers: Askers = field(default_factory=dict)
    """The runs that asked what the request answers."""
    chain: Chain = NO_CHAIN
    """Use of the runs that it goes on for."""
    rolls_back: list[RunKey] = field(default_factory=list)
    """Runs that were active when the thread was read, whose messages this one takes the place of."""
    admitted: Admitted | None = None
    """The request's messages, once they were checked."""
    also: Also | None = None
    """Records that are written with the run."""
    reserves_ahead: bool = True
    """A second call of the model is reserved with the first; False: the plan had no room for it."""
    may_rest: bool = False
    """It makes none of the calls that it decides about, as its plan shows, and brings nothing that the model is to
    read."""
    rests: bool = False
    """Nothing pays for a call of the model, so that its run ends with the results of those calls."""
    unavailable: AppError | None = None
    """The reason why its agent's model cannot be asked; its run has to do without one."""
    back: State | None = None
    """The state in which the run begins that takes another one's place; None: it takes none."""
    changes: Json | None = None
    """The changes that its client has made to the state of its thread, once it waits for its turn."""
    days: RefusedDays = field(default_factory=RefusedDays)
    """Days that have refused it."""
    met: RunId | None = field(init=False)
    """The run of its thread that was active when it came."""

    def __post_init__(self) -> None:
        """Note whom the request means: what becomes active later may be another's turn."""
        self.met = self.thread.active_run_id

    @property
    def key(self) -> RunKey:
        """Return the key of the run that is asked for."""
        return RunKey(self.caller.user_id, self.asked.run_id)

    @property
    def strategy(self) -> MultitaskStrategy:
        """Return what becomes of an active run of the thread.

        Whoever answers questions waits for it, whatever the strategy: it makes a call that was approved beside them,
        and would end with those that it has left open. Behind others an answer would be to nothing.
        """
        if self.asked.resume:
            return MultitaskStrategy.REJECT
        return self.asked.strategy or self.agent.spec.multitask_strategy

    @property
    def tools(self) -> tuple[str, ...]:
        """Return the names of the server's tools that its agent may use."""
        return tuple(sorted(set(self.agent.spec.tools) - self.choice.disabled_tools))

    def toolbox(self, tools: Sequence[Tool], mcp: McpTools, library: Library) -> Toolbox:
        """Return the tools of the run, of the server's and of all others, as far as its caller may use them."""
        remote = mcp.tools(self.offer.tools, thread_id=self.thread.key.thread_id)
        more = [*remote, *tools_of_subagents(self.agent.spec.subagents)]
        return toolbox_of(tools, self.tools, self.caller, library, more=more)

    @property
    def more_names(self) -> frozenset[str]:
        """Return the names by which its model calls tools of MCP servers, and other agents."""
        return self.offer.names | {each.name for each in self.agent.spec.subagents}

    @property
    def ends_active(self) -> bool:
        """Tell whether an active run is cancelled for this one, whatever it answers."""
        return self.strategy in {MultitaskStrategy.INTERRUPT, MultitaskStrategy.ROLLBACK}

    @property
    def makes_way(self) -> bool:
        """Tell whether the active run of its thread, if there is one, has to end before this one begins."""
        return self.thread.active_run_id is not None and self.strategy is not MultitaskStrategy.ENQUEUE

    def foreseen(self, store: Runs, *, now: datetime) -> Asking:
        """Return the request as it will be once its thread's active run has ended for it. Blocks: three reads."""
        from karma.runs.foreseeing import foreseen  # few requests end a run

        run_id = self.thread.active_run_id
        assert run_id is not None  # noqa: S101  as `makes_way` says
        thread = foreseen(store, self.thread, run_id, at=now)
        ended = [RunKey(thread.key.user_id, run_id)] if self.strategy is MultitaskStrategy.ROLLBACK else []
        return replace(self, thread=thread, rolls_back=[*self.rolls_back, *ended])

    def begin_anew(self) -> None:
        """Ask for all again that was too much while a run was active, which has ended since."""
        self.days, self.reserves_ahead = RefusedDays(), True

    def may_end(self, store: Runs, key: RunKey) -> bool:
        """Tell whether the request means its thread's active run. Blocks: two reads, for one that has begun since.

        It means the one that it met, and one that was asked for before it, which has only begun first; not one whose
        turn has come meanwhile, which it was to go before, nor one that was asked for after it.
        """
        if key.run_id == self.met:
            return True
        run, stored = store.run(key), store.setup(key)
        if run is None:
            return True
        return run.created_at <= self.allowance.at and not (stored and load_setup(stored).waiting)

    def give_back(self, before: State | None) -> None:
        """Begin with the state `before` a run that is rolled back, and what its client changed itself; None: none is.

        What it holds of that run's changes it would bring back.
        """
        self.back = before
        if before is not None and self.asked.state != {}:
            given = without_user(self.asked.state, user_of(self.caller))
            held = [(self.thread.state or EMPTY).value, before.value]
            self.back = State(with_changes(before.value, changes_of(given, held)))

    @property
    def state(self) -> object:
        """Return the state with which the run begins: the client's, else what the thread has.

        A client without one sends `{}`. An object without a member `user` gets one: who is asking.
        """
        kept = self.thread.state if self.back is None else self.back
        takes = self.back is not None or self.asked.state == {}
        state = kept.value if kept is not None and takes else self.asked.state
        return with_user(state, user_of(self.caller))

    @property
    def new_state(self) -> State | None:
        """Return the client's state, or the one of before a run that is rolled back, if the thread has another one."""
        kept = self.thread.state or EMPTY
        if self.back is not None:
            return None if is_same(self.back.value, kept.value) else self.back
        state = without_user(self.asked.state, user_of(self.caller))
        return None if self.asked.state == {} or is_same(state, kept.value) else State(state)

    @property
    def attempts(self) -> int:
        """Return how often the request is tried where others change its thread first."""
        if self.strategy is MultitaskStrategy.ENQUEUE:
            return _ENQUEUING_ATTEMPTS
        return _INTERRUPTING_ATTEMPTS if self.ends_active else _ATTEMPTS

    def final_states(self, key: RunKey) -> frozenset[RunStatus]:
        """Return the states of a run that has ended in which it is the answer to a repeat of its request.

        One that answers to questions have begun is it also when it was cancelled: they do not begin another.
        """
        by = self.questions.answered_by
        return _DECIDED if by is not None and by.key == key else _ANSWERED

    async def read_questions(self, store: Runs, mcp: McpTools, *, now: datetime) -> None:
        """Read the questions that the request answers or passes over, what it goes on for, and what they are about.

        Raises as `questions_of`, `require_asker` and `offer_for`.
        """
        if not self.asked.resume and not self.thread.interrupts:
            self.questions, self.chain = Resumption(), NO_CHAIN
            return
        await asyncio.to_thread(self._read_questions, store, now=now)
        if self.questions.answers and self.before is None:
            from karma.runs.reached_servers import offer_for  # local: most requests answer nothing

            self.offer = await offer_for(self.questions, store, mcp, self.offer, self.agent.id)

    def _read_questions(self, store: Runs, *, now: datetime) -> None:
        entries = self.asked.resume
        found = questions_of(store, self.thread, entries, user_id=self.caller.user_id, now=now)
        require_asker(self.agent, self.askers, entries)
        if self.asked.unattended and self.before is None and len(found.answers) < len(entries):
            raise ThreadChanged  # somebody else was first, and nobody wants a run that tells of nothing
        self.chain, self.questions = chain_of(store, self.thread, self.askers, found.lost), found

    def place(self, store: Runs, admitted: Admitted, *, now: datetime) -> QueuePlace:
        """Tell whether the run has to wait for its turn; raises as `place_of`. May block."""
        may_be_answered = self.questions.may_be_answered
        # What is asked beside calls of the client is shown when these have their results.
        goes_on = may_be_answered and any(each.message.role == "tool" for each in admitted.sent[-1:])
        answers = bool(self.asked.resume) or goes_on
        is_kept = self.thread.making_way is not None and self.thread.making_way.is_awaited(now)
        held = is_kept or (may_be_answered and not answers)
        place = place_of(store, self.thread, self.strategy, answers=answers, is_held=held)
        if place.waits and self.asked.state != {}:
            self.changes = changes_beside(store, place.thread, self.asked.state, self.caller)
        return place

    def merge(self, thread: Thread, admitted: Admitted, *, own: frozenset[str], waits: bool = False) -> Merged:
        """Merge the request's messages into its thread; `own` are the names of the server's tools.

        One that waits brings its last words anew where the thread ends with the same ones, under another id.

        Raises:
            ValidationFailed, PayloadTooLarge: they cannot be merged, or are larger than one transaction may be.
        """
        asked, own = self.asked, own | self.more_names
        waiting, again = self.questions.results, self.offer.repeatable
        merged = merge(thread, admitted.sent, admitted.notes, own=own, waiting=waiting, repeatable=again)
        for end in self._ends_asked(thread):
            if merged.given or self.questions.are_asked_in(merged.conversation):
                break
            # A history that ends before what was asked, or in another branch: the answers say where its user is.
            at = replace(thread, restored_to=end)
            merged = merge(at, (), admitted.notes, own=own, waiting=waiting, repeatable=again)
        last = admitted.sent[-1:]
        if waits and not merged.given and all(each.message.role == "user" for each in last):
            merged = merge(thread, last, admitted.notes, own=own, waiting=waiting, repeatable=again)
        merged = merged._replace(notes=(*merged.notes, *self.offer.missing))
        for note in merged.notes[:_LOGGED_NOTES]:
            logger.warning("run.input_ignored", run_id=asked.run_id, field=note.field, reason=note.reason)
        if len(dump_messages(merged.new)) > MAX_ADDED_BYTES:
            raise PayloadTooLarge(f"New messages exceed {MAX_ADDED_BYTES} bytes; send larger media by file id")
        return merged

    def _ends_asked(self, thread: Thread) -> list[int]:
        """Return the ends of branches in which the request's answers may be awaited, the likeliest first."""
        passed = {thread.latest, *thread.path_to(thread.latest)}
        stood = (run.last_message for run in self.askers.values() if run.last_message < thread.next_message)
        return [thread.latest, *(each for each in stood if each >= 0 and each not in passed)]

    def share(self, plan: RunPlan, merged: Merged, toolbox: Toolbox) -> RunPlan:
        """Return the plan, with the state that the run begins with, and how its conversation is summarised."""
        # With nobody there the conversation rests instead, as its question lapses (expiry.py).
        self.may_rest = plan.only_refuses and not merged.new and not self.asked.unattended
        if self.unavailable is not None:
            if not self.may_rest and not plan.asks_nothing:
                raise self.unavailable
            self.rests = True
        if self.rests and self.may_rest:
            plan.max_turns = 0
        plan.state, plan.user = State(self.state), user_of(self.caller)
        plan.subagents = self.agent.spec.subagents
        plan.begun = plan.state if toolbox.writes_state else None
        plan.compacted = merged.compacted
        plan.compaction = replace(self.agent.spec.compaction, target=self.choice.summaries)
        return plan

    def run(self, plan: RunPlan, *, waits: bool, follows: int, at: datetime, reserved: Reservation) -> Run:
        """Return the run as it is stored when it begins, behind a message, or when it begins to wait for its turn."""
        return Run(
            key=self.key,
            thread_id=self.asked.thread_id,
            status=RunStatus.QUEUED if waits else RunStatus.RUNNING,
            model=self.choice.target.model,
            created_at=at,
            agent_id=self.agent.id,
            agent_version=self.agent.version,
            answers=-1 if waits else plan.last,
            begins_at=-1 if waits else plan.stored,
            follows=NOT_KNOWN if waits else follows,
            parent_run_id=self.asked.parent_run_id,
            schedule_id=self.asked.schedule_id,
            webhook=self.asked.webhook,
            input_query=asked_in(plan.messages),
            asked_hash=self.asked.digest,
            reserved_micros=reserved.amount,
            budgets=tuple(plan.budgets),
            steps_before=self.chain.steps,
            unattended=self.asked.unattended,
        )

    def reservations(
        self, plan: RunPlan, request: ModelRequest, toolbox: Toolbox, *, waits: bool
    ) -> tuple[Reservation, Reservation]:
        """Return what the run takes of its owner's plan when it begins; see `first_reservations`."""
        of_agent = agent_day(self.agent.id, self.allowance.at, plan.budgets)
        may_ask_again = bool(toolbox.specs()) and not waits
        return first_reservations(
            self.allowance,
            None if plan.asks_nothing else request,
            of_agent,
            ahead=self.reserves_ahead and may_ask_again,
        )

    def may_ask_for_less(self, refusal: AppError) -> bool:
        """Note why the run was refused, and tell whether it may begin with less reserved, or a shorter answer or none.

        Raises:
            BudgetExceeded: as `RefusedDays.note`.
        """
        try:
            if self._is_narrowed(refusal):
                return True
        except BudgetExceeded:
            if not self.may_rest:
                raise
        may_rest = isinstance(refusal, QuotaExceeded) and self.may_rest and not self.rests
        self.rests = self.rests or may_rest
        return may_rest

    def _is_narrowed(self, refusal: AppError) -> bool:
        if isinstance(refusal, DayExceeded):
            self.days.note(refusal)
        elif not self.reserves_ahead or not isinstance(refusal, QuotaExceeded):
            return False
        self.reserves_ahead = False
        return True

    def setup(self, plan: RunPlan, limits: RunLimits, waiting: tuple[Message, ...], *, first: ModelRequest) -> RunSetup:
        """Return what another process needs to execute the run, whose first call is `first`.

        Which questions one that waits leaves open is decided when its turn has come.
        """
        return RunSetup(
            caller=self.caller,
            system=tuple(plan.system),
            tools=self.tools,
            frontend_tools=tuple(plan.frontend_tools),
            max_tokens=limits.max_tokens,
            max_turns=plan.max_turns,
            speaks=plan.speaks,
            asides=placed(self.asked.asides, self.asked.sent),
            target=self.choice.target,
            fallbacks=tuple(self.choice.fallbacks),
            reasoning=plan.reasoning,
            compaction=plan.compaction,
            approvals=plan.approvals,
            decisions=plan.decisions,
            left=() if waiting else tuple(plan.left),
            has_state=self.asked.state != {} and self.changes != {},
            changes=self.changes if waiting else None,
            mcp_tools=self.offer.tools,
            subagents=tuple(plan.subagents),
            carried=plan.carried,
            waiting=waiting,
            beside_tokens=input_tokens(replace(first, messages=())),
        )


class Planned(Record, kw_only=True):
    """A run that is decided on, and not stored yet."""

    plan: RunPlan
    toolbox: Toolbox
    first: Opening
    """Its first events."""
    merged: Merged
    admitted: Admitted
    resolved: Resolved
    thread: Thread
    """The thread as it was read, whose queue has those that still wait."""
    rolled_back: RolledBack | None
    """The state of the thread before the runs whose place it takes; None: it takes none's."""
    waits: bool
    """It waits for its turn."""


class Execution(Record):
    """All that the process needs that executes a run which it has just recorded."""

    plan: RunPlan
    first: bytes
    """Frames of its first events."""
    toolbox: Toolbox
    max_tokens: int
    reserved: Reservation
    """Reservation for the highest cost of the first call of the model."""
    writer: str


class Beginning(Record):
    """A run that is recorded, newly or by an earlier equal request."""

    asking: Asking
    run: Run
    execution: Execution | None
    """None: an earlier request began the run, or it waits for its turn."""
    rolled_back: RolledBack | None = None
