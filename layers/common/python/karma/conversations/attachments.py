"""Attachments of conversations: media and long results of tools, to which messages refer.

A part of a message names its medium by a source, as clients send it or as it is stored:

| sent | stored |
|---|---|
| `data`: base64 or a `data:` URL | `data` up to `INLINE_CHARS`; else the store has the bytes and a `file` names them |
| `url`: https, or a `data:` URL | fetched at once, then as `data`: a URL may be gone by the next turn |
| `file`: `devices/<device>/files/<file>` | the same name; the file stays the device's and is read for each run |
| `file`: `attachments/<id>`, or a `url` that was given for it | the same name; an id that this store gave |

A client that resends its conversation would send each medium with every message, until a body is too large. It is
sent `url` sources instead (`Library.linked`), which its screen can show, and which are recognised when they come back,
also after they have expired.

Each medium is checked by its bytes before anything is stored. What cannot be read when a run needs it (a file that was
deleted) is shown to the model as a text that says so.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import orjson

from karma.conversations.domain import Json, Message
from karma.conversations.media import (
    MAX_INFLATED_BYTES,
    MAX_MEDIA_CHARS,
    Medium,
    UnreadableMedia,
    bytes_to_inflate,
    inflate,
    of_base64,
    of_bytes,
    trust,
)
from karma.conversations.ports import Attachments, DeviceFiles, Fetch, NotFetched
from karma.core.errors import InvalidTransition, NotFound, PayloadTooLarge
from karma.core.ids import UserId

INLINE_CHARS = 8 * 1024
"""Characters of base64 of a medium that stays within its message, in the store and in each request of its client."""
MAX_RESULT_BYTES = 64 * 1024
"""Bytes of a tool's result; a larger one would fill too much of the model's context window."""
MAX_BYTES = MAX_MEDIA_CHARS * 3 // 4
_LOADED_CHARS = 20 * 1024 * 1024
"""Characters of base64 of the media that are read for one request of the model, the newest first."""

_FILE = re.compile(r"devices/([^/]{1,64})/files/([^/]{1,64})")
_ATTACHMENT = re.compile(r"attachments/([0-9a-f]{64})")
_NAMED = re.compile(rb"attachments/([0-9a-f]{64})")
_NAME_BYTES = len("attachments/") + 64
_CUT = re.compile(r'\{"note":"[^"]{0,100} attachments/([0-9a-f]{64})\."')
"""Beginning of a result that `cut` has shortened."""
_LINK = re.compile(r"https?://[^?#]*/attachments/([^/?#]+)/([0-9a-f]{64})(?:\?[^#]*)?")
_FETCHED = "url_sha256"
"""Member of a stored part whose medium was fetched: the SHA-256 of its URL."""
NAME = "name"
"""Member of a part that was loaded for a model: the name by which its message has it."""
TOO_MANY_PIXELS = f"brings the pixels of new images to more than {MAX_INFLATED_BYTES} bytes"
SOURCES = "base64 data, an https: URL, or a file named devices/<device id>/files/<file id>"


class Taken(NamedTuple):
    """A part whose medium was read and has a valid structure."""

    part: Json
    """The part as it is stored."""
    raw: bytes
    kept: Mapping[str, bytes]
    """Bytes that have to be stored for the part, by attachment id."""


class Library:
    """Reads, stores and loads the attachments of conversations. All calls may block."""

    def __init__(self, store: Attachments, files: DeviceFiles, fetch: Fetch) -> None:
        self._store = store
        self._files = files
        self._fetch = fetch

    def take(self, user_id: UserId, part: Json) -> Taken:
        """Read a part's medium and check its structure. Its pixels are still to be inflated, and nothing is stored yet.

        Raises:
            UnreadableMedia: the model could not be shown the medium; the message says why.
        """
        source, kind = part.get("source"), str(part.get("type"))
        if not isinstance(source, Mapping):
            raise UnreadableMedia("has no source")
        how, value, media_type = source.get("type"), str(source.get("value")), str(source.get("mimeType") or "")
        if is_inline(part):
            return _taken(kind, of_base64(kind, value, media_type, inflates=False))
        if how == "url":
            try:
                fetched = self._fetch.fetch(value, max_bytes=MAX_BYTES)
            except NotFetched as exc:
                raise UnreadableMedia(str(exc)) from exc
            medium = of_bytes(kind, fetched.data, media_type or fetched.media_type, inflates=False)
            return _taken(kind, medium, {_FETCHED: digest_of_url(value)})
        if how == "file":
            raw = self._read(user_id, value)
            if _ATTACHMENT.fullmatch(value):
                trust(raw)
            medium = of_bytes(kind, raw, media_type, inflates=False)
            named = {"type": "file", "value": value, "mimeType": medium.media_type}
            return Taken({"type": kind, "source": named}, raw, {})
        raise UnreadableMedia(f"must be {SOURCES}")

    def keep(self, user_id: UserId, kept: Mapping[str, bytes]) -> None:
        """Store the bytes that `take` and `cut` returned, by id. Storing them again changes nothing."""
        for data in kept.values():
            self._store.keep(user_id, data)

    def has(self, user_id: UserId, message: Message) -> bool:
        """Tell whether all that a message has attached is kept; blocks."""
        parts = () if isinstance(message.content, str) else message.content
        names = [name for name in map(attachment_of, parts) if name]
        return all(self._store.read(user_id, name) is not None for name in names)

    def linked(self, user_id: UserId, messages: Sequence[Message]) -> list[Message]:
        """Replace names of attachments in messages by URLs that are valid for some hours, for a screen to show."""
        return linked(self._store, user_id, messages)

    def shorten(self, user_id: UserId, text: str) -> str:
        """Store a long result of a tool; return its beginning with a note. A short result is returned as it is."""
        shown, kept = cut(text, whole_to_bytes=MAX_RESULT_BYTES)
        self.keep(user_id, kept)
        return shown

    def show(self, user_id: UserId, messages: Sequence[Message]) -> list[Message]:
        """Load the media that messages name, the newest ones, up to the limit of one request of the model."""
        contents = [each.content for each in messages if not isinstance(each.content, str)]
        if not any(_is_named(part) for content in contents for part in content):
            return [*messages]
        from karma.core.foreign import one_allowance  # few conversations have media

        with one_allowance():
            return self._all_shown(user_id, messages)

    def _all_shown(self, user_id: UserId, messages: Sequence[Message]) -> list[Message]:
        left, pixels = _LOADED_CHARS, MAX_INFLATED_BYTES
        shown: list[Message] = []
        for message in reversed(messages):
            if isinstance(message.content, str) or not any(map(_is_named, message.content)):
                shown.append(message)
                continue
            parts: list[Json] = []
            for part in reversed(message.content):
                if not _is_named(part):
                    parts.append(part)
                    continue
                if left > 0:
                    loaded, inflated = self._shown(user_id, part, pixels)
                    pixels -= inflated
                else:
                    loaded = _said(f"An earlier attachment was here: {part['type']} {_value_of(part)}")
                source = loaded.get("source")
                left -= len(str(source["value"])) if isinstance(source, Mapping) else 0
                parts.append(loaded)
            shown.append(replace(message, content=tuple(reversed(parts))))
        return shown[::-1]

    def _shown(self, user_id: UserId, part: Json, most_pixels: int) -> tuple[Json, int]:
        """Load one medium; return its part and the bytes that were inflated for it."""
        source = part["source"]
        assert isinstance(source, Mapping)  # noqa: S101  by _is_named
        value = str(source.get("value"))
        try:
            raw = self._read(user_id, value)
            if _ATTACHMENT.fullmatch(value):
                trust(raw)
            medium = of_bytes(str(part["type"]), raw, str(source.get("mimeType") or ""), inflates=False)
            size = bytes_to_inflate(raw)
            if size > most_pixels:
                raise UnreadableMedia(TOO_MANY_PIXELS)
            inflate(raw)
        except UnreadableMedia as exc:
            return _said(f"The attachment {value[:200]} cannot be shown: it {exc}."), 0
        return {"type": part["type"], "source": _data(medium), NAME: value}, size

    def _read(self, user_id: UserId, name: str) -> bytes:
        attachment, file = _ATTACHMENT.fullmatch(name), _FILE.fullmatch(name)
        if attachment is not None:
            data = self._store.read(user_id, attachment[1])
            if data is None:
                raise UnreadableMedia("is not there")
            return data
        if file is None:
            raise UnreadableMedia("must name a file as devices/<device id>/files/<file id>")
        try:
            return self._files.read(user_id, file[1], file[2], max_bytes=MAX_BYTES)
        except NotFound:
            raise UnreadableMedia("is not there") from None
        except InvalidTransition:
            raise UnreadableMedia("is a directory, or not uploaded yet") from None
        except PayloadTooLarge:
            raise UnreadableMedia(f"has more than {MAX_BYTES} bytes") from None


def is_inline(part: Json) -> bool:
    """Tell whether a part contains its medium, so that nothing has to be read for it."""
    source = part.get("source")
    if not isinstance(source, Mapping):
        return False
    return source.get("type") == "data" or (
        source.get("type") == "url" and str(source.get("value"))[:5].lower() == "data:"
    )


def cut(text: str, *, whole_to_bytes: int) -> tuple[str, dict[str, bytes]]:
    """Shorten a long result of a tool; return its beginning with the id of the whole, and the whole by its id.

    Args:
        text: the result.
        whole_to_bytes: bytes up to which it stays whole; a longer one is cut to `MAX_RESULT_BYTES`.
    """
    data = text.encode("utf-8", "replace")
    if len(data) <= whole_to_bytes:
        return text, {}
    kept = attachment_id(data)
    note = f"The result has {len(data)} bytes. This is its beginning; the whole is kept as attachments/{kept}."
    beginning = data[:MAX_RESULT_BYTES].decode("utf-8", "ignore")
    while True:
        shown = orjson.dumps({"note": note, "beginning": beginning})
        if len(shown) <= MAX_RESULT_BYTES:
            return shown.decode(), {kept: data}
        beginning = beginning[: len(beginning) // 2]


def attachment_id(data: bytes) -> str:
    """Return the id under which a store has these bytes; an account's equal bytes are stored once."""
    return hashlib.sha256(data).hexdigest()


def copies_of(stored: Message, given: Message) -> dict[str, bytes]:
    """Return by id the media that a stored message names and a client's copy of it still contains.

    They are stored again with each request: a process may have crashed before it had stored them.
    """
    if isinstance(stored.content, str) or isinstance(given.content, str):
        return {}
    found: dict[str, bytes] = {}
    for ours, theirs in zip(stored.content, given.content, strict=False):
        source, copy = ours.get("source"), theirs.get("source")
        if isinstance(source, Mapping) and isinstance(copy, Mapping) and is_inline(theirs):
            data = base64.b64decode(str(copy.get("value")).rpartition(",")[2])
            if source.get("value") == f"attachments/{attachment_id(data)}":
                found[attachment_id(data)] = data
    return found


def _taken(kind: str, medium: Medium, more: Json | None = None) -> Taken:
    raw = base64.b64decode(medium.data)
    part = {"type": kind, **(more or {})}
    if len(medium.data) <= INLINE_CHARS:
        return Taken({**part, "source": _data(medium)}, raw, {})
    kept = attachment_id(raw)
    source = {"type": "file", "value": f"attachments/{kept}", "mimeType": medium.media_type}
    return Taken({**part, "source": source}, raw, {kept: raw})


def _data(medium: Medium) -> Json:
    return {"type": "data", "mimeType": medium.media_type, "value": medium.data}


def names_media(messages: Sequence[Message]) -> bool:
    """Tell whether messages name media that must be loaded."""
    return any(not isinstance(m.content, str) and any(map(_is_named, m.content)) for m in messages)


def named(user_id: UserId, message: Message) -> Message:
    """Replace the URLs that `Library.linked` made of a user's attachments by the names of the attachments."""
    if isinstance(message.content, str):
        return message
    return replace(message, content=tuple(_named(user_id, part) for part in message.content))


def _named(user_id: UserId, part: Json) -> Json:
    source = part.get("source")
    if not isinstance(source, Mapping) or source.get("type") != "url":
        return part
    found = _LINK.fullmatch(str(source.get("value")))
    if found is None or found[1] != user_id:
        return part
    return {**part, "source": {**source, "type": "file", "value": f"attachments/{found[2]}"}}


def in_words(part: Json) -> Json:
    """Replace a part with a `file` source by a text that names the file, for protocols without such sources."""
    source = part.get("source")
    if isinstance(source, Mapping) and source.get("type") == "file":
        return {"type": "text", "text": f"[{part['type']} {source.get('value')}]"}
    return part


def digest_of_data(part: Json) -> str:
    """Return the attachment id of the bytes that a part contains; "": it contains none that can be read."""
    source = part.get("source")
    if not isinstance(source, Mapping) or not is_inline(part):
        return ""
    value = str(source.get("value"))
    data = value.partition(",")[2] if value[:5].lower() == "data:" else value
    try:
        return attachment_id(base64.b64decode(data, validate=True))
    except ValueError:
        return ""


def attachment_of(part: Json) -> str:
    """Return the id of the attachment that a part names; "": it names none."""
    source = part.get("source")
    if not isinstance(source, Mapping) or source.get("type") != "file":
        return ""
    found = _ATTACHMENT.fullmatch(str(source.get("value")))
    return found[1] if found else ""


def fetched_from(stored: Json) -> str:
    """Return the `digest_of_url` of the URL from which a stored part was fetched; "": from none."""
    return str(stored.get(_FETCHED) or "")


def digest_of_url(url: str) -> str:
    """Return the SHA-256 of a URL: what is stored of it, since it may contain a secret."""
    return hashlib.sha256(url.encode()).hexdigest()


def _value_of(part: Json) -> str:
    source = part.get("source")
    return str(source.get("value"))[:200] if isinstance(source, Mapping) else ""


def _is_named(part: Json) -> bool:
    source = part.get("source")
    return isinstance(source, Mapping) and source.get("type") == "file"


def _said(text: str) -> Json:
    return {"type": "text", "text": f"[{text}]"}


def linked(store: Attachments, user_id: UserId, messages: Sequence[Message]) -> list[Message]:
    """Replace names of attachments in messages by URLs, as `Library.linked`."""

    def link(part: Json) -> Json:
        source = part.get("source")
        found = _ATTACHMENT.fullmatch(str(source.get("value"))) if isinstance(source, Mapping) else None
        if found is None or not isinstance(source, Mapping) or source.get("type") != "file":
            return part
        media_type = str(source.get("mimeType") or "")
        url = store.url(user_id, found[1], media_type)
        return {"type": part["type"], "source": {"type": "url", "value": url, "mimeType": media_type}}

    return [
        message if isinstance(message.content, str) else replace(message, content=tuple(map(link, message.content)))
        for message in messages
    ]


def attachments_in(messages: Sequence[Message]) -> list[str]:
    """Return the ids of the attachments that messages name by their parts, or as the whole of a long result."""
    found: dict[str, None] = {}
    for message in messages:
        if isinstance(message.content, str):
            cut_off = _CUT.match(message.content) if message.role == "tool" else None
            found |= {cut_off[1]: None} if cut_off else {}
        else:
            found |= dict.fromkeys(filter(None, map(attachment_of, message.content)))
    return list(found)


def attachments_within(stored: Iterable[bytes]) -> Iterator[str]:
    """Yield the ids of all attachments that stored messages may name, in a part or anywhere in a text.

    Args:
        stored: the messages as they are stored, in pieces that may be cut anywhere.
    """
    end = b""
    for piece in stored:
        text = end + piece
        yield from sorted({found.decode() for found in _NAMED.findall(text)})
        # One byte less than a name has, so that none is found twice.
        end = text[-(_NAME_BYTES - 1) :]
