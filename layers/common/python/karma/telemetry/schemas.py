"""Bodies of the telemetry routes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Annotated, Final

from pydantic import AfterValidator, Field

from karma.core.clock import epoch_ms
from karma.core.errors import InvalidRequest, ValidationFailed
from karma.core.schemas import Body, Moment, Number, Whole
from karma.devices.samples import MAX_METRIC_CHARS, metric_name
from karma.telemetry.domain import Resolution
from karma.telemetry.query import MAX_POINTS, TelemetryQuery
from karma.telemetry.tables import TableFormat

MAX_DEVICES: Final = 20
MAX_METRICS_ASKED: Final = 50
MAX_PERCENTS: Final = 5
MAX_CURSOR_CHARS: Final = 2_048


def _named(given: str) -> str:
    found = metric_name(given)
    if found is None:
        raise ValueError("must be the name of a metric: no control characters, line ends, or blanks at the ends")
    return found


MetricName = Annotated[str, Field(min_length=1, max_length=MAX_METRIC_CHARS), AfterValidator(_named)]
Percent = Annotated[Number, Field(gt=0, lt=100)]


def percents_of(text: str) -> tuple[float, ...]:
    """Return the percentiles that a query names, `50,99.9`.

    Raises:
        ValueError: it names no numbers between 0 and 100, or more than five.
    """
    try:
        found = tuple(float(each) for each in text.split(",")) if text else ()
    except ValueError:
        found = (0.0,)
    if len(found) > MAX_PERCENTS or not all(0 < each < 100 for each in found):
        raise ValueError(f"up to {MAX_PERCENTS} numbers between 0 and 100, with commas between them")
    return tuple(dict.fromkeys(found))


class _TelemetryBody(Body):
    """Metrics to read, and devices to read them of; at most 100 series, devices times metrics."""

    devices: Annotated[list[Annotated[str, Field(max_length=64)]], Field(min_length=1, max_length=MAX_DEVICES)]
    """Ids of devices."""
    metrics: Annotated[list[MetricName], Field(max_length=MAX_METRICS_ASKED)] = Field(default_factory=list)
    """Empty: all of each device."""
    begins_at: Moment | None = None
    """Null: a day before `ends_at`."""
    ends_at: Moment | None = None
    """Not part of the range; null: now."""
    resolution: Resolution = Resolution.AUTO
    percentiles: Annotated[list[Percent], Field(max_length=MAX_PERCENTS)] = Field(default_factory=list)
    """Of hours and days, such as 95."""

    @contextmanager
    def naming_ranges(self) -> Iterator[None]:
        """Name the field whose moment makes a range that cannot be read: 422 instead of 400."""
        try:
            yield
        except InvalidRequest as exc:
            if exc.code != "INVALID_RANGE":
                raise
            field = "ends_at" if self.begins_at is None else "begins_at"
            raise ValidationFailed.of(field, str(exc)) from exc

    def asked(self) -> TelemetryQuery:
        """Return the query of all pages."""
        return TelemetryQuery(
            devices=tuple(self.devices),
            metrics=tuple(self.metrics),
            from_ms=None if self.begins_at is None else epoch_ms(self.begins_at),
            to_ms=None if self.ends_at is None else epoch_ms(self.ends_at),
            resolution=self.resolution,
            percents=tuple(dict.fromkeys(self.percentiles)),
        )


class QueryTelemetryBody(_TelemetryBody):
    """A page of what is asked for."""

    limit: Annotated[Whole, Field(ge=1, le=MAX_POINTS)] | None = None
    """Points of a page, of all series together; null: 1,000 raw ones, 5,000 buckets."""
    cursor: Annotated[str, Field(max_length=MAX_CURSOR_CHARS)] | None = None
    """The `next_cursor` of the page before."""

    def query(self, after: Mapping[str, object] | None) -> TelemetryQuery:
        """Return the query, for the page at a position."""
        return replace(self.asked(), limit=self.limit, after=after)


class ExportTelemetryBody(_TelemetryBody):
    """A table of what is asked for."""

    format: TableFormat = TableFormat.CSV
    """`csv`, `csv-excel` (with a byte order mark, and times that Excel reads) or `parquet`."""
