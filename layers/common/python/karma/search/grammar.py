"""Reads a query: words, "phrases", fields such as `status:online`, and words that mean a type or a status.

    pump hall 3                 three words, in any order
    "pump hall" 3               words that follow each other
    type:device tag:north       filters, as the API's parameters of the same names
    created_after:2026-01-31    a moment or a day in UTC; created_before: likewise
    online devices              the devices that are online; behind them, what has both words

A word means a type or a status only where it stands alone (not in `pump-online`), and a status only if one of the types
that are asked for has it. Whatever cannot be read as a field is words.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final, NamedTuple

from karma.core.clock import epoch_ms
from karma.core.ids import is_id
from karma.core.records import Record
from karma.core.search_rows import SearchType
from karma.search.domain import MAX_TERMS, Filters, Query, QueryReading, Term
from karma.search.text import fold, is_unspaced, runs_of

_CHUNK: Final = re.compile(
    r'(?P<field>type|status|tag|created_after|created_before):(?:"(?P<quoted>[^"]*)"?|(?P<value>[^\s"]+))'
    r'|"(?P<phrase>[^"]*)"?|(?P<word>[^\s"]+)',
    re.IGNORECASE,
)
_MOMENTS: Final = ("created_after", "created_before")
_ENGLISH_NOISE: Final = "a all and any are eos find for in is list me my of search show that the which with"
_NOISE: Final = frozenset(_ENGLISH_NOISE.split(" ")) | {"的", "所有", "全部", "我的", "查找", "显示"}
"""Words that are not looked for where others are. All devices are EOS devices."""


class _Meaning(NamedTuple):
    types: frozenset[str]
    """Types that a word means, or that have the status that it means."""
    status: str
    """"": it means types."""


class Lexicon(Record):
    """Words that mean types and statuses, folded."""

    meanings: Mapping[str, tuple[_Meaning, ...]]
    statuses: Mapping[str, frozenset[str]]
    """Statuses of each type."""

    @classmethod
    def of(cls, types: Iterable[SearchType]) -> Lexicon:
        """Return the lexicon of types as their contexts declare them."""
        meanings: dict[str, dict[str, set[str]]] = {}
        statuses = {}
        for each in types:
            for word in (each.name, *each.words):
                meanings.setdefault(fold(word), {}).setdefault("", set()).add(each.name)
            for status, words in each.statuses.items():
                for word in (status, *words):
                    meanings.setdefault(fold(word), {}).setdefault(status, set()).add(each.name)
            statuses[each.name] = frozenset(each.statuses)
        found = {
            word: tuple(_Meaning(frozenset(names), status) for status, names in by_status.items())
            for word, by_status in meanings.items()
        }
        return cls(found, statuses)

    def parts(self, word: str) -> list[str]:
        """Divide a run of a script without spaces: words at its ends that say something, and what is between them."""
        if not is_unspaced(word):
            return [word]
        front: list[str] = []
        back: list[str] = []
        while word and (known := self._known(word[:n] for n in range(len(word), 0, -1))):
            front.append(known)
            word = word[len(known) :]
        while word and (known := self._known(word[n:] for n in range(len(word)))):
            back.insert(0, known)
            word = word[: -len(known)]
        return [*front, *([word] if word else []), *back]

    def _known(self, words: Iterable[str]) -> str:
        return next((each for each in words if each in self.meanings or each in _NOISE), "")


class _Word(NamedTuple):
    """A term as it is written, and the parts of which any may mean something."""

    term: Term
    parts: tuple[Term, ...]
    is_alone: bool


def read_query(text: str, lexicon: Lexicon, given: Filters) -> Query:
    """Return a query as it is understood; what it says narrows the filters that are given beside it."""
    if is_id(text.strip()):
        return Query(readings=(QueryReading(terms=(), filters=given, object_id=text.strip()),))
    words, filters = _words(text, lexicon)
    filters = given & filters
    meant, rest, ignored = _meant(words, lexicon, filters)
    literal = [word.term for word in words]
    kept, cut = rest[:MAX_TERMS], rest[MAX_TERMS:]
    literally = QueryReading(terms=_last_as_prefix(literal[:MAX_TERMS]), filters=filters, is_whole=True)
    readings = [QueryReading(terms=_last_as_prefix(kept), filters=filters if meant is None else filters & meant)]
    if meant is not None:
        readings.append(literally)
    elif ignored:
        # They may be part of a name. Where they are all there is, they are what is looked for.
        readings = [literally, *readings] if rest else [literally]
    return Query(
        readings=tuple(readings),
        ignored=tuple(each.shown for each in ignored) if rest or meant is not None else (),
        cut=tuple(each.shown for each in cut),
    )


def _words(text: str, lexicon: Lexicon) -> tuple[list[_Word], Filters]:
    found: list[_Word] = []
    fields: dict[str, set[str]] = {}
    for match in _CHUNK.finditer(text):
        if match["field"]:
            value = match["quoted"] if match["quoted"] is not None else match["value"]
            values = _field(match["field"].casefold(), value, lexicon)
            if values:
                fields.setdefault(match["field"].casefold(), set()).update(values)
                continue
        words = tuple(runs_of(fold(match["phrase"] if match["phrase"] is not None else match.group())))
        if match["phrase"] is not None:
            phrase = Term(words, is_phrase=True)
            found += [_Word(phrase, (phrase,), is_alone=False)] if words else []
            continue
        for n, word in enumerate(words):
            term = Term((word,), is_joined=n > 0)
            parts = lexicon.parts(word) if len(words) == 1 else [word]
            parted = tuple(Term((part,)) for part in parts) if len(parts) > 1 else (term,)
            found.append(_Word(term, parted, is_alone=len(words) == 1))
    return found, _filters(fields)


def _field(name: str, written: str, lexicon: Lexicon) -> set[str]:
    """Return the values that a field of a query lets through; none: it cannot be read."""
    value = fold(written)
    if name == "tag":
        return {value} - {""}
    if name == "type":
        return {name for each in lexicon.meanings.get(value, ()) if not each.status for name in each.types}
    if name == "status":
        return {value} & {status for statuses in lexicon.statuses.values() for status in statuses}
    return {written} if _moment(written) is not None else set()


def _filters(fields: Mapping[str, set[str]]) -> Filters:
    sets = {name: frozenset(values) for name, values in fields.items()}
    moments = {name: list(filter(None, map(_moment, fields.get(name, ())))) for name in _MOMENTS}
    return Filters(
        types=sets.get("type"),
        statuses=sets.get("status"),
        tags=sets.get("tag"),
        created_from_ms=max(moments["created_after"], default=None),
        created_until_ms=min(moments["created_before"], default=None),
    )


def _moment(written: str) -> int | None:
    try:
        moment = datetime.fromisoformat(written)
    except ValueError:
        return None
    return epoch_ms(moment if moment.tzinfo else moment.replace(tzinfo=UTC))


def _meant(words: Sequence[_Word], lexicon: Lexicon, filters: Filters) -> tuple[Filters | None, list[Term], list[Term]]:
    """Return the filters that words mean, None if none does, the terms that are left, and those that say nothing."""
    parts = [(part, word.is_alone) for word in words for part in word.parts]
    meanings = [lexicon.meanings.get(part.words[0], ()) if is_alone else () for part, is_alone in parts]
    named = {name for found in meanings for each in found if not each.status for name in each.types}
    if filters.types is not None:
        named &= filters.types
    types = named or filters.types
    statuses: set[str] = set()
    rest: list[Term] = []
    ignored: list[Term] = []
    meant = False
    for (part, is_alone), found in zip(parts, meanings, strict=True):
        fitting = [each for each in found if not types or each.types & types]
        if fitting:
            statuses |= {each.status for each in fitting if each.status}
            meant = True
        elif is_alone and part.words[0] in _NOISE:
            ignored.append(part)
        else:
            rest.append(part)
    if not meant:
        return None, rest, ignored
    return Filters(types=frozenset(named) or None, statuses=frozenset(statuses) or None), rest, ignored


def _last_as_prefix(terms: Sequence[Term]) -> tuple[Term, ...]:
    if not terms or terms[-1].is_phrase:
        return tuple(terms)
    return (*terms[:-1], replace(terms[-1], as_prefix=True))
