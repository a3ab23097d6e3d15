"""What is new of a client's messages, checked and made ready to be stored.

A client sends its whole history with each request, and cannot change what it was given: a limit on all of it would one
day refuse every request of a conversation. So

- what the server holds already, by id or by content, is neither measured nor looked at: it is taken from the store;
- only what asks now may be refused (`requests.asking`). A message that was refused stays in its client's list: behind
  the next one it is passed over, and named;
- a client whose copy is much larger than ours, a photo in base64 or a long result, is told ours: what it resends would
  grow until no body holds it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from karma.agents.attachments import SOURCES, Library, is_same_content, named
from karma.agents.branches import Note
from karma.agents.domain import Json, Message
from karma.agents.media import TAKEN, UnreadableMedia
from karma.agents.messages import MAX_MESSAGE_BYTES, Sent, Unread, asking
from karma.agents.tree import Shape, shape_of, shapes_of
from karma.core.clock import monotonic
from karma.core.errors import ValidationFailed
from karma.core.ids import UserId

MAX_NEW_MEDIA = 20
"""Of one request; a conversation may have more."""
MAX_TAKING_S = 30.0
"""For the new media of one request, which are fetched one after the other; one that was begun is waited for."""
_LARGER_CHARS = 4 * 1024
"""By how much a client's copy of a message may be larger than ours; a link to an attachment has up to 2,000."""
_REASON_CHARS = 500


class Admitted(NamedTuple):
    """The messages of a request as they go on."""

    sent: tuple[Sent, ...]
    notes: tuple[Note, ...]
    """Names each part of the request that was passed over, and why."""
    is_lighter: bool
    """Whether a client that was told ours would send much less from then on."""


class Arrivals:
    """Admits the messages of requests."""

    def __init__(self, library: Library, *, now_s: Callable[[], float] = monotonic) -> None:
        self._library = library
        self._now_s = now_s

    def admit(
        self, user_id: UserId, stored: Sequence[Message], sent: Sequence[Sent], unread: Sequence[Unread] = ()
    ) -> Admitted:
        """Check what is new, keep its media and long results, and put the store's copy in the place of what is held.

        May block: URLs are fetched and files read.

        Raises:
            ValidationFailed: one entry a part that the model would not take, or a text that is too long, of the
                messages that ask now.
        """
        held: dict[str, list[Message]] = {}
        alike: dict[Shape, list[Message]] = {}
        for message in stored:
            held.setdefault(message.id, []).append(message)
            for shape in shapes_of(message.content) if message.role == "user" else ():
                alike.setdefault(shape, []).append(message)
        admission = _Admission(self._library, user_id, self._now_s)
        newest = asking([(each.at, each.message.role) for each in sent])
        admitted: list[Sent] = []
        notes: list[Note] = []
        is_lighter = False
        for each in reversed(sent):  # the newest first: nothing is fetched for a request that is refused
            given = named(user_id, each.message)
            ours = _ours(given, alike, held)
            message, errors = admission.check(given, each.at) if ours is None else (_as_stored(given, ours), [])
            if not errors:
                admitted.append(each._replace(message=message))
                is_lighter |= _weight(given.content) > _weight(message.content) + _LARGER_CHARS
            elif each.at in newest:
                admission.refusals[:0] = errors
            else:
                notes.append(_passed_over(each.at, errors))
            if admission.refusals and each.at == min(newest):
                raise ValidationFailed("Request validation failed", details=admission.refusals)
        for lost in unread:
            ours = next((m for m in held.get(lost.id, ()) if lost.id and m.role == lost.role), None)
            if ours is None:
                notes.append(_passed_over(lost.at, lost.problems))
            else:
                admitted.append(Sent(lost.at, ours))
        return Admitted(tuple(sorted(admitted, key=lambda each: each.at)), tuple(notes), is_lighter)


def _passed_over(at: int, errors: Sequence[Mapping[str, str]]) -> Note:
    name = f"messages.{at}"
    reasons = [f"{each['field'].removeprefix(name).lstrip('.')} {each['message']}".strip() for each in errors]
    return Note(name, f"was not taken: {'; '.join(reasons)}"[:_REASON_CHARS])


def _ours(
    given: Message, alike: Mapping[Shape, Sequence[Message]], held: Mapping[str, Sequence[Message]]
) -> Message | None:
    """Find the stored message that a client's is its copy of."""
    if given.id in held:
        return next((message for message in held[given.id] if is_held(message, given)), None)
    if given.role != "user" or isinstance(given.content, str) or not given.content:
        return None
    # Clients without ids, and those that make them anew, send the same media each time.
    same = alike.get(shape_of(given.content), ())
    return next((message for message in reversed(same) if is_same_content(message.content, given.content)), None)


def _as_stored(given: Message, stored: Message) -> Message:
    """Give a copy the store's content where that is the same in another form: media by reference, long results cut."""
    is_cut = given.role == "tool" and isinstance(given.content, str) and len(given.content) > MAX_MESSAGE_BYTES // 4
    if given.role == "user" or is_cut:
        return replace(given, content=stored.content)
    return given


def _weight(content: str | Sequence[Json]) -> int:
    """Count the characters of texts and sources."""
    if isinstance(content, str):
        return len(content)
    sources = [part.get("source") for part in content]
    return sum(len(str(source.get("value"))) for source in sources if isinstance(source, Mapping)) + sum(
        len(str(part.get("text", ""))) for part in content
    )


def is_held(stored: Message, given: Message) -> bool:
    """Tell whether a client's message is its copy of a stored one. Only a user's words can be edited under their id."""
    if stored.role != given.role:
        return False
    if given.role == "tool":
        return stored.tool_call_id == given.tool_call_id
    return given.role == "assistant" or not given.content or is_same_content(stored.content, given.content)


class _Admission:
    """The new messages of one request."""

    def __init__(self, library: Library, user_id: UserId, now_s: Callable[[], float]) -> None:
        self._library = library
        self._user_id = user_id
        self._media = 0
        self._now_s = now_s
        self._until_s = now_s() + MAX_TAKING_S
        self.refusals: list[dict[str, str]] = []

    def check(self, message: Message, index: int) -> tuple[Message, list[dict[str, str]]]:
        """Return the message as it is stored, and what is wrong with it."""
        errors: list[dict[str, str]] = []
        at = f"messages.{index}.content"
        self._measure(message, at, errors)
        if isinstance(message.content, str):
            content = self._text(message, message.content)
            return (message if content is message.content else replace(message, content=content)), errors
        parts: list[Json] = []
        for i, part in enumerate(message.content):
            if part["type"] == "text":
                parts.append({**part, "text": self._text(message, str(part["text"]))})
            else:
                parts.append(self._medium(part, f"{at}.{i}.source", errors))
        return replace(message, content=tuple(parts)), errors

    def _measure(self, message: Message, at: str, errors: list[dict[str, str]]) -> None:
        if message.role != "user":
            return
        size = 0
        texts = (
            [(at, message.content)]
            if isinstance(message.content, str)
            else [
                (f"{at}.{i}.text", str(part["text"]))
                for i, part in enumerate(message.content)
                if part["type"] == "text"
            ]
        )
        for name, text in texts:
            size += len(text.encode("utf-8", "replace"))
            if size > MAX_MESSAGE_BYTES:
                errors.append(_wrong(name, f"must be at most {MAX_MESSAGE_BYTES} bytes; send a longer text as a file"))
                return

    def _text(self, message: Message, text: str) -> str:
        if message.role == "tool":
            return self._library.shorten(self._user_id, text, most_bytes=MAX_MESSAGE_BYTES)
        return text

    def _medium(self, part: Json, at: str, errors: list[dict[str, str]]) -> Json:
        self._media += 1
        if self._media > MAX_NEW_MEDIA:
            errors.append(_wrong(at, f"is one of more than {MAX_NEW_MEDIA} new attachments"))
        if errors or self.refusals:
            return part  # nothing of this message is stored: nothing more is fetched for it
        if self._now_s() > self._until_s:
            errors.append(_wrong(at, f"could not be taken: all before it took longer than {MAX_TAKING_S:g} s"))
            return part
        try:
            return self._library.take(self._user_id, part)
        except UnreadableMedia as exc:
            told = str(exc)
            # Each refusal says once what would be taken.
            errors.append(_wrong(at, told if TAKEN in told else f"{told}. Taken are {TAKEN}, as {SOURCES}"))
            return part


def _wrong(at: str, message: str) -> dict[str, str]:
    return {"field": at, "message": message, "type": "value_error"}
