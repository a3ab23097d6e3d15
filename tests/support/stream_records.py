"""Records of a table's stream as Lambda gives them to a function: JSON, in which binary values are Base64."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterable, Mapping
from typing import Any


def as_lambda_has_them(records: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return records that a client of DynamoDB Streams has read, with bytes in them, as they come in an event."""

    def written(value: object) -> str:
        assert isinstance(value, bytes), type(value)
        return b64encode(value).decode()

    bare = [
        # Lambda gives the moment as a number; nobody reads it.
        {**each, "dynamodb": {k: v for k, v in each["dynamodb"].items() if k != "ApproximateCreationDateTime"}}
        for each in records
    ]
    event: list[dict[str, Any]] = json.loads(json.dumps(bare, default=written))
    return event
