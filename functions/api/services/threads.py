"""Services of threads."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from karma.threads.service import ThreadService


@cache
def service() -> ThreadService:
    """Return the use cases of threads."""
    from karma.conversations.repository import ThreadRepository
    from karma.threads.service import ThreadService

    return ThreadService(ThreadRepository())
