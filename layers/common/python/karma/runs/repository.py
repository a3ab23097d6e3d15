"""Store of runs, their logs and threads in the table `agents`; items.py has the access patterns."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from types import MappingProxyType

from pynamodb.expressions.update import Action

from karma.billing.allowances import Adjustment, Reservation
from karma.billing.transactional import adjust_usage, reserve_usage
from karma.conversations.domain import History, Json, Message, Thread, ThreadChanged, ThreadKey
from karma.conversations.reading import read_thread
from karma.conversations.state import State
from karma.conversations.transactional import (
    add_messages,
    occupy_thread,
    queue_run,
    release_thread,
)
from karma.core.clock import iso
from karma.core.dynamo.access import batch_get, count, get, put, query
from karma.core.dynamo.failures import ConditionFailed
from karma.core.dynamo.items import Key
from karma.core.dynamo.transaction import Transaction
from karma.core.dynamo.work import query_work
from karma.core.errors import Conflict
from karma.core.ids import AgentId, RunId, UserId
from karma.identity.transactional import AccountGone, require_account
from karma.models.told_usage import usage_of
from karma.runs.active_repository import RunActiveRepository, unlist_work
from karma.runs.attachment_repository import name_results, note_attachments
from karma.runs.domain import (
    MAX_PAUSE,
    Checkpoint,
    OwnershipLost,
    Run,
    RunEnd,
    RunExists,
    RunKey,
    RunPause,
    RunStatus,
    Segment,
)
from karma.runs.interrupt_repository import RunInterruptRepository, note_answers, note_questions
from karma.runs.interrupts import Answered, Interrupt
from karma.runs.items import (
    ACTIVE_SK,
    ATTACHMENT,
    CHECKPOINT,
    CONTROL,
    HEAD,
    LISTED,
    PAUSE,
    PAUSED_PK,
    SEGMENT,
    SETUP,
    ActiveItem,
    AttachmentItem,
    CheckpointItem,
    ControlItem,
    PauseItem,
    RunCounterItem,
    RunItem,
    RunOwnerItem,
    RunsItem,
    SegmentItem,
    SetupItem,
    agent_runs_pk,
    list_position,
    parse_run_id_pk,
    parse_run_pk,
    paused_sk,
    run_id_pk,
    run_pk,
    segment_sk,
    setup_sk,
    user_pk,
)
from karma.runs.log_repository import RunLogRepository, put_delegated, put_steps
from karma.runs.ports import Also, DelegatedWork, RunPage, StoredStep
from karma.runs.restore_repository import RunRestoreRepository
from karma.runs.stored import (
    as_json,
    budgets_json,
    checkpoint_item,
    checkpoint_of,
    pieces,
    present,
    run_of,
    segment_item,
    segment_of,
)
from karma.runs.transitions import resume
from karma.runs.turn_repository import RunTurnRepository, put_run
from karma.runs.wish_repository import RunWishRepository
from karma.runs.wishes import Wish, WishesChanged


class RunRepository(
    RunActiveRepository,
    RunInterruptRepository,
    RunLogRepository,
    RunRestoreRepository,
    RunTurnRepository,
    RunWishRepository,
):
    """Runs over DynamoDB."""

    def thread(self, key: ThreadKey) -> Thread:
        """See Runs; one Query a megabyte.

        Raises:
            ThreadChanged: the thread is being written, and each of three reads saw part of a write.
        """
        thread = read_thread(key)
        if thread is None:
            raise ThreadChanged
        return thread

    def start(
        self,
        run: Run,
        *,
        thread: Thread,
        segment: Segment,
        messages: tuple[Message, ...],
        setup: bytes = b"",
        after: int | None = None,
        checkpoint: Checkpoint | None = None,
        attachments: Mapping[str, int] = MappingProxyType({}),
        reservations: Sequence[Reservation] = (),
        answers: Sequence[Answered] = (),
        left: Sequence[Interrupt] = (),
        state: State | None = None,
        delegated: Sequence[StoredStep] = (),
        also: Also | None = None,
    ) -> None:
        """See Runs; one transaction."""
        tx = Transaction()
        require_account(tx, run.key.user_id)
        now, exists = iso(run.created_at), RunExists(run.key.run_id)
        put_run(tx, run, thread, on_fail=exists)
        tx.put(segment_item(segment), on_fail=exists)
        for part, piece in enumerate(pieces(setup)):
            tx.put(SetupItem(run_pk(run.key), setup_sk(part), data=piece), on_fail=exists)
        if checkpoint is not None:
            tx.put(checkpoint_item(run.key, checkpoint), on_fail=exists)
        put_steps(tx, segment, delegated)
        changed = ThreadChanged()
        if run.status is RunStatus.QUEUED:
            queue_run(tx, thread, run_id=run.key.run_id, at=now, on_fail=changed)
        else:
            history = History(thread.key, thread.next_message, messages, after, state)
            occupy_thread(
                tx,
                thread,
                run_id=run.key.run_id,
                agent_id=run.agent_id,
                history=history,
                interrupts=[each.id for each in left],
                restores=checkpoint is not None,
                at=now,
                on_fail=changed,
            )
            note_answers(tx, answers, on_fail=changed)
            add_messages(tx, history, at=now, on_fail=changed)
        note_attachments(tx, thread.key, messages, new=attachments, steps=delegated, at=now, on_fail=changed)
        tx.upsert(RunCounterItem(user_pk(run.key.user_id), "COUNTER#runs"), [RunCounterItem.value.add(1)])
        # After the rest, so that a repeat fails with RunExists, not because this run has used up the plan.
        reserve_usage(tx, reservations)
        if also is not None:
            also(tx)
        tx.commit()

    def unkept(self, user_id: UserId, attachments: Collection[str]) -> list[str]:
        """See Runs; one Get each."""
        keys = {name: Key(user_pk(user_id), f"{ATTACHMENT}{name}") for name in attachments}
        return [name for name, key in keys.items() if get(AttachmentItem, key, consistent=True) is None]

    def append(
        self,
        segment: Segment,
        *,
        history: History | None = None,
        checkpoint: Checkpoint | None = None,
        delegated: DelegatedWork | None = None,
    ) -> None:
        """See Runs; one put, or one transaction with what is written beside it."""
        try:
            if history is None and checkpoint is None and delegated is None:
                put(segment_item(segment))
                return
            tx = Transaction()
            tx.put(segment_item(segment))
            if history is not None:
                add_messages(tx, history, at=iso(segment.lease_until))
            if checkpoint is not None:
                tx.put(checkpoint_item(segment.key, checkpoint))
            if delegated is not None:
                put_delegated(tx, segment, delegated)
            name_results(tx, history, delegated, at=iso(segment.lease_until))
            tx.commit()
        except ConditionFailed:
            self._require_mine(segment)

    def take(self, reservation: Reservation, *, token: str | None = None) -> None:
        """See Runs; one transaction."""
        tx = Transaction(token=token)
        require_account(tx, reservation.user_id)
        reserve_usage(tx, [reservation])
        tx.commit()

    def settle(self, correction: Adjustment) -> None:
        """See Runs; one transaction, none where nothing is to be corrected."""
        if not correction.difference:
            return
        tx = Transaction()
        require_account(tx, correction.user_id)
        adjust_usage(tx, [correction])
        with suppress(AccountGone):
            tx.commit()

    def extend(self, key: RunKey, reservation: Reservation) -> None:
        """See Runs; one transaction, so that a repeat by the SDK counts once."""
        tx = Transaction()
        reserve_usage(tx, [reservation])
        added = [RunItem.reserved_micros.add(reservation.amount)]
        tx.update(RunItem(run_pk(key), HEAD), added, RunItem.status == RunStatus.RUNNING.value)
        try:
            tx.commit()
        except ConditionFailed:
            raise OwnershipLost(f"run {key.run_id} has ended") from None

    def setup(self, key: RunKey) -> bytes | None:
        """See Runs; one Query a megabyte."""
        parts: list[bytes] = []
        start = None
        while True:
            page = query(RunsItem, run_pk(key), RunsItem.sk.startswith(SETUP), limit=100, start=start)
            parts += [item.data for item in page.items if isinstance(item, SetupItem)]
            start = page.last
            if start is None:
                return b"".join(parts) or None

    def last_checkpoint(self, key: RunKey) -> Checkpoint | None:
        """See Runs; one Query."""
        found = RunsItem.sk.startswith(CHECKPOINT)
        page = query(RunsItem, run_pk(key), found, limit=1, forward=False, consistent=True)
        return next((checkpoint_of(item) for item in page.items if isinstance(item, CheckpointItem)), None)

    def finish(self, segment: Segment, how: RunEnd, *, thread: ThreadKey, history: History | None = None) -> None:
        """See Runs; one transaction."""
        now = iso(how.at)
        tx = Transaction()
        for each in (how.withdrawal, segment):
            if each is not None:
                tx.put(segment_item(each))
        run = RunItem(run_pk(segment.key), HEAD)
        actions: list[Action] = [
            RunItem.status.set(how.status.value),
            RunItem.finished_at.set(now),
            RunItem.updated_at.set(now),
            RunItem.turns.set(how.turns),
            RunItem.paused_at.remove(),
        ]
        actions += [RunItem.error_code.set(how.error_code)] if how.error_code else []
        actions += [RunItem.cancel_reason.set(how.cancel_reason)] if how.cancel_reason else []
        actions += [RunItem.stop_reason.set(how.stop_reason)] if how.stop_reason else []
        actions += [RunItem.steps.set(how.steps)] if how.steps != how.turns else []
        if how.pending_tool_call_ids:
            actions.append(RunItem.pending_tool_call_ids.set(as_json(list(how.pending_tool_call_ids))))
        if how.interrupts:
            actions.append(RunItem.interrupt_ids.set(as_json(list(how.interrupt_ids))))
        if how.last_message >= 0:
            actions.append(RunItem.last_message.set(how.last_message))
        actions += _usage_actions(how.usages)
        actions += [RunItem.cost_micros.set(how.cost_micros)] if how.cost_micros is not None else []
        actions += [RunItem.response.set(how.response)] if how.response is not None else []
        actions += [RunItem.delegated.set(as_json(list(how.delegated)))] if how.delegated else []
        tx.update(run, actions, RunItem.status == how.was.value)
        # Created where it is absent: a run of an earlier release has none.
        active = ActiveItem(run_pk(segment.key), ACTIVE_SK)
        tx.upsert(active, [ActiveItem.gsi1pk.remove(), ActiveItem.gsi1sk.remove()])
        if how.was is RunStatus.PAUSED:
            tx.update(PauseItem(run_pk(segment.key), PAUSE), [PauseItem.gsi1pk.remove(), PauseItem.gsi1sk.remove()])
        if how.was is not RunStatus.QUEUED:  # which leaves its thread's queue with the next one whose turn comes
            asks = how.interrupt_ids if how.status in {RunStatus.FINISHED, RunStatus.INTERRUPTED} else how.still_open
            key = segment.key.run_id
            spent = (how.spent.tokens, how.spent.cost_micros)
            release_thread(tx, thread, run_id=key, last_message=how.last_message, spent=spent, interrupts=asks, at=now)
        note_questions(tx, segment.key, how, at=now)
        if history is not None:
            add_messages(tx, history, at=now)
            name_results(tx, history, at=now)
        adjust_usage(tx, [*([how.correction] if how.correction else ()), *how.of_days])
        unlist_work(tx, segment.key, how.left)
        try:
            tx.commit()
        except ConditionFailed:
            self._require_mine(segment)

    def pause(self, segment: Segment, how: RunPause) -> None:
        """See Runs; one transaction."""
        key, now = run_pk(segment.key), iso(how.at)
        changed = Conflict("")
        tx = Transaction()
        cancelling = Key(key, f"{CONTROL}{Wish.CANCEL.value}")
        tx.check(ControlItem, cancelling, ControlItem.pk.does_not_exist(), on_fail=changed)
        wished = ControlItem(key, f"{CONTROL}{Wish.PAUSE.value}")
        tx.delete(wished, ControlItem.pk.exists(), on_fail=changed)
        tx.put(segment_item(segment))
        actions: list[Action] = [
            RunItem.status.set(RunStatus.PAUSED.value),
            RunItem.paused_at.set(now),
            RunItem.updated_at.set(now),
            RunItem.turns.set(how.turns),
        ]
        actions += _usage_actions(how.usages)
        if how.cost_micros is not None:
            actions.append(RunItem.cost_micros.set(how.cost_micros))
        actions += [RunItem.delegated.set(as_json(list(how.delegated)))] if how.delegated else []
        if how.correction is not None:
            actions.append(RunItem.reserved_micros.add(how.correction.difference))
            adjust_usage(tx, [how.correction])
        tx.update(RunItem(key, HEAD), actions, RunItem.status == RunStatus.RUNNING.value)
        until = paused_sk(segment.key, how.at + MAX_PAUSE)
        tx.upsert(PauseItem(key, PAUSE), [PauseItem.gsi1pk.set(PAUSED_PK), PauseItem.gsi1sk.set(until)])
        try:
            tx.commit()
        except (ConditionFailed, Conflict) as exc:
            if exc is changed and self._segment(segment) is None:
                raise WishesChanged(f"run {segment.key.run_id} is not to be paused any more") from None
            self._require_mine(segment)

    def resume(self, segment: Segment, run: Run, *, at: datetime) -> None:
        """See Runs; one transaction."""
        key, resumed = run_pk(segment.key), resume(run, at=at, epoch=segment.epoch)
        tx = Transaction()
        tx.put(segment_item(segment))
        actions: list[Action] = [
            RunItem.status.set(resumed.status.value),
            RunItem.paused_at.remove(),
            RunItem.paused_ms.set(resumed.paused_ms),
            RunItem.resumed_epoch.set(resumed.resumed_epoch),
            RunItem.budgets.set(budgets) if (budgets := budgets_json(run)) else RunItem.budgets.remove(),
            RunItem.turns.set(0),
            RunItem.usage.remove(),
            RunItem.usages.remove(),
            RunItem.cost_micros.remove(),
            RunItem.delegated.remove(),
            RunItem.updated_at.set(iso(at)),
        ]
        tx.update(RunItem(key, HEAD), actions, RunItem.status == RunStatus.PAUSED.value)
        tx.update(PauseItem(key, PAUSE), [PauseItem.gsi1pk.remove(), PauseItem.gsi1sk.remove()])
        try:
            tx.commit()
        except ConditionFailed:
            self._require_mine(segment)

    def paused_before(self, moment: datetime, *, limit: int) -> list[RunKey]:
        """See Runs; one Query of the index."""
        before = RunsItem.gsi1sk < iso(moment)
        return query_work(RunsItem, PAUSED_PK, before, lambda item: parse_run_pk(item.pk), limit=limit).items

    def tail(self, key: RunKey) -> Segment | None:
        """See Runs; one Query."""
        page = query(
            RunsItem,
            run_pk(key),
            RunsItem.sk.startswith(SEGMENT),
            limit=1,
            forward=False,
            consistent=True,
        )
        return next((segment_of(item) for item in page.items if isinstance(item, SegmentItem)), None)

    def segments(self, key: RunKey, *, after: int, limit: int) -> list[Segment]:
        """See Runs; one Query."""
        page = query(RunsItem, run_pk(key), RunsItem.sk > segment_sk(after), limit=limit, consistent=True)
        return [segment_of(item) for item in page.items if isinstance(item, SegmentItem)]

    def run(self, key: RunKey) -> Run | None:
        """See Runs; one Get."""
        return present(get(RunItem, Key(run_pk(key), HEAD), consistent=True))

    def versioned(self, key: RunKey) -> tuple[Run, int] | None:
        """Read a run as `run` does, with the version of its item, which each change makes higher."""
        item = get(RunItem, Key(run_pk(key), HEAD), consistent=True)
        return (run_of(item), int(item.version)) if item is not None and not item.deleted_at else None

    def runs(
        self, user_id: UserId, *, limit: int, start: dict[str, str] | None, agent_id: AgentId | None = None
    ) -> RunPage:
        """See Runs; one Query of the index, and for an agent's runs one BatchGet a hundred of them."""
        page = query(
            RunsItem,
            user_pk(user_id) if agent_id is None else agent_runs_pk(user_id, agent_id),
            RunsItem.gsi1sk.startswith(LISTED),
            limit=limit,
            forward=False,
            start=start,
            index=RunsItem.gsi1,
        )
        position = partial(list_position, of_agent=agent_id is not None)
        if agent_id is None:
            found = [run_of(item) for item in page.items if isinstance(item, RunItem)]
            return RunPage(found, page.last, position)
        keys = [
            Key(run_pk(RunKey(user_id, parse_run_id_pk(item.pk))), HEAD)
            for item in page.items
            if isinstance(item, RunOwnerItem)
        ]
        stored = batch_get(RunItem, keys)
        return RunPage([run_of(stored[key]) for key in keys if key in stored], page.last, position)

    def count(self, user_id: UserId) -> int:
        """See Runs; one Get."""
        item = get(RunCounterItem, Key(user_pk(user_id), "COUNTER#runs"))
        return int(item.value) if item else 0

    def count_of_agent(self, user_id: UserId, agent_id: AgentId, *, most: int) -> int:
        """See Runs; one Query of the index."""
        listed = RunsItem.gsi1sk.startswith(LISTED)
        return count(RunsItem, agent_runs_pk(user_id, agent_id), listed, most=most, index=RunsItem.gsi1)

    def owners(self, run_id: RunId) -> list[UserId]:
        """See Runs; one Query."""
        page = query(RunsItem, run_id_pk(run_id), limit=100)
        return [UserId(item.user_id) for item in page.items if isinstance(item, RunOwnerItem)]

    def _segment(self, like: Segment) -> SegmentItem | None:
        return get(SegmentItem, Key(run_pk(like.key), segment_sk(like.n)), consistent=True)

    def _require_mine(self, segment: Segment) -> None:
        # A write whose answer was lost is sent again by the SDK, and then meets itself.
        found = self._segment(segment)
        if found is None or found.writer != segment.writer or bool(found.terminal) != segment.terminal:
            raise OwnershipLost(f"segment {segment.n} of run {segment.key.run_id} is another writer's")


def _usage_actions(usages: Sequence[Json]) -> list[Action]:
    actions: list[Action] = [RunItem.usage.set(as_json(usage_of(usages)))] if usages else []
    return [*actions, RunItem.usages.set(as_json(list(usages)))] if len(usages) > 1 else actions
