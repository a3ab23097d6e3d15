"""Batches of SQS messages: each is handled by itself, and those that fail are delivered again by themselves.

The event source mappings report partial batches (ReportBatchItemFailures, infra/constructs/triggers.py). A message that
fails each time ends in the dead-letter queue, and its line in the log has the ids that it names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from karma.core.errors import AppError
from karma.core.observability import count, logger

_Message = TypeVar("_Message")
Ids = Mapping[str, Any]
"""Ids that a message names, by the names that they have in the log."""


def each_message(
    event: Mapping[str, Any],
    request_id: str,
    *,
    name: str,
    read: Callable[[str], tuple[_Message, Ids]],
    handle: Callable[[_Message], str],
) -> dict[str, Any]:
    """Handle the messages of an event, in order, and return the answer that names those that failed.

    Args:
        event: as SQS's mapping gives it to the function.
        request_id: of the invocation, for the log.
        name: of what is handled, the beginning of the log's lines: `<name>.handled`, `.failed`, `.unreadable`.
        read: makes the message of a body; a ValueError or AppError of it says that the body is none of ours.
        handle: does the work, and returns its outcome in a word or two for the log. It may be called again for the same
            message, and before another copy of it has ended.
    """
    failed = []
    for record in event["Records"]:
        try:
            message, ids = read(record["body"])
        except (AppError, ValueError):
            logger.error(f"{name}.unreadable", message_id=record["messageId"], request_id=request_id)
            failed.append(record["messageId"])
            continue
        if not _handled(name, message, ids, request_id, handle):
            failed.append(record["messageId"])
    return {"batchItemFailures": [{"itemIdentifier": message_id} for message_id in failed]}


def _handled(name: str, message: _Message, ids: Ids, request_id: str, handle: Callable[[_Message], str]) -> bool:
    try:
        outcome = handle(message)
    except AppError as error:
        logger.warning(f"{name}.failed", code=error.code, request_id=request_id, **ids)
        return False
    except Exception:  # noqa: BLE001  the process edge of one message: its neighbours are handled all the same
        count("UnhandledError")
        logger.exception(f"{name}.failed", request_id=request_id, **ids)
        return False
    logger.info(f"{name}.handled", outcome=outcome, request_id=request_id, **ids)
    return True
