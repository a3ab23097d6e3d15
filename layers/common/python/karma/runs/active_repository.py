"""The runs that go on, by agent, in the table `agents`: a part of the store of runs."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from functools import partial

from karma.core.dynamo.access import query
from karma.core.dynamo.transaction import Transaction
from karma.core.ids import AgentId, UserId
from karma.runs.domain import RunKey, Segment
from karma.runs.holdings import is_place_of
from karma.runs.items import (
    WORKING,
    RunsItem,
    WorkingItem,
    active_runs_pk,
    parse_run_pk,
    run_pk,
    working_pk,
    working_sk,
)
from karma.runs.ports import ActivePage, AtWork


class RunActiveRepository:
    """Lists of runs that go on over DynamoDB."""

    def refused_at(self, user_id: UserId) -> datetime | None:
        """See Runs; one GetItem."""
        from karma.core.dynamo.leases import DynamoLeases  # asked for a run that seems to be lost
        from karma.runs.places import LEAST

        return DynamoLeases("agents").refused_at(LEAST, user_id)

    def free_place(self, key: RunKey, *, term: int, at: datetime) -> list[str]:
        """See Runs; one GetItem, and one update where it has a place."""
        from karma.core.dynamo.leases import DynamoLeases  # for a run that a process has left
        from karma.runs.places import LEAST

        meant = partial(is_place_of, key.run_id, term)
        return DynamoLeases("agents").end(LEAST, key.user_id, meant, now=at)

    def active(
        self, user_id: UserId, agent_id: AgentId, *, limit: int, start: dict[str, str] | None = None
    ) -> ActivePage:
        """See Runs; one Query of the index."""
        return _page(active_runs_pk(user_id, agent_id), limit, start)

    def with_work_of(
        self, user_id: UserId, agent_id: AgentId, *, limit: int, start: dict[str, str] | None = None
    ) -> ActivePage:
        """See Runs; one Query of the index."""
        return _page(working_pk(user_id, agent_id), limit, start)


def _page(pk: str, limit: int, start: dict[str, str] | None) -> ActivePage:
    page = query(RunsItem, pk, limit=limit, start=start, index=RunsItem.gsi1)
    return ActivePage([parse_run_pk(item.pk) for item in page.items], page.last)


def list_work(tx: Transaction, segment: Segment, begun: AtWork) -> None:
    """List the run of a segment among those in which an agent works; nothing changes where it is."""
    item = WorkingItem(run_pk(segment.key), f"{WORKING}{begun.subagent}")
    listed = working_sk(segment.key.run_id, segment.lease_until)
    pk = working_pk(segment.key.user_id, begun.agent_id)
    tx.upsert(item, [WorkingItem.gsi1pk.set(pk), WorkingItem.gsi1sk.set(listed)])


def unlist_work(tx: Transaction, key: RunKey, subagents: Iterable[str]) -> None:
    """Take subagents off the list that do not work any more in a run; whoever ends runs may not delete items."""
    for subagent in subagents:
        item = WorkingItem(run_pk(key), f"{WORKING}{subagent}")
        tx.upsert(item, [WorkingItem.gsi1pk.remove(), WorkingItem.gsi1sk.remove()])
