"""Worker of the queue of push jobs: sends messages to open WebSockets and streams. See karma/realtime/pushing.py."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from karma.core.clock import SystemClock
from karma.core.dynamo.tables import bind_tables
from karma.core.settings import FunctionSettings, load
from karma.integrations.pushes import PushClient
from karma.realtime.channel_repository import ChannelRepository
from karma.realtime.delivery import LiveDelivery
from karma.realtime.pushing import Pusher, PushJob
from karma.realtime.repository import RealtimeRepository

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext

    from karma.realtime.ports import Inboxes


class Settings(FunctionSettings, kw_only=True):
    """Variables of this function."""

    realtime_table: str
    websocket_url: str


@cache
def services() -> Pusher:
    """Build the pusher once a process, with its open sockets."""
    settings = load(Settings)
    bind_tables(settings)
    clock = SystemClock()
    delivery = LiveDelivery(PushClient(settings.websocket_url), _inboxes, clock)
    return Pusher(RealtimeRepository(), ChannelRepository(), delivery, clock)


def _inboxes() -> Inboxes:
    from karma.realtime.inbox_repository import StreamInboxRepository

    return StreamInboxRepository()


def lambda_handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:  # noqa: ARG001
    """Send the messages of some jobs together, and leave those jobs of which nobody could be reached."""
    records = event["Records"]
    done = services().push([PushJob.read(record["body"]) for record in records])
    left = [record["messageId"] for record, is_done in zip(records, done, strict=True) if not is_done]
    return {"batchItemFailures": [{"itemIdentifier": each} for each in left]}
