"""What each context is told when it removes what a deleted account has left (karma/identity/accounts/deletion.py)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from karma.core import contexts
from karma.core.clock import monotonic
from karma.core.ids import UserId


@dataclass(frozen=True, kw_only=True)
class Purge:
    """One go at removing what is left of an account; a go may end at any point, the next one finds what remains."""

    user_id: UserId
    ends_at: float
    """On `monotonic`'s clock: nothing new is begun after it."""
    settled: bool
    """Nothing that ran when the account was deleted can still write: what keeps late writers out may go too."""

    def over(self) -> bool:
        """Tell whether the time of this go is used up."""
        return monotonic() >= self.ends_at


class Step(Protocol):
    """What a context offers the cascade."""

    name: str

    def purge_account(self, purge: Purge) -> bool:
        """Remove what is left of an account; True when nothing is.

        May be called again at any time, also beside itself.
        """
        ...


def offered() -> list[Step]:
    """Make the step of each context whose `purge.py` has a function `purge`: those that need their repository only."""
    return [module.purge() for module in contexts.modules("purge") if hasattr(module, "purge")]
