"""Every tag that a route takes, in its body or its query, comes into one form: Unicode's NFC."""

from __future__ import annotations

import typing
import unicodedata
from collections.abc import Iterator
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo

from karma.alarms.schemas import Tag as AlarmTag
from karma.configuration.validation import ComponentSchema
from karma.core.lines import composed_tags
from karma.http.routing import PREFIX, Route

NFC = "s\u00fcd"
NFD = unicodedata.normalize("NFD", NFC)
NAMES = {"tag", "tags"}

pytestmark = pytest.mark.fault("F-49i")


def _models(annotation: Any, seen: set[type[BaseModel]]) -> Iterator[type[BaseModel]]:
    """Yield the models of a type, and of their fields."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel) and annotation not in seen:
        seen.add(annotation)
        yield annotation
        for field in annotation.model_fields.values():
            yield from _models(field.annotation, seen)
    for inner in typing.get_args(annotation):
        yield from _models(inner, seen)


def _adapter(field: FieldInfo) -> TypeAdapter[Any]:
    kind: Any = field.annotation
    for each in field.metadata:
        kind = Annotated[kind, each]
    return TypeAdapter(kind)


def _taken() -> dict[str, TypeAdapter[Any]]:
    """Return what reads each tag of each route, by the route and the place."""
    from api.app import build

    found: dict[str, TypeAdapter[Any]] = {}
    for route in build().router.routes:
        if not isinstance(route, Route):
            continue
        name = f"{' '.join(sorted(route.methods or ()))} {route.path.removeprefix(PREFIX)}"
        given = route.described.dependant
        for param in given.query_params:
            if param.alias in NAMES:
                info = param.field_info
                found[f"{name} ?{param.alias}"] = _adapter(info)
        body = typing.get_type_hints(route.endpoint).get("body")
        for model in _models(body, set()):
            for field, info in model.model_fields.items():
                if field in NAMES:
                    adapter = _adapter(info)
                    found[f"{name} {model.__name__}.{field}"] = adapter
    return found


def test_every_route_takes_a_tag_in_one_form() -> None:
    taken = _taken()
    for place, adapter in taken.items():
        is_list = place.endswith("tags")
        given = [NFD, NFC, "x", NFD] if is_list else NFD
        assert adapter.validate_python(given) == ([NFC, "x"] if is_list else NFC), place
    routes = {place.partition(" ")[2].partition(" ")[0] for place in taken}
    assert routes >= {
        *("/devices", "/devices/{device_id}", "/provisioning-claims", "/commands/bulk", "/schedules", "/alarm-rules"),
        *("/alarm-rules/{rule_id}", "/alarm-rules/test", "/firmware/rollouts", "/search", "/agents"),
    }, routes


def test_a_component_takes_them_so_too() -> None:
    [info] = [info for name, info in ComponentSchema.model_fields.items() if name == "tags"]
    assert _adapter(info).validate_python([NFD, NFC]) == [NFC]


def test_stored_ones_are_read_so_and_long_ones_are_refused_before_they_are_composed() -> None:
    assert composed_tags([NFD, NFC, "x"]) == (NFC, "x")
    with pytest.raises(ValueError, match="at most 50"):
        TypeAdapter(AlarmTag).validate_python("e" + "\u0301" * 100_000)
