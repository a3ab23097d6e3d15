"""One BatchGetItem call that several contexts fill, over all their tables, as `Transaction` is one call that writes.

    reads = Reads()
    run = reads.item(RunItem, key)
    allowance = want_allowance(reads, user_id, clock)     # a door of another context
    reads.read()
    run(), allowance()

Where a request waits for several items that it knows by their keys, it pays for one call instead of one an item: most
of a call's CPU is the client's, whatever it asks for. The items are each consistent, and not of one moment.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any, TypeVar

from botocore.exceptions import BotoCoreError, ClientError
from pynamodb.exceptions import GetError

from karma.core.dynamo.failures import storage_errors
from karma.core.dynamo.items import Item, Key, base_of, connection_of
from karma.core.dynamo.tables import deployed
from karma.core.errors import StorageThrottled

T = TypeVar("T")
M = TypeVar("M", bound=Item)
Later = Callable[[], T]
"""Returns what was asked for, once it was read."""

_PAUSES_S = (0.05, 0.1, 0.2)
"""Pauses before keys are asked for again that a busy table has left out."""


class Reads:
    """Collects keys of items; `read` reads all of them at once, up to 100 items and 16 MB."""

    def __init__(self) -> None:
        self._wanted: dict[str, set[Key]] = {}
        self._found: dict[tuple[str, Key], Item] | None = None
        self._kind: type[Item] | None = None

    def item(self, kind: type[M], key: Key) -> Later[M | None]:
        """Ask for an item; None when it is absent or the item under the key is of another type."""
        meta: Any = base_of(kind).Meta
        table = deployed(meta.logical)
        self._wanted.setdefault(table, set()).add(Key(*key))
        self._kind = kind

        def found() -> M | None:
            assert self._found is not None  # noqa: S101  it is not read yet
            item = self._found.get((table, Key(*key)))
            return item if isinstance(item, kind) else None

        return found

    def read(self) -> None:
        """Read all that was asked for, strongly consistent; nothing is called where nothing was.

        Raises:
            StorageThrottled: the tables are too busy to answer for all of it.
            StorageUnavailable: DynamoDB did not answer.
        """
        self._found = {}
        left: dict[str, Any] = {
            table: {
                "ConsistentRead": True,
                "Keys": [{"pk": {"S": key.pk}, "sk": {"S": key.sk}} for key in sorted(keys)],
            }
            for table, keys in self._wanted.items()
        }
        for pause_s in (*_PAUSES_S, None):
            if left:
                left = self._some(left)
            if not left:
                return
            if pause_s is not None:
                time.sleep(pause_s * random.uniform(0.5, 1))  # noqa: S311  so that two do not meet again
        raise StorageThrottled("The database is busy; try again")

    def _some(self, wanted: dict[str, Any]) -> dict[str, Any]:
        """Read what a call gives, and return what it has left out."""
        assert self._kind is not None  # noqa: S101  something was asked for
        assert self._found is not None  # noqa: S101
        with storage_errors():
            try:
                answer = connection_of(self._kind).connection.dispatch("BatchGetItem", {"RequestItems": wanted})
            except (BotoCoreError, ClientError) as exc:  # as PynamoDB does for its own operations
                raise GetError(f"Failed to read items of {', '.join(wanted)}: {exc}", exc) from exc
        for table, items in answer["Responses"].items():
            for each in items:
                found: Item = Item.from_raw_data(each)
                self._found[table, found.key] = found
        return dict(answer.get("UnprocessedKeys") or {})
