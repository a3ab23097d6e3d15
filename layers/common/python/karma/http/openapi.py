"""The OpenAPI document: FastAPI's, plus the security, the envelope and the errors that the edge answers.

A route's answer is described by its return type, `Answer[TaskData]`; it is read only when somebody asks for the
document, since building models at import is most of FastAPI's cost at a cold start.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, repeat
from operator import attrgetter
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin, get_type_hints

from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

if TYPE_CHECKING:
    from fastapi import FastAPI
    from fastapi.dependencies.models import Dependant
from karma.http.bodies import JsonBody
from karma.http.envelope import phrase
from karma.http.presenters import Answer, BareAnswer

_REF = "#/components/schemas/"
_HEADER_REF = "#/components/headers/"

_ERROR = {
    "type": "object",
    "required": ["success", "error", "timestamp"],
    "properties": {
        "success": {"const": False},
        "error": {
            "type": "object",
            "required": ["code", "type", "message", "details", "path", "request_id"],
            "properties": {
                "code": {"type": "string", "description": "Part of the contract", "examples": ["NOT_FOUND"]},
                "type": {"type": "string"},
                "message": {"type": "string"},
                "details": {"description": "`{}`, an object, or for 422 a list of `{field, message, type}`"},
                "path": {"type": "string"},
                "request_id": {"type": "string"},
            },
        },
        "timestamp": {"type": "integer", "description": "Unix time in milliseconds"},
    },
}
_AGIO_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["type", "message"],
            "properties": {
                "type": {"type": "string"},
                "message": {"type": "string"},
                "path": {"type": "string"},
                "details": {"description": "An object, or for 422 a list of `{field, message, type}`"},
            },
        }
    },
}
_HEADERS = {
    "RateLimit": (
        "What is left of the limit, and the seconds until it is whole again or, at 0, until a request is taken",
        "string",
    ),
    "RateLimit-Policy": (
        "The limit that was counted: its name, its amount (`q`), and the seconds in which it grows whole (`w`)",
        "string",
    ),
    "Retry-After": ("Seconds after which a repeat may succeed", "integer"),
    "ETag": ("Version of what is shown, for If-Match", "string"),
    "Location": ("Path, or URL, of what the answer leads to", "string"),
    "Idempotent-Replayed": (
        "`true`: the answer of the first request of this key, which is not carried out again",
        "string",
    ),
}
_PAGING = {"cursor", "offset", "page"}
"""Query parameters that are checked against the list: 400 INVALID_CURSOR, INVALID_PAGE."""
_SECURITY = {
    "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
    "api_key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}


def answers(
    *,
    status: int = 200,
    also: Iterable[int] = (),
    errors: Iterable[int] = (),
    etag: bool = False,
    location: bool = False,
) -> dict[int | str, dict[str, Any]]:
    """Document a route's answers for `responses=`: the status of its success, and its own error statuses.

    401, 403, 422 and 500 are added automatically where they can happen; the data are those of the return type. `also`
    are statuses with the same data. `etag` and `location` tell of headers that a success has.
    """
    found: dict[int | str, dict[str, Any]] = {code: _failure(code) for code in errors}
    sent = {name: _HEADER_REF + name for name, is_sent in (("ETag", etag), ("Location", location)) if is_sent}
    shared: dict[str, Any] = {"headers": sent} if sent else {}
    return found | {code: {"description": phrase(code), **shared} for code in (status, *also)}


def document(app: FastAPI) -> dict[str, Any]:
    """Build the document of all routes."""
    from karma.http import openapi_examples as examples  # local: nobody else needs them

    described = [route for route in app.routes if isinstance(route, APIRoute) and route.include_in_schema]
    bodies = {body.model for route in described if (body := _body(route.dependant))}
    answered = {route.unique_id: answered_by(route.endpoint) for route in described}
    found = get_openapi(title=app.title, version=app.version, routes=app.routes, description=_ABOUT)
    found["servers"] = [{"url": "/"}]
    components = found.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    shapes = {shape for each in answered.values() for shape, _ in each}
    schemas.update(_schemas(shapes, "serialization") | _schemas(bodies, "validation"))
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    schemas["Error"] = _ERROR
    schemas["AgioError"] = _AGIO_ERROR
    components["securitySchemes"] = _SECURITY
    components["headers"] = {
        name: {"description": about, "schema": {"type": kind}} for name, (about, kind) in _HEADERS.items()
    }
    for route in described:
        for method in route.methods or ():
            operation = found["paths"][route.path_format][method.lower()]
            _show(operation["responses"], answered[route.unique_id])
            _complete(operation, route)
    _link(found)
    examples.complete(found)
    return found


def _schemas(shapes: Iterable[type], mode: Literal["validation", "serialization"]) -> dict[str, Any]:
    from pydantic import TypeAdapter
    from pydantic.json_schema import GenerateJsonSchema

    class Closed(GenerateJsonSchema):
        """JSON schemas of answers, which have no members but those described."""

        def typed_dict_schema(self, schema: Any) -> dict[str, Any]:
            return {**super().typed_dict_schema(schema), "additionalProperties": False}

    adapters: list[tuple[str, Literal["validation", "serialization"], TypeAdapter[Any]]] = [
        (shape.__name__, mode, TypeAdapter(shape)) for shape in sorted(shapes, key=attrgetter("__name__"))
    ]
    _, found = TypeAdapter.json_schemas(adapters, ref_template=_REF + "{model}", schema_generator=Closed)
    schemas: dict[str, Any] = found.get("$defs", {})
    return schemas


def answered_by(endpoint: Callable[..., Any]) -> list[tuple[type, bool]]:
    """Return the shape of a route's data and whether it is in the envelope; several where its type is a union."""
    returned = get_type_hints(endpoint)["return"]
    each = get_args(returned) if get_origin(returned) in {Union, UnionType} else (returned,)
    kinds = [(get_origin(one), *get_args(one)) for one in each if get_origin(one) in {Answer, BareAnswer}]
    return [(shape, kind is Answer) for kind, shape in kinds]


def _show(responses: dict[str, Any], answered: Sequence[tuple[type, bool]]) -> None:
    """Write the shapes of a route's data into its answers that are no errors, in the order of their statuses."""
    if not answered:
        return
    # A 204 has no body.
    untold = [told for status, told in sorted(responses.items()) if status != "204" and not _is_shown(told)]
    for response, (shape, enveloped) in zip(untold, chain(answered, repeat(answered[-1])), strict=False):
        schema: dict[str, Any] = {"$ref": _REF + shape.__name__}
        if enveloped:
            schema = {
                "type": "object",
                "required": ["success", "data", "timestamp"],
                "properties": {"success": {"const": True}, "data": schema, "timestamp": {"type": "integer"}},
            }
        response["content"] = {"application/json": {"schema": schema}}


def _is_shown(response: dict[str, Any]) -> bool:
    """Tell whether a response has a shape; FastAPI gives that of success an empty one."""
    return bool(response.get("content", {}).get("application/json", {}).get("schema"))


_ABOUT = (
    "Bodies under `/api/v1` are wrapped: `{success, data, timestamp}`, failures `{success, error, timestamp}`; "
    "those under `/api` are bare. Every answer carries `X-Request-Id` and `X-Process-Time` (seconds), and those whose "
    "request was counted `RateLimit` and `RateLimit-Policy`, failures too."
)


def _complete(operation: dict[str, Any], route: APIRoute) -> None:
    responses: dict[str, Any] = operation["responses"]
    wanted = [422, 429, 500]  # 422: also for query parameters that the route does not have
    body = _body(route.dependant)
    if body is not None:
        wanted += [400, 413, 415]
        schema = {"$ref": _REF + body.model.__name__}
        operation["requestBody"] = {"required": not body.optional, "content": {"application/json": {"schema": schema}}}
    parameters = {parameter["name"] for parameter in operation.get("parameters", ())}
    if _PAGING & parameters:
        wanted.append(400)
    if "Idempotency-Key" in parameters:
        wanted += [400, 409, 410]
    guarded = list(permissions(route.dependant))
    if guarded:
        operation["security"] = [{"bearer": []}, {"api_key": []}]
        wanted += [401, 404]  # 404: the token names nobody
        if any(guarded):
            wanted.append(403)
            operation["description"] = (
                f"{operation.get('description', '')}\n\nPermission: `{', '.join(filter(None, guarded))}`".strip()
            )
    else:
        operation["security"] = []
    agio = route.path.startswith("/api/") and not route.path.startswith("/api/v1/")
    for code, response in responses.items():
        if code.startswith("3"):
            response.pop("content", None)  # there is only a Location
    for status in wanted:
        if status == 422 or str(status) not in responses:
            responses[str(status)] = _failure(status)
    if agio:
        for code, response in responses.items():
            content = response.get("content", {}).get("application/json", {})
            if int(code) >= 400:
                content["schema"] = {"$ref": _REF + "AgioError"}
            elif content:
                content["schema"] = _data(content["schema"])
    for code, response in responses.items():
        _tell_headers(response, int(code), is_repeatable="Idempotency-Key" in parameters)
    operation["responses"] = dict(sorted(responses.items()))


def _tell_headers(response: dict[str, Any], status: int, *, is_repeatable: bool) -> None:
    """Tell of the headers that an answer of a status may have, beside those that its route tells of."""
    names = ["RateLimit", "RateLimit-Policy"] if status < 300 or status == 429 else []
    if status in {409, 429, 503}:
        names.append("Retry-After")
    if status == 303:
        names.append("Location")
    if is_repeatable and status < 300:
        names.append("Idempotent-Replayed")
    told = response.get("headers", {}) | {name: _HEADER_REF + name for name in names}
    if told:
        response["headers"] = {name: {"$ref": reference} for name, reference in told.items()}


def _link(document: dict[str, Any]) -> None:
    """Add OpenAPI links of created objects: the id is the parameter `<name>_id` of other operations.

    They lead from an answer with `data.device.id` to all paths with `{device_id}` and the other parameters of the path.
    """
    schemas = document["components"]["schemas"]
    for path, operations in document["paths"].items():
        created = operations.get("post", {}).get("responses", {}).get("201", {})
        schema = created.get("content", {}).get("application/json", {}).get("schema")
        if schema is None:
            continue
        wrapped = _data(schema) is not schema
        made = schemas.get(_data(schema).get("$ref", "").removeprefix(_REF), {}).get("properties", {})
        for name in made:
            parameter = f"{name}_id"
            pointer = f"$response.body#/data/{name}/id" if wrapped else f"$response.body#/{name}/id"
            links = {
                operation["operationId"]: {
                    "operationId": operation["operationId"],
                    "parameters": {
                        parameter: pointer,
                        **{other: f"$request.path.{other}" for other in _named(path)},
                    },
                }
                for target, others in document["paths"].items()
                if _named(target) == [*_named(path), parameter]
                for operation in others.values()
            }
            if links:
                created["links"] = links


def _named(path: str) -> list[str]:
    return [part[1:-1] for part in path.split("/") if part.startswith("{")]


def _data(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema inside the envelope; a bare schema itself."""
    data: dict[str, Any] = schema.get("properties", {}).get("data", schema)
    return data


def permissions(dependant: Dependant) -> Iterator[str]:
    """Yield the permissions that a route asks for; "" where a caller is enough."""
    from karma.http.access import Permit

    for inner in dependant.dependencies:
        if isinstance(inner.call, Permit):
            yield inner.call.permission
        yield from permissions(inner)


def _body(dependant: Dependant) -> JsonBody | None:
    for inner in dependant.dependencies:
        if isinstance(inner.call, JsonBody):
            return inner.call
    return None


def _failure(status: int) -> dict[str, Any]:
    return {
        "description": phrase(status),
        "content": {"application/json": {"schema": {"$ref": _REF + "Error"}}},
    }
