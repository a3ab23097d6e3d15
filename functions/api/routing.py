"""How a routes module makes its router: `router = Router("devices")`, paths without the prefix."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter

from api.bodies import with_body

PREFIX = "/api/v1"


class Router(APIRouter):
    """A router whose routes carry their whole path and read their bodies by api.bodies.

    The app takes the routes as they are: FastAPI's include_router would match each request twice.
    """

    def __init__(self, tag: str, *, prefix: str = PREFIX) -> None:
        super().__init__(prefix=prefix, tags=[tag])

    def add_api_route(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        """Add a route; what FastAPI's decorators end in."""
        super().add_api_route(path, with_body(endpoint), **options)
