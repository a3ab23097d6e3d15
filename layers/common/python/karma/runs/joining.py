"""Events for a client that joins a run: conversation and state as they are, instead of all that made them.

    RUN_STARTED
    MESSAGES_SNAPSHOT   empty: clients keep the order of what they hold, and add what they lack behind it
    MESSAGES_SNAPSHOT   the conversation up to now, with the parts of an unfinished answer
    STATE_SNAPSHOT
    …_START             of each text, call and piece of reasoning that goes on: what it has said is in the snapshot
    CUSTOM, or the end  where the run is paused, or has ended

All of it carries the position of the log's last segment; what follows is the log behind that. Each event of the log is
taken as a client takes it. What was withdrawn is not shown: there the messages begin anew with those of the thread.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import orjson

from karma.conversations.domain import Json, Thread, ThreadKey
from karma.core.json_patch import follow
from karma.core.texts import GrowingText
from karma.runs import events
from karma.runs.domain import RunKey, Segment
from karma.runs.events import OpenItems, parse
from karma.runs.opening import MAX_SNAPSHOT_BYTES, Link, shown
from karma.runs.pause_events import PAUSED
from karma.runs.ports import Runs, StoredRun
from karma.runs.setup import RunSetup, load_setup, with_asides


class Joined(NamedTuple):
    """The first events for a client that joins a run."""

    events: tuple[bytes, ...]
    """() where they would be larger than clients read: the log from its beginning says the same."""
    n: int
    """Segment after which the client goes on."""
    is_over: bool
    """The run has ended, and these are all of its events."""


_FROM_THE_BEGINNING = Joined((), 0, is_over=False)


def join(store: Runs, key: RunKey, *, link: Link) -> Joined | None:
    """Read what a client that joins a run is sent first; None: there is no such run. `link` as in `opening`.

    The log is read before the thread, so that the thread has each message that the log says is stored.
    """
    stored = store.whole(key)
    if stored is None:
        return None
    if stored.setup is None or not stored.log:
        return _FROM_THE_BEGINNING  # of a release that stored no setups
    setup = load_setup(stored.setup)
    thread = store.thread(ThreadKey(key.user_id, stored.run.thread_id))
    screen = Screen()
    base, until = stored.run.answers, 0
    for segment in stored.log:
        for data in segment.events:
            screen.take(data)
        if segment.shows is not None:
            base, until = segment.shows, segment.n
            screen.withdraw()
    shown_before = _conversation(store, thread, base, stored, setup, link, until=until)
    messages = with_activities([*shown_before, *screen.messages], screen.activities)
    shows_activities = setup.speaks >= events.ACTIVITIES_SINCE
    conversation = events.messages_snapshot(messages, has_activities=shows_activities).data
    if len(conversation) > MAX_SNAPSHOT_BYTES:
        return _FROM_THE_BEGINNING
    last: Segment = stored.log[-1]
    nothing = events.messages_snapshot((), has_activities=shows_activities).data
    first = (stored.log[0].events[0], nothing, conversation)
    state = (events.state_snapshot(screen.state).data,)
    return Joined((*first, *state, *screen.tail), last.n, is_over=last.terminal)


def _conversation(
    store: Runs, thread: Thread, position: int, stored: StoredRun, setup: RunSetup, link: Link, *, until: int
) -> list[Json]:
    """Return the thread's messages up to a position, with the instructions of the client's application.

    Where they were shown anew by a segment, `until`, subagents' up to that are among them, and those of earlier runs
    always.
    """
    way = thread.shown_to(position)
    found = [(message.id, shown(message, setup.speaks)) for message in link([thread.messages[each] for each in way])]
    answers = way.index(stored.run.answers) if stored.run.answers in way else len(way) - 1
    if (until or setup.carried) and setup.subagents and setup.speaks >= events.SUBAGENTS_SINCE:
        from karma.runs.subagents.showing import with_subagents  # most agents call no others

        found = with_subagents(store, stored.run.key, setup, found, link=link, until=until)
    return with_asides(found, setup.asides, last=answers)


class Screen:
    """The messages that a run has added to a client's conversation, and its state, after some events of its log."""

    def __init__(self) -> None:
        self.state: Any = {}
        self._messages: dict[str, dict[str, Any]] = {}
        self._activities: dict[str, dict[str, Any]] = {}
        self._calls: dict[str, dict[str, Any]] = {}
        """Function of each call, by the id of the call: its name and its arguments."""
        self._open = OpenItems()
        self._begun: dict[str, bytes] = {}
        """Events that began what may still be open, by type and id."""
        self._last: tuple[bytes, ...] = ()
        """The event that says that the run is paused or has ended."""
        self._takes: Mapping[str, Callable[[dict[str, Any]], object]] = {
            "TEXT_MESSAGE_START": lambda event: self._begin(event, event["messageId"], "assistant"),
            "TEXT_MESSAGE_CONTENT": self._say,
            "REASONING_MESSAGE_START": lambda event: self._begin(event, event["messageId"], "reasoning"),
            "REASONING_MESSAGE_CONTENT": self._say,
            "TOOL_CALL_START": self._call,
            "TOOL_CALL_ARGS": self._argue,
            "TOOL_CALL_RESULT": self._result,
            "ACTIVITY_SNAPSHOT": self._show_activity,
            "ACTIVITY_DELTA": self._change_activity,
        }

    def take(self, data: bytes) -> None:
        """Take the next event of the log, as JSON."""
        event = parse(data)
        self._open.follow(event)
        self.state = events.state_after((data,), self.state)
        if event.type.endswith(("_START", "SUBAGENT_STARTED")):
            self._begun[f"{event.type} {event.ref}"] = data
        body = orjson.loads(data)
        self._last = (data,) if _stops(body) else () if event.type == "CUSTOM" else self._last
        taken = self._takes.get(event.type)
        if taken is not None:
            taken(body)

    def withdraw(self) -> None:
        """Forget the messages, but for activities: the thread's are shown anew."""
        self._messages.clear()
        self._calls.clear()

    @property
    def messages(self) -> list[Json]:
        """Return the messages, as a snapshot shows them."""
        return [_shown(message) for message in self._messages.values()]

    @property
    def activities(self) -> Sequence[Json]:
        """Return the activities, in the order in which they began."""
        return list(self._activities.values())

    @property
    def tail(self) -> Sequence[bytes]:
        """Return the events that begin what is open again, and the one that says that the run is paused or over."""
        return (*(self._begun[item] for item in self._open.begun()), *self._last)

    def _begin(self, event: dict[str, Any], message_id: str, role: str) -> dict[str, Any]:
        tag = {"subagentRunId": event["subagentRunId"]} if "subagentRunId" in event else {}
        return self._messages.setdefault(message_id, {"id": message_id, "role": role, "said": [], **tag})

    def _say(self, event: dict[str, Any]) -> None:
        self._messages[event["messageId"]]["said"].append(event["delta"])

    def _call(self, event: dict[str, Any]) -> None:
        function = self._calls[event["toolCallId"]] = {"name": event["toolCallName"], "arguments": GrowingText()}
        call = {"id": event["toolCallId"], "type": "function", "function": function}
        self._begin(event, event["parentMessageId"], "assistant").setdefault("toolCalls", []).append(call)

    def _argue(self, event: dict[str, Any]) -> None:
        self._calls[event["toolCallId"]]["arguments"].add(event["delta"])

    def _result(self, event: dict[str, Any]) -> None:
        message = self._begin(event, event["messageId"], "tool")
        message |= {"said": [event["content"]], "toolCallId": event["toolCallId"]}
        if event.get("metadata", {}).get("failed"):
            message["error"] = event["content"] or "failed"

    def _show_activity(self, event: dict[str, Any]) -> None:
        named: dict[str, Any] = {
            name: event[name] for name in ("activityType", "content", "subagentRunId") if name in event
        }
        self._activities[event["messageId"]] = {"id": event["messageId"], "role": "activity", **named}

    def _change_activity(self, event: dict[str, Any]) -> None:
        activity = self._activities[event["messageId"]]
        activity["content"] = follow(activity["content"], event["patch"])


def with_activities(messages: Sequence[Json], activities: Sequence[Json]) -> list[Json]:
    """Put activities behind the results of the message with their calls: clients insert results before them."""
    told: list[Json] = []
    waiting: list[Json] = []
    for message in messages:
        if message["role"] != "tool":
            told += waiting
            calls: Any = message.get("toolCalls", ())
            ids = {call["id"] for call in calls}
            waiting = [each for each in activities if _call_of(each) in ids]
        told.append(message)
    return [*told, *waiting]


def _call_of(activity: Mapping[str, Any]) -> str:
    return str(activity["content"]["toolCallId"])


def _stops(event: Mapping[str, Any]) -> bool:
    return event["type"] in {"RUN_FINISHED", "RUN_ERROR"} or event.get("name") == PAUSED


def _with_text(call: Json) -> Json:
    function: Any = call["function"]
    return {**call, "function": {**function, "arguments": str(function["arguments"])}}


def _shown(message: Mapping[str, Any]) -> Json:
    """Return a message in the form of `opening.shown`: an answer without text has no content."""
    body = {name: value for name, value in message.items() if name != "said"}
    if "toolCalls" in body:
        body["toolCalls"] = [_with_text(call) for call in body["toolCalls"]]
    content = "".join(message["said"])
    return body if message["role"] == "assistant" and not content else {**body, "content": content}
