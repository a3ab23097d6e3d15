"""Going back to points before and behind a summary: before it the whole conversation is there again."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from functools import partial

import pytest

from karma.conversations.domain import Conversation, ThreadKey
from karma.models.ports import ModelEvent, ModelRequest
from karma.runs.checkpoints import CheckpointService
from karma.runs.domain import CheckpointKind, RunStatus
from karma.runs.modifications import Modifications
from karma.runs.points import RunPoint, write_point_id
from tests.fakes.checkpoints import MemoryCheckpoints
from tests.fakes.runs import KeptFrames, caller
from tests.support.forks import execute, forks
from tests.support.lost_runs import KEY, THREAD, Forgetful, Life, World, begin, live
from tests.support.run_world import asked, user


class Remembering(Forgetful):
    """Reads everything, so that no further summary is made."""

    READS = 10**6

    def __init__(self, life: Life) -> None:
        super().__init__(life)
        self.requests: list[ModelRequest] = []

    async def stream(self, request: ModelRequest) -> AsyncGenerator[Sequence[ModelEvent]]:
        self.requests.append(replace(request, messages=tuple(request.messages)))
        async for batch in super().stream(request):
            yield batch


@pytest.fixture
def world() -> World:
    world = World(forgets=True)
    begin(world, Life(None))
    assert world.summaries() == 1
    return world


def points(world: World) -> list[RunPoint]:
    return CheckpointService(world.store, MemoryCheckpoints(world.store), world.clock).page(
        KEY.user_id, KEY.run_id, limit=100
    )


def conversation(world: World, key: ThreadKey = THREAD) -> Conversation:
    thread = world.store.thread(key)
    return thread.conversation(thread.latest)


def is_summarised(request: ModelRequest) -> bool:
    return "turns=" in str(request.messages[0].content)


def test_the_points_of_a_run_name_the_summary(world: World) -> None:
    kinds = [point.kind for point in points(world)]

    at = kinds.index(CheckpointKind.COMPACTION)
    assert kinds[at - 1] is CheckpointKind.TOOLS
    assert points(world)[at].description == "After the conversation was summarised"
    assert points(world)[at].messages == points(world)[at - 1].messages


@pytest.mark.fault("F-06h")
def test_a_fork_from_before_a_summary_has_the_whole_conversation_again_and_one_from_behind_has_it(world: World) -> None:
    told = world.told()
    is_behind = False
    for point in points(world):
        is_behind |= point.kind is CheckpointKind.COMPACTION
        run = forks(world).fork(caller(), write_point_id(point.id), Modifications(), key=None).run
        model = Remembering(Life(None))
        live(partial(world.executor(Life(None), model=model).go_on, run.key))

        key = ThreadKey(KEY.user_id, run.thread_id)
        found = conversation(world, key)
        assert (found.compacted is not None) == is_behind
        assert [str(each.content) for each in found.messages] == [words for _, words, _ in told]
        assert all(is_summarised(request) == is_behind for request in model.requests)
        assert world.store.runs_by_key[run.key].status is RunStatus.FINISHED


@pytest.mark.parametrize("as_run", [False, True])
def test_a_thread_that_is_restored_to_before_a_summary_goes_on_with_the_whole_conversation(
    world: World, as_run: bool
) -> None:
    for point in points(world):
        at = points(world)
        is_behind = at.index(point) >= next(n for n, each in enumerate(at) if each.kind is CheckpointKind.COMPACTION)
        model = Remembering(Life(None))
        name = write_point_id(point.id)
        if as_run:
            run = forks(world).restore_as_run(caller(), name, Modifications(), key=None).run
            assert run is not None
            live(partial(world.executor(Life(None), model=model).go_on, run.key))
        else:
            forks(world).in_place.restore(caller(), name, Modifications())
            request = asked(user("And then?"), run=f"after-{point.id.n}")

            async def go(model: Remembering = model, request: object = request) -> None:
                started = await world.service(Life(None), model=model).start(caller(), request)  # type: ignore[arg-type]
                await started.execute(KeptFrames())

            live(go)
        assert model.requests
        assert all(is_summarised(request) == is_behind for request in model.requests)


def test_a_fork_that_changes_what_a_summary_stands_for_is_shown_all_of_it(world: World) -> None:
    point = points(world)[-1]
    first = conversation(world).messages[0]

    changed = Modifications(messages={first.id: "Something else."})
    run = forks(world).fork(caller(), write_point_id(point.id), changed, key=None).run

    found = conversation(world, ThreadKey(KEY.user_id, run.thread_id))
    assert found.compacted is None
    assert found.messages[0].content == "Something else."
    # One that changes what came after keeps it.
    kept = forks(world).fork(caller(), write_point_id(point.id), Modifications(message="More?"), key=None).run
    assert conversation(world, ThreadKey(KEY.user_id, kept.thread_id)).compacted is not None


def test_a_fork_of_a_summarised_conversation_is_executed_by_whoever_takes_it(world: World) -> None:
    point = points(world)[-1]
    run = forks(world).fork(caller(), write_point_id(point.id), Modifications(message="More?"), key=None).run

    execute(world, run.key)

    assert world.store.runs_by_key[run.key].status is RunStatus.FINISHED
