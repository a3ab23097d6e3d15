"""The API's application: what serves each path, with one edge around it, and FastAPI's view of all routes."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.routing import BaseRoute

from api.mounts import Mounts
from api.services import process
from karma.core.health import APP, VERSION
from karma.http.access import count_network
from karma.http.dispatch import Dispatch
from karma.http.edge import Edge
from karma.http.routing import Route


class Application:
    """ASGI app of the API, which imports the modules of its routes as they are asked for."""

    def __init__(self) -> None:
        self._mounts = Mounts()
        self._dispatch = Dispatch(admit=count_network, more=self._mounts.load)
        self.asgi = Edge(self._dispatch, serving=process.serving)

    def load_all(self) -> None:
        """Import every route, and read the signature of each, as its first request would."""
        found = self._mounts.load_all()
        for route in found:
            _ = route.arguments
        self._dispatch.add(found)


class Described(FastAPI):
    """All routes as FastAPI sees them; it serves none of them."""

    @property
    def routes(self) -> list[BaseRoute]:
        """Return every route as FastAPI describes it."""
        return [route.described if isinstance(route, Route) else route for route in self.router.routes]

    def openapi(self) -> dict[str, object]:
        """Describe every route, with the errors that the edge may answer."""
        from karma.http import openapi  # local: requests but /openapi.json need no description

        if not self.openapi_schema:
            self.openapi_schema = openapi.document(self)
        return self.openapi_schema


def build() -> Described:
    """Describe all routes."""
    app = Described(title=APP, version=VERSION, openapi_url=None, docs_url=None, redoc_url=None)
    app.router.routes.extend(Mounts().load_all())
    return app
