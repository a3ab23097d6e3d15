"""Finds the new messages of a request, checks them and prepares them for storage.

A client sends its whole history with each request, and cannot change what it was given: a limit on all of it would one
day refuse every request of a conversation. Therefore

- a message that the server holds already, by id or by content, is not checked: the stored one is used;
- only the messages that ask for an answer now (`messages.asking`) may be refused. A refused message stays in its
  client's list: in later requests it is left out, with a note;
- cheap checks of all parts come before anything is fetched, and fetching before any pixels are inflated;
- nothing is stored here: media of a refused request are dropped with it;
- a client whose copy is much larger than the stored message (a photo in base64, a long result) is sent the stored one:
  else its requests would grow beyond the limit of a body.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from karma.conversations.attachments import (
    MAX_RESULT_BYTES,
    SOURCES,
    TOO_MANY_PIXELS,
    Library,
    Taken,
    copies_of,
    cut,
    is_inline,
    named,
)
from karma.conversations.branches import Note
from karma.conversations.copies import Key, key_of, keys_of
from karma.conversations.domain import Json, Message
from karma.conversations.media import MAX_INFLATED_BYTES, TAKEN, UnreadableMedia, bytes_to_inflate, inflate
from karma.conversations.messages import MAX_MESSAGE_BYTES, Sent, Unread, asking, said
from karma.conversations.same import is_same_output
from karma.core.clock import monotonic
from karma.core.errors import ValidationFailed
from karma.core.ids import UserId

MAX_NEW_MEDIA = 20
"""New media of one request at the most; a conversation may have more."""
MAX_TAKING_S = 10.0
"""Seconds for the new media of one request, which are fetched one after the other; a begun fetch is finished, so that
all of it takes at most `karma.integrations.fetch.TIME_S` more. The API's function, which begins runs too, has 29 s."""
MAX_NEW_BYTES = 15 * 1024 * 1024
"""Bytes of the new media of one request at the most: as many as one request to the model may have."""
_LARGER_CHARS = 4 * 1024
"""Characters by which a client's copy of a message may be larger than ours; a link to an attachment has up to 2,000."""
_REASON_CHARS = 500


class Admitted(NamedTuple):
    """Messages of a request, checked and ready to be merged into the thread."""

    sent: tuple[Sent, ...]
    notes: tuple[Note, ...]
    """One note for each part of the request that was left out, with the reason."""
    is_lighter: bool
    """A client that was sent the stored messages would send much less from then on."""
    kept: Mapping[str, bytes]
    """Attachments that these messages refer to, by id; to be stored once the messages are."""


class MessageAdmission:
    """Checks the messages of requests."""

    def __init__(self, library: Library, *, now_s: Callable[[], float] = monotonic) -> None:
        self._library = library
        self._now_s = now_s

    def admit(
        self, user_id: UserId, stored: Sequence[Message], sent: Sequence[Sent], unread: Sequence[Unread] = ()
    ) -> Admitted:
        """Check new messages, and replace those that the store holds by the stored ones. Nothing is stored yet.

        May block: URLs are fetched and files read.

        Raises:
            ValidationFailed: a message that asks for an answer now has a part that the model would not accept, or a
                text that is too long; one entry a part.
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
        if not admission.take(asked):  # first: the history of a request that is refused is not checked
            details = [error for one in asked for error in one.errors]
            raise ValidationFailed("Request validation failed", details=details)
        earlier = [_New(each.at, given) for each, given in new if each.at not in newest]
        notes = [passed_over(one.at, one.errors) for one in reversed(earlier) if not admission.take([one])]
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
                notes.append(passed_over(lost.at, lost.problems))
            else:
                admitted.append(Sent(lost.at, ours))
        return Admitted(tuple(sorted(admitted, key=lambda each: each.at)), tuple(notes), is_lighter, kept)


def recognise(
    user_id: UserId, stored: Sequence[Message], sent: Sequence[Sent], unread: Sequence[Unread] = ()
) -> tuple[Sent, ...]:
    """Replace messages that the store holds by the stored ones; new ones stay unchecked."""
    known = _Known(stored)
    found: list[Sent] = []
    for each in said(sent, known.ids):
        given = named(user_id, each.message)
        ours = known.of(given)
        found.append(each._replace(message=_as_taken(given) if ours is None else _as_stored(given, ours)))
    for lost in unread:
        ours = known.by_id(lost.id, lost.role)
        if ours is not None:
            found.append(Sent(lost.at, ours))
    return tuple(sorted(found, key=lambda each: each.at))


class _Known:
    """The messages that the store holds, found by id or, for a user's, by content."""

    def __init__(self, stored: Sequence[Message]) -> None:
        self._held: dict[str, list[Message]] = {}
        self._alike: dict[Key, Message] = {}
        """The latest message of each key."""
        for message in stored:
            self._held.setdefault(message.id, []).append(message)
            if message.role == "user":
                self._alike |= dict.fromkeys(keys_of(message.content), message)

    @property
    def ids(self) -> Collection[str]:
        """Return the ids of all stored messages."""
        return self._held.keys()

    def of(self, given: Message) -> Message | None:
        """Find the stored message of which a client's is a copy; None: it is new."""
        if given.id in self._held:
            key = key_of(given.content)
            return next((message for message in self._held[given.id] if _is_held(message, given, key)), None)
        if given.role != "user" or isinstance(given.content, str) or not given.content:
            return None
        # Clients without ids, and those that make them anew, send the same media each time.
        return self._alike.get(key_of(given.content))

    def by_id(self, message_id: str, role: str) -> Message | None:
        """Find the stored message of an id and a role; None: there is none."""
        found = self._held.get(message_id, ()) if message_id else ()
        return next((message for message in found if message.role == role), None)


def passed_over(at: int, errors: Sequence[Mapping[str, str]]) -> Note:
    """Name a message that was left out, and what is wrong with it."""
    name = f"messages.{at}"
    reasons = [f"{each['field'].removeprefix(name).lstrip('.')} {each['message']}".strip() for each in errors]
    return Note(name, f"was not taken: {'; '.join(reasons)}"[:_REASON_CHARS])


def _as_stored(given: Message, stored: Message) -> Message:
    """Replace a copy's content by the stored one where that has another form: media by reference, long results cut."""
    return given if given.role == "assistant" else replace(given, content=stored.content)


def _as_taken(given: Message) -> Message:
    """Cut long results as they are cut before they are stored, so that those without ids can be compared."""
    if given.role != "tool":
        return given
    if isinstance(given.content, str):
        return replace(given, content=cut(given.content, whole_to_bytes=MAX_MESSAGE_BYTES)[0])
    texts = (str(part["text"]) if part["type"] == "text" else None for part in given.content)
    shown = [None if text is None else cut(text, whole_to_bytes=MAX_MESSAGE_BYTES)[0] for text in texts]
    parts = zip(given.content, shown, strict=True)
    return replace(given, content=tuple(part if text is None else {**part, "text": text} for part, text in parts))


def _weight(content: str | Sequence[Json]) -> int:
    """Return the number of characters of texts and sources."""
    if isinstance(content, str):
        return len(content)
    sources = [part.get("source") for part in content]
    return sum(len(str(source.get("value"))) for source in sources if isinstance(source, Mapping)) + sum(
        len(str(part.get("text", ""))) for part in content
    )


def _is_held(stored: Message, given: Message, key: Key) -> bool:
    """Tell whether a client's message of this key is its copy of a stored one. Answers cannot be edited under ids."""
    if stored.role != given.role or stored.tool_call_id != given.tool_call_id:
        return False
    if given.role == "assistant" or key in keys_of(stored.content):
        return True
    if given.role == "user":
        return not given.content
    if is_same_output(stored.content, given.content):
        return True
    return isinstance(given.content, str) and stored.content == cut(given.content, whole_to_bytes=MAX_RESULT_BYTES)[0]


@dataclass
class _New:
    """A message that the store does not hold, while it is checked."""

    at: int
    message: Message
    errors: list[dict[str, str]] = field(default_factory=list)
    taken: dict[int, Taken] = field(default_factory=dict)
    """Media by the index of their part."""
    texts: dict[int, str] = field(default_factory=dict)
    """Texts that replace too long ones, by the index of their part; -1: the content itself is a text."""
    kept: dict[str, bytes] = field(default_factory=dict)

    @property
    def parts(self) -> Sequence[Json]:
        """Return its content parts; () when the content is a text."""
        return () if isinstance(self.message.content, str) else self.message.content

    def name_of(self, part: int) -> str:
        """Return the path of a part's source, as errors name it."""
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
    """Checks the new messages of one request: cheap checks of all come before anything costly for one."""

    def __init__(self, library: Library, user_id: UserId, now_s: Callable[[], float]) -> None:
        self._library = library
        self._user_id = user_id
        self._media = 0
        self._bytes = 0
        self._inflated = 0
        self._now_s = now_s
        self._until_s = now_s() + MAX_TAKING_S

    def take(self, messages: Sequence[_New]) -> bool:
        """Check messages, all or none; return whether all are accepted, else they have errors."""
        if all(part["type"] == "text" for one in messages for part in one.parts):
            return self._taken(messages)
        from karma.core.foreign import one_allowance  # few conversations have media

        with one_allowance():
            return self._taken(messages)

    def _taken(self, messages: Sequence[_New]) -> bool:
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
        """Check the structure of media that the request itself contains."""
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
        """Read media that the request only names."""
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
