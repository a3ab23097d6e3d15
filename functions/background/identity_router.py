"""Router of the identity table's stream: closes connections of sessions that are over, and tells of notices."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from background.streams import consume
from karma.core.clock import SystemClock
from karma.core.dynamo.tables import bind_tables
from karma.core.live import declared
from karma.core.settings import FunctionSettings, load
from karma.identity.accounts.repository.users import UserRepository
from karma.integrations.sockets import Sockets
from karma.integrations.sqs import SqsQueue
from karma.realtime.channel_repository import ChannelRepository
from karma.realtime.repository import RealtimeRepository
from karma.realtime.routing import ConnectionRights, LiveRouter

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext

    from karma.core.streams import StreamConsumer


class Settings(FunctionSettings, kw_only=True):
    """Variables of this function."""

    identity_table: str
    realtime_table: str
    pushes_queue_url: str
    websocket_url: str


@cache
def services() -> tuple[StreamConsumer, ...]:
    """Build those who take the table's changes, once a process."""
    settings = load(Settings)
    bind_tables(settings)
    sources = declared()
    clock = SystemClock()
    sockets = Sockets(settings.websocket_url)
    return (
        ConnectionRights(sources, RealtimeRepository(), UserRepository(), sockets, clock),
        LiveRouter(sources, ChannelRepository(), SqsQueue(settings.pushes_queue_url), clock),
    )


def lambda_handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:  # noqa: ARG001
    """Give a batch of changes to each consumer."""
    return consume(event, *services())
