"""Segments in a real bucket over a real table: made by their function, read by others, and gone with accounts."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from infra.catalog import FunctionName
from karma.core.clock import SystemClock, monotonic
from karma.core.ids import UserId, new_id
from karma.core.purge import PurgeAttempt
from karma.integrations.s3_segments import S3Segments
from karma.integrations.tantivy.engine import TantivyEngine
from karma.search.ports import SearchHead
from karma.search.purge import SearchPurge
from karma.search.repository import SearchRepository
from karma.search.segments.building import BUILD_TIME, BuildOutcome, SegmentBuilder
from karma.search.service import SearchAnswer, SearchRequest, SearchService
from tests.contexts.search import stamped
from tests.fakes.runs import SetClock
from tests.integration.background.test_hostile import BODIES
from tests.support.accounts import open_account
from tests.support.recorded_calls.recorder import at_work
from tests.support.rows import NOW
from tests.support.stack import Context, Drain, SqsEvent, Stack

Handle = Callable[[list[str]], list[str]]


@pytest.fixture(autouse=True)
def segments_function(stack: Stack) -> None:
    import segments.handler  # noqa: F401  before use(): it clears what the module keeps

    stack.use("segments")


@pytest.fixture
def handle(lambda_context: Context, sqs_event: SqsEvent) -> Handle:
    def call(bodies: list[str]) -> list[str]:
        from segments.handler import lambda_handler

        failures: Any = lambda_handler(sqs_event(bodies), lambda_context)["batchItemFailures"]
        return [each["itemIdentifier"] for each in failures]

    return call


class Account:
    """An account with a dozen objects, which is large enough here."""

    def __init__(self, stack: Stack) -> None:
        from segments.handler import services

        services()  # names the tables
        self.stack, self.id = stack, UserId(new_id())
        self.rows, self.objects, self.clock = SearchRepository(), S3Segments(stack.bucket), SetClock(datetime.now(UTC))
        open_account(self.id)
        self.write({n: f"pump {n}" for n in range(1, 13)})

    def write(self, names: dict[int, str | None], *, sequence: int = 1) -> None:
        changes = [
            stamped(self.id, n, sequence=sequence, name=name or "", removed=name is None, kind="device")
            for n, name in names.items()
        ]
        assert self.rows.write(self.id, changes, at=self.clock.now()) == len(changes)

    def head(self) -> SearchHead:
        return self.rows.head(self.id)

    def build(self, *, dies_at: int = 99, instead_of: str | None = None) -> BuildOutcome:
        segment = self.head().segment
        seen = (segment.id if segment else "") if instead_of is None else instead_of
        left = [dies_at]
        rows, objects = _Dying(self.rows, left), _Dying(self.objects, left)
        with at_work(FunctionName.SEGMENTS):
            builder = SegmentBuilder(rows, TantivyEngine(), objects, self.clock, above=10)
            return builder.build(self.id, instead_of=seen)

    def stored(self) -> list[str]:
        """Return the ids of segments in the bucket, with all their versions."""
        prefix = f"segments/{self.id}/"
        listed = self.stack.aws("s3").list_object_versions(Bucket=self.stack.bucket, Prefix=prefix)
        found = [*listed.get("Versions", []), *listed.get("DeleteMarkers", [])]
        return sorted(each["Key"].removeprefix(prefix) for each in found)


class _Dying:
    def __init__(self, given: object, left: list[int]) -> None:
        self._given, self._left = given, left

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._given, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            result = method(*args, **kwargs)
            self._left[0] -= 1
            if self._left[0] < 0:
                raise KeyboardInterrupt
            return result

        return call


@pytest.fixture
def large(stack: Stack) -> Account:
    return Account(stack)


def search(service: SearchService, large: Account, query: str) -> SearchAnswer:
    return service.search(large.id, SearchRequest(query=query, types=["device"], limit=20))


def names(answer: SearchAnswer) -> list[str]:
    return sorted(hit.row.text.name for hit in answer.found.hits)


@pytest.mark.req("R-C-31")
@pytest.mark.parametrize("function", ["agent_stream", "agent_stream.execution", "api"])
def test_each_function_that_searches_reads_a_segment_and_asks_for_another_one_where_it_is_gone(
    large: Account, drain: Drain, function: str
) -> None:
    assert large.build() is BuildOutcome.PUBLISHED
    large.write({3: "valve", 4: None}, sequence=2)
    large.stack.use(function)
    with at_work(FunctionName(function)):
        service = _service(function)
        answer = search(service, large, "pump")
        assert (answer.in_segment, answer.is_complete, answer.searched, answer.found.total) == (True, True, 11, 10)
        assert names(search(service, large, "valve")) == ["valve"]
        assert names(search(service, large, '"pump 3"')) == []
    segment = large.head().segment
    assert segment is not None
    large.objects.remove(large.id, segment.id)
    large.stack.use(function)
    with at_work(FunctionName(function)):
        answer = search(_service(function), large, "pump")
    assert (answer.in_segment, answer.found.total) == (False, 10)
    [body] = [each["Body"] for each in drain(large.stack.queues["segments"])]
    assert json.loads(body) == {"user_id": large.id, "instead_of": segment.id}


def _service(function: str) -> SearchService:
    if function == "api":
        from api.services import search as composed

        return composed.service()
    from agent_stream import services
    from agent_stream.finding import finder

    return finder(services.execution_settings(), SystemClock())


@pytest.mark.req("R-C-31")
def test_a_segment_is_replaced_and_what_another_builder_left_goes(large: Account) -> None:
    for calls in range(8):
        left = large.head().segment
        large.write({1: f"pump, {calls}"}, sequence=calls + 2)
        large.clock.at += BUILD_TIME
        try:
            large.build(dies_at=calls)
        except KeyboardInterrupt:
            after = large.head().segment
            assert after is None or after.id in large.stored()
            assert left is None or (after is not None and after.id >= left.id)
    large.clock.at += BUILD_TIME
    assert large.build() is BuildOutcome.PUBLISHED
    segment = large.head().segment
    assert segment is not None
    assert large.stored() == [segment.id]
    assert large.build(instead_of=new_id()) is BuildOutcome.NOT_NEEDED


def test_the_function_makes_none_for_whom_it_needs_none(large: Account, handle: Handle) -> None:
    asked = json.dumps({"user_id": large.id, "instead_of": ""})
    assert large.build() is BuildOutcome.PUBLISHED
    assert handle([asked, json.dumps({"user_id": new_id(), "instead_of": ""})]) == []
    segment = large.head().segment
    assert segment is not None
    # A dozen objects are none too many: the next segment is none, and the last one goes.
    assert handle([json.dumps({"user_id": large.id, "instead_of": segment.id})]) == []
    assert (large.head().segment, large.stored()) == (None, [])


def test_foreign_messages_end_in_the_dead_letters_each_for_itself(handle: Handle) -> None:
    odd = [*BODIES, '{"user_id": "x", "instead_of": ""}', '{"user_id": null}']
    assert len(handle(odd)) == len(odd)


@pytest.mark.req("R-K-22")
@pytest.mark.parametrize("calls", [None, 1, 3, 4, 5], ids=["built", "begun", "read", "stored", "published"])
def test_a_deleted_account_leaves_no_segment_also_of_a_builder_that_was_at_work(
    large: Account, calls: int | None
) -> None:
    steps = SearchPurge(large.rows, large.objects)
    purge = PurgeAttempt(user_id=large.id, requested_at=NOW, ends_at=monotonic() + 60, settled=False)
    if calls is None:
        large.build()
        assert steps.purge_account(purge)
    else:
        # It goes on behind the deletion's first look, as far as its next word with the table.
        engine = _Between(lambda: steps.purge_account(purge), after=calls)
        builder = SegmentBuilder(
            engine.of(large.rows), TantivyEngine(), engine.of(large.objects), large.clock, above=10
        )
        assert builder.build(large.id, instead_of="") in {
            BuildOutcome.OVERTAKEN,
            BuildOutcome.PUBLISHED if calls == 5 else BuildOutcome.OVERTAKEN,
        }
    assert large.stored() == []
    assert large.head() == SearchHead()


def test_what_a_builder_that_died_stored_behind_a_deletion_goes_with_its_second_look(large: Account) -> None:
    steps = SearchPurge(large.rows, large.objects)
    purge = PurgeAttempt(user_id=large.id, requested_at=NOW, ends_at=monotonic() + 60, settled=False)
    assert steps.purge_account(purge)
    large.objects.put(large.id, new_id(), b"late")
    assert steps.purge_account(purge)
    assert large.stored() == []


class _Between:
    """Does something once, behind so many calls of all that it is put before."""

    def __init__(self, does: Callable[[], object], *, after: int) -> None:
        self._does, self._left = does, after

    def of(self, given: object) -> Any:
        outer = self

        class Passing:
            def __getattr__(self, name: str) -> Any:
                method = getattr(given, name)

                def call(*args: Any, **kwargs: Any) -> Any:
                    result = method(*args, **kwargs)
                    outer._left -= 1
                    if outer._left == 0:
                        outer._does()
                    return result

                return call

        return Passing()
