"""Reads the objects of a PDF that a stranger wrote, in any spelling that the format has.

A reader may be led to an object by a table that names its place, so an object stands wherever the keyword `obj` does,
within strings, comments and pictures too, and an updated file has several of one number: all of them are kept. What
is not read here with certainty raises `Strange`, and so does a file that takes more work than `_MAX_WORK`, or than is
left for all files of its request (karma.core.foreign). Work is spent before it is done, and what is looked at again is
paid for again: a few objects may refer to each other on as many ways as one likes.
"""

from __future__ import annotations

import base64
import re
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from karma.core.foreign import allowance

_MAX_INFLATED: Final = 32 * 1024 * 1024
"""Bytes that are inflated of one file."""
_PIECE: Final = 1024 * 1024
_MAX_WORK: Final = 200_000
"""Tokens that are read of one file, each long one as several."""
_OF_A_FILE: Final = 100
"""Work that each file takes, however small it is."""
_OF_AN_OBJECT: Final = 4
"""Work of finding an object's number."""
_PASSED: Final = 2048
"""Bytes of a file in which objects are searched with the work of a token."""
_INFLATED: Final = 256
"""Bytes that are inflated, and searched in several ways, with the work of a token."""
_MAX_DEPTH: Final = 60
"""Arrays and dictionaries within each other."""
_LONG: Final = 64
"""Bytes of a token that count as another one."""

_MOST: Final = 10**15
"""The largest number; readers have none of more bits than this one has as a double, and no file a place behind it."""
_ASCII85: Final = 16
"""Characters of ASCII85 that are decoded with the work of a token."""

_WS: Final = rb"[\0\t\n\f\r ]"
_GAP: Final = rb"(?:[\0\t\n\f\r ]|%[^\r\n]*+(?:[\r\n]|\Z))"
"""White space, or a comment."""
REGULAR: Final = rb"[^\0\t\n\f\r ()<>\[\]{}/%]"

# Possessive throughout: the time that they take grows with what they pass alone.
_TOKEN: Final = re.compile(
    _GAP + rb"*+(?:/(?P<name>" + REGULAR + rb"*+)"
    rb"|(?P<ref>\d{1,10})(?=" + _GAP + rb")(?:" + _WS + rb"|%[^\r\n]*+[\r\n])++\d{1,10}"
    rb"(?:" + _WS + rb"|%[^\r\n]*+[\r\n])++R(?!" + REGULAR + rb")"
    rb"|(?P<number>[+-]?+(?:\d++\.?+\d*+|\.\d++))(?!" + REGULAR + rb")"
    rb"|(?P<mark><<|>>|\[|\])"
    rb"|<(?P<hex>[0-9A-Fa-f\0\t\n\f\r ]*+)>"
    rb"|(?P<open>\()"
    rb"|(?P<word>" + REGULAR + rb"++))"
)
_PARENTHESES: Final = re.compile(rb"(?s:\\.)|[()]")
_ESCAPED: Final = re.compile(rb"#([0-9A-Fa-f]{2})")
_OBJ: Final = re.compile(rb"(?<!d)obj")
_HEADED: Final = re.compile(rb"(?<!\d)(\d{1,10})" + _WS + rb"{1,16}\d{1,10}" + _WS + rb"{0,16}\Z")
_BEFORE: Final = 400
"""Bytes in front of `obj` in which its numbers stand, and its line begins."""
_FLAT: Final = rb"[^()%<>]++|\((?:[^()\\]|\\(?s:.))*+\)|<[0-9A-Fa-f\0\t\n\f\r ]*+>"
_INNER: Final = rb"<<(?:" + _FLAT + rb"|<<(?:" + _FLAT + rb"|<<(?:" + _FLAT + rb")*+>>)*+>>)*+>>"
_ROW: Final = rb"[^()%<>\[\]]*+"
_PLAIN: Final = re.compile(
    _WS + rb"*+(?:" + _INNER + rb"|\[" + _ROW + rb"(?:\[" + _ROW + rb"\]" + _ROW + rb")*+\])"
    rb"" + _WS + rb"*+endobj(?!" + REGULAR + rb")"
)
"""An object that can be told to be no stream without reading it."""
_MAX_PLAIN: Final = 16_384
_STREAM: Final = re.compile(_GAP + rb"*+stream(\r?\n)?")
_PAIR: Final = re.compile(_WS + rb"*+(\d{1,10})" + _WS + rb"++(\d{1,10})(?!" + REGULAR + rb")")
_WORDS: Final[Mapping[bytes, bool | None]] = {b"true": True, b"false": False, b"null": None}


class Strange(ValueError):
    """It cannot be told how a reader takes the file."""


class Exhausted(Strange):
    """The other files of the request have left too little work for this one."""


class Ref(NamedTuple):
    """A reference to an object."""

    number: int


class SizedText(NamedTuple):
    """A string, of which only the length is kept."""

    size: int


class Stream(NamedTuple):
    """A stream: its dictionary, and where in the file its data begin."""

    head: dict[bytes, Any]
    at: int


class _Twice:
    """Stands for the value of a name that a dictionary has twice; readers differ in which they take."""


TWICE: Final = _Twice()


def spelled(name: bytes) -> bytes:
    """Return the pattern of a name in all of its spellings."""
    each = (b"(?:%s|#(?i:%02x))" % (re.escape(bytes([one])), one) for one in name)
    return b"/" + b"".join(each) + b"(?!" + REGULAR + b")"


class Objects:
    """The objects of a file, by their numbers; each may have several definitions."""

    def __init__(self, raw: bytes) -> None:
        """Find the objects.

        Raises:
            Strange: it cannot be told which there are.
        """
        self._raw = raw
        self._allowance = allowance()
        self._unspent = _MAX_WORK
        self._left = _MAX_INFLATED
        self._places: dict[int, list[tuple[bytes, int]]] = {}
        self._read: dict[int, list[Any]] = {}
        self.texts = [raw]
        """The file, and what its object streams contain."""
        self.spend(_OF_A_FILE + len(raw) // _PASSED)
        streams = list(self._streams())
        for stream in streams:
            if b"First" in stream.head or b"N" in stream.head:
                self._open(stream)

    def of(self, value: object) -> list[Any]:
        """Return what a value may be: itself, or each definition of the object that it refers to."""
        if value is TWICE:
            raise Strange("a dictionary has a name twice")
        if not isinstance(value, Ref):
            return [value]
        found = self._read.get(value.number)
        if found is None:
            self.spend(1)
            found = [self._definition(text, at) for text, at in self._places.get(value.number, ())]
            if any(isinstance(each, Ref) for each in found):
                raise Strange("a reference to a reference")
            self._read[value.number] = found
        self.spend(len(found) or 1)
        return found

    def spend(self, work: int) -> None:
        """Count work that comes next.

        Raises:
            Exhausted: it is too much after the other files of the request.
            Strange: it is too much.
        """
        self._unspent -= work
        if self._unspent < 0:
            raise Strange("it is too much to be looked at")
        self._allowance.left -= work
        if self._allowance.left < 0:
            raise Exhausted("it is too much beside the others")

    def data(self, stream: Stream) -> bytes:
        """Return what a stream contains.

        Raises:
            Strange: it is compressed in a way that is not known here, damaged, or too large.
        """
        head = stream.head
        if head.keys() & {b"F", b"DP", b"FFilter", b"FDecodeParms"}:
            raise Strange("a stream in another file, or of abbreviations")
        filters = [one for each in self.of(head.get(b"Filter")) for one in self._flat(each)]
        for parms in [one for each in self.of(head.get(b"DecodeParms")) for one in self._flat(each)]:
            if isinstance(parms, dict) and any(each not in (None, 1) for each in self.of(parms.get(b"Predictor"))):
                raise Strange("a text in an order that is not known here")
        if not filters:
            return self._raw[stream.at : self._end(stream)]
        if filters == [b"FlateDecode"]:
            return self._inflated(self._raw, stream.at)
        if filters != [b"ASCII85Decode", b"FlateDecode"]:
            raise Strange("a filter that is not known here")
        end = self._raw.find(b"~>", stream.at, self._end(stream))
        self.spend((end - stream.at) // _ASCII85)
        try:
            return self._inflated(base64.a85decode(self._raw[stream.at : end], ignorechars=b"\0\t\n\f\r "), 0)
        except ValueError:
            raise Strange("it is damaged") from None

    def value(self, text: bytes, at: int) -> tuple[Any, int]:
        """Read the value that stands at a place; return it with the place behind it."""
        stack: list[list[Any]] = []
        marks: list[bytes] = []
        while True:
            token = _TOKEN.match(text, at)
            if token is None:
                raise Strange("no token")
            kind, begin, at = token.lastgroup, at, token.end()
            self.spend(1 + (at - begin) // _LONG)
            mark = token["mark"]
            if mark in (b"<<", b"["):
                if len(stack) == _MAX_DEPTH:
                    raise Strange("too deep")
                stack.append([])
                marks.append(mark)
                continue
            if mark:
                if not marks or (marks.pop() == b"[") != (mark == b"]"):
                    raise Strange("an end without a beginning")
                items = stack.pop()
                value: Any = items if mark == b"]" else _dictionary(items)
            elif kind == "open":
                value, at = self._string(text, at)
            else:
                value = _simple(token)
            if not stack:
                return value, at
            stack[-1].append(value)

    def _string(self, text: bytes, begin: int) -> tuple[SizedText, int]:
        depth, at = 1, begin
        while depth:
            found = _PARENTHESES.search(text, at)
            end = found.end() if found else len(text)
            self.spend(1 + (end - at) // _LONG)
            if found is None:
                raise Strange("a string without an end")
            depth += {b"(": 1, b")": -1}.get(found[0], 0)
            at = end
        return SizedText(at - begin - 1), at

    def _streams(self) -> Iterator[Stream]:
        raw = self._raw
        for found in _OBJ.finditer(raw):
            self.spend(_OF_AN_OBJECT)
            number = self._number(found.start())
            if number is None:
                continue
            self._places.setdefault(number, []).append((raw, found.end()))
            plain = _PLAIN.match(raw, found.end(), found.end() + _MAX_PLAIN)
            self.spend((plain.end() - plain.start()) // 1024 if plain else 8)
            if plain:
                continue
            value = self._definition(raw, found.end())
            if isinstance(value, Stream):
                yield value

    def _number(self, at: int) -> int | None:
        """Return the number of the object whose keyword stands at a place; None: it is no keyword."""
        before = self._raw[max(0, at - _BEFORE) : at]
        headed = _HEADED.search(before)
        if headed is None:
            told = before.rstrip(b"\0\t\n\f\r ")
            gap = before[len(told) :]
            if not told or told[-1:].isdigit() or b"\n" in gap or b"\r" in gap:
                raise Strange("an object whose number cannot be told")
            return None
        line = re.split(rb"[\r\n]", before[: headed.start()])[-1]
        if b"%" in line or (len(line) == headed.start() and at > _BEFORE):
            raise Strange("a number that may be a comment's")
        return int(headed[1])

    def _definition(self, text: bytes, at: int) -> Any:
        value, at = self.value(text, at)
        if not isinstance(value, dict) or text is not self._raw:
            return value
        found = _STREAM.match(text, at)
        if found is None:
            return value
        if found[1] is None:
            raise Strange("a stream whose beginning cannot be told")
        return Stream(value, found.end())

    def _open(self, stream: Stream) -> None:
        """Note the objects of an object stream."""
        number, first = stream.head.get(b"N"), stream.head.get(b"First")
        if b"Extends" not in stream.head and (number is None or first is None):
            return  # one of some other kind: without both it is no object stream
        if type(number) is not int or type(first) is not int:
            raise Strange("an object stream whose size cannot be told")
        text, at = self.data(stream), 0
        self.texts.append(text)
        for _ in range(number):
            pair = _PAIR.match(text, at)
            if pair is None:
                raise Strange("an object stream whose index cannot be read")
            self.spend(1)
            at = pair.end()
            self._places.setdefault(int(pair[1]), []).append((text, first + int(pair[2])))

    def _flat(self, value: object) -> list[Any]:
        if value is None:
            return []
        self.spend(len(value) if isinstance(value, list) else 0)
        return [one for each in value for one in self.of(each)] if isinstance(value, list) else [value]

    def _end(self, stream: Stream) -> int:
        """Return where a stream ends at the latest."""
        found = self._raw.find(b"endstream", stream.at)
        lengths = [each for each in self.of(stream.head.get(b"Length")) if isinstance(each, int)]
        end = max([len(self._raw) if found < 0 else found, *(stream.at + each for each in lengths)])
        self._left -= end - stream.at
        self.spend(max(0, end - stream.at) // _INFLATED)
        if self._left < 0:
            raise Strange("it is too large to be looked at")
        return end

    def _inflated(self, data: bytes, at: int) -> bytes:
        inflating, pieces = zlib.decompressobj(), []
        rest: bytes = memoryview(data)[at:]  # type: ignore[assignment]
        try:
            while not inflating.eof:
                piece = inflating.decompress(rest[:_PIECE], _PIECE)
                rest = inflating.unconsumed_tail or rest[_PIECE:]
                self._left -= len(piece)
                self.spend(len(piece) // _INFLATED)
                if self._left < 0 or not (piece or rest):
                    raise Strange("it is too large to be looked at, or has no end")
                pieces.append(piece)
        except zlib.error:
            raise Strange("it is damaged") from None
        return b"".join(pieces)


def _simple(token: re.Match[bytes]) -> Any:
    kind, text = token.lastgroup, token[token.lastgroup or 0]
    if kind == "name":
        return _ESCAPED.sub(lambda found: bytes([int(found[1], 16)]), text) if b"#" in text else text
    if kind == "ref":
        return Ref(int(text))
    if kind == "hex":
        return SizedText((len(text) + 1) // 2)
    if kind == "number":
        return _number(text)
    if text not in _WORDS:
        raise Strange("a word that no value is")
    return _WORDS[text]


def _number(text: bytes) -> int | float:
    """Read a number; beyond `_MOST` it is that one, however many digits it has."""
    value = min(max(float(text), -_MOST), _MOST)  # a whole number up to it is one as a double, too
    return value if b"." in text else int(value)


def _dictionary(items: list[Any]) -> dict[bytes, Any]:
    out: dict[bytes, Any] = {}
    if len(items) % 2:
        raise Strange("a name without a value")
    for name, value in zip(items[::2], items[1::2], strict=True):
        if not isinstance(name, bytes):
            raise Strange("a value without a name")
        out[name] = TWICE if name in out else value
    return out
