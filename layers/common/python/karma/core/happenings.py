"""Things that happen to what accounts have, which contexts declare and webhooks tell (karma/webhooks, docs/adr/0051).

A context whose `happenings.py` has a function `source` declares types of events, and finds one in a change of an item:

    def source() -> HappeningSource:
        return RunHappenings()

What happened is read from the streams of the tables (functions/background/events.py, router.py). A type that is told
of another table than theirs needs a `HappeningConsumer` in that table's router, the router's `webhooks_queue_url` with
its grant, and the items in the stream's filter (infra/stacks/app.py): tests/infra/test_app.py says what is missing.

A stream brings records twice and late, so a happening's id is made of what happened, by `derived_id`, and not of when
somebody looked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple, Protocol

from karma.core import contexts
from karma.core.ids import UserId
from karma.core.records import Record

Image = Mapping[str, Any]
"""An item as a stream has it: attribute values in DynamoDB's JSON."""


class ItemChange(NamedTuple):
    """A change of an item; None: there was none before, or is none behind it."""

    old: Image | None
    new: Image | None


def text_in(image: Image | None, name: str) -> str:
    """Return a text of an item's image; "": it has none of that name."""
    found = (image or {}).get(name)
    text = found.get("S", "") if isinstance(found, Mapping) else ""
    return text if isinstance(text, str) else ""


def number_in(image: Image | None, name: str) -> int:
    """Return a whole number of an item's image; 0: it has none of that name."""
    return int((image or {}).get(name, {}).get("N", 0))


class HappeningType(Record, kw_only=True):
    """A kind of event, as somebody subscribes to it."""

    name: str
    """`<noun>.<what it did>`, such as `run.finished`; part of the API, never renamed."""
    meaning: str
    """One sentence for docs/api.md, where a test looks for the name."""


class Happening(Record, kw_only=True):
    """An event: something that happened to what an account has."""

    id: str
    """A UUIDv7, the same each time that the change is read."""
    user_id: UserId
    """Account that it happened to, and whose webhooks tell it."""
    type: str
    at: datetime
    data: Mapping[str, object]
    """JSON: ids, states, numbers and codes, but no prompt, answer, name or secret, since it leaves our account."""
    address: str = ""
    """Address that is told of it besides the account's webhooks; "": none is."""


class HappeningSource(Protocol):
    """A context's declaration of what happens to what it keeps."""

    types: Sequence[HappeningType]
    table: str
    """Table whose stream brings the changes, by its name in the code, such as `agents`."""
    items: Sequence[str]
    """Values of `type` of the items that `happened` reads, which the stream's filter has to let through."""

    def happened(self, change: ItemChange) -> Happening | None:
        """Return what happened by a change of an item; None: nothing that is told, or the item is another context's."""
        ...


def declared() -> list[HappeningSource]:
    """Return the declarations of all contexts."""
    return [module.source() for module in contexts.modules("happenings") if hasattr(module, "source")]


def declared_types() -> list[HappeningType]:
    """Return the types of all contexts, in the order of their names."""
    return sorted((each for source in declared() for each in source.types), key=lambda each: each.name)
