"""Events as the webhook reads them; apart from domain.py, because the webhook's cold start imports it."""

from __future__ import annotations

import re
from datetime import timedelta
from enum import StrEnum
from typing import NamedTuple

from karma.core import freeform
from karma.core.errors import InvalidRequest

DUE_AFTER = timedelta(minutes=2)
"""Time after which the sweep enqueues an event again that no worker has closed."""

_EVENT_ID = re.compile(r"[A-Za-z0-9_]{1,200}")
_EVENT_TYPE = re.compile(r"[a-z0-9_.]{1,120}")


class Arrival(NamedTuple):
    """A verified event as received."""

    id: str
    type: str
    body: str
    """JSON of the event exactly as Stripe sent it."""


class Stored(StrEnum):
    """Result of storing an event."""

    NEW = "new"
    OPEN = "open"
    """Stored before, and the worker has not closed it yet."""
    CLOSED = "closed"
    CONFLICT = "conflict"
    """Another event has this id; the first one is kept."""


def is_event_id(text: object) -> bool:
    """Tell whether a value can be the id of an event, and thereby part of a key."""
    return isinstance(text, str) and _EVENT_ID.fullmatch(text) is not None


def read_arrival(body: bytes) -> Arrival:
    """Read the parts of an event that the inbox needs.

    Raises:
        InvalidRequest: INVALID_JSON, the body is no JSON; INVALID_EVENT, it is beyond a limit of karma.core.freeform,
            or no event of Stripe's snapshot form.
    """
    try:
        event = freeform.loads(body, of_request=True, is_exact=False)
    except freeform.NotJson:
        raise InvalidRequest("The body is not JSON", code="INVALID_JSON") from None
    except freeform.OutOfBounds as exc:
        raise InvalidRequest(f"{exc.member or 'The body'}: {exc.told}", code="INVALID_EVENT") from None
    if not isinstance(event, dict):
        raise InvalidRequest("The body is not an event", code="INVALID_EVENT")
    event_id, event_type, data = event.get("id"), event.get("type"), event.get("data")
    if not isinstance(event_id, str) or _EVENT_ID.fullmatch(event_id) is None:
        raise InvalidRequest("id: not the id of an event", code="INVALID_EVENT")
    if not isinstance(event_type, str) or _EVENT_TYPE.fullmatch(event_type) is None:
        raise InvalidRequest("type: not the type of an event", code="INVALID_EVENT")
    if not isinstance(data, dict) or not isinstance(data.get("object"), dict):
        raise InvalidRequest("data.object: missing", code="INVALID_EVENT")
    return Arrival(event_id, event_type, body.decode())
