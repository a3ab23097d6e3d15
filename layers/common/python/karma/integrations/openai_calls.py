"""Tells the calls of one answer of Chat Completions apart, as servers cut them into pieces and number them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from karma.conversations.domain import Json
from karma.conversations.repair import arguments_of
from karma.core import freeform, surrogates
from karma.core.texts import GrowingText
from karma.integrations.call_ids import MAX_CALLS, own_id
from karma.integrations.openai_signed import Signed
from karma.models.ports import ModelEvent, ToolArguments, ToolBegun, ToolEnded

_MAX_LOOKED_AT: Final = 65_536
"""Characters of arguments that are looked at, as often as there may be calls, to tell whether they are whole."""


@dataclass
class _Call:
    """A call of a tool, as far as it has arrived."""

    id: str = ""
    """Id that it is known by outside: the provider's, or one of ours where that is missing or not the only one."""
    given: str = ""
    """Id that the provider gave."""
    name: str = ""
    text: GrowingText = field(default_factory=GrowingText)
    joiner: surrogates.Joiner = field(default_factory=surrogates.Joiner)
    extra: Json | None = None
    """The parts that its server wants back with it (openai_signed.py)."""
    is_told: bool = False
    """It was told that it begins."""
    looks: int = 0
    """Number of times that its arguments were looked at."""
    ahead: str = ""
    """An empty object with which they began: all of them, or what some gateways put before them."""

    @property
    def is_just_named(self) -> bool:
        """Tell whether it has a name and no more, so that the name may go on."""
        return bool(self.name) and not (self.is_told or self.text.size or self.ahead)

    def is_another(self, name: str, arguments: object, *, is_same_id: bool) -> bool:
        """Tell whether a piece with a name, at this call's place, begins another call, whose id is no other one.

        It does if it has another name, or a name and an object behind one that is whole. A name alone is none, since
        some servers repeat it with each piece. Under the same id nothing that goes on with the arguments is another.
        """
        if not self.name:
            return False
        if name != self.name:
            return not is_same_id or bool(self.ahead) or self.is_whole()
        begins = isinstance(arguments, dict) or (isinstance(arguments, str) and arguments.lstrip().startswith("{"))
        return begins and ((bool(self.ahead) and not is_same_id) or self.is_whole())

    def is_whole(self) -> bool:
        """Tell whether its arguments are an object by now that nothing can follow."""
        if not 0 < self.text.size <= _MAX_LOOKED_AT or self.looks == MAX_CALLS:
            return False
        self.looks += 1
        try:
            return isinstance(orjson.loads(str(self.text)), dict)
        except ValueError:
            return False


class Calls:
    """The calls of one answer."""

    def __init__(self, signed: Signed) -> None:
        """Begin without any; `signed` takes what servers want back with a call."""
        self._signed = signed
        self._newest: dict[int | str, _Call] = {}
        """The newest call of each index; some servers give all calls of an answer the index 0.

        Where there are no indices, the newest call of each id, and under "" the newest of all.
        """
        self._given: dict[tuple[int | str, str], _Call] = {}
        """Calls by their place and the id that they were given there."""
        self._ahead: dict[int | str, str] = {}
        """Ids that came before the names of their calls, by place."""
        self._made: list[_Call] = []
        self._ids: set[str] = set()
        """Ids of the calls that are made."""

    def __len__(self) -> int:
        """Return the number of the calls."""
        return len(self._made)

    @property
    def is_placed(self) -> bool:
        """Tell whether one has an index, or an id in its place."""
        return bool(self._newest.keys() - {""})

    @property
    def chars(self) -> int:
        """Return the characters of their arguments."""
        return sum(call.text.size + len(call.ahead) for call in self._made)

    @property
    def extras(self) -> Sequence[Json | None]:
        """Return what their server wants back with each."""
        return [call.extra for call in self._made]

    @property
    def given(self) -> Sequence[str]:
        """Return the ids that their server gave them."""
        return [surrogates.whole(call.given) for call in self._made]

    def blocks(self) -> list[dict[str, object]]:
        """Return them as the blocks in which turns of all providers are stored."""
        return [
            {"type": "tool_use", "id": each.id, "name": each.name, "input": arguments_of(str(each.text))}
            for each in self._made
        ]

    def take(self, piece: dict[str, Any], out: list[ModelEvent]) -> None:
        """Take a piece of a call, and tell of what it completes.

        Raises:
            ValueError: it belongs to no call.
            StreamTooLarge: there are too many calls.
        """
        function = piece.get("function") or {}
        name, arguments = surrogates.whole(str(function.get("name") or "")), function.get("arguments")
        index, given = piece.get("index"), str(piece.get("id") or "").strip()
        place: int | str = given if index is None else index
        if name.strip():
            call: _Call | None = self._named(place, given, name, arguments, is_indexed=index is not None)
        else:
            call = self._going_on(place, given, is_argued=bool(arguments))
        if call is not None and not call.id:
            self._begin(call, name, out)
        if call is not None:
            call.extra = call.extra or self._signed.of_call(piece.get("extra_content"))
            if index is None:
                self._newest[""] = call
        if not arguments or (arguments == "null" and not (call and (call.text.size or call.ahead))):
            return  # a tool that takes none
        if call is None:
            raise ValueError("arguments of a call without a name")
        if isinstance(arguments, dict):  # as some servers write them
            arguments = freeform.render(arguments).decode()
        self._argue(call, call.joiner.add(arguments), out)

    def _begin(self, call: _Call, name: str, out: list[ModelEvent]) -> None:
        if self._made:
            self._tell(self._made[-1], out)
        call.name = name
        call.id = own_id(surrogates.whole(call.given), self._ids)
        self._made.append(call)

    @staticmethod
    def _tell(call: _Call, out: list[ModelEvent]) -> None:
        """Tell that a call has begun, once; its name may come in pieces, and is whole when something follows it."""
        if not call.is_told:
            call.is_told = True
            out.append(ToolBegun(call.id, call.name))

    def _named(self, place: int | str, given: str, name: str, arguments: object, *, is_indexed: bool) -> _Call:
        """Return the call of a piece with a name: a new one where its id is another, or else as `is_another` tells.

        Some servers cut names as they cut arguments, under the index and id of the call, or its index alone.
        """
        call, given = self._newest.get(place), given or self._ahead.get(place, "")
        self._ahead.pop(place, None)
        is_same = call is not None and given == call.given and bool(given)
        is_other = call is not None and bool(given and call.given and given != call.given)
        is_named = call is not None and call.is_just_named
        goes_on = is_same or (is_named and is_indexed and call is not None and bool(call.given) and not given)
        if call is None or is_other or call.is_another(name, arguments, is_same_id=goes_on):
            call = self._newest[place] = _Call(given=given)
        elif is_named and name != call.name:
            call.name += name
        call.given = call.given or given
        self._given.setdefault((place, given), call)
        return call

    def _going_on(self, place: int | str, given: str, *, is_argued: bool) -> _Call | None:
        """Return the call of a piece without a name: of its place, whatever its id, or else the newest; None: none.

        Some servers make an id for each piece, or count the index on. What an object that is whole is followed by at a
        place of its own is none of these.
        """
        call = (self._given.get((place, given)) if given else None) or self._newest.get(place)
        if given and not is_argued and (call is None or call.given != given):
            self._ahead[place] = given  # the name may follow
        if call is not None or not is_argued or not self._made or self._made[-1].ahead or self._made[-1].is_whole():
            return call
        return self._made[-1]

    def _argue(self, call: _Call, text: str, out: list[ModelEvent], *, is_end: bool = False) -> None:
        """Add to the arguments of a call; of an empty object with another one directly behind it, only the other.

        Gateways that begin with the empty object of Anthropic's block of a call send such (litellm#4537).
        """
        if text:
            self._tell(call, out)
        if not call.text.size:
            text, call.ahead = call.ahead + text, ""
            if text.startswith("{}"):
                if text == "{}" and not is_end:
                    call.ahead = text
                    return
                text = text[2:] if text.startswith("{", 2) else text
        call.text.add(text)
        if text:
            out.append(ToolArguments(call.id, text))

    def end(self, out: list[ModelEvent]) -> None:
        """Tell that all of them are complete."""
        for call in self._made:
            self._tell(call, out)
            self._argue(call, call.joiner.end(), out, is_end=True)
            out.append(ToolEnded(call.id, str(call.text)))
