"""Records runs: reads what a request for one needs, plans the run, and stores it with its first events.

Who asks for a run has it executed at once, in the same process (service.py), or leaves it to the queue of executions
(background.py). Both record it here, under the same rules.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial

from karma.agents.domain import MultitaskStrategy
from karma.agents.service import Catalogue
from karma.billing.allowances import Metric
from karma.conversations.arrival import Admitted, MessageAdmission, recognise
from karma.conversations.attachments import Library
from karma.conversations.branches import Merged
from karma.conversations.domain import Thread, ThreadChanged, ThreadGone, ThreadKey
from karma.conversations.history import awaited_calls, late_results
from karma.conversations.messages import said
from karma.core.clock import Clock
from karma.core.errors import AppError, QuotaExceeded, StorageThrottled, Upstream, ValidationFailed
from karma.core.ids import UserId, new_id
from karma.core.observability import logger
from karma.identity.domain import Caller
from karma.mcp.offering import McpTools
from karma.models.budgets import Spent, afford
from karma.models.domain import Target
from karma.runs.askers import Askers, Prepared, askers_of, choice_of, going_on, going_on_with, with_own_parent
from karma.runs.asking import Asking, Beginning, Execution, Planned
from karma.runs.budgets import budgets_of
from karma.runs.domain import LEASE, NOBODYS, NOT_EXECUTED, Run, RunExists, RunKey, Segment, ThreadBusy
from karma.runs.events import SUBAGENTS_SINCE
from karma.runs.known import ReadKnown
from karma.runs.opening import Link, Tell, opening
from karma.runs.plan import RunLimits, RunPlan, ToStart, model_request
from karma.runs.ports import Also, Configured, Executions, Runs, Watchdog
from karma.runs.repeats import has_left, is_repeat
from karma.runs.replacing import Replacement
from karma.runs.requests import RunInput, application_text
from karma.runs.resuming import Resolved, resolve
from karma.runs.rollback import rolled_back_of
from karma.runs.setup import dump_setup
from karma.runs.watchdog import FIRST_LOOK, Inspector
from karma.runs.wishes import Needs
from karma.tools.toolbox import Tool, Toolbox

Admission = Callable[[], Awaitable[object]]
"""Ends when a run may begin, and raises the refusal otherwise: what else decides it beside the run's own reads."""

_PAUSE_S = 0.05
_MOST_PAUSES = 8


class RunRecorder:
    """Records runs for callers, and finds those that equal requests have begun."""

    def __init__(
        self,
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
        known: ReadKnown,
        clock: Clock,
        prepare: Callable[[Target], None] = lambda _: None,
    ) -> None:
        """Build the recorder; `prepare` checks what must work before a run of a model is stored, as `Model.prepare`."""
        self._store = store
        self._agents = agents
        self._configuration = configuration
        self._watchdog = watchdog
        self.inspector = Inspector(store, executions, clock)
        self._replacement = Replacement(store, self.inspector, clock)
        self._prepare_model = prepare
        self._tools, self._mcp = tools, mcp
        self.own_tools = frozenset(tool.name for tool in tools)
        """Names of the server's tools."""
        self.limits = limits
        self._library = library
        self._arrivals = MessageAdmission(library)
        self._known = known
        self._clock = clock

    async def record(
        self,
        caller: Caller,
        asked: RunInput,
        *,
        deadline: datetime | None = None,
        lease: timedelta = LEASE,
        also: Also | None = None,
        admission: Admission | None = None,
    ) -> Beginning:
        """Store a run and make it its thread's active one; what is raised as below stored nothing.

        Args:
            caller: owner of the run; its tools have the caller's permissions.
            asked: the request.
            deadline: moment at which the platform stops the process that executes the run; None: never.
            lease: time for which nobody else may execute the run.
            also: what is written with the run; not when an earlier request has begun it.
            admission: decides beside the reads whether the run may begin; None: nothing else does.

        Raises:
            Forbidden: the caller's address is not verified.
            ValidationFailed: a new message has a part that the model would not accept, or there is none to answer.
            NotFound: there is no such agent.
            ModelNotConfigured: the deployment has no key for its model, as far as this process can tell.
            ComponentUnavailable: the agent or its model is disabled.
            RunExists, ThreadBusy: another request used the run id, or the thread has an active run.
            ThreadGone: the thread was deleted.
            PayloadTooLarge: the new messages are larger than one transaction may be.
            InterruptNotFound, InterruptAnswered, InterruptExpired: the request answers a question that its thread does
                not have, that was answered otherwise, or that nobody answered in time.
            InterruptOfAnotherAgent: it names another agent than the one that asked.
            McpServerAway: it answers a question about a call of an MCP server that cannot be asked now.
            BudgetExceeded: a budget of the run does not cover its first model call.
            QuotaExceeded: the caller's plan has no room for another run, its first model call, or its attachments.
        """
        caller.require_verified()
        asking = await self._read(caller, asked, deadline, admission)
        asking.also = also
        attempt = 0
        while True:
            try:
                await asking.read_questions(self._store, self._mcp, now=self._clock.now())
                if (again := await self._again(asking)) is not None:
                    return Beginning(asking, again, None)
                return await self._record(asking, lease)
            except (RunExists, QuotaExceeded) as exc:
                asking.before = asking.before or await asyncio.to_thread(self._store.run, asking.key)
                asking.thread = await asyncio.to_thread(self._store.thread, asking.thread.key)
                if asking.before is not None and (again := await self._again(asking)) is not None:
                    return Beginning(asking, again, None)
                if not asking.may_ask_for_less(exc):
                    raise
            except (ThreadChanged, StorageThrottled) as exc:
                attempt += 1
                if attempt == asking.attempts:
                    raise await self._told(exc, asking) from exc
                await _pause(attempt)
                asking.thread = await asyncio.to_thread(self._store.thread, asking.thread.key)

    async def _read(
        self, caller: Caller, asked: RunInput, deadline: datetime | None, admission: Admission | None
    ) -> Asking:
        thread_key = ThreadKey(caller.user_id, asked.thread_id)
        if asked.parent_run_id:  # few clients name one
            asked = await asyncio.to_thread(with_own_parent, self._store, caller.user_id, asked)
        askers = await asyncio.to_thread(askers_of, self._store, caller.user_id, asked.resume) if asked.resume else {}
        (agent, choice, thread, unavailable), known, *_ = await asyncio.gather(
            asyncio.to_thread(self._prepare, asked, askers, thread_key),
            asyncio.to_thread(self._known, caller, RunKey(caller.user_id, asked.run_id)),
            *([admission()] if admission is not None else ()),
        )
        return Asking(
            caller=caller,
            asked=going_on(asked, askers),
            deadline=deadline,
            agent=agent,
            choice=choice,
            allowance=known.allowance,
            thread=thread,
            offer=await self._mcp.offer(known.servers, agent.id),
            before=known.before,
            askers=askers,
            unavailable=unavailable,
        )

    async def _record(self, asking: Asking, lease: timedelta) -> Beginning:
        """Plan a run and store it with its first events, all or nothing.

        What blocks is done in two threads, and not each step in one of its own: the way there and back takes .1 ms,
        longer than most steps.
        """
        if asking.makes_way:
            await self._replacement.require_meant(asking)
            needs = await asyncio.to_thread(self._needs, asking, lease)
            await self._replacement.make_way(asking, needs)
        planned = await asyncio.to_thread(self._planned, asking, lease)
        return await asyncio.to_thread(self._stored, asking, planned, lease)

    def _needs(self, asking: Asking, lease: timedelta) -> Needs:
        """Plan a run as it would begin once the active one has ended for it, and return what it needs then. Blocks.

        Whatever refuses it is raised here, before that run is ended.

        Raises:
            ThreadBusy: it brings nothing but results of no call: it would do again what that run does.
        """
        foreseen = asking.foreseen(self._store, now=self._clock.now())
        planned = self._planned(foreseen, lease)
        asking.admitted = foreseen.admitted
        answers_nothing = [each.message.role for each in planned.admitted.sent[-1:]] == ["tool"]
        if answers_nothing and not planned.merged.given and asking.thread.active_run_id is not None:
            raise ThreadBusy(asking.thread.active_run_id)
        return self._to_start(foreseen, planned, lease).needs(planned.merged.new)

    def _planned(self, asking: Asking, lease: timedelta) -> Planned:
        """Plan a run, and make its first events. Blocks."""
        asked, thread = asking.asked, asking.thread
        admitted = asking.admitted = asking.admitted or self._admitted(thread, asked)
        waits, thread = asking.place(self._store, admitted, now=self._clock.now())
        before, rolled_back = thread, None
        if not waits and asking.strategy is MultitaskStrategy.ROLLBACK:
            rolled_back = rolled_back_of(self._store, asking.rolls_back, thread, self._tools)
            before = rolled_back.thread if rolled_back is not None else thread
        asking.give_back(None if rolled_back is None else rolled_back.state)
        merged = asking.merge(before, admitted, own=self.own_tools, waits=waits)
        if waits and not merged.given:
            raise ValidationFailed.of("messages", "must hold something new, to wait for its turn")
        toolbox = asking.toolbox(self._tools, self._mcp, self._library)
        resolved = resolve(
            asking.questions,
            merged.conversation,
            by=asked.run_id,
            now=self._clock.now(),
            toolbox=toolbox,
            has_news=bool(merged.new),
        )
        plan = asking.share(self._plan(asking, merged, toolbox, resolved), merged, toolbox)
        is_watched = not waits and lease > timedelta()
        first = opening(
            asked,
            merged,
            asking.state,
            link=self.link_of(asking.caller),
            is_lighter=admitted.is_lighter,
            before=() if rolled_back is None else (rolled_back.event,),
            tell=self._carried(plan, asking) if is_watched and plan.carried else None,
        )
        return Planned(
            plan=plan,
            toolbox=toolbox,
            first=first,
            merged=merged,
            admitted=admitted,
            resolved=resolved,
            thread=thread,
            rolled_back=rolled_back,
            waits=waits,
        )

    def _to_start(self, asking: Asking, planned: Planned, lease: timedelta) -> ToStart:
        """Make all that is written at the start of a planned run; nothing is taken yet. Blocks."""
        plan, toolbox, waits = planned.plan, planned.toolbox, planned.waits
        limits = replace(self.limits, max_tokens=asking.choice.target.max_tokens or self.limits.max_tokens)
        request = model_request(plan, toolbox, limits)
        if not plan.asks_nothing:
            request, _ = afford(request, asking.days.of(plan.budgets), Spent(), asking.allowance.at)
        reservations = asking.reservations(plan, request, toolbox, waits=waits)
        now, writer = self._clock.now(), new_id()
        # The moment of its allowance, so that its reservations and their correction are of one month.
        at, follows = asking.allowance.at, planned.merged.after
        run = asking.run(plan, waits=waits, follows=follows, at=at, reserved=reservations[-1])
        lease = NOBODYS if waits else lease
        epoch = 1 if lease > timedelta() else NOT_EXECUTED
        until, events = now + lease, planned.first.log
        segment = Segment(key=run.key, n=1, writer=writer, epoch=epoch, lease_until=until, events=events)
        setup = dump_setup(asking.setup(plan, limits, planned.merged.given if waits else (), first=request))
        kept = planned.admitted.kept
        sizes = {name: len(kept[name]) for name in self._store.unkept(run.key.user_id, list(kept))}
        # Each of its attachments counts towards its owner's storage once.
        room = [asking.allowance.reserve(Metric.STORAGE, sum(sizes.values()))] if sizes else []
        return ToStart(
            run=run,
            segment=segment,
            setup=setup,
            sizes=sizes,
            reservations=(*room, *reservations),
            reserved=reservations[-1],
            max_tokens=limits.max_tokens,
        )

    def _stored(self, asking: Asking, planned: Planned, lease: timedelta) -> Beginning:
        """Reserve what a planned run takes of its owner's plan, and store it, all or nothing. Blocks."""
        plan, merged, resolved = planned.plan, planned.merged, planned.resolved
        made = self._to_start(asking, planned, lease)
        # Armed before the lease is taken: from then on the run cannot be forgotten. For a run that does not start
        # the message finds nothing.
        self._watchdog.arm(made.run.key, delay=FIRST_LOOK)
        self._store.start(
            made.run,
            thread=planned.thread,
            segment=made.segment,
            messages=merged.new,
            setup=made.setup,
            after=merged.after,
            attachments=made.sizes,
            reservations=made.reservations,
            answers=resolved.answered,
            left=resolved.left,
            state=asking.new_state,
            also=asking.also,
        )
        plan.is_kept = self._is_kept(made.run.key.user_id, planned.admitted)
        first, writer = planned.first.data, made.segment.writer
        execution = Execution(plan, first, planned.toolbox, made.max_tokens, made.reserved, writer)
        return Beginning(asking, made.run, None if planned.waits else execution, planned.rolled_back)

    def _carried(self, plan: RunPlan, asking: Asking) -> Tell | None:
        """Return what shows a client what subagents have said that go on with its answer; None: it is not shown it."""
        if plan.speaks < SUBAGENTS_SINCE:
            return None
        from karma.runs.subagents.showing import telling  # most agents call no others

        return telling(self._store, plan, link=self.link_of(asking.caller))

    def link_of(self, caller: Caller) -> Link:
        """Return what replaces names of a caller's attachments in messages by URLs."""
        return partial(self._library.linked, caller.user_id)

    def _plan(self, asking: Asking, merged: Merged, toolbox: Toolbox, resolved: Resolved) -> RunPlan:
        asked, agent, thread = asking.asked, asking.agent, asking.thread
        asking.chain = asking.chain.of(asked, has_news=bool(merged.new))
        messages, own = list(late_results(merged.conversation)), self.own_tools | asking.more_names
        asks_anew = bool(messages) and messages[-1].role == "user"
        awaited = () if asks_anew or resolved.resumed else awaited_calls(messages)
        application = application_text(asked.instructions, asked.context)
        return RunPlan(
            run_id=asked.run_id,
            thread=thread.key,
            target=asking.choice.target,
            fallbacks=asking.choice.fallbacks,
            reasoning=agent.spec.reasoning,
            max_turns=0 if resolved.is_given_up else asking.chain.steps_left(agent.spec.max_steps),
            budgets=budgets_of(
                asked.budget,
                agent.spec,
                resolved.continued or asking.chain.continued,
                thread.spending,
                day_cost_micros=asking.allowance.day_cost_micros,
            ),
            system=(agent.spec.system_prompt, application) if application else (agent.spec.system_prompt,),
            messages=messages,
            stored=thread.next_message + len(merged.new),
            last=thread.next_message - 1 + len(merged.new) if merged.new else merged.after,
            speaks=asked.speaks,
            frontend_tools=asked.tools,
            pending=[call for call in awaited if call.name not in own],
            approvals=toolbox.approvals(agent.spec.approvals),
            decisions=resolved.decisions,
            left=resolved.left,
            resumed=resolved.resumed,
            carried=resolved.carried,
            until=self._clock.now() + timedelta(seconds=self.limits.run_timeout_s),
            deadline=asking.deadline,
            ends_with_client=asked.ends_with_client,
            asks_title=thread.asks_title,
        )

    def _prepare(self, asked: RunInput, askers: Askers, thread: ThreadKey) -> Prepared:
        found = going_on_with(self._agents.find, asked, askers)
        choice, unavailable = choice_of(self._configuration, self._prepare_model, found, asked)
        return found, choice, Thread(key=thread) if asked.opens_thread else self._store.thread(thread), unavailable

    def _admitted(self, thread: Thread, asked: RunInput) -> Admitted:
        if not asked.resume:  # what a run has asked can be answered, so that it ends
            thread.require_room()
        admitted = self._arrivals.admit(thread.key.user_id, thread.messages, asked.sent, asked.unread)
        if not said(asked.sent) and not thread.messages:
            raise ValidationFailed.of("messages", "must hold a message of the user: the thread has none to answer")
        return admitted

    def _is_kept(self, user_id: UserId, admitted: Admitted) -> bool:
        """Store the attachments of a run's messages, after the run: a refused run leaves none. False: it failed."""
        try:
            self._library.keep(user_id, admitted.kept)
        except Upstream as exc:
            logger.error("run.attachments_not_kept", code=exc.code)
            return False
        return True

    async def _again(self, asking: Asking) -> Run | None:
        """Return the run that answers this request already, by its id or as the thread's active one, else None.

        The request may be a second click or a retry: a second run would, for example, move a device twice.

        Raises:
            RunExists: the run of its id answers another request.
            ThreadBusy: the active run answers another request, and its client waits for it.
            ThreadGone: the thread was deleted.
        """
        asked, thread, before = asking.asked, asking.thread, asking.before
        if thread.is_deleted:
            raise ThreadGone
        user_id = thread.key.user_id
        run = before
        if run is None and thread.active_run_id is not None:
            run = await asyncio.to_thread(self._store.run, RunKey(user_id, thread.active_run_id))
        if run is None:
            run = asking.questions.answered_by
            if run is not None and not asked.sent and run.status in asking.final_states(run.key):
                return run  # it has had all that this request brings
        if run is None:
            return None
        sent = await asyncio.to_thread(recognise, user_id, thread.messages, asked.sent, asked.unread)
        is_same = before is not None or run.agent_id == asking.agent.id
        repeats = partial(is_repeat, own=self.own_tools, said_to=asking.questions.said_to)
        if not is_same or not await asyncio.to_thread(repeats, run, thread, asked, sent):
            if before is not None:
                raise RunExists(asked.run_id)
            if asking.ends_active or asking.strategy is MultitaskStrategy.ENQUEUE:
                return None
            answers = bool(asked.resume)
            if answers or not await asyncio.to_thread(has_left, run, thread, asked, sent, own=self.own_tools):
                await self._replacement.ask_for_turn(thread, answers=answers)
            return None
        if before is not None or not await asyncio.to_thread(self.inspector.has_ended, run.key):
            return run
        ended = await asyncio.to_thread(self._store.run, run.key)
        return ended if ended is not None and ended.status in asking.final_states(run.key) else None

    async def _told(self, met: AppError, asking: Asking) -> AppError:
        """Return ThreadBusy with the thread's active run when others changed the thread first each time.

        A request that would wait is not refused for that run, and is told that it may come again at once.
        """
        if isinstance(met, ThreadChanged) and asking.strategy is not MultitaskStrategy.ENQUEUE:
            active = (await asyncio.to_thread(self._store.thread, asking.thread.key)).active_run_id
            if active is not None:
                return ThreadBusy(active)
        return met


async def _pause(attempt: int) -> None:
    pause_s = _PAUSE_S * min(2 ** (attempt - 1), _MOST_PAUSES)
    await asyncio.sleep(pause_s * random.uniform(0.5, 1))  # noqa: S311  so that two do not meet again
