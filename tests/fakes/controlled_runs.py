"""The part of the store of runs in memory by which requests control them; tests/fakes/runs.py has the rest."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime

from karma.conversations.domain import History, MakingWay, Message, Thread, ThreadChanged, ThreadKey, Turns
from karma.conversations.state import State
from karma.core.clock import iso
from karma.core.ids import AgentId, RunId, UserId
from karma.identity.transactional import AccountGone
from karma.runs.domain import (
    ACTIVE,
    MAX_PAUSE,
    OwnershipLost,
    Run,
    RunEnd,
    RunExists,
    RunKey,
    RunPause,
    RunStatus,
    Segment,
)
from karma.runs.interrupts import NOBODY, Answered, AnswerStatus, Interrupt, InterruptAnswer
from karma.runs.points import Earlier, Noted
from karma.runs.ports import ActivePage, Also, DelegatedWork, Expiring, ExpiringPage, StoredStep
from karma.runs.transitions import pause, resume
from karma.runs.wishes import AgentStop, Needs, Wish, Wishes, WishesChanged
from tests.fakes.requests import MemoryRequests
from tests.fakes.usage import MemoryUsage


def still_open(thread: Thread, how: RunEnd) -> tuple[str, ...]:
    """Return the open questions of a thread whose run ends."""
    if how.status in {RunStatus.FINISHED, RunStatus.INTERRUPTED}:
        return how.interrupt_ids
    return thread.interrupts if how.still_open is None else how.still_open


class ControlledRuns:
    """Runs in dictionaries, which the whole store fills."""

    fail: Callable[[str], Exception | None]
    interrupts_by_id: dict[str, Interrupt]
    put_off_until: dict[str, datetime]
    put_offs: dict[str, int]
    runs_by_key: dict[RunKey, Run]
    logs: dict[RunKey, dict[int, Segment]]
    wished: dict[RunKey, dict[Wish | AgentStop, str]]
    at_work: dict[tuple[RunKey, str], AgentId]
    threads: dict[ThreadKey, Thread]
    changed_at: dict[ThreadKey, datetime]
    steps: dict[tuple[RunKey, str, int], StoredStep]
    requests: MemoryRequests
    usage: MemoryUsage
    gone: set[UserId]
    attachments: dict[tuple[UserId, str], int]
    _keep: Callable[[History | None], None]
    _lock: threading.RLock

    def restore(
        self, thread: Thread, *, position: int, state: State | None = None, at: datetime, by: Noted | None = None
    ) -> None:
        self._meet("restore")
        if by is not None:
            self.requests.require_new(by.run.user_id, by.request)
        stored = self.threads.get(thread.key, Thread(key=thread.key))
        if stored.version != thread.version or stored.active_run_id is not None or stored.is_deleted:
            raise ThreadChanged
        kept = stored.state if state is None else state
        self.threads[thread.key] = replace(stored, restored_to=position, state=kept, version=stored.version + 1)
        if by is not None:
            self._note_restoring(by, Earlier(stored.next_message, stored.key.thread_id))

    def restored_by(self, by: Noted) -> Earlier | None:
        self._meet("restored_by")
        done = self.requests.noted(by.run.user_id, by.request)
        size, _, made_id = (done or "").partition("#")
        return Earlier(int(size), made_id) if done else None

    def noting(self, by: Noted, done: Earlier) -> Also:
        def also(_: object) -> None:
            self.requests.require_new(by.run.user_id, by.request)
            self._note_restoring(by, done)

        return also

    def _note_restoring(self, by: Noted, done: Earlier) -> None:
        self.requests.note(by.run.user_id, by.request, f"{done.size}#{done.made_id}")

    def _meet(self, name: str) -> None:
        failure = self.fail(name)
        if failure is not None:
            raise failure

    def _is_repeat(self, segment: Segment) -> bool:
        found = self.logs[segment.key].get(segment.n)
        if found is None:
            return False
        if found.writer != segment.writer or found.terminal != segment.terminal:
            raise OwnershipLost
        return True

    def _delegate(self, segment: Segment, delegated: DelegatedWork | None) -> None:
        """Store what a subagent has done; a step that is there already refuses all of the transaction."""
        if delegated is None:
            return
        for step in delegated.steps:
            key = (RunKey(segment.key.user_id, step.run_id), step.subagent, step.at)
            if key in self.steps:
                raise OwnershipLost
            self.steps[key] = step._replace(n=segment.n, epoch=segment.epoch)
        if delegated.begun is not None:
            self.at_work[segment.key, delegated.begun.subagent] = delegated.begun.agent_id
        self.at_work.pop((segment.key, delegated.ended), None)
        self.usage.adjust([delegated.spent] if delegated.spent else [])

    def delegated(self, key: RunKey) -> list[StoredStep]:
        self._meet("delegated")
        return [self.steps[each] for each in sorted(self.steps) if each[0] == key]

    def turns(self, key: ThreadKey) -> Turns:
        self._meet("turns")
        thread = self.threads.get(key, Thread(key=key))
        if thread.is_deleted:
            return Turns(None, ())
        return Turns(thread.active_run_id, thread.queue, thread.interrupts, self.changed_at.get(key))

    def make_way(self, thread: ThreadKey, run_id: RunId, *, at: datetime, needs: Needs | None = None) -> bool:
        self._meet("make_way")
        with self._lock:
            stored = self.threads.get(thread)
            if stored is None or stored.is_deleted or stored.active_run_id != run_id:
                return False
            if needs is not None:
                self._require(needs)
            self.threads[thread] = replace(stored, making_way=MakingWay(run_id, at), version=stored.version + 1)
            return True

    def _require(self, needs: Needs) -> None:
        if needs.run.user_id in self.gone:
            raise AccountGone(needs.run.user_id)
        if needs.run in self.runs_by_key:
            raise RunExists(needs.run.run_id)
        if any((needs.run.user_id, name) in self.attachments for name in needs.attachments):
            raise ThreadChanged
        self.usage.require(needs.reservations)

    def take_turn(
        self,
        run: Run,
        thread: Thread,
        messages: tuple[Message, ...],
        *,
        state: State | None = None,
        answers: Sequence[Answered] = (),
        left: Sequence[Interrupt] = (),
        at: datetime,
    ) -> None:
        self._meet("take_turn")
        with self._lock:
            stored = self.threads[thread.key]
            if self.runs_by_key[run.key].status is not RunStatus.QUEUED:
                raise OwnershipLost
            if stored.version != thread.version or stored.active_run_id is not None:
                raise ThreadChanged
            if any(self.interrupts_by_id[each.interrupt.id].answer != each.interrupt.answer for each in answers):
                raise ThreadChanged
            for each in answers:
                self.interrupts_by_id[each.interrupt.id] = replace(each.interrupt, answer=each.answer)
            queue = stored.queue[stored.queue.index(run.key.run_id) + 1 :]
            self.threads[thread.key] = replace(
                stored,
                active_run_id=run.key.run_id,
                queue=queue,
                making_way=None,
                version=stored.version + 1,
                interrupts=tuple(each.id for each in left),
            )
            self.runs_by_key[run.key] = run
            self.changed_at[thread.key] = at
            self._keep(History(thread.key, thread.next_message, messages, thread.latest, state=state))

    def pause(self, segment: Segment, how: RunPause) -> None:
        self._meet("pause")
        with self._lock:
            if self._is_repeat(segment):
                return
            wished = self.wished[segment.key]
            if Wish.PAUSE not in wished or Wish.CANCEL in wished:
                raise WishesChanged
            if self.runs_by_key[segment.key].status is not RunStatus.RUNNING:
                raise OwnershipLost
            del wished[Wish.PAUSE]
            self.logs[segment.key][segment.n] = segment
            self.runs_by_key[segment.key] = pause(self.runs_by_key[segment.key], how)
            self.usage.adjust([how.correction] if how.correction else [])

    def resume(self, segment: Segment, run: Run, *, at: datetime) -> None:
        self._meet("resume")
        with self._lock:
            if self._is_repeat(segment):
                return
            if self.runs_by_key[segment.key].status is not RunStatus.PAUSED:
                raise OwnershipLost
            self.logs[segment.key][segment.n] = segment
            self.runs_by_key[segment.key] = resume(run, at=at, epoch=segment.epoch)

    def paused_before(self, moment: datetime, *, limit: int) -> list[RunKey]:
        paused = [(run.paused_at, run.key) for run in self.runs_by_key.values() if run.paused_at is not None]
        return [key for at, key in sorted(paused) if at + MAX_PAUSE < moment][:limit]

    def expiring(self, before: datetime, *, limit: int, start: dict[str, str] | None = None) -> ExpiringPage:
        self._meet("expiring")
        open_ = [each for each in self.interrupts_by_id.values() if each.answer is None]
        listed = sorted((self.put_off_until.get(each.id, each.expires_at), each.key, each.n) for each in open_)
        places = [(f"{iso(until)}#{'#'.join(key)}#{n:02d}", key, n) for until, key, n in listed if until < before]
        behind = [each for each in places if start is None or each[0] > start["at"]]
        found = [Expiring(key, n, self.put_offs.get(f"{key.run_id}/{n}", 0)) for _, key, n in behind[:limit]]
        return ExpiringPage(found, {"at": behind[limit - 1][0]} if len(behind) > limit else None)

    def put_off(self, key: RunKey, n: int, *, until: datetime) -> None:
        self._meet("put_off")
        name = f"{key.run_id}/{n}"
        if name in self.interrupts_by_id and self.interrupts_by_id[name].answer is None:
            self.put_off_until[name] = until
            self.put_offs[name] = self.put_offs.get(name, 0) + 1

    def lapse(self, interrupt: Interrupt, *, at: datetime) -> bool:
        self._meet("lapse")
        with self._lock:
            stored = self.interrupts_by_id.get(interrupt.id)
            if stored is None or stored.answer is not None:
                return False
            answer = InterruptAnswer(status=AnswerStatus.CANCELLED, by=NOBODY, at=at)
            self.interrupts_by_id[interrupt.id] = replace(stored, answer=answer, lapsed_at=at)
            return True

    def _pass_over(self, how: RunEnd) -> None:
        for each in how.passed_over:
            found = self.interrupts_by_id[each.interrupt.id]
            assert found.is_open
            self.interrupts_by_id[found.id] = replace(found, answer=each.answer)

    def active(
        self, user_id: UserId, agent_id: AgentId, *, limit: int, start: dict[str, str] | None = None
    ) -> ActivePage:
        found = [
            run
            for run in self.runs_by_key.values()
            if run.key.user_id == user_id and run.agent_id == agent_id and run.status in ACTIVE
        ]
        found.sort(key=lambda run: (run.created_at, run.key.run_id))
        at = int(start["at"]) if start else 0
        more = at + limit < len(found)
        return ActivePage([run.key for run in found[at : at + limit]], {"at": str(at + limit)} if more else None)

    def with_work_of(
        self, user_id: UserId, agent_id: AgentId, *, limit: int, start: dict[str, str] | None = None
    ) -> ActivePage:
        self._meet("with_work_of")
        found = [key for (key, _), agent in self.at_work.items() if key.user_id == user_id and agent == agent_id]
        at = int(start["at"]) if start else 0
        return ActivePage(found[at : at + limit], {"at": str(at + limit)} if found[at + limit :] else None)

    def withdraw(self, key: RunKey, wish: Wish) -> bool:
        self._meet("withdraw")
        return self.wished[key].pop(wish, None) is not None

    def wish(self, key: RunKey, wish: Wish | AgentStop, *, at: datetime, reason: str = "") -> bool:
        self._meet("wish")
        with self._lock:
            run = self.runs_by_key.get(key)
            heard = {RunStatus.RUNNING, RunStatus.PAUSED} if isinstance(wish, AgentStop) else {RunStatus.RUNNING}
            if run is None or run.status not in heard:
                return False
            self.wished[key].setdefault(wish, reason)
            return True

    def wishes(self, key: RunKey) -> Wishes:
        self._meet("wishes")
        return dict(self.wished.get(key, {}))
