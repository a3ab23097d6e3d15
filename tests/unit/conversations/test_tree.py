"""Searches in the index of a thread find the same messages as a look at each message of the thread."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from karma.conversations.domain import Message, Thread, ThreadKey, ToolCall
from karma.conversations.tree import Name, Tree, is_hidden
from karma.core.ids import ThreadId, UserId


@st.composite
def threads(draw: st.DrawFn) -> Thread:
    size = draw(st.integers(1, 12))
    told = draw(st.lists(st.sampled_from(["", "", "ok"]), min_size=size, max_size=size))
    asked = draw(st.lists(st.sets(st.sampled_from("cd"), min_size=1), min_size=size, max_size=size))
    forks = {at: draw(st.integers(-1, at - 1)) for at in draw(st.sets(st.integers(0, size - 1)))}
    messages = tuple(
        Message(id=f"m{at}", role="assistant", content=text, tool_calls=tuple(ToolCall(c, "look", "{}") for c in calls))
        for at, (text, calls) in enumerate(zip(told, asked, strict=True))
    )
    key = ThreadKey(UserId("u"), ThreadId("t"))
    return Thread(key=key, messages=messages, next_message=size, version=1, forks=forks)


def nearest_of_all(
    thread: Thread, start: int, is_meant: Callable[[Message], bool], *, within: int | None = None
) -> int | None:
    """Look at every message of a thread: it may come next when all messages between `start` and it are hidden."""
    found = []
    for position in range(len(thread.messages)):
        way = thread.path_to(position)
        if start >= 0 and start not in way[:-1]:
            continue
        between = way[way.index(start) + 1 : -1] if start >= 0 else way[:-1]
        is_near = all(is_hidden(thread.messages[each]) for each in between) and (
            within is None or len(way) - 1 <= within
        )
        if is_near and is_meant(thread.messages[position]):
            found.append((len(way), -position))
    return -min(found)[1] if found else None


@given(threads(), st.data())
def test_a_search_finds_the_nearest_message_that_may_come_next_whatever_came_before(
    thread: Thread, data: st.DataObject
) -> None:
    tree = Tree(thread)
    for start in [-1, *thread.path_to(data.draw(st.integers(0, len(thread.messages) - 1)))]:
        for call in data.draw(st.lists(st.sampled_from("cd"), max_size=3)):
            within = data.draw(st.none() | st.integers(0, 12))
            both = data.draw(st.booleans())

            def is_meant(message: Message, call: str = call, *, both: bool = both) -> bool:
                calls = {each.id for each in message.tool_calls}
                return call in calls and (len(calls) == 2 or not both)

            found = tree.nearest(start, Name("answer call", call), is_meant if both else None, within=within)

            assert found == nearest_of_all(thread, start, is_meant, within=within), (start, call, both, within)
