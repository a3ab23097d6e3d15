"""Parts of which the OpenAPI document of the stream URL is made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from karma.http.envelope import phrase, style_of

Schema = dict[str, Any]
REF = "#/components/schemas/"
NULL: Schema = {"type": "null"}


def parameter(name: str, place: str, schema: Schema, example: object, about: str, *, required: bool = False) -> Schema:
    """Describe a parameter; one of the path is always required."""
    return {
        "name": name,
        "in": place,
        "required": required or place == "path",
        "schema": schema,
        "example": example,
        "description": about,
    }


def failures(path: str, *statuses: int) -> Schema:
    """Describe the errors of a path."""
    name = "AgioError" if style_of(path) == "agio" else "Error"
    content = {"application/json": {"schema": {"$ref": REF + name}}}
    return {str(status): {"description": phrase(status), "content": content} for status in statuses}


def either(*schemas: Schema, **more: object) -> Schema:
    """Describe what is one of several."""
    return {"anyOf": list(schemas), **more}


def object_of(required: Iterable[str], properties: Mapping[str, Schema], **more: object) -> Schema:
    """Describe an object."""
    return {"type": "object", "required": list(required), "properties": dict(properties), **more}
