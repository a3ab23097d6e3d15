"""Writes that the AWS clients of this process send, as botocore tells of each request before it is sent.

A count of what was sent is sharper than a comparison of what is stored: what was written and taken back is seen too,
no table is read, and each write is known by the request that caused it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tests.support import on_demand

_READS = ("Get", "BatchGet", "TransactGet", "Query", "List", "Describe", "Head", "Receive")
_STORE_NOTHING = {"kms", "secretsmanager", "sts"}
_OF_LIMITS = ("LIMIT#", "LEASES#")
"""Prefixes of keys of items that count requests, whether they are refused or not."""

_watching: list[list[str]] = []


@contextmanager
def watched() -> Iterator[list[str]]:
    """Give a list that receives each write sent while this is entered, by any thread, but those of limits."""
    sent: list[str] = []
    _watching.append(sent)
    try:
        yield sent
    finally:
        _watching.remove(sent)


def before_call(**event: Any) -> None:
    """Receive botocore's event before a request is sent."""
    if not _watching or on_demand.is_making():
        return
    model = event["model"]
    service = model.service_model.service_name
    if service in _STORE_NOTHING or model.name.startswith(_READS):
        return
    written = f"{service} {model.name}{_keys(event['params']) if service == 'dynamodb' else ''}"
    if not any(f"'{prefix}" in written for prefix in _OF_LIMITS):
        for sent in _watching:
            sent.append(written)


def _keys(params: Mapping[str, Any]) -> str:
    """Name the tables and keys of a request to DynamoDB."""
    body = json.loads(params["body"])
    parts = [part for item in body.get("TransactItems", ()) for part in item.values()] or [body]
    for table, requests in body.get("RequestItems", {}).items():
        parts += [{"TableName": table, **part} for request in requests for part in request.values()]
    return "".join(
        f" {part['TableName']} {[next(iter(key[name].values())) for name in ('pk', 'sk') if name in key]}"
        for part in parts
        for key in [part.get("Key") or part.get("Item")]
        if key
    ) + "".join(
        f" {each['Statement']} {each['Parameters']}"
        for each in [body, *body.get("Statements", ())]
        if "Statement" in each
    )
