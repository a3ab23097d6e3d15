"""Declarations of threads for the tests of all rings; see tests/support/contexts.py."""

from __future__ import annotations

from collections.abc import Mapping

from karma.conversations.domain import MAX_TITLE_CHARS
from karma.conversations.repository import ThreadRepository
from karma.core.ids import new_id
from tests.contexts.runs import RunRows, record
from tests.integration.permissions.world import Objects, World
from tests.support.contexts import Pages, Scenarios, made


class ThreadRows(RunRows):
    def __init__(self) -> None:
        super().__init__()
        self.threads = ThreadRepository()


SCENARIOS = Scenarios[ThreadRows](
    ThreadRows,
    {
        "ThreadRepository.get": made(lambda r: r.running, lambda r, _: r.threads.get(r.thread_key)),
        "ThreadRepository.page": made(lambda r: r.running, lambda r, _: r.threads.page(r.ada.id, limit=5, below=None)),
    },
)


def _thread(world: World, owner: str, _: Mapping[str, str]) -> str:
    run_id = new_id()
    record(world.person(owner).id, run_id)
    return f"thread-of-{run_id}"


OBJECTS: Objects = {"thread_id": _thread}

PAGES: Pages = {"threads": (100, 6 * MAX_TITLE_CHARS + 4_000)}
