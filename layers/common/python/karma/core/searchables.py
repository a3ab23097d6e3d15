"""Objects that are found by search, which contexts declare and karma/search keeps in rows (docs/adr/0058).

A context whose `searchable.py` has a function `source` declares types of objects, and says which rows follow from a
change of one of its items:

    def source() -> SearchSource:
        return TaskSource()

Changes come from the streams of the tables, or, of items that are older than search, from a scan (`karma search fill`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from karma.core import contexts
from karma.core.clock import epoch_ms, parse_iso
from karma.core.happenings import Image, ItemChange, text_in
from karma.core.search_rows import RowChange, SearchType

_HOUR_MS = 3_600_000


class SearchSource(Protocol):
    """A context's declaration of what is found of what it keeps."""

    types: Sequence[SearchType]

    def rows(self, change: ItemChange) -> Iterable[RowChange]:
        """Return the rows that follow from a change of an item; none: it changes nothing that is found.

        May read the context's own items, strongly consistent.

        Raises:
            StorageThrottled, StorageUnavailable: the database does not answer; the change must be given again.
        """
        ...


def declared() -> list[SearchSource]:
    """Return the declarations of all contexts."""
    return [module.source() for module in contexts.modules("searchable")]


def declared_types() -> list[SearchType]:
    """Return the types of all contexts, in the order of their names."""
    return sorted((each for source in declared() for each in source.types), key=lambda each: each.name)


def rows_of_item(change: ItemChange, row_of: Callable[[Image], RowChange]) -> list[RowChange]:
    """Return what follows for the row of an item that alone is its row's source; none, where it stays as it was."""
    before = row_of(change.old) if change.old else None
    after = row_of(change.new) if change.new else None
    if after is None:
        return [RowChange(before.key, None)] if before else []
    return [] if after == before else [after]


def kind_of(change: ItemChange) -> str:
    """Return the type of a changed item."""
    return text_in(change.new or change.old, "type")


def json_in(image: Image | None, name: str) -> Any:
    """Return what an image has as JSON in a text; None: nothing."""
    import orjson  # local: only few changes need it

    text = text_in(image, name)
    return orjson.loads(text) if text else None


def moment_in(image: Image | None, name: str) -> int:
    """Return a moment of an image in milliseconds since 1970; 0: it has none."""
    text = text_in(image, name)
    return epoch_ms(parse_iso(text)) if text else 0


def in_hours(moment_ms: int) -> int:
    """Return a moment to the hour before it: what changes often moves a row once an hour, not each time."""
    return moment_ms - moment_ms % _HOUR_MS
