"""The API's own route functions behind stock FastAPI and Mangum, with which its routing and gateway are compared.

Each function is added as FastAPI documents it, with its dependencies, its body as a parameter and its errors by an
exception handler; Mangum adapts the event. Its omissions are to its advantage: no log line of a request, no check
of unknown or repeated parameters, of encodings and depths of bodies, no origin check, no rate limit by network.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

from fastapi import FastAPI, Request
from mangum import Mangum
from starlette.responses import Response

from api import routes
from api.services import process
from karma.core.errors import AppError
from karma.http.envelope import failure
from karma.http.routing import Router
from karma.http.serving import begin


def build() -> Mangum:
    """Make the application of all routes."""
    app = FastAPI(openapi_url=None)
    for found in pkgutil.iter_modules(routes.__path__):
        module = importlib.import_module(f"api.routes.{found.name}")
        for router in (module.__dict__.get("router"), module.__dict__.get("agio")):
            for route in router.routes if isinstance(router, Router) else ():
                app.add_api_route(route.path, route.endpoint, methods=list(route.methods or ()), response_model=None)
                for read_by_functions in ("limit", "idempotent"):
                    setattr(app.routes[-1], read_by_functions, getattr(route, read_by_functions))
    app.add_exception_handler(AppError, _refused)
    return Mangum(app, lifespan="off")


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, AppError)  # noqa: S101  it is registered for these
    body = failure(error, path=request.url.path, request_id="", now_ms=0)
    return Response(body, status_code=error.status, media_type="application/json")


_serve = build()


def lambda_handler(event: dict[str, Any], context: Any) -> Any:
    """Serve one request."""
    begin(process.serving())
    return _serve(event, context)
