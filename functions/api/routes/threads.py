from __future__ import annotations

from typing import Annotated

from fastapi import Query

from api.services import agents, threads
from karma.agents.domain import MAX_NAME_CHARS
from karma.conversations.domain import ThreadPlace
from karma.core.ids import AgentId
from karma.http.access import permit
from karma.http.openapi import answers
from karma.http.pages import DEFAULT_SIZE, Cursor, Limit, next_cursor, position
from karma.http.presenters import Answer, ok
from karma.http.routing import Router
from karma.identity.domain import Caller
from karma.threads.answers import ThreadListData, thread_view
from karma.threads.domain import MAX_QUERY_CHARS, Search

router = Router("threads")

Reader = Annotated[Caller, permit("thread:read")]
AgentRef = Annotated[str | None, Query(min_length=1, max_length=MAX_NAME_CHARS)]
Words = Annotated[str, Query(max_length=MAX_QUERY_CHARS)]


@router.get("/threads", responses=answers(errors=(400,)))
async def list_threads(
    caller: Reader,
    agent_id: AgentRef = None,
    query: Words = "",
    limit: Limit = DEFAULT_SIZE,
    cursor: Cursor | None = None,
) -> Answer[ThreadListData]:
    """List the caller's threads, the newest activity first.

    With `agent_id`, an agent's id or name, those whose newest run is its; with `query` those whose title has all of its
    words, in any order and also within words, whatever their case and accents. Such a page looks at 500 threads at the
    most, so it may have few entries, or none, and a `next_cursor`.
    """
    service, user_id = threads.service(), caller.user_id
    agent = None if agent_id is None else agents.catalogue().id_of(agent_id) or AgentId(agent_id)
    scope = f"threads:{user_id}:{agent or ''}:{query}"
    after = position(cursor, scope, of=str)
    below = ThreadPlace(**after) if after else None
    page = service.page(user_id, limit=limit, below=below, search=Search(agent, query))
    following = page.last._asdict() if page.last else None
    data: ThreadListData = {
        "threads": [thread_view(head) for head in page.threads],
        "limit": limit,
        "next_cursor": next_cursor(following, scope),
    }
    return ok(data)
