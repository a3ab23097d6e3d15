"""In-memory stand-in for the records of requests; a part of the stores in memory that create something."""

from __future__ import annotations

from collections.abc import Hashable

from karma.core.errors import AlreadyExists, AppError
from karma.core.requests import RETENTION, IdempotencyKeyReused, RepeatableRequest


class MemoryRequests:
    """Records of requests in a dictionary, each in the partition of an owner."""

    def __init__(self) -> None:
        self._records: dict[tuple[Hashable, str], tuple[RepeatableRequest, str]] = {}

    def require_new(
        self, owner: Hashable, request: RepeatableRequest | None, *, repeated: AppError | None = None
    ) -> None:
        """Raise the error of a request that has a record already."""
        if request is not None and self._current(owner, request) is not None:
            raise repeated or AlreadyExists("This request was carried out before")

    def note(self, owner: Hashable, request: RepeatableRequest | None, made_id: str) -> None:
        """Store the record of a request, if it has a key."""
        if request is not None:
            self._records[owner, request.key.token] = (request, made_id)

    def noted(self, owner: Hashable, request: RepeatableRequest) -> str | None:
        """Return the id of what a request created, as karma.core.dynamo.requests.noted does."""
        found = self._current(owner, request)
        if found is None:
            return None
        first, made_id = found
        if first.request_hash != request.request_hash:
            raise IdempotencyKeyReused
        return made_id

    def _current(self, owner: Hashable, request: RepeatableRequest) -> tuple[RepeatableRequest, str] | None:
        found = self._records.get((owner, request.key.token))
        return found if found is not None and request.asked_at < found[0].asked_at + RETENTION else None
