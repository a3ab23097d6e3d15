"""Entry of the API function: HTTP API events, payload 2.0, route `$default` (infra/stacks/app)."""

from __future__ import annotations

from karma.core import startup

# isort: split
from typing import Any

from pydantic import BaseModel

from karma.core import aws
from karma.core.imports import absent
from karma.core.runtime.snapshot import after_restore

# FastAPI describes OpenAPI with 50 models, of which no request but /openapi.json needs one: built when used.
BaseModel.model_config["defer_build"] = True
with absent("email_validator", "pydantic.v1"):
    from api.app import build
    from karma.http.gateway import Gateway

    app = build()
del BaseModel.model_config["defer_build"]

_serve = Gateway(app.build_middleware_stack())
after_restore(aws.reset)

startup.over()


def lambda_handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Serve one request."""
    return _serve(event, context)
