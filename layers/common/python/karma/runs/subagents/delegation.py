"""The subagents of one run: who is called, who is at work, and what of them is left when the run leaves its process.

They work within the run: in its process, in its log and under its lease. What they have done is stored beside it
(steps.py), so a process that takes the run over makes their calls again, and each goes on where it was.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from karma.agents.domain import BUILT_IN_ID, Subagent
from karma.billing.allowances import Adjustment
from karma.conversations.attachments import Library
from karma.conversations.domain import Json, Message, ToolCall
from karma.core.clock import Clock
from karma.core.errors import AppError
from karma.core.ids import AgentId, short_id
from karma.core.observability import count
from karma.core.records import Record
from karma.identity.domain import Caller
from karma.mcp.offering import McpTools
from karma.models.ports import Model, call_ids_of
from karma.runs.domain import RunErrorCode
from karma.runs.events import Event, subagent_suspended
from karma.runs.gate import Room
from karma.runs.interrupts import MAX_INTERRUPTS, Inside, Interrupt
from karma.runs.log import RunLog
from karma.runs.plan import RunLimits, RunPlan
from karma.runs.ports import Runs, Sink
from karma.runs.spending import Spending
from karma.runs.subagents.leaving import Left
from karma.runs.subagents.staff import MAX_SUBAGENTS_A_RUN, Call, Staff, SubagentFailed
from karma.runs.subagents.steps import Definition, Delegations, Ended, Transcript, Used, made_in, record, subagent_id
from karma.runs.subagents.uses import Uses
from karma.runs.subagents.work import AGENT_STOPPED, SubagentWork
from karma.tools.failures import Unfinished
from karma.tools.subagent_tools import MAX_TASK_CHARS, AgentTask, subagent_tool
from karma.tools.toolbox import Tool, Toolbox, ToolContext, Words

_Asked = TypeVar("_Asked")


class Crew(Record, kw_only=True):
    """Services of the process that executes a run, for its subagents."""

    store: Runs
    model: Model
    tools: Sequence[Tool]
    """The server's tools that subagents may have."""
    mcp: McpTools
    library: Library
    clock: Clock
    staff: Staff


class Subagents:
    """The subagents of one run."""

    def __init__(
        self,
        plan: RunPlan,
        crew: Crew,
        *,
        log: RunLog,
        sink: Sink,
        spending: Spending,
        caller: Caller,
        limits: RunLimits,
        agent_id: AgentId | None,
        found: Delegations,
        left_s: Callable[[], float],
    ) -> None:
        """Build them.

        Args:
            plan: the run.
            crew: what the process has.
            log: the run's log.
            sink: receiver of the frames for the run's client.
            spending: what the run may use.
            caller: whose rights all of them have.
            limits: as those of the run's engine.
            agent_id: the agent that the run executes; None: the run is older than that is known.
            found: what is stored of them.
            left_s: tells for how many seconds this process goes on with the run.
        """
        self.plan, self.log, self.sink, self.spending, self.limits = plan, log, sink, spending, limits
        self.store, self.model, self.tools, self.mcp = crew.store, crew.model, crew.tools, crew.mcp
        self.library, self.clock, self._staff = crew.library, crew.clock, crew.staff
        self.caller, self.left_s = caller, left_s
        self.call_ids: set[str] = set()
        """Ids of all calls of the run and of its subagents."""
        self.unfinished: dict[str, Left] = {}
        """Calls of subagents that have no result yet, by id, until whoever made them has seen it."""
        self.is_lost = plan.lost is not None and not plan.lost.is_first
        """A process was lost, which may have made the calls that are open."""
        self.room = Room(plan.left)
        """Room that is left for forms of tools, in the run and in all its subagents."""
        self._agent_id = agent_id or BUILT_IN_ID
        self._transcripts = dict(found.transcripts)
        self.is_stopping = False
        """Their models were stopped, and are not asked any more by this process."""
        self.broke_off = False
        """Clients were shown an answer that was given up, and still hold it."""
        self._stopped = plan.stopped
        """Agents that work no more in the run."""
        self._exceeded_in: tuple[ToolCall, ...] = ()
        self._asking: dict[asyncio.Task[Any], Sequence[AgentId]] = {}
        """Calls of models, each with the agents that led to it, its own the last."""
        self._uses = Uses(found, own=plan.run_id)
        self._begun = self._uses.begun
        self._works: dict[str, SubagentWork] = {}
        self._days: dict[AgentId, Adjustment] = {}
        """Use that is not yet counted in the days of agents, to be written with the end."""
        for transcript in found.transcripts.values():
            self.call_ids |= call_ids_of(message for _, message in transcript.messages)
        self.begun_calls = {each.definition.call_id for each in found.transcripts.values()}
        """Ids of the calls of those that have begun."""

    # Who may be called

    def tools_for(self, subagents: Sequence[Subagent]) -> list[Tool]:
        """Return the tools by which an agent's model calls others."""
        return [replace(subagent_tool(each.name, each.description), reaches=each.agent_id) for each in subagents]

    def bind(self, toolbox: Toolbox, subagents: Sequence[Subagent], *, parent: SubagentWork | None = None) -> None:
        """Let calls of these tools be carried out here; `parent` is whose model makes them, None is the run's own."""
        for each in subagents:
            toolbox.bind(each.name, partial(self._call, each, parent))

    async def _call(
        self, subagent: Subagent, parent: SubagentWork | None, arguments: AgentTask, context: ToolContext
    ) -> object:
        """Make, or go on with, a call of a subagent.

        Raises:
            Unfinished: it is left unfinished, for what `unfinished` has.
            SubagentFailed, AppError: it failed, or could not begin.
        """
        try:
            work = await self._work(subagent, parent, arguments, context)
        except SubagentFailed as exc:
            context.known["code"], exc.effect = exc.code, "none"  # it has not begun
            raise
        except AppError as exc:
            context.known["code"] = exc.code
            raise
        outcome = await work.run()
        if isinstance(outcome, Ended):
            if outcome.code:
                context.known["code"] = outcome.code
                raise SubagentFailed(outcome.code, outcome.text)
            return Words(outcome.text)
        self.unfinished[context.call_id] = outcome
        raise Unfinished

    async def _work(
        self, subagent: Subagent, parent: SubagentWork | None, arguments: AgentTask, context: ToolContext
    ) -> SubagentWork:
        above = parent.subagent if parent is not None else ""
        path = parent.definition.path if parent is not None else (self._agent_id,)
        message_id, call = made_in(parent.messages if parent else self.plan.messages, context.call_id, subagent.name)
        root = parent.root if parent is not None else call
        known = self._transcripts.get(subagent_id(message_id, context.call_id))
        if known is not None:
            if known.subagent not in self._works and known.ended is None:
                known.definition = await self._staff.with_budgets_of_now(known.definition)
            self._works[known.subagent] = SubagentWork(self, known, root=root, message_id=message_id)
            return self._works[known.subagent]
        if self.is_stopped((*path, subagent.agent_id)):
            raise SubagentFailed(RunErrorCode.CANCELLED.value, AGENT_STOPPED)
        if not arguments.task.strip() or len(arguments.task) > MAX_TASK_CHARS:
            raise SubagentFailed("INVALID_TASK", f"task: must be a text of 1 to {MAX_TASK_CHARS} characters")
        if self._begun >= MAX_SUBAGENTS_A_RUN:
            raise SubagentFailed("TOO_MANY_SUBAGENTS", f"A run begins {MAX_SUBAGENTS_A_RUN} subagents at the most")
        self._begun += 1
        definition = await self._staff.define(
            Call(subagent=subagent, call_id=context.call_id, parent=above, path=path), self.caller
        )
        return await self._begin(definition, arguments.task, root=root, message_id=message_id)

    async def _begin(self, definition: Definition, task: str, *, root: ToolCall, message_id: str) -> SubagentWork:
        subagent = subagent_id(message_id, definition.call_id)
        own = self.plan.run_id
        transcript = Transcript(run_id=own, begun_by=own, asked_by=own, subagent=subagent, definition=definition)
        asked = Message(id=short_id(), role="user", content=task)
        step = record(transcript, by=self.plan.run_id, message=asked, definition=definition)
        transcript.messages.append((0, asked))
        work = SubagentWork(self, transcript, root=root, message_id=message_id)
        self._works[subagent] = work
        await work.begin(step)
        self._transcripts[subagent] = transcript
        self._uses.call(definition.agent_id)
        count("SubagentStarted")
        return work

    # Stopping

    def stop(self) -> None:
        """Stop the models of all that are at work; tools that are at work finish first. Cannot be taken back."""
        self.is_stopping = True
        for task in self._asking:
            task.cancel()

    def stop_agents(self, agents: Collection[AgentId]) -> None:
        """Let agents work no more in the run, nor those that they have called: their models are stopped at once."""
        self._stopped |= frozenset(agents)
        for task, path in self._asking.items():
            if self.is_stopped(path):
                task.cancel()

    async def end_below(self, stopped: SubagentWork) -> None:
        """End those that an agent had called which is stopped now, and which lost processes have left at work."""
        for each in list(self._transcripts.values()):
            if each.definition.parent == stopped.subagent and each.ended is None:
                message_id, _ = made_in(stopped.messages, each.definition.call_id, "")
                self._works[each.subagent] = SubagentWork(self, each, root=stopped.root, message_id=message_id)
                await self._works[each.subagent].run()

    def is_stopped(self, path: Sequence[AgentId]) -> bool:
        """Tell whether one of the agents that led to a subagent, its own included, works no more in the run."""
        return not self._stopped.isdisjoint(path)

    @property
    def must_stop(self) -> bool:
        """Tell whether no model is to be asked any more by this process."""
        return self.is_stopping or self.left_s() <= 0

    async def until_stopped(self, asking: Coroutine[None, None, _Asked], path: Sequence[AgentId]) -> _Asked | None:
        """Wait for an answer, or for leave to ask; None: it was given up, as all, or this agent, are to stop."""
        if self.must_stop or self.is_stopped(path):
            asking.close()
            return None
        task = asyncio.ensure_future(asking)
        self._asking[task] = path
        try:
            return await task
        except asyncio.CancelledError:
            own = asyncio.current_task()
            if not (self.is_stopping or self.is_stopped(path)) or (own is not None and own.cancelling()):
                await _given_up(task)
                raise
            return None
        finally:
            del self._asking[task]

    # What is left

    def is_left(self, call: ToolCall) -> bool:
        """Tell whether a call of the run's own model has no result yet."""
        return call.id in self.unfinished

    def questions(self, n: int) -> list[Interrupt]:
        """Return what is asked before the calls that are left can go on, numbered behind the run's own `n` questions.

        Raises:
            TimeoutError: another process goes on with them.
            BudgetExceeded: a budget does not cover the next call of one of their models.
        """
        left = Left()
        for each in self.unfinished.values():
            left.add(each)
        if left.is_stopped:
            raise TimeoutError
        roots = tuple(made_in(self.plan.messages, call_id, "")[1] for call_id in self.unfinished)
        self.unfinished.clear()
        if left.exceeded is not None:
            self._exceeded_in = roots
            raise left.exceeded
        found: list[Interrupt] = []
        for interrupt in left.interrupts:
            if interrupt.key == self.plan.key:
                n += 1
                if n > MAX_INTERRUPTS:
                    continue  # asked when these are answered
                found.append(replace(interrupt, n=n, inside=_beside(interrupt.inside, roots)))
            else:
                found.append(interrupt)
        return found

    def inside(self, question: Interrupt) -> Interrupt:
        """Return the question about a budget, which says with whose subagents an answer goes on."""
        if not self._exceeded_in:
            return question
        first, *others = self._exceeded_in
        runs = (*self.plan.carried, self.plan.run_id)
        return replace(question, inside=Inside(root=first, subagent="", runs=runs, others=tuple(others)))

    def suspended(self, interrupts: Sequence[Interrupt]) -> list[Event]:
        """Return what tells clients of the subagents with which a later run goes on; those called by others first."""
        open_ = self.log.open_subagents
        above: Mapping[str, str] = {
            each: self._transcripts[each].definition.parent for each in open_ if each in self._transcripts
        }
        ids: dict[str, list[str]] = {each: [] for each in open_}
        for interrupt in interrupts:
            at = interrupt.inside.subagent if interrupt.inside is not None else ""
            for each in open_ if interrupt.call is None else _upwards(at, above):
                ids.setdefault(each, []).append(interrupt.id)
        return [subagent_suspended(each, ids[each]) for each in reversed(open_)]

    # What was used

    def note_used(self, agent_id: AgentId, used: Used) -> None:
        """Count what a step has used for its agent."""
        self._uses.add(agent_id, used)

    async def settle(self) -> None:
        """Learn what the days of their agents have taken where an answer was lost.

        Raises:
            Upstream: the database could not be reached.
        """
        for work in self._works.values():
            await work.day.settle()

    async def give_back(self) -> None:
        """Give back what was taken of the days of their agents for calls that this process has given up."""
        for work in self._works.values():
            await work.day.give_back()

    def close(self) -> tuple[Adjustment, ...]:
        """Count, at the run's end, what of their calls is in no step, and return what the days of agents lack of it.

        A call that was cancelled counts with the most that it may have used, as in the run.
        """
        days = self._days
        for work in self._works.values():
            agent_id = work.definition.agent_id
            used, of_day = work.close()
            self.note_used(agent_id, used)
            if of_day is not None:
                before = days[agent_id].difference if agent_id in days else 0
                days[agent_id] = replace(of_day, difference=of_day.difference + before)
        return tuple(days.values())

    @property
    def unseen(self) -> Mapping[str, int]:
        """Return the UTF-8 bytes of the answers at hand that clients were not shown, by subagent."""
        return {name: work.speaker.unseen for name, work in self._works.items()}

    @property
    def shows_half(self) -> bool:
        """Tell whether clients hold an answer of which the conversation has nothing."""
        return self.broke_off or any(work.speaker.shows_half for work in self._works.values())

    @property
    def at_work(self) -> tuple[str, ...]:
        """Return those that have not ended: the run's end leaves them."""
        known = {**self._transcripts, **{name: work.transcript for name, work in self._works.items()}}
        return tuple(name for name, transcript in known.items() if transcript.ended is None)

    def uses(self) -> tuple[Json, ...]:
        """Return what each agent has used that was called, as `Run.delegated` has it."""
        return self._uses.wire()


async def _given_up(task: asyncio.Task[Any]) -> None:
    """Wait until the connection to the model of an answer that is given up is closed."""
    task.cancel()
    await asyncio.wait([task])


def _beside(inside: Inside | None, roots: Sequence[ToolCall]) -> Inside | None:
    return inside and replace(inside, others=tuple(each for each in roots if each != inside.root))


def _upwards(subagent: str, above: Mapping[str, str]) -> list[str]:
    found: list[str] = []
    while subagent and subagent not in found:
        found.append(subagent)
        subagent = above.get(subagent, "")
    return found
