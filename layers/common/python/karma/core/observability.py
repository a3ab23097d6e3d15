"""One logger and one way to count facts for every function.

Event names are constants such as `run.started`; data goes into keys: `logger.info("run.started", run_id=run_id)`.
Never a body, token, prompt, e-mail address or secret. JSON inside Lambda, one readable line on a terminal.
"""

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


class _ConsoleFormatter(LambdaPowertoolsFormatter):
    def serialize(self, log: Any) -> str:
        return _readable(log)


def _readable(log: Mapping[str, Any]) -> str:
    """A line a person can read: time, level, event, then key=value."""
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
    """Write the line that every request has, `request.handled`, at level INFO: of `logger`'s keys all but `location`.

    Keys whose value is None are left out.
    Not through `logger`: Powertools' formatter takes a third as long as a small request.
    """
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

    Alarms watch the count by function alone; dimensions are for whoever looks closer, low-cardinality, never an id.
    """
    fact = AmazonCloudWatchEMFProvider(namespace=_NAMESPACE, service=logger.service)
    if dimensions:
        fact.add_dimensions(service=logger.service, **dimensions)
    fact.add_metric(name=name, unit=MetricUnit.Count, value=value)
    with _whether_or_not_it_is_heard():
        fact.flush_metrics()


def _whether_or_not_it_is_heard() -> suppress:
    """No request fails because the standard output is broken (OSError) or closed (ValueError)."""
    return suppress(OSError, ValueError)
