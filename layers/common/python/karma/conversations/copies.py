"""Keys of contents: a client's content is a copy of a stored one if its key is among the stored one's.

A part of a message can be spelled in several ways, and a client that has no ids, or makes them anew, is known by what
it sends alone. So each part has a name that does not depend on the spelling:

| part | name |
|---|---|
| text | the text |
| base64, a `data:` URL, or a `file` named `attachments/<id>` | kind and SHA-256 of the bytes |
| any other `file` | kind and name of the file |
| any other `url` | kind and SHA-256 of the URL: the content may have changed, so it is not fetched again |

The key of a content is the tuple of the names of its parts. A stored content has up to four: a medium that was fetched
is sent by its URL or as it is stored, and a named file as a part or in words, all parts of a message alike. Whatever
compares messages looks keys up, so that its work grows as their number does (docs/adr/0036-bounded-work.md).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

from karma.conversations.attachments import attachment_of, digest_of_data, digest_of_url, fetched_from, in_words
from karma.conversations.domain import Json

Key = tuple[Hashable, ...]
"""Names of all parts of a content; a text alone is its only part."""


def key_of(given: str | Sequence[Json]) -> Key:
    """Return the key of a content that a client sends."""
    return (given,) if isinstance(given, str) else tuple(map(_name_of, given))


def keys_of(stored: str | Sequence[Json]) -> frozenset[Key]:
    """Return the keys that a client's copies of a stored content may have."""
    if isinstance(stored, str):
        return frozenset([(stored,)])
    return frozenset(zip(*map(_names_of, stored), strict=True)) or frozenset([()])


def is_same_content(stored: str | Sequence[Json], given: str | Sequence[Json]) -> bool:
    """Tell whether a client's content is a copy of a stored one, whose media may be in another form."""
    return key_of(given) in keys_of(stored)


def _names_of(stored: Json) -> tuple[Hashable, Hashable, Hashable, Hashable]:
    """Return the names of a stored part: as it is stored, by its URL, in words, and by its URL or else in words."""
    name, words, url = _name_of(stored), _name_of(in_words(stored)), fetched_from(stored)
    by_url = (stored["type"], "url", url) if url else None
    return name, by_url or name, words, by_url or words


def _name_of(part: Json) -> Hashable:
    kind, source = str(part.get("type")), part.get("source")
    if kind == "text":
        return str(part.get("text"))
    if not isinstance(source, Mapping):
        return (kind,)
    digest = digest_of_data(part) or attachment_of(part)
    if digest:
        return kind, "bytes", digest
    how, value = str(source.get("type")), str(source.get("value"))
    return kind, how, digest_of_url(value) if how == "url" else value
