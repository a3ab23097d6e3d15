"""Builds the files of a segment: the rows as they are, and two indexes of Tantivy that find them.

    rows            each row as JSON, one behind the other
    ends            where each of them ends, as 32-bit numbers
    facts.json      what they have in all
    found/          an index of the rows, numbered as in `rows`, the last changed one first
    words/          an index of the words that a misspelled one may mean, each a document

Fields of `found`, whose tokens are words as `karma.search.text` makes them, so that nothing is analysed twice:

| field | tokens | for |
| --- | --- | --- |
| `w` | words with their positions; those of two parts or tags do not follow each other | which rows have words |
| `p` | `0pump`, `npump`: a word behind the signs of its first place (`places.py`) | which of many come first |
| `p` | `=north_hall_pump`: the whole name | the same |
| `e` | `0p`, `np`, `*pu`: the first letters of those, and of words anywhere | short beginnings of thousands of words |
| `f` | `type:device`, `status:online`, `tag:north` | filters |
| `k`, `i` | `<created ms>#<type>#<id>`; the id | rows that have changed since; the object that is meant |
| `created`, `updated`, `name` | moments, and the place of its name among all | orders that are asked for |
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import orjson

from karma.core.search_rows import SearchKey
from karma.integrations.tantivy.places import ANYWHERE, signs_of
from karma.search.domain import RowPart, SearchRow
from karma.search.index import part_of, placed, position_of
from karma.search.text import fold, words_of
from karma.search.typos import ONE_TYPO_FROM

if TYPE_CHECKING:
    from tantivy import Document, IndexWriter, Schema

HEAP_BYTES: Final = 1024 * 1024 * 1024
"""Memory that a build takes at the most, so that all rows become one part, in their order; half a million take less."""
SHORT: Final = 3
"""Letters of a beginning up to which it is a token of its own."""
_WHITESPACE: Final = "whitespace"


class SegmentTooLarge(Exception):
    """The rows do not fit in one part of an index."""


def build(rows: Sequence[SearchRow], folder: Path) -> None:
    """Write the files of a segment of rows to a folder that is empty.

    Raises:
        SegmentTooLarge: there are more rows than a segment can have.
    """
    ordered = sorted(rows, key=lambda row: (-row.text.updated_ms, row.key.id))
    words = _write_found(ordered, folder / "found")
    _write_words(sorted(words), folder / "words")
    ends = array("I")
    with (folder / "rows").open("wb") as file:
        for row in ordered:
            file.write(packed(row))
            ends.append(file.tell())
    (folder / "ends").write_bytes(ends.tobytes())
    facts = {"rows": len(ordered), "types": sorted({row.key.type for row in ordered})}
    (folder / "facts.json").write_bytes(orjson.dumps(facts))


def packed(row: SearchRow) -> bytes:
    """Return a row as `segment.py` reads it; its owner is that of the segment."""
    key, text = row
    values = (key.type, key.id, key.created_ms, text.name, text.code, text.tags, text.text, text.status)
    return orjson.dumps((*values, text.updated_ms))


def key_of(key: SearchKey) -> str:
    """Return the token that names a row."""
    return f"{key.created_ms}#{key.type}#{key.id}"


def schema_of_rows() -> Schema:
    """Return the fields of the index `found`."""
    from tantivy import SchemaBuilder  # local: 6 ms and 17 MB, for accounts with many objects

    made = SchemaBuilder()
    made.add_text_field("w", tokenizer_name=_WHITESPACE, index_option="position")
    for name in ("p", "e"):
        made.add_text_field(name, tokenizer_name=_WHITESPACE, index_option="basic")
    for name in ("f", "k", "i"):
        made.add_text_field(name, tokenizer_name="raw", index_option="basic")
    for name in ("created", "updated"):
        made.add_unsigned_field(name, indexed=True, fast=True)
    made.add_unsigned_field("name", fast=True)
    return made.build()


def _write_found(rows: Sequence[SearchRow], folder: Path) -> set[str]:
    folder.mkdir()
    writer = _writer(schema_of_rows(), folder)
    named = {name: n for n, name in enumerate(sorted({fold(row.text.name) for row in rows}))}
    spelled: set[str] = set()
    for row in rows:
        words, places = placed(row)
        firsts = dict(zip(reversed(words), reversed(places), strict=True))
        spelled.update(word for word in firsts if len(word) >= ONE_TYPO_FROM - 1 and word.isalpha())
        writer.add_document(_document(row, words, places, firsts, named[fold(row.text.name)]))
    _commit(writer, folder, len(rows))
    return spelled


def _document(row: SearchRow, words: Sequence[str], places: array[int], firsts: dict[str, int], named: int) -> Document:
    from tantivy import Document  # local: as above

    key, text = row
    made = Document()
    begun = 0
    for n in range(1, len(words) + 1):
        if n == len(words) or part_of(places[n]) != part_of(places[begun]) or places[n] - places[n - 1] > 1:
            made.add_text("w", " ".join(words[begun:n]))
            begun = n
    signed = [
        sign + word for word, place in firsts.items() for sign in signs_of(RowPart(part_of(place)), position_of(place))
    ]
    made.add_text("p", " ".join((*signed, whole_name(words_of(text.name)))))
    made.add_text("e", " ".join(_beginnings(signed, firsts)))
    made.add_text("f", f"type:{key.type}")
    made.add_text("f", f"status:{text.status}")
    for tag in text.tags:
        made.add_text("f", f"tag:{fold(tag)}")
    made.add_text("k", key_of(key))
    made.add_text("i", key.id)
    made.add_unsigned("created", max(0, key.created_ms))
    made.add_unsigned("updated", max(0, text.updated_ms))
    made.add_unsigned("name", named)
    return made


def whole_name(words: Sequence[str]) -> str:
    """Return the token of a name that has these words and no others; no word has a `_`."""
    return "=" + "_".join(words)


def _beginnings(signed: Collection[str], words: Collection[str]) -> set[str]:
    found = {word[: n + 1] for word in signed for n in range(1, SHORT + 1)}
    return found | {ANYWHERE + word[:n] for word in words for n in range(1, SHORT + 1)}


def _write_words(words: Sequence[str], folder: Path) -> None:
    from tantivy import Document, SchemaBuilder  # local: as above

    folder.mkdir()
    made = SchemaBuilder()
    made.add_text_field("v", stored=True, tokenizer_name="raw", index_option="basic")
    writer = _writer(made.build(), folder)
    for word in words:
        document = Document()
        document.add_text("v", word)
        writer.add_document(document)
    _commit(writer, folder, len(words))


def _writer(schema: Schema, folder: Path) -> IndexWriter:
    from tantivy import Index  # local: as above

    return Index(schema, str(folder)).writer(heap_size=HEAP_BYTES, num_threads=1)


def _commit(writer: IndexWriter, folder: Path, documents: int) -> None:
    from tantivy import Index  # local: as above

    writer.commit()
    writer.wait_merging_threads()
    searcher = Index.open(str(folder)).searcher()
    if searcher.num_segments > 1 or searcher.num_docs != documents:
        raise SegmentTooLarge
