"""A run before its first model call: its conversation, its limits, and the requests to its model."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

import orjson

from karma.agents.domain import Subagent
from karma.billing.allowances import Reservation
from karma.conversations.attachments import Library
from karma.conversations.domain import (
    MAX_ADDED_BYTES,
    Compacted,
    History,
    Message,
    ThreadKey,
    ToolCall,
)
from karma.conversations.repair import repair
from karma.conversations.state import EMPTY, State, without_user
from karma.conversations.stored import dump_messages
from karma.core.ids import AgentId, RunId, short_id
from karma.core.records import Record
from karma.identity.domain import Caller
from karma.models.budgets import MIN_ANSWER_TOKENS, NamedBudget
from karma.models.domain import COMPACTED_BY_DEFAULT, OPENAI, Compaction, ReasoningEffort, Target, window_of
from karma.models.ports import Heard, ModelRequest, ToolSpec
from karma.models.prices import rough_tokens, utf8_size
from karma.runs.decisions import CallDecision
from karma.runs.domain import NOT_EXECUTED, Progress, Run, RunErrorCode, RunFailed, RunKey, Segment
from karma.runs.events import COMPACTING, CURRENT, Event, Version, parse
from karma.runs.interrupts import Interrupt
from karma.runs.pause_events import stopped_by
from karma.runs.ports import StoredStep
from karma.runs.wishes import Needs
from karma.tools.domain import ApprovalRule
from karma.tools.state_tools import state_text
from karma.tools.toolbox import Tool, Toolbox

_PATIENCE = 0.25
"""Share of a run's remaining time for which a call of the model that has not begun to answer is repeated."""
_MAX_PATIENCE_S = 60.0
LOST_RECORD_CHARS = 8_000
"""UTF-8 bytes that a summary counts with which was lost with its process."""
_DELTAS = frozenset({"TEXT_MESSAGE_CONTENT", "REASONING_MESSAGE_CONTENT", "TOOL_CALL_ARGS"})


class RunLimits(Record, kw_only=True):
    """Budgets of a run."""

    max_tokens: int = 8192
    """Output tokens of one call of the model."""
    run_timeout_s: float = 24 * 3600.0
    """Seconds that a run may take, of however many processes."""
    reserve_s: float = 10.0
    """Seconds before the end that are reserved for closing the run properly, or for handing it over."""


@dataclass(kw_only=True)
class RunPlan:
    """Everything from which one run starts."""

    run_id: RunId
    thread: ThreadKey
    target: Target
    """The run's model."""
    max_turns: int
    """Calls of the model at the most; 0: it is not asked, since its user does not want to go on, or only refuses calls
    and nothing pays for it."""
    system: Sequence[str]
    messages: list[Message]
    """The thread's branch with the client's new messages; the run adds to it."""
    stored: int
    """Number of messages that the thread has in the store, in all its branches."""
    last: int = -1
    """Position of the last message of this branch; -1: none."""
    speaks: Version = CURRENT
    """The client's version of the protocol."""
    frontend_tools: Sequence[ToolSpec]
    fallbacks: Sequence[Target] = ()
    """Models that may answer in its place."""
    reasoning: ReasoningEffort | None = None
    """As in `karma.models.ports.ModelRequest`."""
    compacted: Compacted | None = None
    """The summary that stands for the first of its messages before a model; None: the model is shown all."""
    compaction: Compaction = COMPACTED_BY_DEFAULT
    """Summarising of its conversation."""
    ends_with_client: bool = False
    """The run is cancelled once its client is known to have disconnected."""
    pending: Sequence[ToolCall] = ()
    """Calls of the client's tools without a result; the run ends at once and names them."""
    is_kept: bool = True
    """The attachments of its messages are stored; else the run fails, since the model could not be shown them."""
    until: datetime
    """Moment at which the run ends, of whichever process."""
    deadline: datetime | None = None
    """Moment at which the platform stops this process, which hands the run over before; None: never."""
    budgets: Sequence[NamedBudget] = ()
    """Limits of its calls of the model."""
    progress: Progress = field(default_factory=Progress)
    """Work of earlier processes."""
    approvals: Mapping[str, ApprovalRule] = field(default_factory=dict)
    """Rules by which calls have to be approved, by tool; those of other tools need not be."""
    decisions: Mapping[str, CallDecision] = field(default_factory=dict)
    """Decisions about calls that waited for an answer, by id of the call."""
    left: Sequence[Interrupt] = ()
    """Questions of earlier runs that wait on; their calls stay open."""
    subagents: Sequence[Subagent] = ()
    """Agents that its model may call."""
    carried: tuple[RunId, ...] = ()
    """Earlier runs in which subagents began with which this one goes on, since it answers their questions."""
    delegated: list[StoredStep] | None = None
    """The stored work of those subagents, where it was read already."""
    stopped: frozenset[AgentId] = frozenset()
    """Agents that somebody has stopped, as this process begins: none of them works in the run any more."""
    resumed: Sequence[ToolCall] = ()
    """Calls of the last turn without a result, where some of them have waited for an answer; () in a take-over."""
    state: State = EMPTY
    """The state that it shares with its client's application, as this process begins."""
    begun: State | None = None
    """The state as the run began, of which its model is told; None: its tools do not change it."""
    user: Mapping[str, object] = field(default_factory=dict)
    """The member of it that says who is asking, which is not kept."""
    asks_title: bool = False
    """A title is to be asked for when the run has ended."""
    past_in_words: bool = False
    """Its model refuses what stands before its user's newest words, and is shown the words of that alone."""
    lost: LostTurn | None = None
    """The step that an earlier process did not finish; None: this one begins the run."""

    @property
    def stops_at(self) -> datetime:
        """Return the moment at which this process stops executing the run."""
        return self.until if self.deadline is None else min(self.until, self.deadline)

    @property
    def is_handed_over(self) -> bool:
        """Tell whether another process goes on with the run at that moment."""
        return self.stops_at < self.until

    @property
    def asks_nothing(self) -> bool:
        """Tell whether the run ends before it asks the model: a budget has stopped the one before, and still does."""
        return not self.max_turns or any(each.call is None for each in self.left)

    @property
    def only_refuses(self) -> bool:
        """Tell whether each call that it goes on with stays open or is not made, by its user's decision."""
        refused = [name for name, each in self.decisions.items() if each.content is not None and each.failed]
        settled = {*refused, *(each.awaited.id for each in self.left if each.call is not None)}
        is_whole = len(refused) == len(self.decisions) and all(call.id in settled for call in self.resumed)
        return bool(refused) and is_whole and not self.carried

    @property
    def shows_reasoning(self) -> bool:
        """Tell whether the client is shown what the model thinks: older ones do not know these events."""
        return self.reasoning is not None and self.speaks >= CURRENT

    @property
    def key(self) -> RunKey:
        """Return the run's key."""
        return RunKey(self.thread.user_id, self.run_id)

    def keep(self, messages: Sequence[Message], *, state: State | None = None) -> History | None:
        """Add messages to the conversation, and return the write that stores them, with a state that they have changed.

        Raises:
            RunFailed: the messages are larger than one write may be; none is stored.
        """
        if not messages:
            return None
        if self.past_in_words:
            messages = [replace(each, past_in_words=each.role == "assistant") for each in messages]
        if len(dump_messages(messages)) > MAX_ADDED_BYTES:
            raise RunFailed(RunErrorCode.ANSWER_TOO_LARGE)
        history = History(self.thread, self.stored, tuple(messages), self.last, self.kept(state))
        self.messages.extend(messages)
        self.stored += len(messages)
        self.last = self.stored - 1
        return history

    def shown_to_model(self) -> list[Message]:
        """Return the conversation as the model is shown it: a summary in the place of what it stands for.

        The user's newest message of then is shown whole, also where the summary stands for what came after it.
        """
        return shown_to_model(self.messages, self.compacted)

    @property
    def first_shown(self) -> int:
        """Return the index of the first message that the model is shown."""
        made = self.compacted
        if made is None:
            return 0
        asked = self.newest_question(made.at)
        return min(made.covers, asked) if asked >= 0 else made.covers

    def leave_out_refused(self) -> None:
        """Show the model words alone of what it has refused in earlier runs."""
        found = (at for at in range(len(self.messages) - 1, -1, -1) if self.messages[at].past_in_words)
        last = next((at for at in found if self.messages[at].model == self.target.model), 0)
        if last:
            self._put_in_words(before=self.newest_question(last))

    def put_past_in_words(self) -> list[str]:
        """Show the model words alone of what stands before the newest question; return the ids of what was more."""
        changed = self._put_in_words(before=self.newest_question(len(self.messages)))
        self.past_in_words = self.past_in_words or bool(changed)
        return changed

    def _put_in_words(self, *, before: int) -> list[str]:
        from karma.conversations.past_in_words import put_in_words  # few models refuse anything

        first = self.first_shown
        self.messages[first:], changed = put_in_words(self.messages[first:], before=before - first)
        return changed

    def newest_question(self, size: int) -> int:
        """Return the index of the last of the first messages that a user has written; -1: there is none."""
        return _newest_question(self.messages, size)

    def compact(self, text: str, *, covers: int) -> History:
        """Let a text stand for the first messages before the model; return the write that stores it as a summary."""
        kept = len(self.messages) - covers
        summary = Message(id=short_id(), role="summary", content=text, keeps=kept)
        history = History(self.thread, self.stored, (summary,), self.last)
        self.compacted = Compacted(text, covers, len(self.messages))
        self.stored += 1
        self.last = self.stored - 1
        return history

    def kept(self, state: State | None) -> State | None:
        """Return the part of a state that is kept."""
        return state and State(without_user(state.value, self.user))


def shown_to_model(messages: list[Message], made: Compacted | None) -> list[Message]:
    """Return a conversation as the model is shown it; see `RunPlan.shown_to_model`."""
    if made is None:
        return messages
    asked = _newest_question(messages, made.at)
    whole = messages[asked : asked + 1] if 0 <= asked < made.covers else []
    return [Message(id="summary", role="user", content=made.text), *whole, *messages[made.covers :]]


def _newest_question(messages: Sequence[Message], size: int) -> int:
    return next((at for at in range(size - 1, -1, -1) if messages[at].role == "user"), -1)


class LostTurn(Record, kw_only=True):
    """The point at which another process goes on with a run."""

    calls: Sequence[ToolCall]
    """Calls of the run's last turn without a result: those of the server's tools may have taken effect or not."""
    call_ids: frozenset[str]
    """Ids of all calls in the log, also of those that were withdrawn: a client has seen them."""
    is_first: bool = False
    """No process has executed the run before: it goes on from a point of another run, whose calls are to be made."""
    answers: Mapping[int, Heard]
    """The model's answers that broke off since, by epoch, as far as they were recorded."""
    asked: int = 0
    """Calls of the model with these answers: an epoch may have withdrawn some, and some may be summaries."""
    delegated: Sequence[tuple[str, int, int, Heard]] = ()
    """Subagent, segment, epoch and each piece of all that subagents have said, of which some may have broken off."""
    summarised: Collection[tuple[str, int, int]] = frozenset()
    """Subagent, segment and epoch of each summary that they have begun."""

    def answers_of(self, subagent: str, *, after: int) -> list[Heard]:
        """Return a subagent's answers that broke off behind a segment with lost processes."""
        by_epoch: dict[int, Heard] = {}
        for name, n, epoch, heard in self.delegated:
            if name == subagent and n > after:
                _add(by_epoch, epoch, heard)
        return list(by_epoch.values())

    def asked_of(self, subagent: str, *, after: int) -> int:
        """Return how many calls of a subagent's model these answers are."""
        epochs = {epoch for name, n, epoch, _ in self.delegated if name == subagent and n > after}
        return len(epochs - {epoch for name, n, epoch in self.summarised if name == subagent and n > after})


def _add(answers: dict[int, Heard], epoch: int, more: Heard) -> None:
    before = answers.get(epoch, Heard())
    told = before if more.by is None else more
    answers[epoch] = Heard(before.said + more.said, told.usage, told.by)


def lost_turn(own: RunId, log: Sequence[Segment], calls: Sequence[ToolCall], *, after: int) -> LostTurn:
    """Return the step that was not finished: open calls, and the answers that broke off behind a segment."""
    parsed = [(each.n, each.epoch, event) for each in log for event in map(parse, each.events)]
    broken: dict[int, Heard] = {}
    delegated: list[tuple[str, int, int, Heard]] = []
    summarised: set[tuple[str, int, int]] = set()
    for n, epoch, event in parsed:
        if event.type in _DELTAS:
            body = orjson.loads(event.data)
            heard = Heard(utf8_size(body["delta"]))
            if "subagentRunId" in body:
                delegated.append((body["subagentRunId"], n, epoch, heard))
            elif n > after:
                _add(broken, epoch, heard)
        elif event.type == "CUSTOM" and (stopped := stopped_by(event)):
            # What clients have seen of these is in the log; what the models have read as far as it was reported.
            delegated += [(each, n, epoch, heard) for each, heard in stopped.items()]
            if n > after and own in stopped:
                _add(broken, epoch, stopped[own])
        elif event.type == "CUSTOM" and COMPACTING.encode() in event.data:
            # Nothing of the record is in the log.
            if subagent := orjson.loads(event.data).get("subagentRunId"):
                delegated.append((subagent, n, epoch, Heard(LOST_RECORD_CHARS)))
                summarised.add((subagent, n, epoch))
            elif n > after:
                _add(broken, epoch, Heard(LOST_RECORD_CHARS))
    call_ids = frozenset(event.ref for _, _, event in parsed if event.type == "TOOL_CALL_START")
    return LostTurn(
        calls=calls,
        is_first=log[-1].epoch == NOT_EXECUTED,
        answers=broken,
        asked=_asked(own, log, after=after),
        call_ids=call_ids,
        delegated=delegated,
        summarised=summarised,
    )


def _asked(own: RunId, log: Sequence[Segment], *, after: int) -> int:
    """Count the calls of the run's model behind a segment of which the log has anything."""
    asked, epoch, has_said, is_summary = 0, NOT_EXECUTED, False, False
    for segment in log:
        if segment.n <= after:
            continue
        if segment.epoch != epoch:
            epoch, has_said, is_summary = segment.epoch, False, False
        for event in map(parse, segment.events):
            if event.type == "CUSTOM" and COMPACTING.encode() in event.data:
                is_summary = is_summary or "subagentRunId" not in orjson.loads(event.data)
            elif not has_said and (_is_of_run(event) or (not is_summary and _is_stopped(event, own))):
                asked, has_said = asked + 1, True
        if segment.shows is not None:  # the answer before it was withdrawn
            has_said = False
    return asked


def _is_of_run(event: Event) -> bool:
    return event.type in _DELTAS and "subagentRunId" not in orjson.loads(event.data)


def _is_stopped(event: Event, own: RunId) -> bool:
    return event.type == "CUSTOM" and own in stopped_by(event)


def toolbox_of(
    tools: Sequence[Tool], names: Iterable[str], caller: Caller, library: Library, *, more: Sequence[Tool] = ()
) -> Toolbox:
    """Return the named ones of the server's tools, and all of `more`, as far as the caller may use them."""
    allowed = set(names)

    def shorten(text: str) -> str:
        return library.shorten(caller.user_id, text)

    return Toolbox([*(tool for tool in tools if tool.name in allowed), *more], caller, shorten)


def expected_tokens(plan: RunPlan) -> int:
    """Return the tokens that the model's next call will read: as it counted them last, with an estimate of what is new.

    Without a count all is estimated, but for the tools.
    """
    first = plan.compacted.at if plan.compacted else 0
    for at in range(len(plan.messages) - 1, first - 1, -1):
        if plan.messages[at].tokens:
            return plan.messages[at].tokens + rough_tokens(plan.messages[at + 1 :])
    texts = [Message(id="", role="user", content=text) for text in plan.system]
    return rough_tokens([*texts, *plan.shown_to_model()])


def is_near_window(plan: RunPlan, limits: RunLimits) -> bool:
    """Tell whether the next call comes so near the model's context window that its conversation is to be summarised."""
    window = window_of(plan.target)
    if window is None or not plan.compaction.enabled:
        return False
    room = window - min(limits.max_tokens, window // 2)
    return expected_tokens(plan) >= min(window * plan.compaction.at_percent // 100, room)


def _answer_tokens(plan: RunPlan, tools: Sequence[ToolSpec], most: int) -> int:
    """Return the tokens that an answer may have: beside what is read, where a server counts both towards its window.

    Those of Chat Completions refuse a request for more, however short its conversation is.
    """
    window = plan.target.context_window if plan.target.provider == OPENAI else None
    if window is None:
        return most
    described = [Message(id="", role="user", content="".join(map(str, tool))) for tool in tools]
    left = window - expected_tokens(plan) - rough_tokens(described)
    return min(most, max(MIN_ANSWER_TOKENS, left))


def patience_of(left_s: float) -> float:
    """Return the seconds for which a call may be repeated, where a process has so many left for its run."""
    return max(0.0, min(_MAX_PATIENCE_S, left_s * _PATIENCE))


def tools_of_subagents(subagents: Sequence[Subagent]) -> list[Tool]:
    """Return the tools by which a model calls other agents; those of a run are bound where it is executed."""
    if not subagents:
        return []
    from karma.tools.subagent_tools import subagent_tool  # most agents call no others

    return [replace(subagent_tool(each.name, each.description), reaches=each.agent_id) for each in subagents]


def model_request(plan: RunPlan, toolbox: Toolbox, limits: RunLimits, *, left_s: float = 0.0) -> ModelRequest:
    """Return the next request to a run's model; `left_s` are the seconds that its process has left for the run."""
    own = toolbox.specs()
    names = {tool.name for tool in own}
    tools = [*own, *(tool for tool in plan.frontend_tools if tool.name not in names)]
    return ModelRequest(
        target=plan.target,
        reasoning=plan.reasoning,
        fallbacks=plan.fallbacks,
        system=plan.system if plan.begun is None else (*plan.system, state_text(plan.begun)),
        messages=repair(plan.shown_to_model()),
        tools=tools,
        max_tokens=_answer_tokens(plan, tools, limits.max_tokens),
        patience_s=patience_of(left_s),
        log_keys={"run_id": plan.run_id},
    )


class ToStart(Record, kw_only=True):
    """A planned run with all that is written at its start; nothing is taken for it yet."""

    run: Run
    segment: Segment
    setup: bytes
    sizes: Mapping[str, int]
    """Attachments that are new in the account, sizes by id."""
    reservations: tuple[Reservation, ...]
    reserved: Reservation
    """That of model spend."""
    max_tokens: int

    def needs(self, messages: tuple[Message, ...]) -> Needs:
        """Return what its start asks of its owner's account, with its new messages."""
        return Needs(run=self.run.key, messages=messages, attachments=self.sizes, reservations=self.reservations)
