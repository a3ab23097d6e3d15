"""The OpenAPI document: FastAPI's, plus the security, the envelope and the errors that the edge answers.

Response models are only named when routes are made, and built when somebody asks for the document: building them at
import is most of what FastAPI costs at a cold start.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

if TYPE_CHECKING:
    from fastapi import FastAPI
    from fastapi.dependencies.models import Dependant
    from pydantic import BaseModel

from api.bodies import JsonBody
from karma.core.http import phrase

_REF = "#/components/schemas/"
_models: dict[str, type[BaseModel]] = {}

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
_PAGING = {"cursor", "offset", "page"}
"""Query parameters that are checked against what the list gave: 400 INVALID_CURSOR, INVALID_PAGE."""
_SECURITY = {
    "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
    "api_key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}


def answers(
    model: type[BaseModel] | None = None, *, status: int = 200, errors: Iterable[int] = (), bare: bool = False
) -> dict[int | str, dict[str, Any]]:
    """Document a route's answers for `responses=`: the data model inside the envelope, and its own error statuses.

    401, 403, 422 and 500 are added by themselves where they can happen. `bare` leaves the envelope out.
    """
    found: dict[int | str, dict[str, Any]] = {code: _failure(code) for code in errors}
    success: dict[str, Any] = {"description": phrase(status)}
    if model is not None:
        _models[model.__name__] = model
        schema: dict[str, Any] = {"$ref": _REF + model.__name__}
        if not bare:
            schema = {
                "type": "object",
                "required": ["success", "data", "timestamp"],
                "properties": {"success": {"const": True}, "data": schema, "timestamp": {"type": "integer"}},
            }
        success["content"] = {"application/json": {"schema": schema}}
    found[status] = success
    return found


def document(app: FastAPI) -> dict[str, Any]:
    """Build the document of all routes."""
    from pydantic.json_schema import models_json_schema

    from api import examples  # local: nobody else needs them

    found = get_openapi(title=app.title, version=app.version, routes=app.routes, description=_ABOUT)
    components = found.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    bodies = {body.model for route in app.routes if isinstance(route, APIRoute) and (body := _body(route.dependant))}
    _, definitions = models_json_schema(
        [
            *((model, "serialization") for model in _models.values()),
            *((model, "validation") for model in bodies),
        ],
        ref_template=_REF + "{model}",
    )
    schemas.update(definitions.get("$defs", {}))
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    schemas["Error"] = _ERROR
    schemas["AgioError"] = _AGIO_ERROR
    components["securitySchemes"] = _SECURITY
    for route in app.routes:
        if isinstance(route, APIRoute) and route.include_in_schema:
            for method in route.methods or ():
                _complete(found["paths"][route.path_format][method.lower()], route)
    _link(found)
    examples.complete(found)
    return found


_ABOUT = (
    "Bodies under `/api/v1` are wrapped: `{success, data, timestamp}`, failures `{success, error, timestamp}`; "
    "those under `/api` are bare. Every answer carries `X-Request-Id` and `X-Process-Time` (seconds)."
)


def _complete(operation: dict[str, Any], route: APIRoute) -> None:
    responses: dict[str, Any] = operation["responses"]
    wanted = [422, 429, 500]  # 422: also for query parameters that the route does not have
    body = _body(route.dependant)
    if body is not None:
        wanted += [400, 413, 415]
        schema = {"$ref": _REF + body.model.__name__}
        operation["requestBody"] = {"required": not body.optional, "content": {"application/json": {"schema": schema}}}
    if _PAGING & {parameter["name"] for parameter in operation.get("parameters", ())}:
        wanted.append(400)
    guarded = list(permissions(route.dependant))
    if guarded:
        operation["security"] = [{"bearer": []}, {"api_key": []}]
        wanted += [401, 404]  # 404: the token names nobody
        if any(guarded):
            wanted.append(403)
            operation["description"] = (
                f"{operation.get('description', '')}\n\nPermission: `{', '.join(filter(None, guarded))}`".strip()
            )
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
    operation["responses"] = dict(sorted(responses.items()))


def _link(document: dict[str, Any]) -> None:
    """Say what follows from making something: its id is the parameter `<name>_id` of other operations.

    From an answer with `data.device.id` to all paths with `{device_id}`, with the other parameters of the same path.
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
    """What is inside the envelope; a bare schema is its own."""
    data: dict[str, Any] = schema.get("properties", {}).get("data", schema)
    return data


def permissions(dependant: Dependant) -> Iterator[str]:
    """Yield the permissions that a route asks for; "" where a caller is enough."""
    from api.access import Permit

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
