"""Copies the work of subagents that have no answer yet for a run that goes on from a point of another one.

The call of such a subagent is open at the point. The new run makes it again, as whoever takes a run over would, and
finds what the subagent has done so far beside itself: its model is not asked again, and no tool is called twice. The
original stays as it is, for the run that may still answer its question; each further run from the point has a copy of
its own, so two of them never write behind one another.

    unfinished                                     as it is now, by whichever run
    has ended, but its caller was not told         with its answer
    has ended, and a later run has told its caller as the run of the point had left it: what came later is left behind
    has ended, and the run of the point has told   not at all: that call was over, and is made anew as any tool's

A call within it that waits to be approved is asked about anew, by the new run. One that may have been made, and has no
result, is made again, looked up or asked about, for the run that made it (begun_calls.py): as the newest question about
it says, which a later run than that of the point may have asked. The agents of now decide what may be called and has to
be approved. Who is gone, disabled or not called by its caller any more is not copied, unless it has ended: its call
gets a failed result by a decision, so that no process whose configuration is older begins it anew.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import field, replace
from typing import Final, Protocol

from karma.agents.domain import Agent, Subagent
from karma.configuration.domain import ComponentUnavailable
from karma.conversations.attachments import Library
from karma.conversations.domain import CallEffect, Message, ToolCall
from karma.conversations.history import awaited_calls
from karma.core.errors import AppError, NotFound, PayloadTooLarge
from karma.core.ids import RunId
from karma.core.records import Record
from karma.identity.domain import Caller
from karma.mcp.offering import McpTools
from karma.runs.begun_calls import AskedAbout, BegunCall, begun_by_answer, begun_for, made_up_for
from karma.runs.checkpoints import FoundPoint
from karma.runs.decisions import CallDecision, failure
from karma.runs.domain import ACTIVE, NOT_EXECUTED, RunKey
from karma.runs.interrupts import Interrupt
from karma.runs.left_calls import ENDED_BY_ITSELF
from karma.runs.plan import toolbox_of, tools_of_subagents
from karma.runs.ports import Configured, Runs, StoredStep
from karma.runs.subagents.steps import Definition, Transcript, copied, made_in, read_steps, subagent_id
from karma.tools.domain import ToolApproval
from karma.tools.toolbox import Tool

MAX_COPIED_RECORDS: Final = 32
"""Records of subagents that a run begins with: each is an item of a transaction of 100."""

_NOT_CALLED: Final = "This agent is not called by this name any more: what it had begun does not go on."

_TOLD: Final = frozenset[CallEffect]({"told", "done"})
"""Effects of results that tell what a subagent has answered: those that the end of a run makes up have others."""

_MAX_ANSWERS: Final = 16
"""Answers one behind the other that are followed: a call beyond that has begun, as the last of them says."""


class Catalogue(Protocol):
    """Finds agents: karma.agents.service."""

    def get(self, agent_id: str) -> Agent:
        """Read an agent, or raise NotFound. Blocks."""


class CopiedWork(Record, kw_only=True):
    """The work of subagents with which a new run goes on."""

    steps: tuple[StoredStep, ...] = ()
    decisions: Mapping[str, CallDecision] = field(default_factory=dict)
    """Decisions by which the run goes on with calls of theirs that may have been made, by id."""

    @property
    def size(self) -> int:
        """Return the bytes of all records."""
        return sum(len(step.data) for step in self.steps)

    @property
    def attachments(self) -> tuple[str, ...]:
        """Return the ids of the attachments that all records name."""
        return tuple(dict.fromkeys(name for step in self.steps for name in step.attachments))


class _View:
    """Records of subagents, all or a part of them."""

    def __init__(self, steps: Sequence[StoredStep], beside: RunId) -> None:
        self._known = read_steps(steps, own=beside).transcripts
        self.steps: dict[str, list[StoredStep]] = defaultdict(list)
        """By subagent."""
        for step in steps:
            self.steps[step.subagent].append(step)

    def called_by(self, call: ToolCall, messages: Sequence[Message]) -> Transcript | None:
        """Return the subagent that a call in a conversation has begun; None: it has begun none."""
        message_id, _ = made_in(messages, call.id, "")
        return self._known.get(subagent_id(message_id, call.id))


class _Met(Record):
    """A subagent that is copied."""

    transcript: Transcript
    definition: Definition
    """As its agent is by now."""
    steps: Sequence[StoredStep]


class _Refused(Record):
    """A call of a subagent that has begun, and goes on no more."""

    call: ToolCall
    decision: CallDecision


def _line(found: FoundPoint) -> tuple[RunId, ...]:
    """Return the run of a point, and those with whose subagents it went on, the earliest first."""
    carried = found.setup.carried if found.setup is not None else ()
    return tuple(dict.fromkeys((*carried, found.run.key.run_id)))


class Copier:
    """Copies unfinished work of subagents for runs of one caller; another owner's runs are not read."""

    def __init__(
        self,
        store: Runs,
        *,
        agents: Catalogue,
        configuration: Configured,
        mcp: McpTools,
        tools: Sequence[Tool],
        library: Library,
        caller: Caller,
    ) -> None:
        """Build it; `tools` are the server's."""
        self._store = store
        self._agents = agents
        self._configuration = configuration
        self._mcp = mcp
        self._tools = [tool for tool in tools if not tool.writes_state]
        self._library = library
        self._caller = caller

    def copy(
        self, found: FoundPoint, messages: Sequence[Message], subagents: Sequence[Subagent], *, beside: RunId
    ) -> CopiedWork:
        """Return what a new run `beside` which it is stored goes on with, whose conversation is `messages`.

        One Query for each run in which subagents of the point's began; where there are any unfinished ones one
        BatchGet, and the reads of their agents. `subagents` are those that the new run's agent calls now.

        Raises:
            PayloadTooLarge: they have more records than the start of a run takes.
            Upstream: the database did not answer.
        """
        runs = _line(found)
        stored = [step for each in runs for step in self._store.delegated(RunKey(found.run.key.user_id, each))]
        now = _View(stored, beside)
        then = _View([each for each in stored if each.by in runs or each.epoch == NOT_EXECUTED], beside)
        met: dict[str, _Met] = {}
        refused: dict[str, CallDecision] = {}
        decided = found.setup.decisions if found.setup is not None else {}
        for call in awaited_calls(messages):
            view = then if self._is_told(now.called_by(call, messages), found) else now
            if not self._is_told(view.called_by(call, messages), found):
                for each in self._unfinished(view, [call], messages, subagents, decided):
                    if isinstance(each, _Met):
                        met[each.transcript.subagent] = each
                    else:
                        refused[each.call.id] = each.decision
        if not met:
            return CopiedWork(decisions=refused)
        steps = [step for each in met.values() for step in copied(each.steps, each.definition, beside=beside)]
        if len(steps) > MAX_COPIED_RECORDS:
            raise PayloadTooLarge("The subagents at work have more records than a new run can take along")
        questions = self._questions(found, [each.transcript for each in met.values()])
        decisions = {
            call_id: decision
            for each in met.values()
            for call_id, decision in self._decided(each, found, questions).items()
        }
        return CopiedWork(steps=tuple(steps), decisions={**decisions, **refused})

    def _unfinished(
        self,
        view: _View,
        calls: Sequence[ToolCall],
        messages: Sequence[Message],
        subagents: Sequence[Subagent],
        decided: Mapping[str, CallDecision],
    ) -> Iterator[_Met | _Refused]:
        """Yield the subagents of calls in a conversation that have no result, with those that they have called.

        `decided` is what the run of the point was to do with calls: what it refused had begun before that.
        """
        named = {each.name: each.agent_id for each in subagents}
        for call in calls:
            transcript = view.called_by(call, messages)
            if transcript is None:
                if call.name in named and (before := decided.get(call.id)) is not None and _is_refusal(before):
                    yield _Refused(call, before)
                continue
            if named.get(call.name) != transcript.definition.agent_id:
                yield _Refused(call, _refusal(transcript, failure(_NOT_CALLED)))
                continue
            definition = transcript.definition if transcript.ended is not None else self._of_now(transcript.definition)
            if isinstance(definition, AppError):
                told = failure(definition.message, code=_code_of(definition))
                yield _Refused(call, _refusal(transcript, told))
                continue
            yield _Met(transcript, definition, view.steps[transcript.subagent])
            if transcript.ended is None:
                own = [message for _, message in transcript.messages]
                yield from self._unfinished(view, awaited_calls(own), own, definition.subagents, decided)

    def _is_told(self, transcript: Transcript | None, found: FoundPoint) -> bool:
        """Tell whether the run in which a subagent of the run's own model ended has stored its answer as a result.

        Where its process was lost between both, or it was cancelled, the answer is there, and is told by the new run.
        So it is where another thread's run has told it: the run that goes on with a copy has to tell its own thread.
        """
        if transcript is None or transcript.told_by is None:
            return False
        thread, run = found.thread, self._store.run(RunKey(found.run.key.user_id, transcript.told_by))
        if run is not None and run.thread_id != thread.key.thread_id:
            return False
        if run is None or run.status in ENDED_BY_ITSELF:
            return True
        last = thread.latest if run.status in ACTIVE else min(run.last_message, thread.next_message - 1)
        behind = (thread.messages[each] for each in thread.path_to(last) if each > found.point.position)
        call_id = transcript.definition.call_id
        return any(each.role == "tool" and each.tool_call_id == call_id and each.effect in _TOLD for each in behind)

    def _of_now(self, then: Definition) -> Definition | AppError:
        """Return a subagent with what its agent may still do, and has to ask about; or why it works no more."""
        try:
            agent = self._agents.get(then.agent_id)
            spec = agent.spec
            choice = self._configuration.for_run(agent=spec.name, model=spec.model)
        except NotFound:
            return NotFound(f"The agent of {then.name} was deleted")
        except ComponentUnavailable as exc:
            return exc
        offered = self._mcp.still_offered(then.mcp_tools, self._caller, agent.id)
        return replace(
            then,
            tools=tuple(each for each in then.tools if each in spec.tools and each not in choice.disabled_tools),
            mcp_tools=offered,
            approvals={
                **{each.name: each.approval for each in offered},
                **{each.tool: each.rule for each in spec.approvals},
            },
            subagents=tuple(each for each in then.subagents if each in spec.subagents),
        )

    def _questions(self, found: FoundPoint, transcripts: Sequence[Transcript]) -> list[Interrupt]:
        """Read what was asked about calls of theirs: one BatchGet, and one Get a run, for each answer behind another.

        A later run than that of the point may have asked: the one whose model made the calls, and each that began
        with an answer, since a tool asked for something, or its process was lost.
        """
        user_id = found.run.key.user_id
        left = [each.id for each in found.setup.left] if found.setup is not None else []
        names = {*found.run.interrupt_ids, *found.thread.interrupts, *left}
        asked: dict[str, Interrupt] = {}
        read: set[str] = set()
        seen = {found.run.key.run_id}
        runs = {*_line(found), *(each.asked_by for each in transcripts if each.ended is None)}
        of = {(each.subagent, each.run_id) for each in transcripts}
        for _ in range(_MAX_ANSWERS):
            stored = [self._store.run(RunKey(user_id, each)) for each in sorted(runs - seen)]
            seen |= runs
            names |= {name for run in stored if run is not None for name in run.interrupt_ids}
            new = sorted(names - read)
            read |= names
            more = self._store.interrupts(user_id, new) if new else {}
            mine = {name: each for name, each in more.items() if _is_within(each, of)}
            asked |= mine
            runs = {each.answer.by for each in mine.values() if each.answer is not None and not each.has_lapsed}
            if runs <= seen:
                break
        return list(asked.values())

    def _decided(self, met: _Met, found: FoundPoint, questions: Sequence[Interrupt]) -> Mapping[str, CallDecision]:
        transcript, own = met.transcript, met.definition
        if transcript.ended is not None:
            return {}
        messages = [message for _, message in transcript.messages]
        about: dict[str, list[Interrupt]] = defaultdict(list)
        for each in questions:
            if each.call is not None and each.inside is not None and each.inside.subagent == transcript.subagent:
                about[each.call.id].append(each)
        others = [each.name for each in transcript.definition.subagents]
        calls = {call: _begun(transcript, call, found, _in_order(about[call.id])) for call in awaited_calls(messages)}
        begun = {call: how for call, how in calls.items() if how is not None}
        more = [
            *self._mcp.tools(own.mcp_tools, thread_id=found.thread.key.thread_id),
            *tools_of_subagents(own.subagents),
        ]
        toolbox = toolbox_of(self._tools, own.tools, self._caller, self._library, more=more)
        rules = [ToolApproval(tool=tool, rule=rule) for tool, rule in own.approvals.items()]
        return made_up_for(begun, toolbox, toolbox.approvals(rules), others)


def _refusal(transcript: Transcript, told: str) -> CallDecision:
    """Return the decision about a call that goes on no more: what it has done so far may have changed something."""
    return CallDecision(made_by=transcript.begun_by, content=told, failed=True)


def _is_refusal(decision: CallDecision) -> bool:
    """Tell whether a decision is such a one; calls that their user refused have not begun, and others are known of."""
    return decision.outcome is not None and decision.failed and decision.effect == "told"


def _code_of(why: AppError) -> str:
    """Return the code that the call's result has where a process finds out as it calls the agent (staff.py)."""
    return "AGENT_NOT_FOUND" if isinstance(why, NotFound) else why.code


def _is_within(question: Interrupt, subagents: Collection[tuple[str, RunId]]) -> bool:
    """Tell whether one of these subagents, each with the run beside which it is stored, waits for an answer."""
    inside = question.inside
    return inside is not None and any(
        beside in inside.runs and inside.subagent in {subagent, ""} for subagent, beside in subagents
    )


def _in_order(questions: Sequence[Interrupt]) -> AskedAbout | None:
    """Return what was asked about one call: each question but the last was answered by the run that asked the next."""
    askers = {each.key.run_id for each in questions}
    by_answers = {each.answer.by for each in questions if each.answer is not None}
    first = next((each for each in questions if each.key.run_id not in by_answers), None)
    last = next((each for each in questions if each.answer is None or each.answer.by not in askers), None)
    return AskedAbout(first, last) if first is not None and last is not None else None


def _begun(transcript: Transcript, call: ToolCall, found: FoundPoint, question: AskedAbout | None) -> BegunCall | None:
    """Return how a call without a result has begun; None: it has not."""
    if question is not None:
        return begun_by_answer(question)
    is_settled = transcript.asked_by in _line(found)  # else a later run may be at work on it
    return begun_for(found, call, by=transcript.asked_by, is_settled=is_settled)
