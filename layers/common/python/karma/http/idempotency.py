"""`Idempotency-Key` on POSTs that create or charge: one effect, and the same answer to every repeat.

A record lives 24 hours in the identity table under the caller, keyed by operation and key: all addresses of an
operation (`/api/v1/agents` and Agio's `/api/agents`) have one record. It holds a keyed hash of the body and the answer,
unless the answer showed a secret: then a repeat gets 409 ALREADY_CREATED with `details.id`.
The same key with another body is 409 IDEMPOTENCY_KEY_REUSED; a repeat while the first runs is 409
REQUEST_IN_PROGRESS. A request that failed leaves no record.

The answer to a repeat is as old as the first, but it does not claim that something is there which is not: when what the
request made was deleted, a repeat is 410 GONE with `details.id`, on every route and whatever the first answer showed.
So a record also holds the id of what was made, and each route gives `once` the lookup that finds it.

An item of DynamoDB has at most 400 KB. For an answer over `MAX_KEPT_BYTES` the record says only that there was one: a
repeat runs `create` again, which finds the object that the first has created by the record of its transaction
(`karma.core.requests`), and returns it as it is now. So does a repeat at an address that words its answers in another
way.

On routes without a caller, the body is part of the record's key: two strangers who chose the same Idempotency-Key make
two requests, and neither learns of the other.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

from fastapi import Request

from karma.core import aws
from karma.core.dynamo.failures import raise_public
from karma.core.dynamo.tables import deployed
from karma.core.errors import AlreadyCreated, Conflict, NotFound
from karma.core.faults import AWS_FAULTS
from karma.core.freeform import render
from karma.core.records import Record
from karma.core.requests import IdempotencyKey, IdempotencyKeyReused, no_longer
from karma.http.envelope import Style, style_of
from karma.http.headers import read_idempotency_key
from karma.http.presenters import Answer, ok
from karma.http.serving import serving
from karma.identity.domain import Caller

_TTL_S = 24 * 3600
_PREFIX = "karma-api"
MAX_KEPT_BYTES = 100_000
"""Largest answer that is stored, in bytes of JSON. Powertools writes a character beyond ASCII as six to twelve bytes,
three times as many.
"""

_Data = TypeVar("_Data")


class Outcome(Record, Generic[_Data], kw_only=True):
    """Answer of a creating request."""

    status: int
    data: _Data
    made_id: str
    """Id by which the route's lookup finds what was made, or what it is a part of."""
    is_secret: bool = False
    """True: `data` holds a secret that is shown once."""


async def once(
    request: Request, caller: Caller | None, create: Callable[[], Outcome[_Data]], *, find: Callable[[str], object]
) -> Answer[_Data]:
    """Run `create` at most once for the request's Idempotency-Key, and return its answer.

    Without the header it simply runs. `caller` None is for routes that need no account. `find` is asked before a repeat
    is answered, with the id of what was made, and raises NotFound when that is deleted.

    Raises:
        InvalidRequest: INVALID_IDEMPOTENCY_KEY, the key is empty, over 255 characters, or not printable ASCII.
        Conflict: the key was used for another body, or its first request still runs.
        AlreadyCreated: the first answer showed a secret, which is not stored.
        Gone: what the first request made was deleted.
    """
    assert request.scope["route"].idempotent  # noqa: S101  its description would not have the header
    key = read_idempotency_key(request.headers.get("idempotency-key"))
    if key is None:
        outcome = create()
        return ok(outcome.data, outcome.status)
    body = await request.body()
    style = style_of(request.scope["path"])
    stored, fresh = _run(_operation(request), caller, key, body, create, style=style)
    if fresh is not None:
        return ok(fresh.data, fresh.status)
    _require_made(stored, find)
    if stored["secret_id"]:
        raise AlreadyCreated(
            "This request was carried out; its answer was shown once", details={"id": stored["secret_id"]}
        )
    # Records of before say no style; they were of one address.
    is_other = stored.get("again") or stored.get("style", style) != style
    data = create().data if is_other else stored["data"]
    return ok(data, stored["status"], headers={"Idempotent-Replayed": "true"})


def _require_made(stored: dict[str, Any], find: Callable[[str], object]) -> None:
    made_id = stored.get("made_id") or stored["secret_id"]  # records of before hold no other id
    if not made_id or stored.get("again"):
        return  # `create` finds it, or finds that it was deleted
    try:
        find(made_id)
    except NotFound:
        raise no_longer(made_id) from None


def idempotency_key(request: Request, caller: Caller) -> IdempotencyKey | None:
    """Return the key that the request shares with its repeats; None without the header.

    For objects that must not be created twice even when the process died after creating one: the record is then still
    open, and `create` runs again once its time is over. The service stores the key with the object (`repeatable`).
    """
    key = read_idempotency_key(request.headers.get("idempotency-key"))
    if key is None:
        return None
    return IdempotencyKey(caller=caller.user_id, route=_operation(request), value=key)


def _operation(request: Request) -> str:
    """Return what all addresses of the request have in common, with the ids in it.

    The same key and body for another device are another request.
    """
    route, path = request.scope["route"], request.scope["path"]
    if route.operation == route.path:
        return str(path)
    return str(route.operation.format(**request.scope["path_params"]))


def _run(
    path: str, caller: Caller | None, key: str, body: bytes, create: Callable[[], Outcome[_Data]], *, style: Style
) -> tuple[dict[str, Any], Outcome[_Data] | None]:
    """Run `create` unless the request has a record; return the record, and the outcome if it is new.

    Raises:
        Conflict: the key was used for another body, or its first request still runs.
    """
    from aws_lambda_powertools.utilities.idempotency.exceptions import (
        IdempotencyAlreadyInProgressError,
        IdempotencyInconsistentStateError,
        IdempotencyPersistenceLayerError,
        IdempotencyValidationError,
    )

    fresh: list[Outcome[_Data]] = []

    def carry_out() -> dict[str, Any]:
        outcome = create()
        fresh.append(outcome)
        is_large = len(render(outcome.data)) > MAX_KEPT_BYTES
        secret_id = outcome.made_id if outcome.is_secret else ""
        return {
            "status": outcome.status,
            "style": style,
            "made_id": outcome.made_id,
            "secret_id": secret_id,
            "data": {} if secret_id or is_large else outcome.data,
            "again": is_large and not secret_id,
        }

    records = _Records(caller, carry_out)
    claims = [{"path": path, "key": key, "fingerprint": fingerprint} for fingerprint in _fingerprints(body)]
    if caller is None:
        # Keyed by the body, a record of before a change of keys stands elsewhere; none is begun there any more.
        claims = [*(claim for claim in claims[1:] if records.has(claim)), claims[0]]
    for claim in claims:
        try:
            stored = records.carry_out_once(claim=claim)
        except IdempotencyValidationError:
            continue
        except IdempotencyPersistenceLayerError as exc:
            # What was to be made may be there; a repeat learns so by karma.core.requests.
            raise_public(exc, _cause(exc))
        except (IdempotencyAlreadyInProgressError, IdempotencyInconsistentStateError):
            raise Conflict(
                "The first request with this Idempotency-Key still runs", code="REQUEST_IN_PROGRESS"
            ) from None
        return stored, fresh[0] if fresh else None
    raise IdempotencyKeyReused


class _Records:
    """Records of a caller's requests, as Powertools stores them."""

    def __init__(self, caller: Caller | None, carry_out: Callable[[], dict[str, Any]]) -> None:
        # Local: these import boto3, and most requests carry no key.
        from aws_lambda_powertools.utilities.idempotency import (
            DynamoDBPersistenceLayer,
            IdempotencyConfig,
            idempotent_function,
        )

        self._store = DynamoDBPersistenceLayer(
            table_name=deployed("identity"),
            key_attr="pk",
            sort_key_attr="sk",
            static_pk_value=f"IDEMPOTENCY#{caller.user_id if caller else 'ANYONE'}",
            expiry_attr="expires_at",
            status_attr="state",
            boto3_client=aws.client("dynamodb"),
        )
        config = IdempotencyConfig(
            event_key_jmespath="[path, key]" if caller else "[path, key, fingerprint]",
            payload_validation_jmespath="fingerprint",
            expires_after_seconds=_TTL_S,
            hash_function="sha256",
        )
        config.lambda_context = _Deadline()  # type: ignore[assignment]  # all that it reads of a context

        def claimed(*, claim: dict[str, str]) -> dict[str, Any]:  # noqa: ARG001  Powertools reads it
            return carry_out()

        self.carry_out_once: Callable[..., dict[str, Any]] = idempotent_function(
            claimed, data_keyword_argument="claim", persistence_store=self._store, config=config, key_prefix=_PREFIX
        )
        self._store.configure(config=config, function_name="", key_prefix=_PREFIX)

    def has(self, claim: dict[str, str]) -> bool:
        """Tell whether there is a record of a claim."""
        from aws_lambda_powertools.utilities.idempotency.exceptions import (
            IdempotencyItemNotFoundError,
            IdempotencyPersistenceLayerError,
        )

        try:
            self._store.get_record(claim)
        except IdempotencyItemNotFoundError:
            return False
        except IdempotencyPersistenceLayerError as exc:
            raise_public(exc, _cause(exc))
        return True


def _fingerprints(body: bytes) -> Iterator[str]:
    """Yield the body's keyed hash by the current key, then by the others: the first request may be older than it.

    The hash is keyed because a body may hold a password, which a reader of the table could otherwise guess.
    """
    ring = serving().key_ring()
    for kid in sorted(ring.keys, key=lambda kid: kid != ring.current):
        yield hmac.digest(ring.keys[kid].encode(), b"karma-idempotency\0" + body, hashlib.sha256).hex()


class _Deadline:
    """Context for Powertools, with the time after which an unfinished first request may be taken over."""

    @staticmethod
    def get_remaining_time_in_millis() -> int:
        """Return milliseconds: more than any request of ours may run."""
        return 30_000


def _cause(exc: BaseException | None) -> BaseException | None:
    """Return the exception of AWS's client inside of Powertools' exception."""
    while exc is not None and not isinstance(exc, AWS_FAULTS):
        exc = exc.__cause__ or exc.__context__
    return exc
