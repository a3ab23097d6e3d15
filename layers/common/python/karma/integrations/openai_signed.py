"""Parts of an answer that a server of Chat Completions wants back as it gave them: signed thoughts, and its own ids.

    extra_content      of a call, at Gemini's address (`google.thought_signature`); without it the next call is refused
    reasoning_details  of an answer, at OpenRouter: what a model thought, signed or encrypted
    id                 of a call that is not sent as it was given, such as Kimi's `functions.find:0`

All of it stands in the turn's block of thinking, which no client is shown, with a digest of the server's address. It is
sent back to that server's same model alone: others refuse members that they do not know.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Any, Final

import orjson

from karma.conversations.domain import Json, Message
from karma.core import freeform, surrogates
from karma.models.domain import OPENAI_URL, Target

MAX_SIGNED_BYTES: Final = 262_144
"""Bytes of JSON that are kept of one answer; of more, nothing."""
_MAX_ID_CHARS: Final = 256
_PLAIN_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,40}")
"""Ids that are sent as they were given in any case."""
_GROWING: Final = {"reasoning.text": "text", "reasoning.summary": "summary"}
"""Kinds of details that arrive in pieces, and the member whose pieces are put together."""


class Signed:
    """The parts of one answer."""

    def __init__(self) -> None:
        self._details: list[dict[str, Any]] = []
        self._size = 0

    def add_details(self, details: object) -> None:
        """Take `reasoning_details` of a delta."""
        for each in details if isinstance(details, list) else ():
            if not isinstance(each, dict) or not self._takes(each):
                continue
            last = self._details[-1] if self._details else {}
            member = _GROWING.get(str(each.get("type")), "")
            if member and _are_one(last, each):
                grown = f"{last.get(member) or ''}{each.get(member) or ''}"
                last.update({name: value for name, value in each.items() if value is not None} | {member: grown})
            else:
                self._details.append(dict(each))

    def of_call(self, given: object) -> Json | None:
        """Return `extra_content` of a call as it is kept; None: it is not."""
        return surrogates.whole(given) if isinstance(given, dict) and given and self._takes(given) else None

    def _takes(self, given: Json) -> bool:
        if freeform.is_deeper(given, levels=freeform.MAX_LEVELS // 2):
            return False
        self._size += len(orjson.dumps(surrogates.whole(given)))
        return self._size <= MAX_SIGNED_BYTES

    def members(self, target: Target, *, extras: Sequence[Json | None], ids: Sequence[str]) -> dict[str, object]:
        """Return the members of a turn's block of thinking; the calls' in their order. {}: there is nothing."""
        is_kept = self._size <= MAX_SIGNED_BYTES
        found: dict[str, object] = {}
        if self._details and is_kept:
            found["details"] = surrogates.whole(self._details)
        if any(extras) and is_kept:
            found["extras"] = list(extras)
        if not all(map(_PLAIN_ID.fullmatch, ids)) and all(0 < len(each) <= _MAX_ID_CHARS for each in ids):
            found["ids"] = list(ids)
        return {**found, "server": server_of(target)} if found else {}


def _are_one(last: Json, piece: Json) -> bool:
    """Tell whether a piece goes on with the detail before it."""
    same = all(last.get(name) == piece.get(name) for name in ("type", "index"))
    return same and not (last.get("id") and piece.get("id") and last["id"] != piece["id"])


def server_of(target: Target) -> str:
    """Return by what a server is known in a block: a digest of its address."""
    return hashlib.sha256((target.base_url or OPENAI_URL).encode()).hexdigest()[:16]


def signed_of(message: Message, *, model: str, server: str) -> Json:
    """Return what is sent back of it with an answer; {}: there is nothing, or it is another model's or server's."""
    if message.model != model:
        return {}
    blocks = (block for block in message.blocks if block.get("type") == "thinking" and block.get("server") == server)
    return next(blocks, {})


def listed_of(signed: Json, name: str, count: int) -> Sequence[Any]:
    """Return what each of an answer's calls has of it; nothing where it is not told of each."""
    found = signed.get(name)
    return found if isinstance(found, list) and len(found) == count else [None] * count
