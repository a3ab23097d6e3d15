"""The state that an application shares with a conversation: any JSON value, as AG-UI has it.

A client sends the state that it holds with each run, and tools of the server change it. The newest one stays with the
thread, without the member `user` that says who is asking: that is made anew for each run.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import orjson

from karma.core.json_patch import is_same

MAX_STATE_BYTES: Final = 128 * 1024
"""Bytes of a state as JSON, from a client or after a change by a tool."""

USER: Final = "user"
"""Member of a state that is an object: who is asking, unless the application has one of its own."""


class State(NamedTuple):
    """A state; beside it, None means that there is none or that it did not change, since a state may be null."""

    value: Any

    @property
    def size(self) -> int:
        """Return its bytes as JSON."""
        return len(orjson.dumps(self.value))


EMPTY: Final = State({})
"""The state where there is none."""


def with_user(value: Any, user: Mapping[str, object]) -> Any:
    """Return a state as its client is told it: an object without a member `user` gets one."""
    return {**value, USER: dict(user)} if isinstance(value, dict) and USER not in value else value


def without_user(value: Any, user: Mapping[str, object]) -> Any:
    """Return a state as it is kept: without the member that `with_user` adds."""
    if isinstance(value, dict) and is_same(value.get(USER), dict(user)):
        return {name: each for name, each in value.items() if name != USER}
    return value


def changes_of(given: Any, held: Sequence[Any]) -> dict[str, Any]:
    """Return what a client has changed itself of a state, `{}` if nothing; `held` are the states that it may have held.

    Of objects these are members, `{"members": {…}, "without": […]}`; of other values the whole, `{"value": …}`.
    """
    if any(is_same(given, each) for each in held):
        return {}
    if not all(isinstance(each, dict) for each in (given, *held)):
        return {"value": given}
    members = {
        name: value
        for name, value in given.items()
        if not any(name in each and is_same(each[name], value) for each in held)
    }
    without = sorted(set[str].intersection(*map(set, held)) - set(given))
    return {"members": members, "without": without} if members or without else {}


def with_changes(value: Any, changes: Mapping[str, Any]) -> Any:
    """Return a state with what a client has changed, as `changes_of` returns it."""
    if "value" in changes or not changes:
        return changes.get("value", value)
    members = value.items() if isinstance(value, dict) else ()
    return {**{name: each for name, each in members if name not in changes["without"]}, **changes["members"]}


def dump_state(state: State) -> bytes:
    """Return a state as it is stored."""
    return zlib.compress(orjson.dumps(state.value))


def load_state(data: bytes) -> State:
    """Read what `dump_state` wrote."""
    return State(orjson.loads(zlib.decompress(data)))
