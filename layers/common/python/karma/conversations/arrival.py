"""What is new of a client's messages, checked and made ready to be stored.

A client sends its whole history with each request, and cannot change what it was given: a limit on all of it would one
day refuse every request of a conversation. So

- what the server holds already, by id or by content, is neither measured nor looked at: it is taken from the store;
- only what asks now may be refused (`requests.asking`). A message that was refused stays in its client's list: behind
  the next one it is passed over, and named;
- what costs little is checked of all parts before anything is fetched, and that before any pixels are inflated;
- nothing is kept here: what a refused request brings is gone with it;
- a client whose copy is much larger than ours, a photo in base64 or a long result, is told ours: what it resends would
  grow until no body holds it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from karma.conversations.attachments import (
    SOURCES,
    TOO_MANY_PIXELS,
    Library,
    Taken,
    copies_of,
    cut,
    is_inline,
    is_same_content,
    named,
)
from karma.conversations.branches import Note
from karma.conversations.domain import Json, Message
from karma.conversations.media import MAX_INFLATED_BYTES, TAKEN, UnreadableMedia, bytes_to_inflate, inflate
from karma.conversations.messages import MAX_MESSAGE_BYTES, Sent, Unread, asking, said
from karma.conversations.tree import Shape, shape_of, shapes_of
from karma.core.clock import monotonic
from karma.core.errors import ValidationFailed
from karma.core.ids import UserId

MAX_NEW_MEDIA = 20
"""Of one request; a conversation may have more."""
MAX_TAKING_S = 30.0
"""For the new media of one request, which are fetched one after the other; one that was begun is waited for."""
MAX_NEW_BYTES = 15 * 1024 * 1024
"""Of the new media of one request, whatever they are named by: as much as one request of the model holds."""
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
    kept: Mapping[str, bytes]
    """Contents that these messages refer to, by id: they are kept once the messages are stored."""


class Arrivals:
    """Admits the messages of requests."""

    def __init__(self, library: Library, *, now_s: Callable[[], float] = monotonic) -> None:
        self._library = library
        self._now_s = now_s

    def admit(
        self, user_id: UserId, stored: Sequence[Message], sent: Sequence[Sent], unread: Sequence[Unread] = ()
    ) -> Admitted:
        """Check what is new, and put the store's copy in the place of what is held. Nothing is kept yet.

        May block: URLs are fetched and files read.

        Raises:
            ValidationFailed: one entry a part that the model would not take, or a text that is too long, of the
                messages that ask now.
        """
        known = _Known(stored)
        sent = said(sent, known.ids)
        newest = asking([(each.at, each.message.role) for each in sent])
        admission = _Admission(self._library, user_id, self._now_s)
        admitted: list[Sent] = []
        kept: dict[str, bytes] = {}
        is_lighter = False
        new: list[tuple[Sent, Message]] = []
        for each in sent:
            given = named(user_id, each.message)
            ours = known.of(given)
            if ours is None:
                new.append((each, given))
                continue
            if each.at in newest:
                kept |= copies_of(ours, given)
            message = _as_stored(given, ours)
            admitted.append(each._replace(message=message))
            is_lighter |= _weight(given.content) > _weight(message.content) + _LARGER_CHARS
        asked = [_New(each.at, given) for each, given in new if each.at in newest]
        if not admission.take(asked):  # first: nothing else is looked at for a request that is refused
            details = [error for one in asked for error in one.errors]
            raise ValidationFailed("Request validation failed", details=details)
        earlier = [_New(each.at, given) for each, given in new if each.at not in newest]
        notes = [_passed_over(one.at, one.errors) for one in reversed(earlier) if not admission.take([one])]
        places = {each.at: each for each, _ in new}
        for one in (*asked, *earlier):
            if not one.errors:
                message = one.stored()
                admitted.append(places[one.at]._replace(message=message))
                is_lighter |= _weight(one.message.content) > _weight(message.content) + _LARGER_CHARS
                kept |= one.kept
        for lost in unread:
            ours = known.by_id(lost.id, lost.role)
            if ours is None:
                notes.append(_passed_over(lost.at, lost.problems))
            else:
                admitted.append(Sent(lost.at, ours))
        return Admitted(tuple(sorted(admitted, key=lambda each: each.at)), tuple(notes), is_lighter, kept)


def recognise(
    user_id: UserId, stored: Sequence[Message], sent: Sequence[Sent], unread: Sequence[Unread] = ()
) -> tuple[Sent, ...]:
    """Put the store's copy in the place of what is held; what is new stays as it was sent, unchecked."""
    known = _Known(stored)
    found: list[Sent] = []
    for each in said(sent, known.ids):
        given = named(user_id, each.message)
        ours = known.of(given)
        found.append(each._replace(message=given if ours is None else _as_stored(given, ours)))
    for lost in unread:
        ours = known.by_id(lost.id, lost.role)
        if ours is not None:
            found.append(Sent(lost.at, ours))
    return tuple(sorted(found, key=lambda each: each.at))


class _Known:
    """The messages that the store holds, by what a client's copy of one is known by."""

    def __init__(self, stored: Sequence[Message]) -> None:
        self._held: dict[str, list[Message]] = {}
        self._alike: dict[Shape, list[Message]] = {}
        for message in stored:
            self._held.setdefault(message.id, []).append(message)
            for shape in shapes_of(message.content) if message.role == "user" else ():
                self._alike.setdefault(shape, []).append(message)

    @property
    def ids(self) -> Collection[str]:
        """All that are held."""
        return self._held.keys()

    def of(self, given: Message) -> Message | None:
        """Find the stored message that a client's is its copy of."""
        if given.id in self._held:
            return next((message for message in self._held[given.id] if is_held(message, given)), None)
        if given.role != "user" or isinstance(given.content, str) or not given.content:
            return None
        # Clients without ids, and those that make them anew, send the same media each time.
        same = self._alike.get(shape_of(given.content), ())
        return next((message for message in reversed(same) if is_same_content(message.content, given.content)), None)

    def by_id(self, message_id: str, role: str) -> Message | None:
        """Find the stored message of an id and a role."""
        found = self._held.get(message_id, ()) if message_id else ()
        return next((message for message in found if message.role == role), None)


def _passed_over(at: int, errors: Sequence[Mapping[str, str]]) -> Note:
    name = f"messages.{at}"
    reasons = [f"{each['field'].removeprefix(name).lstrip('.')} {each['message']}".strip() for each in errors]
    return Note(name, f"was not taken: {'; '.join(reasons)}"[:_REASON_CHARS])


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


@dataclass
class _New:
    """One message that the store does not hold, on its way there."""

    at: int
    message: Message
    errors: list[dict[str, str]] = field(default_factory=list)
    taken: dict[int, Taken] = field(default_factory=dict)
    """Media by the index of their part."""
    texts: dict[int, str] = field(default_factory=dict)
    """Texts that stand in the place of too long ones, by the part's place; -1 where the content itself is a text."""
    kept: dict[str, bytes] = field(default_factory=dict)

    @property
    def parts(self) -> Sequence[Json]:
        """Its content parts, none where it is a text."""
        return () if isinstance(self.message.content, str) else self.message.content

    def name_of(self, part: int) -> str:
        """Return the name of a part's source."""
        return f"messages.{self.at}.content.{part}.source"

    def stored(self) -> Message:
        """Return the message as it is stored."""
        if isinstance(self.message.content, str):
            return replace(self.message, content=self.texts[-1]) if -1 in self.texts else self.message
        parts: list[Json] = []
        for i, part in enumerate(self.parts):
            text = {"text": self.texts[i]} if i in self.texts else {}
            parts.append(self.taken[i].part if i in self.taken else {**part, **text})
        return replace(self.message, content=tuple(parts))


class _Admission:
    """The new messages of one request: what costs little is checked of all before anything is done for one."""

    def __init__(self, library: Library, user_id: UserId, now_s: Callable[[], float]) -> None:
        self._library = library
        self._user_id = user_id
        self._media = 0
        self._bytes = 0
        self._inflated = 0
        self._now_s = now_s
        self._until_s = now_s() + MAX_TAKING_S

    def take(self, messages: Sequence[_New]) -> bool:
        """Take messages, all or none; their errors say why not."""
        for step in (self._measure, self._look, self._fetch, self._inflate):
            for one in messages:
                step(one)
            if any(one.errors for one in messages):
                return False
        return True

    def _measure(self, one: _New) -> None:
        content = one.message.content
        name = f"messages.{one.at}.content"
        texts = (
            {-1: content}
            if isinstance(content, str)
            else {i: str(part["text"]) for i, part in enumerate(content) if part["type"] == "text"}
        )
        size = 0
        for i, text in texts.items():
            size += len(text.encode("utf-8", "replace")) if one.message.role == "user" else 0
            if size > MAX_MESSAGE_BYTES:
                at = name if i < 0 else f"{name}.{i}.text"
                one.errors.append(
                    _wrong(at, f"must be at most {MAX_MESSAGE_BYTES} bytes; send a longer text as a file")
                )
                return
            if one.message.role == "tool":
                shown, kept = cut(text, whole_to_bytes=MAX_MESSAGE_BYTES)
                if kept:
                    one.texts[i] = shown
                    one.kept |= kept

    def _look(self, one: _New) -> None:
        """Check the structure of what the request itself holds."""
        for i, part in enumerate(one.parts):
            if part["type"] == "text":
                continue
            self._media += 1
            if self._media > MAX_NEW_MEDIA:
                one.errors.append(_wrong(one.name_of(i), f"is one of more than {MAX_NEW_MEDIA} new attachments"))
                return
            if is_inline(part):
                self._one(one, i, part)

    def _fetch(self, one: _New) -> None:
        """Read what the request only names."""
        for i, part in enumerate(one.parts):
            if part["type"] == "text" or is_inline(part):
                continue
            if self._now_s() > self._until_s:
                told = f"could not be taken: all before it took longer than {MAX_TAKING_S:g} s"
                one.errors.append(_wrong(one.name_of(i), told))
            else:
                self._one(one, i, part)
            if one.errors:
                return  # nothing of this message is stored: nothing more is fetched for it

    def _one(self, one: _New, i: int, part: Json) -> None:
        try:
            taken = self._library.take(self._user_id, part)
        except UnreadableMedia as exc:
            self._refuse(one, i, exc)
            return
        self._bytes += len(taken.raw)
        self._inflated += bytes_to_inflate(taken.raw)
        if self._bytes > MAX_NEW_BYTES:
            told = f"brings the new attachments to more than {MAX_NEW_BYTES} bytes"
            one.errors.append(_wrong(one.name_of(i), told))
        elif self._inflated > MAX_INFLATED_BYTES:
            one.errors.append(_wrong(one.name_of(i), TOO_MANY_PIXELS))
        else:
            one.taken[i] = taken
            one.kept |= taken.kept

    def _inflate(self, one: _New) -> None:
        for i, taken in one.taken.items():
            try:
                inflate(taken.raw)
            except UnreadableMedia as exc:
                self._refuse(one, i, exc)
                return

    def _refuse(self, one: _New, i: int, why: UnreadableMedia) -> None:
        told = str(why)
        # Each refusal says once what would be taken.
        one.errors.append(_wrong(one.name_of(i), told if TAKEN in told else f"{told}. Taken are {TAKEN}, as {SOURCES}"))


def _wrong(at: str, message: str) -> dict[str, str]:
    return {"field": at, "message": message, "type": "value_error"}
