"""Router of the work table's stream: projects and tasks, live and as rows of search; members' subscriptions end."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from background.streams import consume
from karma.core import live, searchables
from karma.core.clock import SystemClock
from karma.core.dynamo.tables import bind_tables
from karma.core.settings import FunctionSettings, load
from karma.integrations.sqs import SqsQueue
from karma.realtime.channel_repository import ChannelRepository
from karma.realtime.repository import RealtimeRepository
from karma.realtime.routing import LiveRouter, SubscriptionRights
from karma.search.feed import Feed
from karma.search.repository import SearchRepository

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext

    from karma.core.streams import StreamConsumer


class Settings(FunctionSettings, kw_only=True):
    """Variables of this function."""

    identity_table: str
    work_table: str
    search_table: str
    realtime_table: str
    pushes_queue_url: str


@cache
def services() -> tuple[StreamConsumer, ...]:
    """Build those who take the table's changes, once a process."""
    settings = load(Settings)
    bind_tables(settings)
    sources, clock = live.declared(), SystemClock()
    return (
        # First: who has left is not told what comes behind.
        SubscriptionRights(sources, RealtimeRepository(), ChannelRepository()),
        LiveRouter(sources, ChannelRepository(), SqsQueue(settings.pushes_queue_url), clock),
        Feed(SearchRepository(), searchables.declared(), clock),
    )


def lambda_handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:  # noqa: ARG001
    """Give a batch of changes to each consumer."""
    return consume(event, *services())
