"""Costs of search in DynamoDB: queries by what a process has kept, with and without a segment, and changes of rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from benchmarks.account import Account, Step

if TYPE_CHECKING:
    from benchmarks.calls import Cost

_OBJECTS: Final = 100
Count = Callable[[str, Callable[[], Any]], "tuple[Cost, Any]"]


def costs(account: Account, count: Count) -> Iterator[Cost]:
    """Measure what an account with a hundred found objects costs."""
    from api.services import process, search
    from karma.core import aws
    from karma.core.ids import UserId
    from karma.integrations.s3_segments import S3Segments
    from karma.integrations.tantivy.engine import TantivyEngine
    from karma.search.repository import SearchRepository
    from karma.search.segments.building import SegmentBuilder
    from tests.contexts.search import stamped

    owner, rows, clock = UserId(account.first.user_id), SearchRepository(), process.clock()
    query = Step("", "GET", "/api/v1/search", {"q": "pump"})
    sequences = iter(range(1, 1_000))

    def write(*numbers: int) -> None:
        sequence = next(sequences)
        changes = [stamped(owner, n, sequence=sequence, name=f"Pump of hall {n:03d}") for n in numbers]
        # Behind all that a process looks at again for changes that were late.
        rows.write(owner, changes, at=clock.now() - timedelta(minutes=3))

    def measured(told: str, work: Callable[[], Any]) -> Cost:
        return count(told, work)[0]

    def afresh() -> None:
        search.service.cache_clear()
        account.call(query)

    aws.client("s3").create_bucket(Bucket=process.settings().files_bucket)  # the same once more where it is there
    rows.forget(owner)
    for n in range(_OBJECTS):
        write(n)
    yield measured("GET /search, by a process that has no index", afresh)
    yield measured("GET /search", lambda: account.call(query))
    yield measured("search: a changed row", lambda: write(1))
    yield measured("GET /search, behind a change", lambda: account.call(query))
    builder = SegmentBuilder(
        rows, TantivyEngine(), S3Segments(process.settings().files_bucket), clock, above=_OBJECTS // 2
    )
    yield measured("search: a segment is made", lambda: builder.build(owner, instead_of=""))
    yield measured("GET /search, by a process that has no segment yet", afresh)
    write(3)  # finds, by a refused write, that there is a journal, which its process then knows
    yield measured("search: a changed row, of an account with a segment", lambda: write(2))
    yield measured("GET /search, with a segment, behind a change", lambda: account.call(query))
