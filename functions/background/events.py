"""Router of the agents table's stream: what happened becomes deliveries of webhooks, rows of search, and is told live.

A stream has two readers at the most, of which this is one (the other is background.metrics): whatever else wants to
know of the table's changes is one more consumer here.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from background.streams import HappeningConsumer, consume
from karma.core import happenings, live, searchables
from karma.core.clock import SystemClock
from karma.core.dynamo.tables import bind_tables
from karma.core.settings import FunctionSettings, load
from karma.integrations.sqs import SqsQueue
from karma.realtime.channel_repository import ChannelRepository
from karma.realtime.routing import LiveRouter
from karma.search.feed import Feed
from karma.search.repository import SearchRepository
from karma.webhooks.fanout import Fanout
from karma.webhooks.repository.deliveries import DeliveryRepository
from karma.webhooks.repository.webhooks import WebhookRepository

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext

    from karma.core.streams import StreamConsumer


class Settings(FunctionSettings, kw_only=True):
    """Variables of this function."""

    identity_table: str
    realtime_table: str
    search_table: str
    webhooks_queue_url: str
    pushes_queue_url: str


@cache
def services() -> tuple[StreamConsumer, ...]:
    """Build those who take the table's changes, once a process."""
    settings = load(Settings)
    bind_tables(settings)
    clock, queue = SystemClock(), SqsQueue(settings.webhooks_queue_url)
    fanout = Fanout(WebhookRepository(), DeliveryRepository(), queue, clock)
    return (
        HappeningConsumer(happenings.declared(), fanout),
        LiveRouter(live.declared(), ChannelRepository(), SqsQueue(settings.pushes_queue_url), clock),
        Feed(SearchRepository(), searchables.declared(), clock),
    )


def lambda_handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:  # noqa: ARG001
    """Give a batch of changes to each consumer."""
    return consume(event, *services())
