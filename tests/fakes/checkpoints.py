"""A fake of the store of the points of runs; it passes the same contract suite as DynamoDB's."""

from __future__ import annotations

from datetime import datetime

from karma.core.errors import AlreadyExists, NotFound
from karma.core.requests import IdempotencyKeyReused, RepeatableRequest
from karma.identity.transactional import AccountGone
from karma.runs.domain import RunKey
from karma.runs.points import MAX_LABELS, PointId, RunPoint, point_of, too_many_labels
from tests.fakes.runs import MemoryRuns


class MemoryCheckpoints:
    """Points of the runs of a store in memory."""

    def __init__(self, runs: MemoryRuns) -> None:
        self.runs = runs
        self.labels: dict[RunKey, dict[tuple[int, str], RunPoint]] = {}
        self.requests: dict[tuple[RunKey, str], tuple[RepeatableRequest, PointId]] = {}

    def points(self, key: RunKey, *, limit: int, after: tuple[int, str] | None = None) -> list[RunPoint]:
        found = [point_of(key.run_id, each) for each in self.runs.checkpoints.get(key, {}).values()]
        found += self.labels.get(key, {}).values()
        ordered = sorted(found, key=lambda point: point.id.place)
        return [each for each in ordered if after is None or each.id.place > after][:limit]

    def point(self, key: RunKey, point: PointId) -> RunPoint | None:
        return next((each for each in self.points(key, limit=10**6) if each.id.place == point.place), None)

    def labelled_by(self, key: RunKey, request: RepeatableRequest) -> PointId | None:
        earlier = self.requests.get((key, request.key.token))
        if earlier is None:
            return None
        if earlier[0].request_hash != request.request_hash:
            raise IdempotencyKeyReused
        return earlier[1]

    def label(self, key: RunKey, point: RunPoint, *, at: datetime, request: RepeatableRequest | None) -> None:
        if key.user_id in self.runs.gone:
            raise AccountGone(key.user_id)
        if key not in self.runs.runs_by_key:
            raise NotFound("")
        if point.id.place in self.labels.get(key, {}) or (request and (key, request.key.token) in self.requests):
            raise AlreadyExists("")
        if len(self.labels.get(key, {})) >= MAX_LABELS:
            raise too_many_labels()
        self.labels.setdefault(key, {})[point.id.place] = point
        if request is not None:
            self.requests[key, request.key.token] = request, point.id
