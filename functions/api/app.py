"""The FastAPI application: the routers of each module of routes/, one edge around them, OpenAPI."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from types import ModuleType

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from api import routes
from api.description import Document, description
from api.services import process
from karma.core.answers import AboutData
from karma.core.health import APP, VERSION
from karma.http import openapi
from karma.http.access import count_network
from karma.http.dispatch import Dispatch
from karma.http.edge import Edge
from karma.http.presenters import BareAnswer, bare
from karma.http.routing import Route, Router


class Api(FastAPI):
    """FastAPI with one layer of middleware, the edge."""

    @property
    def routes(self) -> list[BaseRoute]:
        """Return every route as FastAPI describes it."""
        return [route.described if isinstance(route, Route) else route for route in self.router.routes]

    def build_middleware_stack(self) -> Edge:
        """Put the edge where FastAPI puts its error handlers, and the exit stacks that our routes do without."""
        return Edge(Dispatch(self.router.routes, admit=count_network), serving=process.serving)

    def openapi(self) -> dict[str, object]:
        """Describe every route, with the errors that the edge may answer."""
        if not self.openapi_schema:
            self.openapi_schema = openapi.document(self)
        return self.openapi_schema


def build() -> Api:
    """Make the application."""
    app = Api(title=APP, version=VERSION, redirect_slashes=False, openapi_url=None, docs_url=None, redoc_url=None)
    app.router.routes.extend([*about.routes, *description.routes, *_document(app).routes])
    for found in pkgutil.iter_modules(routes.__path__):
        _mount(app, importlib.import_module(f"{routes.__name__}.{found.name}"))
    return app


about = Router("about", prefix="")


@about.get("/", limit="public")
async def root() -> BareAnswer[AboutData]:
    """Name this API and the address of its description."""
    return bare({"app": APP, "version": VERSION, "docs": "/docs", "openapi": "/openapi.json"})


def _document(app: Api) -> Router:
    router = Router("description", prefix="")
    kept = cache(lambda: Document.of(app.openapi()))

    @router.get("/openapi.json", limit="public", include_in_schema=False)
    async def openapi_document(request: Request) -> Response:
        """Send the description, written once a process; who has it already is told so."""
        return kept().answer(request)

    return router


def _mount(app: FastAPI, module: ModuleType) -> None:
    for name in ("router", "agio"):
        router = getattr(module, name, None)
        if isinstance(router, Router):
            app.router.routes.extend(router.routes)
