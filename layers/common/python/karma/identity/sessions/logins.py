"""Limits guesses at passwords without locking anybody out of their own account (docs/adr/0013-rate-limits.md).

An attempt takes from buckets *before* a password is verified, so guesses that arrive together are counted together:

| the account's network | buckets |
| --- | --- |
| known: a session of the account began there within 30 days | one of the network, which nobody elsewhere can empty |
| any other | one of the account and that network; then one that all such networks share for the account |

A right password puts back what it took. Known and unknown addresses are treated alike, by a hash of what was given.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from karma.core.clock import Clock
from karma.core.errors import ValidationFailed
from karma.core.ratelimit import Buckets, Decision, Limit, network_of
from karma.core.records import Record
from karma.identity.accounts import emails
from karma.identity.limits import LOGIN_ACCOUNT, LOGIN_KNOWN, LOGIN_NETWORK, refused


class LoginPlace(Record):
    """An account, existing or not, and a network, as hashes."""

    account: str
    network: str

    @classmethod
    def of(cls, email: str, address: str | None) -> LoginPlace:
        """Return the place of a login with this text as address, from this IP address."""
        try:
            account = emails.normalise(email)
        except ValidationFailed:
            account = email
        return cls(_sha256(account), _sha256(network_of(address)))


class Attempt(Record):
    """A login attempt that was counted and may be tried."""

    place: LoginPlace
    decisions: Sequence[tuple[str, Decision]]
    """Tokens that were taken, by bucket's key."""

    @property
    def is_last(self) -> bool:
        """Tell whether the next attempt will have to wait."""
        return any(not decision.remaining for _, decision in self.decisions)


class KnownNetworks(Protocol):
    """Networks of logins; `start_session` adds them."""

    def is_known_network(self, place: LoginPlace, *, now: datetime) -> bool:
        """Tell whether a session of the account began on the network within 30 days."""
        ...


class LoginThrottle:
    """Limits login attempts by account and network."""

    def __init__(self, *, buckets: Buckets, networks: KnownNetworks, clock: Clock) -> None:
        self._buckets = buckets
        self._networks = networks
        self._clock = clock

    def admit(self, email: str, address: str | None) -> Attempt:
        """Count an attempt.

        Raises:
            RateLimited: there were too many attempts; the same for addresses with and without an account.
        """
        now = self._clock.now()
        place = LoginPlace.of(email, address)
        here = f"{place.account} {place.network}"
        wanted: list[tuple[Limit, str]] = [(LOGIN_NETWORK, here), (LOGIN_ACCOUNT, place.account)]
        if self._networks.is_known_network(place, now=now):
            wanted = [(LOGIN_KNOWN, here)]
        taken: list[tuple[str, Decision]] = []
        for limit, key in wanted:
            decision = self._buckets.take(limit, key, now=now)
            if not decision.allowed:
                raise refused(decision)
            taken.append((key, decision))
        return Attempt(place, taken)

    def forgive(self, attempt: Attempt) -> None:
        """Put back the tokens that an attempt took: the password was right."""
        now = self._clock.now()
        for key, decision in attempt.decisions:
            self._buckets.give_back(decision.limit, key, now=now)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
