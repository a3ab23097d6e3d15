"""Rows of runs as the stream of their table brings them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from karma.core.dynamo.items import Item
from karma.runs.domain import Run
from karma.runs.items import RunItem
from karma.runs.stored import run_of


def run_in(image: Mapping[str, Any] | None) -> Run | None:
    """Return the run whose row an image of an item is, in DynamoDB's JSON; None: it is something else's, or absent."""
    if not image or image.get("type") != {"S": RunItem.type.get_discriminator(RunItem)}:
        return None
    item: Item = Item.from_raw_data(dict(image))
    return run_of(item) if isinstance(item, RunItem) else None
