"""Comparison of real answers with the OpenAPI documents: status, media type, shape, and no undocumented member."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from itertools import chain
from typing import Any

from openapi_schema_validator import OAS31Validator, oas31_format_checker

from tests.support import contract

_EVERYWHERE = {
    "cache-control",
    "content-length",
    "content-security-policy",
    "content-type",
    "ratelimit",
    "ratelimit-policy",
    "referrer-policy",
    "vary",
    "www-authenticate",
    "x-accel-buffering",
    "x-content-type-options",
    "x-process-time",
    "x-request-id",
}
"""Headers of any HTTP API, and those of every answer, which the description names at its beginning."""
_SOMETIMES = {"idempotent-replayed", "ratelimit", "ratelimit-policy", "retry-after"}
"""Headers that an answer may lack although it is told that it may have them."""
_DOCUMENTS = {"api": "api", "agent_stream": "stream"}


@dataclass
class Described:
    """Answers that were compared, and their differences from the documents."""

    succeeded: set[str] = field(default_factory=set)
    """Operations of which an answer of success, or a redirection, was seen, as `function METHOD path`."""
    wrong: dict[str, str] = field(default_factory=dict)
    """The first difference of each operation and status."""

    def compare(
        self,
        function: str,
        method: str,
        path: str,
        status: int,
        content_type: str,
        text: str,
        headers: Mapping[str, str],
    ) -> None:
        """Compare one answer."""
        name = f"{function} {method} {path}"
        operation = documented(function)["paths"][path][method.lower()]
        if status < 400:
            self.succeeded.add(name)
        problems = chain(
            _problems(operation, function, status, content_type, text), _untold(operation, function, status, headers)
        )
        for problem in problems:
            self.wrong.setdefault(f"{name}: {status}", problem)


@cache
def documented(function: str) -> dict[str, Any]:
    """Return a function's document, in which no object has members that it does not name."""
    document = contract.served(_DOCUMENTS[function])
    _close(document["components"]["schemas"])
    _close(document["paths"])
    return document


def _problems(operation: dict[str, Any], function: str, status: int, content_type: str, text: str) -> Iterator[str]:
    response = operation["responses"].get(str(status))
    if response is None:
        yield f"the status is not told of: {text[:200]}"
        return
    content = response.get("content", {})
    if not text:
        if content:
            yield f"nothing, not {', '.join(content)}"
        return
    media_type = content_type.partition(";")[0]
    if media_type not in content:
        yield f"{media_type} is not told of"
        return
    if media_type == "application/json":
        yield from _differences(content[media_type]["schema"], function, json.loads(text))
    if media_type == "text/event-stream":
        for line in text.splitlines():
            if line.startswith("data: {"):
                event = content[media_type].get("x-event", {"$ref": "#/components/schemas/Event"})
                yield from _differences(event, function, json.loads(line.removeprefix("data: ")))


def _untold(operation: dict[str, Any], function: str, status: int, headers: Mapping[str, str]) -> Iterator[str]:
    """Yield headers that are sent and not told of, and those of a success that are told of and not sent."""
    if function != "api":
        return
    told = {name.lower() for name in operation["responses"].get(str(status), {}).get("headers", {})}
    sent = {name.lower() for name in headers} - _EVERYWHERE
    for name in sorted(sent - told):
        yield f"the header {name} is not told of"
    if status < 400:
        for name in sorted(told - sent - _SOMETIMES):
            yield f"the header {name} is told of and not sent"


def _differences(schema: dict[str, Any], function: str, value: object) -> Iterator[str]:
    # References are looked up from the root of a schema.
    whole = {**schema, "components": documented(function)["components"]}
    for error in OAS31Validator(whole, format_checker=oas31_format_checker).iter_errors(value):
        yield f"{error.json_path}: {error.message[:300]}"


def _close(schema: object) -> None:
    if isinstance(schema, list):
        for each in schema:
            _close(each)
    elif isinstance(schema, dict):
        if "properties" in schema and schema.get("type") == "object":
            schema.setdefault("additionalProperties", False)
        for each in schema.values():
            _close(each)
