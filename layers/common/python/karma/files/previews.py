"""Previews of files: a thumbnail of a picture or of a document's first page, and a document's text.

    none                              nothing is made of files of this kind, and of directories
    pending -> ready | refused        decided once: the bytes of a file never change
    refused                           from the beginning: a picture of a format that is not opened

A file is `ready`, and stays so, whatever becomes of its preview.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final

from karma.core.records import Record

MAX_SOURCE_BYTES: Final = 200 * 1024**2
"""Largest file that is opened; a function has 512 MB of disk."""
MAX_SIDE: Final = 512
"""Longest side of a thumbnail in pixels."""
EXCERPT_CHARS: Final = 120
"""Characters of a document's text that are kept with its entry, by which search finds it."""
PICTURES: Final = frozenset({"image/jpeg", "image/png", "image/webp", "image/gif"})
DOCUMENT: Final = "application/pdf"


class PreviewStatus(StrEnum):
    """State of one part of a preview."""

    NONE = "none"
    PENDING = "pending"
    READY = "ready"
    REFUSED = "refused"


class Refusal(StrEnum):
    """Reason for which a part was not made; nothing tries again, since the bytes stay what they are."""

    UNSUPPORTED = "unsupported_type"
    TOO_MANY_BYTES = "too_many_bytes"
    TOO_MANY_PIXELS = "too_many_pixels"
    TOO_NARROW = "too_narrow"
    TOO_MUCH_MEMORY = "too_much_memory"
    TOO_SLOW = "too_slow"
    DAMAGED = "damaged"
    """Cut off, or not what its first bytes say."""
    ENCRYPTED = "encrypted"
    NO_PAGES = "no_pages"
    NO_TEXT = "no_text"
    PARSER_KILLED = "parser_killed"
    """The parser ended in a way that only a hostile or broken file brings about."""
    LOST = "object_lost"


class Thumbnail(Record, kw_only=True):
    """A small WebP of a file, in any state."""

    status: PreviewStatus
    reason: Refusal | None = None
    width: int | None = None
    height: int | None = None


class DocumentText(Record, kw_only=True):
    """Text of a document, in any state."""

    status: PreviewStatus
    reason: Refusal | None = None
    pages: int | None = None
    """Pages of the document, of which up to 200 were read."""
    characters: int | None = None
    is_truncated: bool = False
    """It has more than 200 pages or a million characters, and the rest was left out."""


class Previews(Record, kw_only=True):
    """Thumbnail and text of one file, as they were made."""

    thumbnail: Thumbnail
    text: DocumentText
    excerpt: str = ""

    @property
    def is_pending(self) -> bool:
        """Tell whether a part is still to be made."""
        return PreviewStatus.PENDING in (self.thumbnail.status, self.text.status)


NOTHING: Final = Previews(thumbnail=Thumbnail(status=PreviewStatus.NONE), text=DocumentText(status=PreviewStatus.NONE))
"""Previews of directories, of files of most kinds, and of files that were stored before there were any."""


def expected_of(mime_type: str) -> Previews:
    """Return the previews with which a verified file of this type begins."""
    pending = Thumbnail(status=PreviewStatus.PENDING)
    if mime_type == DOCUMENT:
        return Previews(thumbnail=pending, text=DocumentText(status=PreviewStatus.PENDING))
    if mime_type in PICTURES:
        return Previews(thumbnail=pending, text=NOTHING.text)
    if mime_type.startswith("image/"):
        unsupported = Thumbnail(status=PreviewStatus.REFUSED, reason=Refusal.UNSUPPORTED)
        return Previews(thumbnail=unsupported, text=NOTHING.text)
    return NOTHING


def refused(expected: Previews, reason: Refusal) -> Previews:
    """Return previews of which each part that was pending is refused."""
    thumbnail, text = expected.thumbnail, expected.text
    if thumbnail.status is PreviewStatus.PENDING:
        thumbnail = Thumbnail(status=PreviewStatus.REFUSED, reason=reason)
    if text.status is PreviewStatus.PENDING:
        text = DocumentText(status=PreviewStatus.REFUSED, reason=reason)
    return Previews(thumbnail=thumbnail, text=text)


def previews_to_json(previews: Previews) -> dict[str, Any]:
    """Return previews as the item of a file stores them."""
    thumbnail, text = previews.thumbnail, previews.text
    return {
        "thumbnail": [thumbnail.status, thumbnail.reason, thumbnail.width, thumbnail.height],
        "text": [text.status, text.reason, text.pages, text.characters, text.is_truncated],
    }


def previews_of_json(stored: Mapping[str, Any] | None, excerpt: str) -> Previews:
    """Return the previews that an item stores; None: it is of before there were previews."""
    if stored is None:
        return NOTHING
    status, reason, width, height = stored["thumbnail"]
    thumbnail = Thumbnail(
        status=PreviewStatus(status), reason=Refusal(reason) if reason else None, width=width, height=height
    )
    status, reason, pages, characters, is_truncated = stored["text"]
    text = DocumentText(
        status=PreviewStatus(status),
        reason=Refusal(reason) if reason else None,
        pages=pages,
        characters=characters,
        is_truncated=is_truncated,
    )
    return Previews(thumbnail=thumbnail, text=text, excerpt=excerpt)
