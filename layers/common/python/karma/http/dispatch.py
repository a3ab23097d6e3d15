"""Choice of a request's route by its path's first segments, not by trying each one in turn."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias

from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from karma.core.errors import MethodNotAllowed
from karma.http.addresses import Address, no_route
from karma.http.routing import Route as OwnRoute

_Served: TypeAlias = tuple[Route, frozenset[str]]
"""A route and the methods that it answers."""
_LONGEST = 4
"""Largest number of fixed segments before a parameter that choose a group: `/api/v1/devices`, after the empty first."""


class Dispatch:
    """ASGI app over a list of routes; fixed paths win over those with parameters.

    Whatever answers GET answers HEAD (RFC 9110): a route without effects does all that it does for GET,
    and karma.http.edge leaves the body out.
    """

    def __init__(
        self,
        routes: Iterable[BaseRoute] = (),
        *,
        admit: Callable[[Scope, str], None],
        more: Callable[[str], Iterable[BaseRoute]] = lambda _path: (),
    ) -> None:
        """Build the app.

        Args:
            routes: routes that are there from the beginning.
            admit: called before a route serves, with the name of the route's limit; it raises refusals.
            more: called with the path of each request; it returns the routes that may serve it, those left out that it
                has returned before or that are in `routes`.
        """
        self._admit = admit
        self._more = more
        self._fixed: dict[str, list[_Served]] = defaultdict(list)
        self._with_parameters: dict[tuple[str, ...], list[_Served]] = defaultdict(list)
        self.add(routes)

    def add(self, routes: Iterable[BaseRoute]) -> None:
        """Serve these routes too, from now on.

        Raises:
            TypeError: one of them is no route of ours.
        """
        for route in routes:
            if not isinstance(route, Route):
                raise TypeError(f"{route!r} is not a plain route: make routers with karma.http.routing.Router")
            if route.param_convertors:
                self._with_parameters[_group(route.path)].append((route, _methods(route)))
            else:
                self._fixed[route.path].append((route, _methods(route)))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the route of a request.

        Raises:
            NotFound: no route has this path.
            MethodNotAllowed: routes with this path have other methods, which `Allow` names.
        """
        path, method = scope["path"], scope["method"]
        self.add(self._more(path))
        allowed: set[str] = set()
        for route, methods in self._candidates(path):
            # Not `match`: `$` is also before a line end that is the path's last character.
            match = route.path_regex.fullmatch(path)
            if match is None:
                continue
            if method not in methods:
                allowed |= methods
                continue
            converted = {name: route.param_convertors[name].convert(text) for name, text in match.groupdict().items()}
            scope["route"], scope["endpoint"], scope["path_params"] = route, route.endpoint, converted
            if isinstance(route, OwnRoute):
                self._admit(scope, route.limit)
            else:
                await asyncio.sleep(0)  # see karma.http.gateway.complete
            await route.app(scope, receive, send)
            return
        if not allowed:
            raise no_route(path, at=Address.API)
        error = MethodNotAllowed("The route does not answer this method")
        error.headers["Allow"] = ", ".join(sorted(allowed))
        raise error

    def _candidates(self, path: str) -> Iterator[_Served]:
        yield from self._fixed.get(path, ())
        segments = tuple(path.split("/"))
        for length in range(_LONGEST, 0, -1):
            yield from self._with_parameters.get(segments[:length], ())


def _methods(route: Route) -> frozenset[str]:
    methods = frozenset(route.methods or ())
    return methods | {"HEAD"} if "GET" in methods else methods


def _group(path: str) -> tuple[str, ...]:
    segments = path.split("/")
    fixed = next(index for index, segment in enumerate(segments) if "{" in segment)
    return tuple(segments[: min(fixed, _LONGEST)])
