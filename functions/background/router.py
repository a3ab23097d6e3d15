"""Router of the devices table's stream: counts devices, in order in a partition, keeps rows of search, and tells live.

The function, its queue of failures and its alarm are deployed as `router`; renamed, they would be replaced.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from background.streams import HappeningConsumer, consume
from karma.alarms.happenings import AlarmHappenings
from karma.alarms.repository.rules import AlarmRuleRepository
from karma.alarms.run_requests import AlarmRunRequests
from karma.alarms.telling import AlarmTelling
from karma.core import live, searchables
from karma.core.clock import Clock, SystemClock
from karma.core.dynamo.tables import bind_tables
from karma.core.settings import FunctionSettings, load
from karma.devices.counting import DeviceCounting
from karma.devices.happenings import DeviceHappenings
from karma.files.preview_requests import PreviewRequests
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
    from karma.mail.domain import Mail


class Settings(FunctionSettings, kw_only=True):
    """Variables of this function."""

    identity_table: str
    devices_table: str
    realtime_table: str
    pushes_queue_url: str
    search_table: str
    webhooks_queue_url: str
    mail_queue_url: str
    previews_queue_url: str
    fires_queue_url: str


@cache
def services() -> tuple[StreamConsumer, ...]:
    """Build those who take the table's changes, once a process."""
    settings = load(Settings)
    bind_tables(settings)
    clock = SystemClock()
    pushes = LiveRouter(live.declared(), ChannelRepository(), SqsQueue(settings.pushes_queue_url), clock)
    fanout = Fanout(WebhookRepository(), DeliveryRepository(), SqsQueue(settings.webhooks_queue_url), clock)
    alarms = (
        AlarmTelling(AlarmRuleRepository(), partial(_send, settings, clock)),
        AlarmRunRequests(AlarmRuleRepository(), SqsQueue(settings.fires_queue_url)),
        HappeningConsumer((AlarmHappenings(), DeviceHappenings()), fanout),
    )
    previews = PreviewRequests(SqsQueue(settings.previews_queue_url))
    return DeviceCounting(), previews, Feed(SearchRepository(), searchables.declared(), clock), pushes, *alarms


def _send(settings: Settings, clock: Clock, mails: Sequence[Mail]) -> None:
    from karma.mail.repository import OutboxRepository
    from karma.mail.service import OutboxRelay

    OutboxRelay(outbox=OutboxRepository(), queue=SqsQueue(settings.mail_queue_url), clock=clock).dispatch(mails)


def lambda_handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:  # noqa: ARG001
    """Give a batch of changes to each consumer."""
    return consume(event, *services())
