"""Services of notices."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from api.services.process import clock

if TYPE_CHECKING:
    from karma.notices.service import NoticeService


@cache
def service() -> NoticeService:
    """Return the service of notices."""
    from karma.notices.repository import NoticeRepository
    from karma.notices.service import NoticeService

    return NoticeService(NoticeRepository(), clock())
