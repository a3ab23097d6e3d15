"""Lists what waits for a person who comes back: the open questions of all their threads, and the runs of one of them.

A thread's item names its open questions, and stands in the list of threads anyway: nothing is stored for this.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import islice
from typing import NamedTuple, Protocol

from karma.conversations.domain import ThreadHead, ThreadKey, ThreadPlace
from karma.core.clock import Clock
from karma.core.errors import NotFound
from karma.core.ids import AgentId, RunId, UserId
from karma.runs.domain import Run
from karma.runs.interrupts import Interrupt
from karma.threads.domain import MAX_EXAMINED
from karma.threads.ports import Threads

_READ = 100
"""Threads that one call reads."""


class Questions(Protocol):
    """Reads questions: karma.runs.repository."""

    def interrupts(self, user_id: UserId, ids: Collection[str]) -> dict[str, Interrupt]:
        """Read questions of a user's runs by id, consistently; those that do not exist are left out. Blocks."""


class FoundRun(Protocol):
    """A run of a thread, as karma.runs.removal_repository finds it."""

    @property
    def run(self) -> Run: ...  # noqa: D102
    @property
    def is_unlisted(self) -> bool: ...  # noqa: D102


class RunsOfThread(Protocol):
    """Runs by thread: karma.runs.removal_repository.RunRemovalRepository."""

    def runs(self, thread: ThreadKey, *, newest: RunId | None) -> Iterator[FoundRun]: ...  # noqa: D102


class QuestionPlace(NamedTuple):
    """Place of a question in its owner's list, behind which the next page begins.

    It stays right when questions before it are answered meanwhile, by which its thread loses their names and moves up.
    """

    thread: ThreadPlace
    """Thread behind which the list goes on."""
    question: str = ""
    """Id of the thread's last question that was looked at, behind which others may follow; "": all were."""


class QuestionPage(NamedTuple):
    """One page of open questions."""

    questions: list[tuple[ThreadHead, Interrupt]]
    last: QuestionPlace | None
    """Place at which the next page begins; None: there is none."""


class WaitingService:
    """Lists of what goes on in threads, for their owners."""

    def __init__(self, threads: Threads, questions: Questions, runs: RunsOfThread, clock: Clock) -> None:
        self._threads = threads
        self._questions = questions
        self._runs = runs
        self._clock = clock

    def questions(
        self, user_id: UserId, *, limit: int, start: QuestionPlace | None = None, agent_id: AgentId | None = None
    ) -> QuestionPage:
        """List questions that wait for an answer, by thread, the newest activity first; by id within a thread.

        One that expired is none of them. With `agent_id` those of threads whose newest run is its. A page looks
        at `MAX_EXAMINED` threads at the most, in calls of a hundred, and may so be short, or empty.
        """
        found: list[tuple[ThreadHead, Interrupt]] = []
        at, examined = start, 0
        if start is not None and start.question:
            # By name: an answer begins a run, by which the thread moves up.
            head = self._threads.get(ThreadKey(user_id, start.thread.thread_id))
            for question in self._open(head, agent_id, behind=start.question):
                if len(found) == limit:
                    return QuestionPage(found, at)
                found.append(question)
                at = QuestionPlace(start.thread, question[1].id)
            at = QuestionPlace(start.thread)
        while examined < MAX_EXAMINED:
            heads = self._threads.page(user_id, limit=_READ, below=at.thread if at else None)
            for head in heads:
                for question in self._open(head, agent_id):
                    if len(found) == limit:
                        return QuestionPage(found, at)
                    found.append(question)
                    at = QuestionPlace(head.place, question[1].id)
                at = QuestionPlace(head.place)
            examined += len(heads)
            if len(heads) < _READ:
                return QuestionPage(found, None)
        return QuestionPage(found, at)

    def _open(
        self, head: ThreadHead | None, agent_id: AgentId | None, *, behind: str = ""
    ) -> Iterator[tuple[ThreadHead, Interrupt]]:
        now = self._clock.now()
        if head is None or head.is_over(now) or agent_id not in {None, head.agent_id}:
            return
        names = [name for name in sorted(head.interrupts, key=_order) if _order(name) > _order(behind)]
        read = self._questions.interrupts(head.key.user_id, names) if names else {}
        for question in filter(None, map(read.get, names)):
            if question.answer is None and not question.is_expired(now):
                yield head, question

    def runs(self, key: ThreadKey, *, limit: int, first: RunId | None = None) -> list[Run]:
        """List a thread's runs, the newest first, from one on; one Get each.

        Raises:
            NotFound: the owner has no such thread.
        """
        head = self._threads.get(key)
        if head is None or head.is_over(self._clock.now()):
            raise NotFound("Thread not found")
        found = self._runs.runs(key, newest=first or head.last_run_id)
        return [each.run for each in islice((each for each in found if not each.is_unlisted), limit)]


def _order(interrupt_id: str) -> tuple[str, int, str]:
    """Return what sorts questions of a thread: their run's id, and then their number."""
    run_id, _, number = interrupt_id.rpartition("/")
    return run_id, len(number), number
