from __future__ import annotations

from typing import Annotated

from fastapi import Request
from starlette.responses import Response

from api.services import nouns
from karma.http.access import permit
from karma.http.idempotency import Outcome, idempotency_key, once
from karma.http.locking import IfMatch, etag, expected_version
from karma.http.openapi import answers
from karma.http.pages import DEFAULT_SIZE, Cursor, Limit, next_cursor, position, scope_of
from karma.http.presenters import Answer, no_content, ok
from karma.http.routing import Router
from karma.identity.domain import Caller
from karma.nouns.answers import NounData, NounListData, noun_view
from karma.nouns.domain import Noun
from karma.nouns.schemas import ChangeNounBody, CreateNounBody

router = Router("nouns")

Reader = Annotated[Caller, permit("noun:read")]
Writer = Annotated[Caller, permit("noun:write")]


@router.post("/nouns", idempotent=True, status_code=201, responses=answers(status=201, errors=(409,)))
async def create_noun(request: Request, body: CreateNounBody, caller: Writer) -> Answer[NounData]:
    """Create a noun; only `name` is required."""

    def create() -> Outcome[NounData]:
        key = idempotency_key(request, caller)
        made = nouns.service().create(caller.user_id, name=body.name, note=body.note, idempotency_key=key)
        return Outcome(status=201, data={"noun": noun_view(made)}, made_id=made.id)

    return await once(request, caller, create, find=lambda made: nouns.service().get(caller.user_id, made))


@router.get("/nouns", responses=answers(errors=(400,)))
async def list_nouns(caller: Reader, limit: Limit = DEFAULT_SIZE, cursor: Cursor | None = None) -> Answer[NounListData]:
    """List the caller's nouns, newest first."""
    scope = scope_of("nouns", caller.user_id)
    below = position(cursor, scope, of=str).get("below", "")
    page = nouns.service().page(caller.user_id, below=below, limit=limit)
    data: NounListData = {
        "nouns": [noun_view(noun) for noun in page.nouns],
        "limit": limit,
        "next_cursor": next_cursor({"below": page.next_below}, scope),
    }
    return ok(data)


@router.get("/nouns/{noun_id}", responses=answers(etag=True, errors=(404,)))
async def get_noun(noun_id: str, caller: Reader) -> Answer[NounData]:
    """Show a noun; the ETag is its version."""
    return _noun(nouns.service().get(caller.user_id, noun_id))


@router.patch("/nouns/{noun_id}", responses=answers(etag=True, errors=(404, 409)))
async def change_noun(noun_id: str, body: ChangeNounBody, caller: Writer, if_match: IfMatch = None) -> Answer[NounData]:
    """Change a noun; with `version` or If-Match only if nobody else has changed it since."""
    version = expected_version(if_match, body.version)
    return _noun(nouns.service().change(caller.user_id, noun_id, body.changes(), version=version))


@router.delete("/nouns/{noun_id}", status_code=204, responses=answers(status=204, errors=(404, 409)))
async def delete_noun(noun_id: str, caller: Writer, if_match: IfMatch = None) -> Response:
    """Delete a noun."""
    nouns.service().delete(caller.user_id, noun_id, version=expected_version(if_match))
    return no_content()


def _noun(noun: Noun) -> Answer[NounData]:
    return ok({"noun": noun_view(noun)}, headers=etag(noun.version))
