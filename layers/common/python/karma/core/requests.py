"""Requests that create something and that their sender may repeat, so that the repeat has no second effect.

1. The edge, or a tool of an agent, names the request by an `IdempotencyKey`.
2. The service adds what is asked and when: `repeatable(idempotency_key, new, at=now)`.
3. The repository writes a record of the request in the transaction that creates the object
   (`karma.core.dynamo.requests.note_request`).
4. A repeat fails in that transaction; the service then asks `made_by` for the object's id, and returns that object.
5. What was deleted since is not made again, and is not shown as if it were there: each service raises `no_longer(id)`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final, NoReturn

import orjson

from karma.core.errors import AlreadyCreated, Conflict, Gone, NotFound
from karma.core.records import Record

RETENTION: Final = timedelta(hours=25)
"""Life of a record. An answer is kept for 24 hours from its end (karma.http.idempotency), and what it says of a large
object is read by this record, so the record must outlive the answer by more than a request may run.
"""


class IdempotencyKeyReused(Conflict):
    """The Idempotency-Key belongs to a request that asked for something else."""

    code = "IDEMPOTENCY_KEY_REUSED"

    def __init__(self) -> None:
        super().__init__("This Idempotency-Key was used for another request")


def no_longer(made_id: str | None) -> Gone:
    """Return the error for a repeat of a request that made something which is deleted; None: its id is not known."""
    return Gone(
        "What this request made was deleted; send another Idempotency-Key to make a new one",
        details={"id": made_id} if made_id else None,
    )


def refuse_shown_once(made_id: str, find: Callable[[str], object], *, what: str) -> NoReturn:
    """Refuse the repeat of a request whose answer showed a secret, which is not stored.

    Args:
        made_id: id of the object that the request made.
        find: reads the object; raises NotFound where it is deleted.
        what: kind of object as the message names it, such as "device".

    Raises:
        AlreadyCreated: the object is there; `details.id` names it.
        Gone: the object was deleted meanwhile.
    """
    try:
        find(made_id)
    except NotFound:
        raise no_longer(made_id) from None
    raise AlreadyCreated(
        f"This request made the {what} {made_id} before; its private key is shown once", details={"id": made_id}
    )


class IdempotencyKey(Record, kw_only=True):
    """Name that all repeats of a request share; the same value of another caller or route is another key."""

    caller: str
    """Id of the user for whom the request is made."""
    route: str
    """Path of the request's operation, with the ids in it, or name of the tool."""
    value: str
    """The header `Idempotency-Key`, or what names a tool's call."""

    @property
    def token(self) -> str:
        """Return the key's SHA-256, by which the record is found."""
        return hashlib.sha256("\0".join((self.caller, self.route, self.value)).encode()).hexdigest()


class RepeatableRequest(Record, kw_only=True):
    """A request with an Idempotency-Key, as its record is compared with it."""

    key: IdempotencyKey
    request_hash: str
    """SHA-256 of what is asked: with another one it is another request, and its key is refused."""
    asked_at: datetime


def repeatable(key: IdempotencyKey | None, *asked: object, at: datetime) -> RepeatableRequest | None:
    """Return a request as its record is written; None for a request without a key.

    Args:
        key: the request's name.
        asked: all that the caller chose, as dataclasses and JSON, but no password: a plain hash of a short text can be
            guessed.
        at: moment of the request.
    """
    if key is None:
        return None
    text = orjson.dumps(asked, option=orjson.OPT_SORT_KEYS)
    return RepeatableRequest(key=key, request_hash=hashlib.sha256(text).hexdigest(), asked_at=at)
