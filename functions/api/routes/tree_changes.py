from __future__ import annotations

from typing import Annotated

from api.services import files
from karma.files.trees.answers import TreeChangeData, TreeChangeListData, tree_change_view
from karma.http.access import permit
from karma.http.openapi import answers
from karma.http.pages import DEFAULT_SIZE, Cursor, Limit, next_cursor, position, scope_of
from karma.http.presenters import Answer, ok
from karma.http.routing import Router
from karma.identity.domain import Caller

router = Router("files")

Reader = Annotated[Caller, permit("file:read")]
Writer = Annotated[Caller, permit("file:write")]

_CHANGE = "/devices/{device_id}/tree-changes/{tree_change_id}"


@router.get("/devices/{device_id}/tree-changes", responses=answers(errors=(400, 404)))
async def list_tree_changes(
    device_id: str, caller: Reader, limit: Limit = DEFAULT_SIZE, cursor: Cursor | None = None
) -> Answer[TreeChangeListData]:
    """List a device's moves and deletions of whole directories, newest first; they are kept for a week."""
    scope = scope_of("tree-changes", caller.user_id, device_id)
    after = str(position(cursor, scope).get("id", ""))
    found, following = files.trees().list(caller.user_id, device_id, limit=limit, after=after)
    changes = [tree_change_view(change) for change in found]
    return ok({"tree_changes": changes, "limit": limit, "next_cursor": next_cursor({"id": following}, scope)})


@router.get(_CHANGE, responses=answers(errors=(404,)))
async def get_tree_change(device_id: str, tree_change_id: str, caller: Reader) -> Answer[TreeChangeData]:
    """Show a move or deletion of a whole directory: how far it is, and what became of it."""
    return ok({"tree_change": tree_change_view(files.trees().get(caller.user_id, device_id, tree_change_id))})


@router.post(f"{_CHANGE}/cancel", responses=answers(errors=(404, 409)))
async def cancel_tree_change(device_id: str, tree_change_id: str, caller: Writer) -> Answer[TreeChangeData]:
    """Let a directory be whose move has not begun; 409 once it has, and for deletions, which begin at once."""
    return ok({"tree_change": tree_change_view(files.trees().cancel(caller.user_id, device_id, tree_change_id))})
