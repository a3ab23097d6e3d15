"""Webhooks and deliveries: types, and rules that need no I/O. They follow the Standard Webhooks specification."""

from __future__ import annotations

import base64
import hashlib
import hmac
import zlib
from collections.abc import Callable, Sequence
from dataclasses import field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final, NamedTuple, NewType
from urllib.parse import urlsplit

import orjson

from karma.core.clock import iso
from karma.core.errors import StaleVersion
from karma.core.happenings import Happening
from karma.core.ids import UserId, is_id
from karma.core.records import Record

WebhookId = NewType("WebhookId", str)
DeliveryId = NewType("DeliveryId", str)
Lane = NewType("Lane", str)
"""Deliveries that one worker sends at a time: a webhook's, which rest together, or a part of the default one's."""

DEFAULT: Final = WebhookId("default")
"""The webhook of an account that has no address of its own: it signs what goes to the addresses that runs name."""
LANES: Final = 16
"""Lanes of the default webhook. What goes to one host is in one lane, and hosts of a lane rest each by itself."""

_DEFAULT_LANES: Final = frozenset((DEFAULT, *(f"{DEFAULT}.{part}" for part in range(LANES))))

MAX_WEBHOOKS: Final = 10
"""Webhooks of one account."""
MAX_URL_CHARS: Final = 2_048
MAX_DESCRIPTION_CHARS: Final = 255
MAX_EVENT_TYPES: Final = 50
MAX_TYPE_CHARS: Final = 64
EVERYTHING: Final = "*"
"""The word for all types of events, also those that are declared later."""
TEST_TYPE: Final = "webhook.test"
"""Type of the event by which a webhook is tried out; every webhook is told it."""
MAX_PAYLOAD_BYTES: Final = 20_480
"""Bytes of a payload, as the specification advises; a larger event is told without its `data`, but for its ids."""

RETENTION: Final = timedelta(days=30)
"""Time for which a delivery is kept after its event."""
SECRET_PREFIX: Final = "whsec_"  # noqa: S105  a prefix
SECRET_BYTES: Final = 32
OVERLAP: Final = timedelta(hours=24)
"""Time for which a former secret signs beside the new one."""
MAX_FORMER_SECRETS: Final = 3

TIMEOUT_S: Final = 15.0
"""Seconds for one attempt, from the resolver to the status of the answer."""
PAUSES: Final = (
    timedelta(seconds=5),
    timedelta(minutes=5),
    timedelta(minutes=30),
    timedelta(hours=2),
    timedelta(hours=5),
    timedelta(hours=10),
    timedelta(hours=14),
    timedelta(hours=20),
    timedelta(hours=24),
)
"""Pauses after the first, second, … attempt, as the specification recommends; ten attempts in 76 hours, and up to a
tenth more by chance, so that what failed together does not come back together."""
MAX_RETRY_AFTER: Final = timedelta(hours=24)
"""Longest pause of one delivery that a webhook's `Retry-After` obtains; the address of a run obtains LONGEST_REST."""
GIVE_UP_AFTER: Final = timedelta(days=4)
"""Age at which a delivery fails even if a resting webhook has left it attempts."""
DISABLE_AFTER: Final = timedelta(days=5)
"""Time of nothing but failures after which a webhook is disabled."""
REST_FROM: Final = 3
"""Failures in a row from which a webhook rests between attempts."""
FIRST_REST: Final = timedelta(seconds=30)
LONGEST_REST: Final = timedelta(hours=1)
PARALLEL: Final = 8
"""Attempts at a time at a webhook whose latest attempt succeeded; one at a time at another."""
MAX_KEPT_ATTEMPTS: Final = 20
"""Attempts that a delivery shows, the latest ones."""

LEASE: Final = timedelta(seconds=60)
"""Time for which a worker has a webhook; longer than it sends, so that it ends only with a lost process."""

Chance = Callable[[], float]
"""Returns a number from 0 to 1."""


class WebhookStatus(StrEnum):
    """Whether a webhook is told anything."""

    ENABLED = "enabled"
    DISABLED = "disabled"


class DisabledReason(StrEnum):
    """Reason that a webhook is disabled."""

    REQUEST = "request"
    """Its owner asked."""
    GONE = "gone"
    """The address answered 410."""
    FAILING = "failing"
    """Nothing but failures for DISABLE_AFTER."""


class DeliveryStatus(StrEnum):
    """State of a delivery."""

    PENDING = "pending"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class DeliveryError(StrEnum):
    """Reason why an attempt failed; part of the API."""

    ADDRESS_REFUSED = "ADDRESS_REFUSED"
    """The name leads to an address that is not on the public internet, or nowhere."""
    UNREACHABLE = "UNREACHABLE"
    """No connection, or it broke before the answer."""
    TLS_FAILED = "TLS_FAILED"
    """The certificate is not valid for the name."""
    TIMED_OUT = "TIMED_OUT"
    BAD_ANSWER = "BAD_ANSWER"
    """The answer is not HTTP's."""
    REDIRECTED = "REDIRECTED"
    """3xx: redirects are not followed."""
    STATUS = "STATUS"
    """Another status than 2xx."""
    SECRET_LOST = "SECRET_LOST"  # noqa: S105  a name
    """The secret cannot be read any more: rotate it."""
    EXPIRED = "EXPIRED"
    """It was GIVE_UP_AFTER old."""


class WebhookChanged(StaleVersion):
    """Another request changed the webhooks of the account between our reading and our write: read again."""


class FormerSecret(Record, kw_only=True):
    """A secret that a rotation replaced."""

    sealed: bytes = field(repr=False)
    until: datetime
    """Moment until which it signs as well."""


class Webhook(Record, kw_only=True):
    """One webhook of an account; lengths are checked by schemas.py."""

    id: WebhookId
    user_id: UserId
    url: str
    """"": it is the default one."""
    description: str
    events: tuple[str, ...]
    """Types of events that it is told, or EVERYTHING."""
    status: WebhookStatus
    disabled_reason: DisabledReason | None = None
    sealed: bytes = field(repr=False)
    """Its secret, encrypted for this account and webhook."""
    former: tuple[FormerSecret, ...] = field(default=(), repr=False)
    created_at: datetime
    updated_at: datetime
    version: int

    @property
    def lane(self) -> Lane:
        """Return the lane of what it sends to its address."""
        return Lane(self.id)

    @property
    def is_default(self) -> bool:
        """Tell whether it signs what goes to the addresses that runs name, and has no address of its own."""
        return self.id == DEFAULT

    @property
    def is_enabled(self) -> bool:
        """Tell whether it is told anything."""
        return self.status is WebhookStatus.ENABLED

    def wants(self, event_type: str) -> bool:
        """Tell whether it is told events of a type."""
        return self.is_enabled and (event_type in self.events or EVERYTHING in self.events)

    def signing(self, now: datetime) -> tuple[bytes, ...]:
        """Return the sealed secrets that sign, the newest first."""
        return (self.sealed, *(each.sealed for each in self.former if each.until > now))

    def rotated(self, sealed: bytes, *, now: datetime) -> Webhook:
        """Return it with a new secret; those of before sign until their time is over, the latest for OVERLAP."""
        former = (FormerSecret(sealed=self.sealed, until=now + OVERLAP), *(e for e in self.former if e.until > now))
        return self.next(now, sealed=sealed, former=former[:MAX_FORMER_SECRETS])

    def next(self, now: datetime, **changes: object) -> Webhook:
        """Return its next version."""
        return replace(self, **changes, updated_at=now, version=self.version + 1)  # type: ignore[arg-type]


def default_webhook(user_id: UserId, sealed: bytes, *, at: datetime) -> Webhook:
    """Return the default webhook of an account with its first secret."""
    return Webhook(
        id=DEFAULT,
        user_id=user_id,
        url="",
        description="",
        events=(),
        status=WebhookStatus.ENABLED,
        sealed=sealed,
        created_at=at,
        updated_at=at,
        version=1,
    )


class DeliveryAttempt(Record, kw_only=True):
    """One attempt to deliver."""

    at: datetime
    duration_ms: int
    status_code: int | None = None
    """None: there was no answer."""
    error: DeliveryError | None = None
    """None: it succeeded."""

    @property
    def ended_at(self) -> datetime:
        """Return the moment of its end."""
        return self.at + timedelta(milliseconds=self.duration_ms)


class ReceiverAnswer(Record, kw_only=True):
    """Answer of a receiver."""

    status_code: int
    retry_after: timedelta | None = None
    """Pause that it asked for by `Retry-After`."""


class Delivery(Record, kw_only=True):
    """One event for one webhook."""

    id: DeliveryId
    """The event's."""
    user_id: UserId
    webhook_id: WebhookId
    type: str
    payload: str
    """JSON as it is sent, byte for byte the same at each attempt."""
    url: str = ""
    """Address that a run has named, of a delivery of the default webhook; "": the webhook's."""
    status: DeliveryStatus = DeliveryStatus.PENDING
    due_at: datetime | None
    """Moment of the next attempt; None: it is done."""
    made_at: datetime
    """Moment of the event, from which it is RETENTION that it is kept."""
    asked_at: datetime
    """Moment since which it is to be delivered: its making, or the latest `redeliver`."""
    attempts: tuple[DeliveryAttempt, ...] = ()
    """The latest, MAX_KEPT_ATTEMPTS of them."""
    attempt_count: int = 0
    round: int = 0
    """Attempts since `asked_at`, by which the pauses grow."""

    @property
    def lane(self) -> Lane:
        """Return the deliveries among which it is sent."""
        if not self.url:
            return Lane(self.webhook_id)
        return Lane(f"{self.webhook_id}.{zlib.crc32(self.host.encode()) % LANES}")

    @property
    def host(self) -> str:
        """Return the host and port of the address that a run has named; "": none has."""
        return urlsplit(self.url).netloc.rpartition("@")[2].lower()

    def attempted(self, attempt: DeliveryAttempt, *, retry_after: timedelta | None = None, chance: Chance) -> Delivery:
        """Return it after an attempt: done, due again, or failed."""
        done = replace(
            self,
            attempts=(*self.attempts, attempt)[-MAX_KEPT_ATTEMPTS:],
            attempt_count=self.attempt_count + 1,
            round=self.round + 1,
        )
        if attempt.error is None:
            return done.closed(DeliveryStatus.SUCCEEDED)
        if done.round > len(PAUSES):
            return done.closed(DeliveryStatus.FAILED)
        pause = PAUSES[done.round - 1] * (1 + chance() / 10)
        if retry_after is not None:
            pause = max(pause, min(retry_after, LONGEST_REST if self.url else MAX_RETRY_AFTER))
        return replace(done, due_at=attempt.ended_at + pause)

    def closed(self, status: DeliveryStatus) -> Delivery:
        """Return it without another attempt."""
        return replace(self, status=status, due_at=None)

    def again(self, now: datetime) -> Delivery:
        """Return it as somebody asks for it anew: due at once, with all pauses before it."""
        return replace(self, status=DeliveryStatus.PENDING, due_at=now, asked_at=now, round=0)


class Agenda(Record, kw_only=True):
    """State of a lane, as the worker that has its lease knows it."""

    user_id: UserId
    lane: Lane
    holder: str
    """Token of the worker that has the lease."""
    lease_until: datetime
    version: int
    """Number of changes by which a worker that is done finds that something was added meanwhile."""
    renewals: int = 0
    """Number of times that somebody had the failures of before forgotten: a worker that knew them keeps to it."""
    failures: int = 0
    """Failures in a row."""
    failing_since: datetime | None = None
    """Moment of the first of them."""
    rests_until: datetime | None = None
    """Moment before which nothing is sent to it; None: it does not rest."""

    def met(self, attempt: DeliveryAttempt, *, retry_after: timedelta | None = None, chance: Chance) -> Agenda:
        """Return it after an attempt: a success ends all rest, failures in a row make it longer."""
        if self.is_shared:
            return self
        if attempt.error is None:
            return replace(self, failures=0, failing_since=None, rests_until=None)
        failures = self.failures + 1
        ended = attempt.ended_at
        rest = timedelta(0)
        if failures >= REST_FROM:
            rest = min(FIRST_REST * 2 ** min(failures - REST_FROM, 20), LONGEST_REST) * (1 + chance() / 10)
        if retry_after is not None:
            rest = max(rest, min(retry_after, LONGEST_REST))
        return replace(
            self,
            failures=failures,
            failing_since=self.failing_since or attempt.at,
            rests_until=max(self.rests_until or ended, ended + rest) if rest else self.rests_until,
        )

    @property
    def webhook_id(self) -> WebhookId:
        """Return the webhook whose deliveries these are."""
        return webhook_of(self.lane)

    @property
    def is_shared(self) -> bool:
        """Tell whether its deliveries go to hosts that know nothing of each other: it never rests as a whole."""
        return self.webhook_id == DEFAULT

    def is_resting(self, now: datetime) -> bool:
        """Tell whether nothing is to be sent to it yet."""
        return not self.is_shared and self.rests_until is not None and self.rests_until > now

    def is_hopeless(self, now: datetime) -> bool:
        """Tell whether nothing but failures has come for so long that it is to be disabled."""
        return self.failing_since is not None and now - self.failing_since >= DISABLE_AFTER


class DueBatch(NamedTuple):
    """Deliveries that are to be sent side by side, and their webhook as it is by then."""

    webhook: Webhook | None
    """None: it is deleted, or nothing is due."""
    deliveries: Sequence[Delivery]


class AgendaState(Record, kw_only=True):
    """A lane's agenda, for a worker that does not have its lease."""

    lane: Lane
    leased_until: datetime | None
    """End of the lease of whoever sends; None: nobody does."""
    failures: int
    """Failures in a row."""
    rests_until: datetime | None


class DueLook(Record, kw_only=True):
    """A lane at which a worker has to look, by its agenda in the index."""

    user_id: UserId
    lane: Lane
    at: datetime


def webhook_of(lane: Lane) -> WebhookId:
    """Return the webhook of a lane."""
    return WebhookId(lane.partition(".")[0])


def is_lane(text: str) -> bool:
    """Tell whether a text is a lane; texts that are not must not become part of a key."""
    return is_id(text) or text in _DEFAULT_LANES


def delivery_of(happening: Happening, webhook_id: WebhookId, *, now: datetime) -> Delivery:
    """Return the delivery of an event for a webhook; the default one sends it to the address that the event names."""
    return Delivery(
        id=DeliveryId(happening.id),
        user_id=happening.user_id,
        webhook_id=webhook_id,
        type=happening.type,
        payload=payload_of(happening),
        url=happening.address if webhook_id == DEFAULT else "",
        due_at=now,
        made_at=happening.at,
        asked_at=now,
    )


def payload_of(happening: Happening) -> str:
    """Write an event as it is sent; where that is too long, of its data only texts of ids are kept."""
    whole = _payload(happening, happening.data)
    if len(whole) > MAX_PAYLOAD_BYTES:
        ids = {name: value for name, value in happening.data.items() if name.endswith("_id")}
        whole = _payload(happening, ids)
    return whole.decode()


def _payload(happening: Happening, data: object) -> bytes:
    return orjson.dumps({"type": happening.type, "timestamp": iso(happening.at), "data": data})


def shown_secret(secret: bytes) -> str:
    """Return a secret as its owner is shown it once."""
    return SECRET_PREFIX + base64.b64encode(secret).decode()


def headers_of(delivery: Delivery, secrets: Sequence[bytes], *, at: datetime) -> dict[str, str]:
    """Return the headers by which a receiver knows who sends, what it was, and that it is no replay.

    Each secret gives a signature, so a receiver that has any of them can tell.
    """
    seconds = str(int(at.timestamp()))
    signed = f"{delivery.id}.{seconds}.{delivery.payload}".encode()
    signatures = (base64.b64encode(hmac.digest(secret, signed, hashlib.sha256)).decode() for secret in secrets)
    return {
        "webhook-id": delivery.id,
        "webhook-timestamp": seconds,
        "webhook-signature": " ".join(f"v1,{each}" for each in signatures),
    }
