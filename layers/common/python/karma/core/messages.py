"""Messages in queues of ours that name something by its ids.

They are hints, which may come twice or late: who takes one reads what it names.
"""

from __future__ import annotations

import orjson

from karma.core.errors import ValidationFailed
from karma.core.ids import is_id


def naming(what: str, **ids: str) -> str:
    """Write a message that names something: `{"alarm": {"device_id": "...", "alarm_id": "..."}}`."""
    return orjson.dumps({what: ids}).decode()


def named(body: str, what: str, *names: str) -> tuple[str, ...]:
    """Read the ids of a message that `naming` wrote, in the order of `names`.

    Raises:
        ValidationFailed: the body is no such message.
    """
    try:
        given = orjson.loads(body)[what]
        ids = tuple(given[name] for name in names)
    except (ValueError, KeyError, TypeError) as exc:
        raise ValidationFailed.of("body", f"must name {what} by {', '.join(names)}") from exc
    if not all(isinstance(each, str) and is_id(each) for each in ids):
        raise ValidationFailed.of("body", f"must name {what} by ids")
    return ids
