"""The one table of rate limits of requests. Monthly allowances are in plans (karma.billing.plans).

Which limit holds for which kind of mail, mail_limits.py says.
`limit="auth"` on a route of functions/api and `limit="run"` in agent_stream name its rows. ADR 0013 says why.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Protocol

from karma.core.clock import Clock, monotonic
from karma.core.errors import RateLimited, Upstream
from karma.core.ids import UserId
from karma.core.leases import Lease, Pool, PoolIsFull
from karma.core.observability import count, logger
from karma.core.ratelimit import Buckets, Decision, Limit
from karma.core.records import Record

_MINUTE = timedelta(minutes=1)
_PLAN_MAX_AGE_S = 300.0
_MAX_PLANS = 1000


class Counted(StrEnum):
    """Subject that requests are counted for."""

    NETWORK = "network"
    """IP address of the caller (IPv6: /64), before the caller is known."""
    ACCOUNT = "account"


class Rule(Record, kw_only=True):
    """Row of the table: a limit for everybody, or one per plan."""

    counted: Counted
    stored: bool
    """True: counted in DynamoDB for all processes together; False: in each process by itself."""
    limits: Mapping[str, Limit]
    """Limits by name of the plan; "": everybody's."""


def _everybody(name: str, amount: int, per: timedelta) -> Mapping[str, Limit]:
    return {"": Limit(name, amount, per)}


def _by_plan(name: str, **amounts: int) -> Mapping[str, Limit]:
    return {plan: Limit(name, amount, _MINUTE) for plan, amount in amounts.items()}


RULES: Mapping[str, Rule] = {
    "auth": Rule(counted=Counted.NETWORK, stored=True, limits=_everybody("auth", 300, _MINUTE)),
    "run": Rule(
        counted=Counted.ACCOUNT, stored=True, limits=_by_plan("run", free=60, pro=120, team=300, enterprise=1200)
    ),
    # Beside `run`, which counts by account: a chat's page is public more often than a program.
    "chat": Rule(counted=Counted.NETWORK, stored=True, limits=_everybody("chat", 10, _MINUTE)),
    "command": Rule(
        counted=Counted.ACCOUNT, stored=True, limits=_by_plan("command", free=60, pro=300, team=1200, enterprise=6000)
    ),
    # Commands to many devices at once: each is as many as its plan allows, 1,000 of them some 20 s of work.
    "bulk": Rule(counted=Counted.ACCOUNT, stored=True, limits=_by_plan("bulk", free=6, pro=12, team=30, enterprise=60)),
    # Making and deleting devices: each is several calls of AWS IoT's control plane, whose quota all accounts share.
    "device": Rule(
        counted=Counted.ACCOUNT, stored=True, limits=_by_plan("device", free=60, pro=120, team=300, enterprise=600)
    ),
    # What makes us call a host that an account names: few, so that we are no tool against others.
    "outward": Rule(counted=Counted.ACCOUNT, stored=True, limits=_everybody("outward", 20, _MINUTE)),
    # What reads megabytes, or makes others of our functions do so.
    "costly": Rule(
        counted=Counted.ACCOUNT, stored=True, limits=_by_plan("costly", free=60, pro=120, team=300, enterprise=600)
    ),
    # Asking people, and answering.
    "member": Rule(counted=Counted.ACCOUNT, stored=True, limits=_everybody("member", 30, _MINUTE)),
    "public": Rule(counted=Counted.NETWORK, stored=False, limits=_everybody("public", 600, _MINUTE)),
    "default": Rule(counted=Counted.ACCOUNT, stored=False, limits=_everybody("default", 3000, _MINUTE)),
}

LOGIN_NETWORK = Limit("login_network", 5, timedelta(minutes=15))
LOGIN_ACCOUNT = Limit("login_account", 100, timedelta(hours=1))
LOGIN_KNOWN = Limit("login_known", 20, timedelta(minutes=15))
"""Limits of wrong passwords for one account: from a network that is new to it, from all new ones together, from a known
one (karma.identity.sessions.logins). Stored."""

PASSWORD = Limit("password", 10, timedelta(minutes=15))
"""Limit of wrong passwords in an open session, by account (karma.identity.confirmation). Stored."""

_HOUR = timedelta(hours=1)
MAIL_RESET = Limit("mail_reset", 3, _HOUR)
MAIL_VERIFY = Limit("mail_verify", 3, _HOUR)
MAIL_CHANGE = Limit("mail_change", 3, _HOUR)
"""Limits of mails that people cause to one address, their own or not, by its SHA-256: a mailbox cannot be flooded.

Whoever knows an address can empty its bucket, so that an empty one refuses nobody: the mail is left out. Refusals are
counted by the account's id. Stored.
"""
MAIL_CHANGE_FIRST = Limit("mail_change_first", 1, timedelta(days=1))
"""Mail that an account may cause to an address that it names, whatever others have caused there; by both. Stored."""

REGISTRATIONS = Limit("registrations", 50, timedelta(days=1))
"""Registrations from one network; each is a mail to an address that nobody has proven, and a free plan. Stored."""
MAIL_UNPROVEN = Limit("mail_unproven", 10_000, timedelta(days=1))
"""Mails to addresses that nobody has proven, of the whole deployment and whatever their kind: beyond, they are left
out, so that SES goes on sending the others, and an alarm says so. Counted as a mail is sent, when it is known whose
address it goes to (karma.mail.service). Stored."""

WEBHOOK_TRIES = Limit("webhook_tries", 10, _MINUTE)
"""Deliveries that an account asks for by hand, tests and repeats, for one webhook; beside `outward`. Stored."""

MAIL_PASSWORD = Limit("mail_password", 3, _HOUR)
MAIL_API_KEY = Limit("mail_api_key", 10, _HOUR)
"""Limit of mails that tell an account what was done with it, by its id; beyond it, only notices and audit log do.

Stored.
"""

_DAY = timedelta(days=1)
INVITATIONS = Limit("invitations", 100, _DAY)
"""Limit of invitations to projects and offers of devices together, by the account that sends them. Stored."""
MAIL_INVITATION = Limit("mail_invitation", 3, _DAY)
"""Limit of mails and notices about both, by the account or address that is asked; beyond it, they are only listed."""

OPEN_STREAMS = Pool("open_streams", 10, timedelta(seconds=75))
"""Limit of open streams of one account: each takes a process of the streaming function, whose number is limited for all
accounts together (docs/adr/0035). A stream that is open for longer renews its lease; that of a process that was killed
is over within this time."""
LIVE_STREAMS = Pool("live_streams", 4, timedelta(seconds=75))
ALL_LIVE_STREAMS = Pool("all_live_streams", 100, timedelta(seconds=75))
"""Limits of streams of what changes, of one account and of the deployment (docs/adr/0067): each holds a process, at a
thousand times the price of a WebSocket. A response ends after a minute."""
WAITING_REQUESTS = Pool("waiting_requests", 5, timedelta(seconds=30))
"""Limit of requests of one account that wait for somebody else, a device, a run or a server of MCP: each takes a
process of the API, whose number is limited for all accounts and ingest together. None waits longer than the gateway, 30
seconds."""
_RENEW_AGAIN_S = 5.0
"""Seconds between two renewals at the least, where they fail."""
_OPEN_RETRY_S = 10
"""Seconds after which to retry: most requests end long before their time."""


class Throttle:
    """Counts requests by the rows of the table. Caches plans for five minutes."""

    def __init__(
        self,
        *,
        stored: Buckets,
        local: Buckets,
        clock: Clock,
        plan_of: Callable[[UserId], str],
        rules: Mapping[str, Rule] = RULES,
    ) -> None:
        """Build the throttle.

        `plan_of` returns the name of the plan whose limits hold for a user now.
        """
        self._stored = stored
        self._local = local
        self._clock = clock
        self._plan_of = plan_of
        self._rules = rules
        self._plans: dict[UserId, tuple[float, str]] = {}

    def admit(self, name: str, *, network: str = "", user_id: UserId | None = None) -> Decision:
        """Count one request of a network or an account, as the row says.

        Raises:
            RateLimited: the limit is reached; the error says when to retry.
        """
        rule = self._rules[name]
        if rule.counted is Counted.NETWORK:
            key = network
        else:
            assert user_id is not None  # noqa: S101  a wiring error, not an input
            key = user_id
        limit = rule.limits.get("") or rule.limits[self._plan(UserId(key))]
        decision = (self._stored if rule.stored else self._local).take(limit, key, now=self._clock.now())
        if not decision.allowed:
            raise refused(decision)
        return decision

    def is_counted_by_network(self, name: str) -> bool:
        """Tell whether a row counts by network and not by account."""
        return self._rules[name].counted is Counted.NETWORK

    def _plan(self, user_id: UserId) -> str:
        now = monotonic()
        kept = self._plans.get(user_id)
        if kept is None or now - kept[0] >= _PLAN_MAX_AGE_S:
            if len(self._plans) >= _MAX_PLANS:
                self._plans.clear()
            kept = self._plans[user_id] = (now, self._plan_of(user_id))
        return kept[1]


class UnprovenMails:
    """Counts mails to addresses that nobody has proven, of the whole deployment (`MAIL_UNPROVEN`)."""

    def __init__(self, buckets: Buckets) -> None:
        self._buckets = buckets

    def take(self, *, now: datetime) -> bool:
        """Count one mail that is about to be sent; False: the day's are sent."""
        if self._buckets.take(MAIL_UNPROVEN, "", now=now).allowed:
            return True
        count("UnprovenMailDropped")
        return False

    def give_back(self, *, now: datetime) -> None:
        """Count one mail less: the provider did not take it."""
        self._buckets.give_back(MAIL_UNPROVEN, "", now=now)


def refused(decision: Decision) -> RateLimited:
    """Return the 429 of a decision, and count it."""
    limit = decision.limit
    count("RateLimited", limit=limit.name)
    error = RateLimited(
        f"Too many requests: {limit.amount} in {limit.per.total_seconds():.0f} s are allowed",
        retry_after_s=max(1, decision.wait_s),
        limit=limit.name,
    )
    error.headers.update(decision.headers())
    return error


class Leases(Protocol):
    """Leases of open requests: karma.core.dynamo.leases."""

    def take(self, pool: Pool, holder: str, *, now: datetime, until: datetime) -> Lease: ...  # noqa: D102
    def renew(self, lease: Lease, *, now: datetime, until: datetime) -> Lease: ...  # noqa: D102
    def give_back(self, lease: Lease) -> None: ...  # noqa: D102


class OpenRequests:
    """Limits how many long requests of one kind an account has open at once, over all processes."""

    def __init__(self, leases: Leases, clock: Clock, *, pool: Pool) -> None:
        self._leases = leases
        self._clock = clock
        self._pool = pool

    def open(self, user_id: UserId, *, until: datetime | None) -> Lease:
        """Take a lease for a request that ends by `until`, or at the latest time possible for its kind.

        A request that may be open for longer than its pool leases a place has to renew it.

        Raises:
            RateLimited: the account has as many open as it may.
        """
        now = self._clock.now()
        try:
            end = until or now + self._pool.longest
            return self._leases.take(self._pool, user_id, now=now, until=end)
        except PoolIsFull as full:
            count("RateLimited", limit=self._pool.name)
            wait_s = math.ceil((full.free_at - now).total_seconds())
            raise RateLimited(
                f"Too many {self._pool.name.replace('_', ' ')}: {self._pool.places} at once are allowed; "
                "close one, or wait until one ends",
                retry_after_s=max(1, min(_OPEN_RETRY_S, wait_s)),
                limit=self._pool.name,
            ) from None

    def renew(self, lease: Lease, *, until: datetime | None) -> Lease:
        """Put off the end of the lease of a request that is still open, and return it as it is then.

        Raises nothing: what has begun goes on. Where another request has its place by now it takes another one; where
        none is free, or the database fails, it is counted again by the next renewal that succeeds.
        """
        now = self._clock.now()
        try:
            return self._leases.renew(lease, now=now, until=until or now + self._pool.longest)
        except (PoolIsFull, Upstream) as exc:
            logger.warning("open_request.not_renewed", reason=type(exc).__name__)
            return lease

    def renew_in_s(self, lease: Lease) -> float:
        """Return the seconds after which a lease is renewed: half of its rest, so that a failure is tried again."""
        return max(_RENEW_AGAIN_S, (lease.until - self._clock.now()).total_seconds() / 2)

    @contextmanager
    def held(self, user_id: UserId, *, until: datetime | None = None) -> Iterator[None]:
        """Hold a lease while the block runs.

        Raises:
            RateLimited: the account has as many open as it may; the block did not begin.
        """
        lease = self.open(user_id, until=until)
        try:
            yield
        finally:
            self.close(lease)

    def close(self, lease: Lease) -> None:
        """Give a lease back. One that cannot be given back counts until its time is over."""
        try:
            self._leases.give_back(lease)
        except Upstream as exc:
            logger.warning("open_request.not_given_back", code=exc.code)
