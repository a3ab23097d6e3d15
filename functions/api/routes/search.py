from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import Query

from api.services import search
from karma.core.errors import Forbidden
from karma.core.schemas import COMPOSED, Moment
from karma.http.access import permit
from karma.http.openapi import answers
from karma.http.pages import DEFAULT_SIZE, Cursor, Limit, next_cursor, position, scope_of
from karma.http.presenters import Answer, ok
from karma.http.routing import Router
from karma.identity.domain import Caller
from karma.search.answers import SearchData, search_data
from karma.search.domain import MAX_QUERY_CHARS, MAX_TAG_CHARS, Found, ObjectType, Sort, Why
from karma.search.segments.merging import Behind
from karma.search.service import SearchRequest

router = Router("search")


@router.get("/search", responses=answers(errors=(400,)))
async def search_objects(
    caller: Annotated[Caller, permit("search:read")],
    q: Annotated[str, Query(max_length=MAX_QUERY_CHARS)] = "",
    type: ObjectType | None = None,  # noqa: A002  its name in the API
    status: Annotated[str | None, Query(pattern="^[a-z_]{1,32}$")] = None,
    tag: Annotated[str | None, Query(min_length=1, max_length=MAX_TAG_CHARS), COMPOSED] = None,
    created_after: Moment | None = None,
    created_before: Moment | None = None,
    sort: Sort | None = None,
    limit: Limit = DEFAULT_SIZE,
    cursor: Cursor | None = None,
) -> Answer[SearchData]:
    """Search what the caller has, its projects, and the devices that these show: the best hits first, typos forgiven.

    `q` has words in any order, "phrases", and fields: `type:device`, `status:online`, `tag:north`,
    `created_after:2026-01-31`. Words that mean a type or a status are filters, as in `online devices`; hits that only
    have the words come behind. `interpreted` says how it was read, and `why` of each hit what decided. Without words:
    all that the filters let through, the last changed first. A change is found within a second. Accounts with more
    than 10,000 objects are searched by an index that is made in the background (`engine: segment`); until there is one,
    or while it cannot be read, the newest are looked through, and `is_complete` is false.
    """
    service = search.service()
    types = [each.name for each in service.types.values() if caller.may(each.permission)]
    if type is not None:
        if type not in types:
            raise Forbidden.lacking(service.types[type].permission)
        types = [type]
    scope = scope_of("search", caller.user_id, q, types, status, tag, created_after, created_before, sort)
    place = position(cursor, scope)
    asked = SearchRequest(
        query=q,
        types=types,
        status=status,
        tag=tag,
        created_after=created_after,
        created_before=created_before,
        sort=sort,
        limit=limit,
        after=_behind(place) if "why" in place else None,
    )
    found = service.search(caller.user_id, asked)
    return ok(search_data(found, limit=limit, next_cursor=next_cursor(_following(found.found), scope)))


def _behind(place: Mapping[str, Any]) -> Behind:
    floor = place.get("floor")
    return Behind(Why.of(place["why"]), place.get("window", 0), Why.of(floor) if floor is not None else None)


def _following(found: Found) -> dict[str, Any] | None:
    if found.last is None:
        return None
    in_windows = {"window": found.window, "floor": list(found.floor) if found.floor is not None else None}
    return {"why": list(found.last), **(in_windows if found.window else {})}
