"""Asks of devices as they are read; without pydantic, and unknown members are ignored, as in all messages of devices.

ask  {"id", "op": "upload", "path"?, "name", "size", "sha256", "type"?, "category"?, "metadata"?}
     {"id", "op": "parts", "file_id", "limit"?}
     {"id", "op": "complete" | "show", "file_id"}
     {"id", "op": "download", "file_id" | "path"?, "name"}
     {"id", "op": "list", "path"?, "limit"?, "cursor"?}
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any, Final, NamedTuple

import orjson

from karma.core import freeform
from karma.core.errors import InvalidRequest, ValidationFailed
from karma.core.ids import is_id
from karma.core.records import Record
from karma.devices.payloads import Refused, Unreadable, read_mended
from karma.files.domain import (
    LABEL_PATTERN,
    LABEL_WORDS,
    MAX_FILE_BYTES,
    MAX_LABEL_CHARS,
    MAX_OBJECT_BYTES,
    ROOT,
    clean_name,
    clean_path,
    new_name,
    new_path,
)
from karma.files.repository.items import NAME_KEY_CHARS
from karma.files.uploads import NewFile

MAX_ASK_BYTES: Final = 32 * 1024
DEFAULT_LISTED: Final = 20
MAX_LISTED: Final = 40
"""Entries of an answer at the most: 128 KB hold so many with the longest names."""
MAX_LINKS: Final = 20
"""Links of parts in an answer at the most, of some 2 KB each."""
_MEMBERS: Final = (
    *("op", "file_id", "path", "name", "size", "sha256", "type", "category", "metadata"),
    *("limit", "cursor"),
)
_MAX_TEXT: Final = 4096
_ID: Final = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_LABEL: Final = re.compile(LABEL_PATTERN)
_SHA256: Final = re.compile(r"[0-9A-Fa-f]{64}")


class Operation(StrEnum):
    """Operation that a device asks for."""

    UPLOAD = "upload"
    PARTS = "parts"
    COMPLETE = "complete"
    SHOW = "show"
    DOWNLOAD = "download"
    LIST = "list"


class Ask(Record, kw_only=True):
    """An ask of a device; which members count, its operation says."""

    id: str
    operation: Operation
    file_id: str = ""
    path: str | None = None
    """Path of a directory; None: not given."""
    name: str = ""
    new: NewFile | None = None
    """The file of an upload."""
    limit: int = 0
    after: Mapping[str, object] | None = None


class Members(NamedTuple):
    """Members of an ask whose id can be read."""

    id: str
    members: Mapping[str, Any]
    mended: tuple[Refused, ...]
    """Places of values that JSON cannot write: these are null, and half a character is U+FFFD."""


def read_members(payload: bytes) -> Members:
    """Read the id and all members of an ask, as leniently as any payload of a device (karma.devices.leniency).

    Raises:
        Unreadable: there is no id by which the device would know an answer.
    """
    if len(payload) > MAX_ASK_BYTES:
        raise Unreadable("TOO_LARGE")
    members, mended = read_mended(payload, *_MEMBERS)
    ask_id = members.get("id")
    if not isinstance(ask_id, str) or not _ID.fullmatch(ask_id):
        raise Unreadable("WRONG_VALUE", "id")
    return Members(ask_id, members, mended)


def read_ask(ask_id: str, members: Mapping[str, Any]) -> Ask:
    """Read the members of an ask.

    Raises:
        ValidationFailed: some are missing or wrong; with an entry for each of them.
        InvalidRequest: INVALID_CURSOR, the cursor is none of ours.
    """
    try:
        operation = Operation(str(members.get("op")))
    except ValueError:
        raise ValidationFailed.of("op", f"must be one of {', '.join(Operation)}") from None
    match operation:
        case Operation.UPLOAD:
            return Ask(id=ask_id, operation=operation, new=_read_new(members))
        case Operation.PARTS:
            most = _member(members, "limit", lambda value: _whole(value, 1, MAX_LINKS), MAX_LINKS)
            return Ask(id=ask_id, operation=operation, file_id=_member(members, "file_id", _text), limit=most)
        case Operation.COMPLETE | Operation.SHOW:
            return Ask(id=ask_id, operation=operation, file_id=_member(members, "file_id", _text))
        case Operation.DOWNLOAD:
            return _read_download(ask_id, members)
        case Operation.LIST:
            return _read_list(ask_id, members)


def _read_new(members: Mapping[str, Any]) -> NewFile:
    found: dict[str, Any] = {}

    def judge(name: str, read: Callable[[Any], Any], *default: object) -> Callable[[], None]:
        def judged() -> None:
            found[name] = _member(members, name, read, *default)

        return judged

    ValidationFailed.together(
        judge("name", lambda value: new_name(_text(value))),
        judge("path", lambda value: new_path(_text(value)), ROOT),
        judge("size", lambda value: _whole(value, 0, MAX_FILE_BYTES)),
        judge("sha256", _sha256),
        judge("type", _label, None),
        judge("category", _label, "other"),
        judge("metadata", _object, {}),
    )
    return NewFile(**found)


def _read_download(ask_id: str, members: Mapping[str, Any]) -> Ask:
    if members.get("file_id") is not None:
        return Ask(id=ask_id, operation=Operation.DOWNLOAD, file_id=_member(members, "file_id", _text))
    if members.get("name") is None:
        raise ValidationFailed.of("file_id", "give file_id, or path and name")
    path = _member(members, "path", _path, ROOT)
    name = _member(members, "name", lambda value: clean_name(_text(value)))
    return Ask(id=ask_id, operation=Operation.DOWNLOAD, path=path, name=name)


def _read_list(ask_id: str, members: Mapping[str, Any]) -> Ask:
    path = _member(members, "path", _path, None)
    limit = _member(members, "limit", lambda value: _whole(value, 1, MAX_LISTED), DEFAULT_LISTED)
    after = _read_cursor(members["cursor"]) if members.get("cursor") is not None else None
    return Ask(id=ask_id, operation=Operation.LIST, path=path, limit=limit, after=after)


def cursor_of(position: Mapping[str, object] | None) -> str | None:
    """Return a position in a list as the device gives it back; unsigned, since it only places in the device's own."""
    if position is None:
        return None
    return base64.urlsafe_b64encode(orjson.dumps([position["id"], position["name"], position["is_directory"]])).decode()


def _read_cursor(cursor: object) -> Mapping[str, object]:
    try:
        if not isinstance(cursor, str) or len(cursor) > _MAX_TEXT:
            raise ValueError("not ours")
        match orjson.loads(base64.b64decode(cursor, altchars=b"-_", validate=True)):
            case [str(file_id), str(name), bool(is_directory)] if is_id(file_id) and len(name) <= NAME_KEY_CHARS:
                return {"id": file_id, "name": name, "is_directory": is_directory, "total": 0, "capped": True}
    except (ValueError, binascii.Error):
        pass
    raise InvalidRequest("The cursor is not one that an answer gave", code="INVALID_CURSOR")


def _member(members: Mapping[str, Any], name: str, read: Callable[[Any], Any], *default: object) -> Any:
    """Read a member; with a `default` it may be left out, or null."""
    value = members.get(name)
    if value is None:
        if default:
            return default[0]
        raise ValidationFailed.of(name, "must be given")
    try:
        return read(value)
    except ValueError as exc:
        raise ValidationFailed.of(name, str(exc)) from None


class _WrongType(ValueError):
    """A member is of another type; like any other wrong value, it is told by its name."""


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise _WrongType("must be text")
    # Composing takes time by the square of the marks on one letter.
    if len(value) > _MAX_TEXT:
        raise ValueError(f"at most {_MAX_TEXT} characters")
    return value


def _path(value: object) -> str:
    return clean_path(_text(value))


def _whole(value: object, least: int, most: int) -> int:
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"must be a whole number from {least} to {most}")
    return value


def _sha256(value: object) -> str:
    if not isinstance(value, str) or not _SHA256.fullmatch(value):
        raise ValueError("must be a SHA-256 in hexadecimal: 64 digits")
    return value.lower()


def _label(value: object) -> str:
    if not isinstance(value, str) or not _LABEL.fullmatch(value):
        raise ValueError(LABEL_WORDS)
    if len(value) > MAX_LABEL_CHARS:
        raise ValueError(f"at most {MAX_LABEL_CHARS} characters")
    return value


def _object(value: object) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise _WrongType("must be an object")
    if freeform.is_deeper(value):
        raise ValueError(freeform.TOO_DEEP)
    if len(orjson.dumps(value)) > MAX_OBJECT_BYTES:
        raise ValueError(f"at most {MAX_OBJECT_BYTES} bytes as JSON")
    return value
