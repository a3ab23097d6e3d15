from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from fastapi import Query, Request
from pydantic import AfterValidator
from starlette.responses import Response

from api.services import billing, files, process
from karma.files.answers import (
    DirectoryData,
    DownloadData,
    FileData,
    FileListData,
    PartsData,
    UploadIntentData,
    file_view,
    part_view,
    upload_view,
)
from karma.files.domain import DeviceFile, clean_path
from karma.files.schemas import ChangeFileRequest, CreateDirectoryRequest, CreateFileRequest, PartsRequest
from karma.files.service import FileQuery
from karma.files.uploads import NewFile, expires_at
from karma.http.access import permit
from karma.http.idempotency import Outcome, idempotency_key, once
from karma.http.locking import IfMatch, etag, expected_version
from karma.http.openapi import answers
from karma.http.pages import DEFAULT_SIZE, Cursor, Limit, next_cursor, position
from karma.http.presenters import Answer, no_content, ok
from karma.http.routing import Router
from karma.identity.domain import Caller

router = Router("files")

Reader = Annotated[Caller, permit("file:read")]
Writer = Annotated[Caller, permit("file:write")]

_FILE = "/devices/{device_id}/files/{file_id}"


def _finder(caller: Caller, device_id: str) -> Callable[[str], object]:
    return lambda made: files.service().get(caller.user_id, device_id, made)


@router.post(
    "/devices/{device_id}/files",
    idempotent=True,
    status_code=201,
    responses=answers(status=201, errors=(402, 404, 409)),
)
async def create_file(
    request: Request, device_id: str, body: CreateFileRequest, caller: Writer
) -> Answer[UploadIntentData]:
    """Begin an upload: name and size are reserved for 24 hours, the bytes are sent to the URLs that `parts` gives."""

    def create() -> Outcome[UploadIntentData]:
        file = files.uploads().create(
            caller.user_id,
            device_id,
            NewFile(**body.model_dump()),
            allowance=billing.allowances().of(caller.user_id),
            idempotency_key=idempotency_key(request, caller),
        )
        data: UploadIntentData = {"file_id": file.id, "file": file_view(file), "upload": upload_view(file)}
        return Outcome(status=201, data=data, made_id=file.id)

    return await once(request, caller, create, find=_finder(caller, device_id))


@router.post(f"{_FILE}/parts", responses=answers(errors=(404, 409, 503)))
async def sign_parts(device_id: str, file_id: str, body: PartsRequest, caller: Writer) -> Answer[PartsData]:
    """Give a URL for each part: a PUT of exactly its bytes and headers, for 15 minutes, as often as needed."""
    urls = files.uploads().parts(caller.user_id, device_id, file_id, body.part_numbers, body.checksums or {})
    return ok({"parts": [part_view(url) for url in urls], "expires_at": expires_at(process.clock())})


@router.post(f"{_FILE}/complete", status_code=202, responses=answers(status=202, errors=(404, 409, 503)))
async def complete_file(device_id: str, file_id: str, caller: Writer) -> Answer[FileData]:
    """End an upload; the file is `verifying`, then `ready` and listed, or `rejected` with the reason."""
    return ok({"file": file_view(files.uploads().complete(caller.user_id, device_id, file_id))}, 202)


@router.get("/devices/{device_id}/files", responses=answers(errors=(400, 404, 409)))
async def list_files(
    device_id: str,
    caller: Reader,
    path: Annotated[Annotated[str, AfterValidator(clean_path)] | None, Query(max_length=4096)] = None,
    type: Annotated[str | None, Query(max_length=50)] = None,  # noqa: A002  its name in the query
    category: Annotated[str | None, Query(max_length=50)] = None,
    limit: Limit = DEFAULT_SIZE,
    cursor: Cursor | None = None,
) -> Answer[FileListData]:
    """List a device's files and directories, newest first; with `path` one directory's, by name (404: there is none).

    Totals count up to 1,000. Filters look at 1,000 entries a page, so that one may hold fewer than `limit`.
    """
    scope = f"files:{caller.user_id}:{device_id}:{type or ''}:{category or ''}:{path or ''}"
    query = FileQuery(
        limit=limit,
        path=path,
        type=type,
        category=category,
        after=position(cursor, scope) or None,
    )
    found = files.service().list(caller.user_id, device_id, query)
    return ok(
        {
            "files": [file_view(file) for file in found.files],
            "total": found.total,
            "total_capped": found.total_capped,
            "limit": limit,
            "next_cursor": next_cursor(found.next_position, scope),
        }
    )


@router.post(
    "/devices/{device_id}/directories",
    idempotent=True,
    status_code=201,
    responses=answers(status=201, errors=(404, 409)),
)
async def create_directory(
    request: Request, device_id: str, body: CreateDirectoryRequest, caller: Writer
) -> Answer[DirectoryData]:
    """Make a directory, and those above it that are missing."""

    def create() -> Outcome[DirectoryData]:
        path, name = body.place()
        made = files.service().make_directory(caller.user_id, device_id, path=path, name=name)
        return Outcome(status=201, data={"directory": file_view(made)}, made_id=made.id)

    return await once(request, caller, create, find=_finder(caller, device_id))


@router.get(_FILE, responses=answers(errors=(404,)))
async def get_file(device_id: str, file_id: str, caller: Reader) -> Answer[FileData]:
    """Show a file in any state; the ETag is its version."""
    return _file(files.service().get(caller.user_id, device_id, file_id))


@router.patch(_FILE, responses=answers(errors=(404, 409)))
async def change_file(
    device_id: str,
    file_id: str,
    body: ChangeFileRequest,
    caller: Writer,
    if_match: IfMatch = None,
) -> Answer[FileData]:
    """Rename, move or describe a file; directories can be described only."""
    changes = body.model_dump(exclude_unset=True, exclude={"version"})
    version = expected_version(if_match, body.version)
    return _file(files.service().change(caller.user_id, device_id, file_id, changes, version=version))


@router.delete(_FILE, status_code=204, responses=answers(status=204, errors=(404, 409)))
async def delete_file(device_id: str, file_id: str, caller: Writer, if_match: IfMatch = None) -> Response:
    """Delete a file in any state, which also ends its upload, or an empty directory.

    A directory is not empty while a name in it is taken, also by an unfinished upload; the 409 names such an entry.
    """
    files.service().delete(caller.user_id, device_id, file_id, version=expected_version(if_match))
    return no_content()


@router.get(f"{_FILE}/download", responses=answers(errors=(404, 409)))
async def download_file(device_id: str, file_id: str, caller: Reader) -> Answer[DownloadData]:
    """Give a URL that downloads the file as an attachment, for 15 minutes."""
    url = files.service().download_url(caller.user_id, device_id, file_id)
    return ok({"url": url, "expires_at": expires_at(process.clock())})


def _file(file: DeviceFile) -> Answer[FileData]:
    return ok({"file": file_view(file)}, headers=etag(file.revision))
