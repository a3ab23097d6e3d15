"""The parts of a function that serving its requests takes: its composition root makes them, `Edge` lays them ready."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar

from karma.core.clock import Clock
from karma.core.cursors import CursorSigner
from karma.core.records import Record
from karma.http.admission import Admission
from karma.identity.sessions.signing_keys import KeyRing


class Serving(Record, kw_only=True):
    """Everything that requests of one function share."""

    clock: Clock
    admission: Admission
    cursor_signer: Callable[[], CursorSigner]
    """Signs the cursors of lists."""
    key_ring: Callable[[], KeyRing]
    """Keys of the fingerprints of bodies that an Idempotency-Key was given for."""


_current: ContextVar[Serving] = ContextVar("serving")


def serving() -> Serving:
    """Return what the request under way is served with.

    Raises:
        LookupError: no request is under way; only `Edge` begins one.
    """
    return _current.get()


def begin(parts: Serving) -> None:
    """Serve the request that this task is about with these."""
    _current.set(parts)
