"""Builders of the services of device tools: a part of the composition root, for runs that call one."""

from __future__ import annotations

from agent_stream.settings import ExecutionSettings
from karma.core.clock import Clock
from karma.core.searchables import declared_types
from karma.devices.commands import CommandService
from karma.devices.reading import DeviceReader
from karma.devices.repository.commands import CommandRepository
from karma.devices.repository.devices import DeviceRepository
from karma.devices.shared_search import SearchedShares
from karma.devices.sharing import ReachableDevices
from karma.devices.wake_ups import QueuedWakeUps
from karma.integrations.iot import IotPublisher
from karma.integrations.s3_segments import S3Segments
from karma.integrations.sqs import SqsQueue
from karma.integrations.tantivy.engine import TantivyEngine
from karma.projects.lookup import shown_devices
from karma.search.cache import IndexCache
from karma.search.repository import SearchRepository
from karma.search.segments.opening import Segments
from karma.search.segments.requests import QueuedRequests
from karma.search.service import SearchService
from karma.search.showing import Showing
from karma.tools.device_tools import DeviceServices


def finder(settings: ExecutionSettings, clock: Clock) -> SearchService:
    """Return the search."""
    requests = QueuedRequests(SqsQueue(settings.segments_queue_url))
    segments = Segments(TantivyEngine(), S3Segments(settings.files_bucket), requests)
    rows = SearchRepository()
    cache = IndexCache(rows, clock, segments, showing=Showing(rows, SearchedShares()))
    return SearchService(cache, declared_types())


def device_services(settings: ExecutionSettings, clock: Clock) -> DeviceServices:
    """Return the services of the device tools."""
    devices = DeviceRepository()
    publisher = IotPublisher(endpoint_url=settings.iot_data_endpoint)
    wake_ups = QueuedWakeUps(SqsQueue(settings.ingest_queue_url))
    return DeviceServices(
        finder=finder(settings, clock),
        devices=DeviceReader(devices),
        commands=CommandService(devices, CommandRepository(), publisher, wake_ups, clock),
        reach=ReachableDevices(shown_devices, devices),
    )
