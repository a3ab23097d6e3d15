from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from fastapi import Query, Request
from starlette.responses import Response

from api.services import agents, threads
from api.services.process import clock
from karma.agents.domain import MAX_NAME_CHARS
from karma.conversations.domain import ThreadPlace
from karma.core.ids import AgentId, RunId, ThreadId
from karma.core.paging import shown
from karma.http.access import permit
from karma.http.idempotency import Outcome, idempotency_key, once
from karma.http.locking import IfMatch, etag, expected_version
from karma.http.openapi import answers
from karma.http.pages import DEFAULT_SIZE, Cursor, Limit, next_cursor, position, scope_of
from karma.http.presenters import Answer, no_content, ok
from karma.http.routing import Router
from karma.identity.domain import Caller
from karma.models.budgets import UNLIMITED
from karma.threads.answers import BranchData, ThreadData, ThreadListData, thread_view
from karma.threads.domain import MAX_QUERY_CHARS, Search, name_in_urls
from karma.threads.export import ExportData, export_data
from karma.threads.schemas import ChangeThreadBody, CreateThreadBody
from karma.threads.service import key_of
from karma.threads.waiting_answers import InterruptListData, ThreadRunsData, waiting_view

if TYPE_CHECKING:
    from karma.threads.waiting import QuestionPlace

router = Router("threads")

Writer = Annotated[Caller, permit("thread:write")]
Reader = Annotated[Caller, permit("thread:read")]
RunReader = Annotated[Caller, permit("run:read")]
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
    scope = scope_of("threads", user_id, agent, query)
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


@router.post("/threads", idempotent=True, status_code=201, responses=answers(status=201, errors=(409,)))
async def create_thread(request: Request, body: CreateThreadBody, caller: Writer) -> Answer[ThreadData]:
    """Make a thread without messages, for runs to name as `threadId`; unless one begins in it, it ends in 30 days."""

    def create() -> Outcome[ThreadData]:
        key = idempotency_key(request, caller)
        budget = body.budget.budget() if body.budget else UNLIMITED
        head = threads.service().create(
            caller.user_id,
            title=body.title,
            thread_id=body.id,
            limits=(budget.max_tokens, budget.max_cost_micros),
            idempotency_key=key,
        )
        return Outcome(status=201, data={"thread": thread_view(head)}, made_id=head.key.thread_id)

    def find(made: str) -> object:
        return threads.service().get(caller.user_id, name_in_urls(ThreadId(made)))

    return await once(request, caller, create, find=find)


@router.get("/threads/{thread_name}", responses=answers(etag=True, errors=(400, 404, 409)))
async def get_thread(
    thread_name: str, caller: Reader, limit: Limit = DEFAULT_SIZE, cursor: Cursor | None = None
) -> Answer[BranchData]:
    """Show a thread with the last messages of its newest branch; `next_cursor` leads to those before them.

    The ETag is the thread's version, which runs count up, too.
    """
    from karma.runs.events import CURRENT  # local: both load what runs need
    from karma.runs.opening import shown as as_agui

    scope = scope_of("thread", caller.user_id, thread_name)
    before = position(cursor, scope, of=int).get("before")
    branch = threads.service().branch(caller.user_id, thread_name, before=before)
    kept, views = shown(branch.messages[:limit], lambda each: as_agui(each[1], CURRENT))
    following = {"before": kept[-1][0]} if len(kept) < len(branch.messages) else None
    data: BranchData = {
        "thread": thread_view(branch.head),
        "messages": views[::-1],
        "limit": limit,
        "next_cursor": next_cursor(following, scope),
    }
    return ok(data, headers=etag(branch.head.version))


@router.get("/threads/{thread_name}/export", responses=answers(errors=(404, 409)))
async def export_thread(thread_name: str, caller: Reader) -> Answer[ExportData]:
    """Export a thread: messages of all branches with their tree, and its runs without their events.

    What is larger than an answer may be is a file, to which `url` leads for an hour; links of attachments end after
    twelve.
    """
    return ok(export_data(threads.exports().export(key_of(caller.user_id, thread_name))))


@router.get("/threads/{thread_name}/runs", responses=answers(errors=(400, 404)))
async def list_runs_of_thread(
    thread_name: str, caller: RunReader, limit: Limit = DEFAULT_SIZE, cursor: Cursor | None = None
) -> Answer[ThreadRunsData]:
    """List the runs of a thread, in all its branches, the newest first."""
    from karma.runs.answers import run_view

    scope = scope_of("thread-runs", caller.user_id, thread_name)
    first = position(cursor, scope, of=str).get("first")
    key = key_of(caller.user_id, thread_name)
    runs = threads.waiting().runs(key, limit=limit + 1, first=RunId(first) if first else None)
    following = {"first": runs[limit].key.run_id} if runs[limit:] else None
    data: ThreadRunsData = {
        "runs": [run_view(run) for run in runs[:limit]],
        "limit": limit,
        "next_cursor": next_cursor(following, scope),
    }
    return ok(data)


@router.get("/interrupts", responses=answers(errors=(400,)))
async def list_interrupts(
    caller: RunReader, agent_id: AgentRef = None, limit: Limit = DEFAULT_SIZE, cursor: Cursor | None = None
) -> Answer[InterruptListData]:
    """List the questions of runs that wait for the caller, those of the threads with the newest activity first.

    With `agent_id`, an agent's id or name, those of threads whose newest run is its. A page looks at 500 threads at the
    most: it may be short, or empty, with a `next_cursor`.
    """
    from karma.threads.waiting import QuestionPlace

    user_id = caller.user_id
    agent = None if agent_id is None else agents.catalogue().id_of(agent_id) or AgentId(agent_id)
    scope = scope_of("interrupts", user_id, agent)
    after = position(cursor, scope, of=str)
    behind = ThreadPlace(ThreadId(after["below"]), after["at"]) if after.get("below") else None
    start = QuestionPlace(behind, after.get("question", "")) if behind else None
    page = threads.waiting().questions(user_id, limit=limit, start=start, agent_id=agent)
    data: InterruptListData = {
        "interrupts": [waiting_view(head, question, now=clock().now()) for head, question in page.questions],
        "limit": limit,
        "next_cursor": next_cursor(_following(page.last), scope),
    }
    return ok(data)


def _following(place: QuestionPlace | None) -> dict[str, str] | None:
    if place is None:
        return None
    return {"below": place.thread.thread_id, "at": place.thread.at, "question": place.question}


@router.patch("/threads/{thread_name}", responses=answers(etag=True, errors=(404, 409)))
async def change_thread(
    thread_name: str, body: ChangeThreadBody, caller: Writer, if_match: IfMatch = None
) -> Answer[ThreadData]:
    """Give a thread a title, which nothing but its owner replaces, or a budget for all of its runs together.

    A budget holds for runs that begin from then on, or whose turn comes; what earlier ones have used counts.
    """
    version = expected_version(if_match, body.version)
    head = threads.service().change(caller.user_id, thread_name, body.change(), version=version)
    return ok({"thread": thread_view(head)}, headers=etag(head.version))


@router.delete("/threads/{thread_name}", status_code=204, responses=answers(status=204, errors=(404, 409)))
async def delete_thread(thread_name: str, caller: Writer, if_match: IfMatch = None) -> Response:
    """Delete a thread with its messages and runs; an active run is cancelled.

    The thread is gone at once and its runs within seconds; its id is refused for 90 days.
    """
    key = key_of(caller.user_id, thread_name)
    threads.remover().delete(key, version=expected_version(if_match))
    return no_content()
