"""Routers of the modules of routes/: `router = Router("devices")`, paths without the prefix."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from inspect import iscoroutinefunction
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette import routing
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from karma.core.imports import absent
from karma.http.bodies import JsonBody, with_body
from karma.http.envelope import UNTAKEN, repeated_parameters, unknown_parameters
from karma.identity.sessions.authentication import READING

_Endpoint = TypeVar("_Endpoint", bound=Callable[..., Any])

PREFIX = "/api/v1"

# Of what FastAPI can give a function, what no route of ours takes, and what our dependencies do not take either.
_UNSERVED = (
    "body_params",
    "cookie_params",
    "background_tasks_param_name",
    "concurrency",
    "http_connection_param_name",
    "response_param_name",
    "security_scopes_param_name",
    "websocket_param_name",
)
_IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "The caller's own name of this request: a repeat with it within 24 hours has no second effect",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
}
_NONE: dict[str, str] = {}
# Of a number, pydantic takes Python's ways of writing it, too (`1_0`, `+5`, `5.0`, `inf`, blanks around), and of a
# boolean `1`, `on`, `yes`, `T`.
_WRITTEN: dict[object, tuple[re.Pattern[str], str, str]] = {
    bool: (re.compile(r"true|false"), "bool_parsing", "must be true or false"),
    int: (re.compile(r"-?[0-9]+"), "int_parsing", "must be a whole number, in digits"),
    float: (re.compile(r"-?[0-9]+(?:\.[0-9]+)?"), "float_parsing", "must be a number, in digits such as 2.5"),
}
_UNSERVED_INSIDE = (*_UNSERVED, "dependencies", "path_params", "query_params", "header_params")


class Route(routing.Route):
    """A route whose function is a coroutine and returns a Response.

    FastAPI reads its signature and describes it in OpenAPI; serving it takes none of FastAPI's exit stacks.
    """

    def __init__(
        self,
        path: str,
        endpoint: Callable[..., Any],
        *,
        methods: Iterable[str],
        limit: str = "default",
        takes_any_query: bool = False,
        idempotent: bool = False,
        operation: str | None = None,
        **options: Any,
    ) -> None:
        """Make a route.

        Args:
            path: path with `{names}` for the parts that vary.
            endpoint: the coroutine function that answers.
            methods: HTTP methods of the route.
            limit: name of a row of karma.identity.limits.
            takes_any_query: True for a route whose query another party writes, and may add parameters to that
            `endpoint`
                does not declare; elsewhere those are refused.
            idempotent: True for a route that honours `Idempotency-Key` (karma.http.idempotency), which its description
                then has as a parameter.
            operation: path of the address whose keys this one shares, since both do the same; None: its own.
            options: options of FastAPI's routes.
        """
        if not iscoroutinefunction(endpoint):
            raise TypeError(f"{path}: routes are coroutines, a thread for each request costs more than the request")
        super().__init__(path, endpoint, methods=list(methods))
        self.methods = set(methods)  # karma.http.dispatch answers HEAD by GET; the description has GET alone
        self.app = self._serve
        self.limit = limit
        self.takes_any_query = takes_any_query
        self.idempotent = idempotent
        self.operation = operation or path
        self._options = (
            {**options, "openapi_extra": {"parameters": [dict(_IDEMPOTENCY_KEY)]}} if idempotent else options
        )

    @cached_property
    def described(self) -> APIRoute:
        """Return FastAPI's route, made for its first request or for OpenAPI: all of them are 5 % of a cold start."""
        with absent("pydantic.v1"):
            return APIRoute(self.path, with_body(self.endpoint), methods=self.methods, **self._options)

    @cached_property
    def arguments(self) -> Arguments:
        """Return the arguments of its function.

        Raises:
            TypeError: the signature has a kind of parameter that our routes do not support.
        """
        return Arguments(self.described.dependant, takes_any_query=self.takes_any_query)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        response: Response = await self.endpoint(**await self.arguments.of(request))
        await response(scope, receive, send)


class Arguments:
    """Arguments of a route's function, computed once from FastAPI's reading of its signature.

    FastAPI computes them again for each request, from every parameter's type: half of a request's CPU. Its fields
    validate the values here as well. Dependencies are awaited in order, before any parameter is looked at; they take
    the request alone. The body is read last, so that its errors are reported together with the others.

    A query parameter has one value: one that stands in the query twice is refused, and so is one that the function does
    not declare. A filter whose name is misspelt would otherwise list everything.
    """

    def __init__(self, dependant: Dependant, *, takes_any_query: bool = False) -> None:
        """Prepare the arguments.

        Raises:
            TypeError: the signature has a kind of parameter that our routes do not support.
        """
        if any(getattr(dependant, name) for name in _UNSERVED) or any(
            getattr(inner, name) for inner in dependant.dependencies for name in _UNSERVED_INSIDE
        ):
            raise TypeError(f"{dependant.call}: takes something that karma.http.routing does not serve")
        self._request_name = dependant.request_param_name
        calls = [(inner.name, inner.call) for inner in dependant.dependencies if inner.name and inner.call]
        self._dependencies = [(name, call) for name, call in calls if not isinstance(call, JsonBody)]
        self._body = [(name, call) for name, call in calls if isinstance(call, JsonBody)]
        of_places = {
            "path": dependant.path_params,
            "query": dependant.query_params,
            "header": dependant.header_params,
        }
        self._fields = {
            place: [(field.alias, field.name, field) for field in fields]
            for place, fields in of_places.items()
            if fields
        }
        self._known = frozenset(field.alias for field in dependant.query_params)
        self._written = {
            (place, field.alias): _WRITTEN[of]
            for place, fields in of_places.items()
            for field in fields
            for of in _types_of(field.field_info.annotation)
            if of in _WRITTEN
        }
        self._takes_any_query = takes_any_query
        self._untaken = UNTAKEN.keys() - {field.alias for field in dependant.header_params}
        self._defaults = {
            field.name: field.default
            for fields in of_places.values()
            for field in fields
            if not field.field_info.is_required()
        }

    async def of(self, request: Request) -> dict[str, Any]:
        """Return the arguments for one request.

        Raises:
            RequestValidationError: values are missing or not valid, or query parameters are repeated or unknown; all
                are named.
            AppError: a dependency refused the request, or the body cannot be read.
        """
        values: dict[str, Any] = dict(self._defaults)
        if self._request_name:
            values[self._request_name] = request
        for name, call in self._dependencies:
            values[name] = await call(request)
        errors: list[dict[str, Any]] = []
        for place, fields in self._fields.items():
            given = _given(request, place)
            for alias, name, field in fields:
                text = given(alias)
                if text is None:
                    if name not in self._defaults:
                        errors.append({"type": "missing", "loc": (place, alias), "msg": "Field required"})
                    continue
                form = self._written.get((place, alias)) if self._written else None
                if form is not None and not form[0].fullmatch(text):
                    errors.append({"type": form[1], "loc": (place, alias), "msg": form[2]})
                else:
                    values[name], wrong = field.validate(text, loc=(place, alias))
                    errors += wrong
        if request.scope["query_string"]:
            wrong_names = list(self._wrong_names([name for name, _ in request.query_params.multi_items()]))
            named = {each["loc"] for each in wrong_names}
            errors = [*(each for each in errors if each["loc"] not in named), *wrong_names]
        if request.method not in READING:
            errors += [
                {"type": "value_error", "loc": ("header", name), "msg": UNTAKEN[name], "ctx": {"error": UNTAKEN[name]}}
                for name in UNTAKEN
                if name in self._untaken and name in request.headers
            ]
        for name, read in self._body:
            try:
                values[name] = await read(request)
            except RequestValidationError as exc:
                errors += exc.errors()
        if errors:
            raise RequestValidationError(errors)
        return values

    def _wrong_names(self, given: Sequence[str]) -> Iterator[dict[str, Any]]:
        for name, message in repeated_parameters(given, self._known):
            yield {"type": "repeated_parameter", "loc": ("query", name), "msg": message}
        if not self._takes_any_query:
            for name, message in unknown_parameters(given, self._known):
                yield {"type": "unknown_parameter", "loc": ("query", name), "msg": message}


class Router:
    """Collects the routes of a module, with the decorators that FastAPI's routers have."""

    def __init__(self, tag: str, *, prefix: str = PREFIX) -> None:
        self.routes: list[Route] = []
        self._tag = tag
        self._prefix = prefix

    def get(self, path: str, **options: Any) -> Callable[[_Endpoint], _Endpoint]:
        """Register a function for GET."""
        return self._route("GET", path, options)

    def post(self, path: str, **options: Any) -> Callable[[_Endpoint], _Endpoint]:
        """Register a function for POST."""
        return self._route("POST", path, options)

    def put(self, path: str, **options: Any) -> Callable[[_Endpoint], _Endpoint]:
        """Register a function for PUT."""
        return self._route("PUT", path, options)

    def patch(self, path: str, **options: Any) -> Callable[[_Endpoint], _Endpoint]:
        """Register a function for PATCH."""
        return self._route("PATCH", path, options)

    def delete(self, path: str, **options: Any) -> Callable[[_Endpoint], _Endpoint]:
        """Register a function for DELETE."""
        return self._route("DELETE", path, options)

    def _route(self, method: str, path: str, options: dict[str, Any]) -> Callable[[_Endpoint], _Endpoint]:
        def add(endpoint: _Endpoint) -> _Endpoint:
            # Clients generated from the document call their functions by these names.
            options.setdefault("operation_id", endpoint.__name__)
            # What it answers stands in its return type, which only the description reads (karma.http.openapi).
            options.setdefault("response_model", None)
            # An address of the Agio API is another one of what has the same path below our prefix.
            operation = PREFIX + options.pop("operation", path)
            self.routes.append(
                Route(self._prefix + path, endpoint, methods=[method], operation=operation, tags=[self._tag], **options)
            )
            return endpoint

        return add


def _types_of(annotation: object) -> Iterator[object]:
    """Yield the types that a value may have: the members of a union, without what `Annotated` says about them."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _types_of(get_args(annotation)[0])
    elif origin in {Union, UnionType}:
        for each in get_args(annotation):
            yield from _types_of(each)
    else:
        yield annotation


def _given(request: Request, place: str) -> Callable[[str], str | None]:
    match place:
        case "path":
            return request.path_params.get
        case "query":
            return request.query_params.get if request.scope["query_string"] else _NONE.get
        case _:
            # Lines of one name are one list (RFC 9110, 5.3).
            return lambda name: ", ".join(request.headers.getlist(name)) if name in request.headers else None
