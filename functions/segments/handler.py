"""Consumer of the segments queue: makes the segments of large accounts. See karma/search/segments/building.py.

A package of its own, since it alone has Tantivy without what the API has, and a role that writes segments and nothing
else.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from karma.core.batch import Ids, each_message
from karma.core.clock import SystemClock
from karma.core.dynamo.tables import bind_tables
from karma.core.settings import FunctionSettings, load
from karma.integrations.s3_segments import S3Segments
from karma.integrations.tantivy.engine import TantivyEngine
from karma.search.repository import SearchRepository
from karma.search.segments.building import SegmentBuilder
from karma.search.segments.requests import SegmentRequest, read_message

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext


class Settings(FunctionSettings, kw_only=True):
    """Variables of this function."""

    search_table: str
    files_bucket: str


@cache
def services() -> SegmentBuilder:
    """Build the builder once a process."""
    settings = load(Settings)
    bind_tables(settings)
    return SegmentBuilder(SearchRepository(), TantivyEngine(), S3Segments(settings.files_bucket), SystemClock())


def lambda_handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Make the segment that each message asks for; those that fail come again, and end in the dead letters."""
    return each_message(event, context.aws_request_id, name="search.segment", read=_read, handle=_build)


def _read(body: str) -> tuple[SegmentRequest, Ids]:
    request = read_message(body)
    return request, {"user_id": request.owner}


def _build(request: SegmentRequest) -> str:
    return services().build(request.owner, instead_of=request.instead_of)
