"""The cache of prefixes of the Messages API, computed from requests as they are sent.

    read in order       tools, system, messages; a request shares with another one what stands before their first
                        difference. Another model, or other tools, share nothing; another way to think shares tools and
                        system
    written             at each mark (`cache_control`, at most four with the request's own, which is its last block),
                        where the prefix has as many tokens as the model caches at least
    found               at a mark, or up to twenty blocks before one; for five minutes after its last use

https://platform.claude.com/docs/en/build-with-claude/prompt-caching
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

LOOK_BACK: Final = 20
"""Blocks before a mark at which the API looks for what it has cached."""
LIVES_S: Final = 300.0
_LEAST: Final = {"claude-haiku-4-5": 4096, "claude-opus-5": 512, "claude-fable-5": 512, "claude-mythos-5": 512}
_LEAST_OTHERWISE: Final = 1024
"""Tokens of a prefix below which the model caches nothing, by the beginning of its id."""
_CHARS_A_TOKEN: Final = 4
_NEVER_MARKED: Final = frozenset({"thinking", "redacted_thinking"})


class CacheUsage(NamedTuple):
    """Tokens of a request, as its usage tells them: all of them are the sum."""

    input_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int

    @property
    def total(self) -> int:
        """Return the tokens of the request."""
        return sum(self)


class PromptCache:
    """The API's cache; `now_s` is the time of its clock, in seconds, for whoever uses it to move."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._until: dict[bytes, float] = {}
        """End of each prefix that is cached, by its digest."""

    def use(self, body: Mapping[str, Any]) -> CacheUsage:
        """Return the tokens of a request, cached ones apart, and cache what it marks."""
        least = next((n for name, n in _LEAST.items() if body["model"].startswith(name)), _LEAST_OTHERWISE)
        keys, tokens, marks = [hashlib.sha256(body["model"].encode()).digest()], [0], []
        for at, (block, is_marked) in enumerate(_blocks(body), start=1):
            keys.append(hashlib.sha256(keys[-1] + block).digest())
            tokens.append(tokens[-1] + -(-len(block) // _CHARS_A_TOKEN))
            if is_marked:
                marks.append(at)
        reached = [at for mark in marks for at in range(mark, max(0, mark - LOOK_BACK), -1) if self._has(keys[at])]
        read = max(reached, default=0)
        for at in (*marks, *([read] if read else [])):
            if tokens[at] >= least:
                self._until[keys[at]] = self.now_s + LIVES_S
        written = max((at for at in marks if tokens[at] >= least), default=0)
        written = max(written, read)
        return CacheUsage(tokens[-1] - tokens[written], tokens[written] - tokens[read], tokens[read])

    def _has(self, key: bytes) -> bool:
        return self._until.get(key, -1.0) >= self.now_s


def _blocks(body: Mapping[str, Any]) -> Iterator[tuple[bytes, bool]]:
    """Yield the blocks of a request in the order in which the API reads them, and whether each is marked."""
    first = [*body.get("tools", ()), *body.get("system", ())]
    said = [(turn["role"], block) for turn in body["messages"] for block in turn["content"]]
    for block in first:
        yield _plain(block), "cache_control" in block
    shared = _plain({name: body.get(name) for name in ("thinking", "tool_choice")})
    can_be = [at for at, (_, block) in enumerate(said) if block.get("type") not in _NEVER_MARKED]
    own = can_be[-1] if can_be and "cache_control" in body else -1
    for at, (role, block) in enumerate(said):
        yield (shared if at == 0 else b"") + role.encode() + _plain(block), at == own or "cache_control" in block


def _plain(block: Mapping[str, Any]) -> bytes:
    return json.dumps(
        {name: value for name, value in block.items() if name != "cache_control"}, sort_keys=True
    ).encode()
