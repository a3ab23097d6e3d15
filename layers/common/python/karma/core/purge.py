"""Interface by which each context deletes the data of a deleted account (karma/identity/accounts/deletion.py)."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol

from karma.core import contexts
from karma.core.clock import monotonic
from karma.core.ids import UserId
from karma.core.records import Record


class PurgeAttempt(Record, kw_only=True):
    """One attempt to delete an account's data; it may end at any point, the next one continues."""

    user_id: UserId
    requested_at: datetime
    """Moment of the deletion's request: what was made since then belongs to somebody else."""
    ends_at: float
    """End of the attempt, on the clock of `monotonic`: no deletion is begun after it."""
    settled: bool
    """Nothing that ran when the account was deleted can still write: items that refuse late writes can go, too."""

    def over(self) -> bool:
        """Tell whether the time of this attempt is used up."""
        return monotonic() >= self.ends_at


class PurgeStep(Protocol):
    """A context's part of an account's deletion."""

    name: str

    def purge_account(self, purge: PurgeAttempt) -> bool:
        """Delete the context's data of an account; True when none is left.

        May be called again at any time, also concurrently.
        """
        ...


def offered() -> list[PurgeStep]:
    """Return the steps of the contexts whose `purge.py` has a function `purge`; these need only their repository."""
    return [module.purge() for module in contexts.modules("purge") if hasattr(module, "purge")]
