"""Services that every request may need: settings, clock, keys.

This package is the API's composition root, a module a context: each builder is cached, builds on first use, and
imports only then what only it needs; tests clear them.
"""

from __future__ import annotations

from functools import cache

from api.settings import Settings
from karma.core import secrets
from karma.core.clock import Clock, SystemClock
from karma.core.cursors import CursorSigner
from karma.core.dynamo.tables import bind_tables
from karma.core.settings import load
from karma.http.serving import Serving
from karma.identity.sessions.signing_keys import NEWER_MAX_AGE_S, KeyRing, KeyRings


@cache
def settings() -> Settings:
    """Read the environment once, and tell the process which tables it names."""
    loaded = load(Settings)
    bind_tables(loaded)
    return loaded


@cache
def clock() -> Clock:
    """Return the process's clock."""
    return SystemClock()


@cache
def _rings() -> KeyRings:
    return KeyRings()


def key_ring() -> KeyRing:
    """Return the signing keys, at most five minutes old."""
    return _rings().of(secrets.get(settings().auth_secret_arn))


def newer_key_ring() -> KeyRing:
    """Return the signing keys, at most thirty seconds old."""
    return _rings().of(secrets.get(settings().auth_secret_arn, max_age_s=NEWER_MAX_AGE_S))


def cursor_signer() -> CursorSigner:
    """Return the signer of list cursors, which uses the keys that sign tokens."""
    ring = key_ring()
    return CursorSigner(current=ring.current, keys=ring.keys)


@cache
def serving() -> Serving:
    """Return what every request is served with."""
    from api.services import identity

    return Serving(clock=clock(), admission=identity.admission(), cursor_signer=cursor_signer, key_ring=key_ring)
