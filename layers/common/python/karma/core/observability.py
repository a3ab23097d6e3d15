"""The logger and the business metrics of every function."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import orjson
from aws_lambda_powertools import Logger
from aws_lambda_powertools.logging.formatter import LambdaPowertoolsFormatter
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.metrics.provider.cloudwatch_emf.cloudwatch import AmazonCloudWatchEMFProvider

from karma.core.clock import SystemClock
from karma.core.errors import PARSER_REPORTS


class _ConsoleFormatter(LambdaPowertoolsFormatter):
    def serialize(self, log: Any) -> str:
        return _readable(log)


def _readable(log: Mapping[str, Any]) -> str:
    """Format a log entry for a person: time, level, event, then key=value."""
    shown = {k: v for k, v in log.items() if k not in _FIRST and v is not None}
    rest = " ".join(f"{key}={value}" for key, value in shown.items())
    return f"{log.get('timestamp')} {log.get('level'):<7} {log.get('message')} {rest}".rstrip()


_FIRST = frozenset({"timestamp", "level", "message", "location", "service", "sampling_rate"})
_CLOCK = SystemClock()
_ON_TERMINAL = sys.stderr.isatty()

logger = Logger(
    utc=True,
    use_rfc3339=True,
    logger_formatter=_ConsoleFormatter(utc=True, use_rfc3339=True) if _ON_TERMINAL else None,
    log_uncaught_exceptions=False,
)
_NAMESPACE = "Karma"


def log_request(**keys: object) -> None:
    """Log that a request was handled: `request.handled` at level INFO, with the keys of `logger` except `location`."""
    handler = logger.registered_handler
    if logger.log_level > logging.INFO or not isinstance(handler, logging.StreamHandler):
        return
    log = {
        "level": "INFO",
        "message": "request.handled",
        "timestamp": _CLOCK.now().isoformat(timespec="milliseconds"),
        "service": logger.service,
        **{key: value for key, value in keys.items() if value is not None},
    }
    line = _readable(log) if _ON_TERMINAL else orjson.dumps(log, default=str).decode()
    with _whether_or_not_it_is_heard():
        handler.stream.write(line + "\n")
        handler.flush()


def count(name: str, value: int = 1, **dimensions: str) -> None:
    """Count a business fact as an EMF metric line of its own, by function and, when given, by function and dimensions.

    Alarms watch the count by function alone; dimensions are for closer analysis, low-cardinality, never an id.
    """
    fact = AmazonCloudWatchEMFProvider(namespace=_NAMESPACE, service=logger.service)
    if dimensions:
        fact.add_dimensions(service=logger.service, **dimensions)
    fact.add_metric(name=name, unit=MetricUnit.Count, value=value)
    with _whether_or_not_it_is_heard():
        fact.flush_metrics()


def _parser_failed(parser: str, failure: Exception) -> None:
    logger.error("parser.failed", parser=parser, exc_info=failure)
    count("ParserFailed", parser=parser)


PARSER_REPORTS[:] = [_parser_failed]


def _whether_or_not_it_is_heard() -> suppress:
    """Ignore a standard output that is broken (OSError) or closed (ValueError): no request fails because of it."""
    return suppress(OSError, ValueError)
