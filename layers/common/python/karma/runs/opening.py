"""The first events of a run's stream, which give its client the conversation as the model is shown it.

    RUN_STARTED
    MESSAGES_SNAPSHOT            if the client's messages differ from the answer's conversation; two,
                                 if clients could not order one alone (order.py)
    CUSTOM karma.input_ignored   if parts of the request were left out, by field and reason
    STATE_SNAPSHOT               with `id: 1`: a client that has it has all of these

The snapshot is not part of the log, since the thread has its messages, in a branch that never changes. A client that
was disconnected before `id: 1` sends its request again, and gets another snapshot.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from karma.conversations.attachments import in_words
from karma.conversations.branches import Merged, Note
from karma.conversations.domain import Json, Message
from karma.conversations.messages import Aside
from karma.conversations.order import shown_in_steps
from karma.core.errors import MAX_TOLD, how_many_more
from karma.runs import events
from karma.runs.events import Version, frame, frames
from karma.runs.requests import RunInput

MAX_SNAPSHOT_BYTES = 4 * 1024 * 1024
"""Bytes of a snapshot; clients read frames of up to 10 MB. A longer conversation is not sent, which a note says."""


Link = Callable[[Sequence[Message]], Sequence[Message]]
"""Replaces names of attachments in messages by URLs."""
Shown = tuple[str, Json]
"""A message's id, and the message as clients hold it."""
Tell = Callable[[Sequence[Shown]], Sequence[Shown]]
"""Adds to a conversation what subagents have said in it. Blocks."""


class Opening(NamedTuple):
    """The first events of one run."""

    started: bytes
    snapshots: tuple[bytes, ...]
    """MESSAGES_SNAPSHOT events, at most two; () when the client needs none."""
    rest: tuple[bytes, ...]

    @property
    def log(self) -> tuple[bytes, ...]:
        """Return the events of the log's first segment."""
        return (self.started, *self.rest)

    @property
    def data(self) -> bytes:
        """Return the frames for the client."""
        return b"".join(map(frame, (self.started, *self.snapshots))) + frames(self.rest, n=1)


def opening(
    asked: RunInput,
    merged: Merged,
    state: object,
    *,
    link: Link,
    is_lighter: bool = False,
    before: Sequence[bytes] = (),
    tell: Tell | None = None,
) -> Opening:
    """Make the first events of a run.

    Args:
        asked: the request.
        merged: the request merged into its thread.
        state: the state for the client.
        link: replaces names of attachments by URLs.
        is_lighter: the client's requests become much smaller when it is sent the stored messages.
        before: events that tell what became of another run for this one.
        tell: adds what subagents have said; None: a snapshot has nothing of it.
    """
    started = events.run_started(
        thread_id=asked.thread_id, run_id=asked.run_id, parent_run_id=asked.parent_run_id, speaks=asked.speaks
    )
    notes = [Note("body", warning) for warning in asked.warnings] + list(merged.notes)
    snapshots: tuple[bytes, ...] = ()
    if is_lighter or not merged.is_shown or (merged.conversation and merged.conversation[-1].role == "assistant"):
        snapshots = snapshots_of(link(merged.conversation), asked, tell=tell)
        if len(snapshots[-1]) > MAX_SNAPSHOT_BYTES:
            snapshots = ()
            notes.insert(0, Note("messages", "are another branch of the conversation, which is too long to be shown"))
    return Opening(started.data, snapshots, (*before, *input_ignored(notes), events.state_snapshot(state).data))


def input_ignored(notes: Sequence[Note]) -> tuple[bytes, ...]:
    """Make the event that names what was left out of a request; () when it was used whole."""
    told = list(notes[:MAX_TOLD])
    if more := how_many_more(len(notes)):
        told.append(Note("body", f"and {more} were passed over"))
    return (events.input_ignored([note._asdict() for note in told]).data,) if told else ()


def snapshots_of(conversation: Sequence[Message], asked: RunInput, *, tell: Tell | None = None) -> tuple[bytes, ...]:
    """Make the MESSAGES_SNAPSHOT of a conversation, with the client's own instructions at the places where it has them.

    The last one has all messages; one precedes it if the client would otherwise order them wrongly. What subagents
    have said is left out where it would be too long with that.
    """
    own = [(message.id, shown(message, asked.speaks)) for message in conversation]
    whole = () if tell is None else _in_steps(tell(own), asked)
    return whole if whole and len(whole[-1]) <= MAX_SNAPSHOT_BYTES else _in_steps(own, asked)


def _in_steps(conversation: Sequence[Shown], asked: RunInput) -> tuple[bytes, ...]:
    places = {each.message.id: each.at for each in asked.sent if each.message.id}
    messages = list(_placed(conversation, places, asked.asides))
    held = sorted([*places.items(), *((str(each.shown["id"]), each.at) for each in asked.asides)], key=lambda it: it[1])
    first = shown_in_steps([message_id for message_id, _ in held], [str(each["id"]) for each in messages])
    whole = events.messages_snapshot(messages).data
    if first >= len(messages):
        return (whole,)
    # Activities that the client kept would come before all that is added behind them.
    shows_activities = asked.speaks >= events.ACTIVITIES_SINCE
    return (events.messages_snapshot(messages[:first], has_activities=shows_activities).data, whole)


def _placed(conversation: Iterable[Shown], places: dict[str, int], asides: Sequence[Aside]) -> Iterable[Json]:
    waiting = list(asides)
    for message_id, message in conversation:
        at = places.get(message_id, -1)
        while waiting and waiting[0].at < at:
            yield waiting.pop(0).shown
        yield message
    yield from (aside.shown for aside in waiting)


def shown(message: Message, speaks: Version) -> Json:
    """Return a message as a client of this protocol version holds it."""
    body: dict[str, object] = {"id": message.id, "role": message.role}
    if message.role != "assistant":
        body["content"] = _content(message, speaks)
    elif message.content:
        body["content"] = message.content
    if message.tool_calls:
        body["toolCalls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    if message.role == "tool":
        body["toolCallId"] = message.tool_call_id
        if message.failed:
            body["error"] = _in_one_text(message.content)
    return body


def _in_one_text(content: str | Sequence[Json]) -> str:
    """Return the text of a failed result; never "", which clients would take for a success."""
    if not isinstance(content, str):
        content = "\n".join(str(part["text"]) for part in content if part["type"] == "text")
    return content or "failed"


def _content(message: Message, speaks: Version) -> object:
    if isinstance(message.content, str):
        return message.content
    content = [
        {"type": part["type"], **{n: part[n] for n in ("text", "source") if n in part}} for part in message.content
    ]
    if speaks >= (1, 0):
        return content
    parts = [in_words(part) for part in content]
    if message.role == "tool":  # of text alone until 1.0
        return "\n".join(str(part.get("text", f"[{part['type']}]")) for part in parts)
    return parts
