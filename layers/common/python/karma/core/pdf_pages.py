"""Bounds the pages of a PDF and the text that they show, whoever wrote it and however it is spelled.

The tree of pages is followed in all ways in which a reader could, and the largest number counts. No parser of PDFs is
loaded for it: one that renders is 7 MB of native code, which would read strangers' files in the process that has the
providers' keys. A file of which pages and texts cannot be told with certainty has no bound.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Any, Final, NamedTuple

from karma.core.pdf_objects import REGULAR, Exhausted, Objects, Ref, Strange, Stream, spelled

_MAX_DEPTH: Final = 40
"""Nodes of the tree, or forms, within each other."""
_STRINGS: Final = 8
"""Strings of a page that are looked at with the work of one object's token."""
_KEPT: Final = 512
"""Files whose content is remembered in a process."""
_OF_A_ROOT: Final = 100
"""Work of a tree of pages; a file has one, or a few that updates have left."""
_KEPT_KEY: Final = 2
"""Work of keeping one part of a key, and of what follows from a new key."""
_SPACE: Final = 2
"""Characters that a reader sees between two strings: a space, or the end of a line."""
_GAP: Final = rb"(?:[\0\t\n\f\r ]|%[^\r\n]*+[\r\n])"
_ROOT: Final = re.compile(
    spelled(b"Pages") + _GAP + rb"*+(?:(?P<direct><<)|(?P<ref>\d{1,10})" + _GAP + rb"++\d{1,10}" + _GAP + rb"++R)"
)
_TYPED: Final = re.compile(spelled(b"Type") + _GAP + rb"*+" + spelled(b"Page"))
_ENCRYPTED: Final = re.compile(spelled(b"Encrypt"))
_STRING: Final = re.compile(rb"<<|>>|\(((?:[^()\\]|\\(?s:.))*+)\)|<([0-9A-Fa-f\0\t\n\f\r ]*+)>")
_LEFT: Final = re.compile(rb"[()<>%]")
_DRAWN: Final = re.compile(rb"/(" + REGULAR + rb"++)" + _GAP + rb"++Do(?!" + REGULAR + rb")")
_DRAWS: Final = re.compile(rb"(?<!" + REGULAR + rb")Do(?!" + REGULAR + rb")")

_Resources = tuple[Any, ...]
"""Dictionaries of resources in which a name is looked for, the nearest first."""


class Content(NamedTuple):
    """The most that a reader finds in a file."""

    pages: int
    shown: int
    """Bytes of the texts that pages show, each of which may be a character, and the spaces between them."""


class _Drawn(NamedTuple):
    shown: int
    forms: Counter[bytes]
    """Names of what else is drawn, with how often."""


_known: dict[tuple[int, int], Content | None] = {}


def content_of(raw: bytes) -> Content | None:
    """Return what a PDF contains at most; None: that cannot be told. It is remembered in the process.

    Nothing is remembered of a file that others of its request have left no work for (karma.core.foreign).
    """
    key = len(raw), hash(raw)
    if key not in _known:
        if len(_known) >= _KEPT:
            _known.clear()
        try:
            _known[key] = _Reading(raw).content()
        except Exhausted:
            return None
        except Strange:
            _known[key] = None
    return _known[key]


class _Reading:
    def __init__(self, raw: bytes) -> None:
        if _ENCRYPTED.search(raw):
            raise Strange("it is encrypted")
        self._objects = Objects(raw)
        self._nodes: dict[tuple[int, tuple[int, ...]], Content] = {}
        self._forms: dict[tuple[int, tuple[int, ...]], int] = {}
        self._drawn: dict[int, _Drawn] = {}

    def content(self) -> Content:
        roots: set[int] = set()
        typed = 0
        for text in self._objects.texts:
            for found in _ROOT.finditer(text):
                if found["direct"]:
                    raise Strange("a tree within another object")
                self._objects.spend(1 if int(found["ref"]) in roots else _OF_A_ROOT)
                roots.add(int(found["ref"]))
            for _ in _TYPED.finditer(text):
                self._objects.spend(1)
                typed += 1
        if not any(isinstance(each, dict) for root in roots for each in self._objects.of(Ref(root))):
            raise Strange("it has no tree of pages")
        trees = [self._node(Ref(root), (), 0) for root in roots]
        return Content(max([typed, *(each.pages for each in trees)]), max(each.shown for each in trees))

    def _node(self, ref: Ref, inherited: _Resources, depth: int) -> Content:
        """Return what a node of the tree has, in the largest of its definitions."""
        if depth > _MAX_DEPTH:
            raise Strange("a tree that is too deep, or contains itself")
        self._objects.spend(1 + len(inherited))
        key = ref.number, tuple(map(id, inherited))
        if key not in self._nodes:
            # A node has as many keys as there are ways to it, and each of them is as long as its way.
            self._objects.spend(_KEPT_KEY * (1 + len(inherited)))
            found = [self._defined(each, inherited, depth) for each in self._objects.of(ref)] or [Content(1, 0)]
            self._nodes[key] = Content(max(each.pages for each in found), max(each.shown for each in found))
        return self._nodes[key]

    def _defined(self, node: object, inherited: _Resources, depth: int) -> Content:
        if not isinstance(node, dict):
            return Content(1, 0)
        resources = (node[b"Resources"], *inherited) if b"Resources" in node else inherited
        shown, pages = self._shown(node.get(b"Contents"), resources), 1
        shown += self._annotations(node.get(b"Annots"), resources)
        for kids in self._objects.of(node.get(b"Kids")):
            if not isinstance(kids, list):
                continue
            self._objects.spend(len(kids))
            if not all(isinstance(each, Ref) for each in kids):
                raise Strange("pages within another object")
            found = [self._node(each, resources, depth + 1) for each in kids]
            pages, shown = max(pages, sum(each.pages for each in found)), shown + sum(each.shown for each in found)
            counts = [int(each) for each in self._objects.of(node.get(b"Count")) if isinstance(each, int | float)]
            pages = max(pages, *counts, 1)
        return Content(pages, shown)

    def _shown(self, value: object, resources: _Resources) -> int:
        """Return the bytes that the streams of a page show."""
        most = 0
        for each in self._objects.of(value):
            if isinstance(each, list):
                self._objects.spend(len(each))
                parts = [self._objects.of(part) for part in each]
                if any(isinstance(one, list) for part in parts for one in part):
                    raise Strange("streams within streams")
                most = max(most, sum(self._streamed(part, resources) for part in parts))
            else:
                most = max(most, self._streamed([each], resources))
        return most

    def _streamed(self, found: list[Any], resources: _Resources) -> int:
        """Return the bytes that the largest of a stream's definitions shows."""
        return max([0, *(self._form(each, resources, 0) for each in found if isinstance(each, Stream))])

    def _annotations(self, value: object, resources: _Resources) -> int:
        """Return the bytes that the notes and fields of a page show."""
        shown = 0
        for notes in self._objects.of(value):
            for note in notes if isinstance(notes, list) else ():
                self._objects.spend(1)
                for each in self._objects.of(note):
                    if isinstance(each, dict) and b"AP" in each:
                        shown += self._appearance(each[b"AP"], resources, 0)
        return shown

    def _appearance(self, value: object, resources: _Resources, depth: int) -> int:
        shown = 0
        for each in self._objects.of(value):
            self._objects.spend(1)
            if isinstance(each, Stream):
                shown += self._form(each, resources, 0)
            elif isinstance(each, dict) and depth < 3:
                shown += sum(self._appearance(part, resources, depth + 1) for part in each.values())
        return shown

    def _form(self, stream: Stream, resources: _Resources, depth: int) -> int:
        """Return the bytes that a stream and the forms that it draws show."""
        if depth > _MAX_DEPTH:
            raise Strange("forms that are too deep, or draw themselves")
        if b"Resources" in stream.head:
            resources = (stream.head[b"Resources"], *resources)
        self._objects.spend(1 + len(resources))
        key = stream.at, tuple(map(id, resources))
        if key not in self._forms:
            self._objects.spend(_KEPT_KEY * (1 + len(resources)))
            drawn = self._content(stream)
            self._forms[key] = drawn.shown + sum(
                often * self._named(name, resources, depth) for name, often in drawn.forms.items()
            )
        return self._forms[key]

    def _named(self, name: bytes, resources: _Resources, depth: int) -> int:
        """Return the bytes that a form shows by its name; 0: it is a picture."""
        self._objects.spend(1 + len(resources))
        found = [each for own in resources for each in self._members(own, b"XObject", name)]
        return max([0, *(self._form(each, resources, depth + 1) for each in found if not self._is_picture(each))])

    def _members(self, resources: object, kind: bytes, name: bytes) -> list[Stream]:
        out = []
        for each in self._objects.of(resources):
            for names in self._objects.of(each.get(kind)) if isinstance(each, dict) else ():
                self._objects.spend(1)
                if isinstance(names, dict):
                    out += [one for one in self._objects.of(names.get(name)) if isinstance(one, Stream)]
        return out

    def _is_picture(self, stream: Stream) -> bool:
        return all(each == b"Image" for each in self._objects.of(stream.head.get(b"Subtype")))

    def _content(self, stream: Stream) -> _Drawn:
        if stream.at not in self._drawn:
            text = self._objects.data(stream)
            self._objects.spend((text.count(b"(") + text.count(b"<")) // _STRINGS + text.count(b"Do"))
            self._drawn[stream.at] = _looked_at(text)
        return self._drawn[stream.at]


def _looked_at(text: bytes) -> _Drawn:
    """Return what a stream of a page's content shows and draws.

    Strings are told from the rest without regard to comments: where a comment could make a difference, a parenthesis
    or a `%` is left, and all of the stream counts.
    """
    shown = 0

    def take(found: re.Match[bytes]) -> bytes:
        nonlocal shown
        if found[1] is not None:
            shown += len(found[1]) + _SPACE
        elif found[2] is not None:
            shown += (len(found[2]) + 1) // 2 + _SPACE
        return b" "

    rest = _STRING.sub(take, text)
    if _LEFT.search(rest):
        rest, shown = text, len(text) * (1 + _SPACE)
    drawn = [_name(each) for each in _DRAWN.findall(rest)]
    if len(drawn) != len(_DRAWS.findall(rest)):
        raise Strange("it cannot be told what is drawn")
    return _Drawn(shown, Counter(drawn))


def _name(name: bytes) -> bytes:
    return re.sub(rb"#([0-9A-Fa-f]{2})", lambda found: bytes([int(found[1], 16)]), name)
