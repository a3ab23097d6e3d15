"""What is new of a client's messages, checked and made ready to be stored.

A client sends its whole history with each request, and cannot change what it was given: a limit on all of it would one
day refuse every request of a conversation. So what the server holds already, by id, is neither measured nor looked at:
it is taken from the store. Limits and checks are for what is new.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from karma.agents.attachments import SOURCES, Library, is_same_medium
from karma.agents.domain import Json, Message
from karma.agents.media import TAKEN, UnreadableMedia
from karma.agents.requests import MAX_MESSAGE_BYTES, Sent
from karma.core.errors import ValidationFailed
from karma.core.ids import UserId

MAX_NEW_MEDIA = 20
"""Of one request; a conversation may have more."""


class Arrivals:
    """Admits the messages of requests."""

    def __init__(self, library: Library) -> None:
        self._library = library

    def admit(self, user_id: UserId, stored: Sequence[Message], sent: Sequence[Sent]) -> tuple[Sent, ...]:
        """Check what is new, keep its media and long results, and put the store's copy in the place of what is held.

        May block: URLs are fetched and files read.

        Raises:
            ValidationFailed: one entry a part that the model would not take, or a text that is too long.
        """
        held: dict[str, list[Message]] = {}
        for message in stored:
            held.setdefault(message.id, []).append(message)
        admission = _Admission(self._library, user_id)
        admitted = []
        for each in sent:
            ours = next((m for m in held.get(each.message.id, ()) if is_held(m, each.message)), None)
            message = admission.check(each) if ours is None else _as_stored(each.message, ours)
            admitted.append(each._replace(message=message))
        if admission.errors:
            raise ValidationFailed("Request validation failed", details=admission.errors)
        return tuple(admitted)


def _as_stored(given: Message, stored: Message) -> Message:
    """Give a copy the store's content where that is the same in another form: media by reference, long results cut."""
    is_cut = given.role == "tool" and isinstance(given.content, str) and len(given.content) > MAX_MESSAGE_BYTES // 4
    if given.role == "user" or is_cut:
        return replace(given, content=stored.content)
    return given


def is_held(stored: Message, given: Message) -> bool:
    """Tell whether a client's message is its copy of a stored one. Only a user's words can be edited under their id."""
    if stored.role != given.role:
        return False
    if given.role == "tool":
        return stored.tool_call_id == given.tool_call_id
    if given.role == "assistant" or not given.content:
        return True
    ours, theirs = list(_parts(stored.content)), list(_parts(given.content))
    if len(ours) != len(theirs):
        return False
    return all(a == b if a["type"] == "text" else is_same_medium(a, b) for a, b in zip(ours, theirs, strict=True))


def _parts(content: str | Sequence[Json]) -> Iterator[Json]:
    if isinstance(content, str):
        yield {"type": "text", "text": content}
    else:
        yield from content


class _Admission:
    """The new messages of one request."""

    def __init__(self, library: Library, user_id: UserId) -> None:
        self._library = library
        self._user_id = user_id
        self._media = 0
        self.errors: list[dict[str, str]] = []

    def check(self, sent: Sent) -> Message:
        message, at = sent.message, f"messages.{sent.at}.content"
        if isinstance(message.content, str):
            content = self._text(message, message.content, at)
            return message if content is message.content else replace(message, content=content)
        parts: list[Json] = []
        for i, part in enumerate(message.content):
            if part["type"] == "text":
                parts.append({**part, "text": self._text(message, str(part["text"]), f"{at}.{i}.text")})
            else:
                parts.append(self._medium(part, f"{at}.{i}.source"))
        return replace(message, content=tuple(parts))

    def _text(self, message: Message, text: str, at: str) -> str:
        if message.role == "tool":
            return self._library.shorten(self._user_id, text, most_bytes=MAX_MESSAGE_BYTES)
        if message.role == "user" and len(text.encode("utf-8", "replace")) > MAX_MESSAGE_BYTES:
            self._wrong(at, f"must be at most {MAX_MESSAGE_BYTES} bytes; send a longer text as a file")
        return text

    def _medium(self, part: Json, at: str) -> Json:
        self._media += 1
        if self._media > MAX_NEW_MEDIA:
            self._wrong(at, f"is one of more than {MAX_NEW_MEDIA} new attachments")
            return part
        if self.errors:
            return part  # nothing of this request is stored: nothing more is fetched for it
        try:
            return self._library.take(self._user_id, part)
        except UnreadableMedia as exc:
            self._wrong(at, f"{exc}. Taken are {TAKEN}, as {SOURCES}")
            return part

    def _wrong(self, at: str, message: str) -> None:
        self.errors.append({"field": at, "message": message, "type": "value_error"})
