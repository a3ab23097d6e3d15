"""Rotation of the keys that sign access tokens: three steps, days apart, without effect on clients.

| step | when | because |
| --- | --- | --- |
| add: the new key is accepted | no rotation goes on | a process must know a key before it meets its signature |
| promote: the new key signs | `PUBLISHED` later | processes keep the secret for five minutes |
| drop: the old keys are refused | `RETIRED` later | access tokens live 30 minutes, idempotency records a day |

The secret holds the state: `{"current": kid, kid: key, ..., "rotation": {"kid", "added_at", "promoted_at"}}`.
Cursors of lists do not expire: one signed with a dropped key gets 400 INVALID_CURSOR, and its list starts again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from enum import StrEnum

from karma.core.clock import iso, parse_iso
from karma.core.records import Record
from karma.identity.sessions.signing_keys import KeyRing

PUBLISHED = timedelta(minutes=6)
"""Time from adding a key to signing with it; longer than a process caches the secret (karma.core.secrets)."""
RETIRED = timedelta(hours=25)
"""Time from promoting a key to dropping the old ones; longer than anything signed is valid, cursors apart."""

_KID = re.compile(r"k([0-9]{1,9})")
_STATE = "rotation"


class Step(StrEnum):
    """Next step of a rotation."""

    ADD = "add"
    PROMOTE = "promote"
    DROP = "drop"


class NotDue(Exception):
    """It is too early for the next step."""

    def __init__(self, step: Step, due_at: datetime) -> None:
        super().__init__(f"{step} is due at {iso(due_at)}")
        self.step = step
        self.due_at = due_at


class Rotation(Record, kw_only=True):
    """State of a secret's rotation."""

    current: str
    accepted: tuple[str, ...]
    step: Step
    due_at: datetime | None
    """Moment from which the next step may be made; None: at any time."""


def rotation_of(secret: Mapping[str, object]) -> Rotation:
    """Return the state of a secret's rotation.

    Raises:
        KeysUnusable: the secret does not have the form above.
    """
    ring = KeyRing.parse(secret)
    state = secret.get(_STATE)
    step, due_at = Step.ADD, None
    if isinstance(state, dict):
        if "promoted_at" in state:
            step, due_at = Step.DROP, parse_iso(state["promoted_at"]) + RETIRED
        else:
            step, due_at = Step.PROMOTE, parse_iso(state["added_at"]) + PUBLISHED
    return Rotation(current=ring.current, accepted=tuple(sorted(ring.keys)), step=step, due_at=due_at)


def advance(
    secret: Mapping[str, object], *, now: datetime, new_key: Callable[[], str], early: bool = False
) -> dict[str, object]:
    """Return the secret after the next step; `early` does not wait for it, so requests may fail for minutes.

    Raises:
        KeysUnusable: the secret does not have the form above.
        NotDue: the step before was made too recently.
    """
    rotation = rotation_of(secret)
    if rotation.due_at is not None and now < rotation.due_at and not early:
        raise NotDue(rotation.step, rotation.due_at)
    match rotation.step:
        case Step.ADD:
            kid = _next_kid(rotation.accepted)
            return {**secret, kid: new_key(), _STATE: {"kid": kid, "added_at": iso(now)}}
        case Step.PROMOTE:
            state = secret[_STATE]
            assert isinstance(state, dict)  # noqa: S101  rotation_of has seen it
            return {**secret, "current": state["kid"], _STATE: {**state, "promoted_at": iso(now)}}
        case Step.DROP:
            return {"current": rotation.current, rotation.current: secret[rotation.current]}


def _next_kid(kids: tuple[str, ...]) -> str:
    numbers = [int(found[1]) for kid in kids if (found := _KID.fullmatch(kid))]
    return f"k{max(numbers, default=0) + 1}"
