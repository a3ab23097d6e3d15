"""Chooses which media of a conversation a model is shown, for the APIs of all providers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from karma.conversations.domain import Json, Message
from karma.conversations.media import Medium, UnreadableMedia, of_stored

MAX_IMAGES: Final = 20
"""Images of one request: up to this number Anthropic's API accepts sides of 8,000 pixels, beyond it only 2,000."""
MAX_CHARS: Final = 20 * 1024 * 1024
"""Characters of all media of one request in base64; a request may have 32 MB."""
EARLIER: Final = "[An earlier attachment was here.]"
NOT_SHOWN: Final = "[An attachment was here that this model cannot be shown.]"


@dataclass
class Attachments:
    """Media of a conversation, from its end on: the newest, up to `MAX_IMAGES` and `MAX_CHARS`, are shown.

    Other media, and those that the API does not accept, are replaced by a text that says so.
    """

    _shown: dict[int, Medium | str]
    """Media, or the texts in their place, by the `id()` of the stored part; each part is in one message only."""

    @classmethod
    def of(cls, messages: Sequence[Message], *, documents: bool = True, images: bool = True) -> Attachments:
        """Choose the media to show.

        Args:
            messages: the conversation.
            documents: the API takes documents; else plain text is passed as text, and a PDF is replaced.
            images: the model reads images; else each is replaced.
        """
        shown: dict[int, Medium | str] = {}
        count = chars = 0
        for message in reversed(messages):
            for part in reversed([] if isinstance(message.content, str) else message.content):
                if part.get("type") == "text":
                    continue
                if count > MAX_IMAGES or chars > MAX_CHARS:
                    shown[id(part)] = EARLIER
                    continue
                try:
                    medium = of_stored(part)
                except UnreadableMedia as exc:
                    shown[id(part)] = f"[An attachment was here that cannot be shown: it {exc}]"
                    continue
                count += medium.kind == "image"
                chars += len(medium.data)
                if count > MAX_IMAGES or chars > MAX_CHARS:
                    shown[id(part)] = EARLIER
                else:
                    shown[id(part)] = _as_taken(medium, documents=documents, images=images)
        return cls(shown)

    def of_part(self, part: Json) -> Medium | str:
        """Return what is shown of a stored part."""
        return self._shown[id(part)]


def _as_taken(medium: Medium, *, documents: bool, images: bool) -> Medium | str:
    if medium.kind == "image":
        return medium if images else NOT_SHOWN
    if documents:
        return medium
    return medium.text() if medium.media_type == "text/plain" else NOT_SHOWN
