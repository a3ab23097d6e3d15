"""The FastAPI application: routers of routes/, one edge around them, OpenAPI."""

from __future__ import annotations

import importlib
import importlib.util

from fastapi import APIRouter, FastAPI
from fastapi.middleware.asyncexitstack import AsyncExitStackMiddleware
from starlette.types import ASGIApp

from api import deps, openapi
from api.dispatch import Dispatch
from api.edge import Edge
from api.presenters import bare
from karma.core import secrets
from karma.core.health import APP, VERSION

ROUTES: tuple[str, ...] = ("auth", "users", "api_keys", "devices", "runs", "billing", "health", "realtime")
"""The modules of `routes/` that the app serves; each has a `router`. Order does not matter."""


class Api(FastAPI):
    """FastAPI with one layer of middleware."""

    def build_middleware_stack(self) -> ASGIApp:
        """Put the edge where FastAPI puts its error handlers; the exit stack is what its routes insist on."""
        return Edge(AsyncExitStackMiddleware(Dispatch(self.routes)), clock=deps.clock(), origin_secrets=_origin_secrets)

    def openapi(self) -> dict[str, object]:
        """Describe every route, with the errors that the edge may answer."""
        if not self.openapi_schema:
            self.openapi_schema = openapi.document(self)
        return self.openapi_schema


def build() -> Api:
    """Make the application."""
    app = Api(title=APP, version=VERSION, redirect_slashes=False, openapi_url="/openapi.json")
    app.add_api_route("/", root, methods=["GET"], tags=["about"], include_in_schema=True)
    for name in ROUTES:
        module = f"api.routes.{name}"
        if importlib.util.find_spec(module) is not None:
            _mount(app, importlib.import_module(module))
    return app


async def root() -> object:
    """Say what this is and where its description is."""
    return bare({"app": APP, "version": VERSION, "docs": "/docs", "openapi": "/openapi.json"})


def _mount(app: FastAPI, module: object) -> None:
    for name in ("router", "agio"):
        router = getattr(module, name, None)
        if isinstance(router, APIRouter):
            app.router.routes.extend(router.routes)


def _origin_secrets() -> tuple[str, ...]:
    return secrets.strings(deps.settings().origin_secret_arn, "secrets")
