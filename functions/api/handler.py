"""Entry of the API function: HTTP API events, payload 2.0, route `$default` (infra/stacks/app)."""

from __future__ import annotations

from karma.core import startup

# isort: split
from typing import Any

from pydantic import BaseModel

from karma.core import aws
from karma.core.imports import absent
from karma.core.records import compile_all
from karma.core.runtime.snapshot import after_restore, before_snapshot

# FastAPI describes OpenAPI with 50 models, of which no request but /openapi.json needs one: built when used.
BaseModel.model_config["defer_build"] = True
with absent("email_validator", "pydantic.v1"):
    from api.app import Application
    from karma.http.gateway import Gateway
del BaseModel.model_config["defer_build"]

_app = Application()
_serve = Gateway(_app.asgi)
before_snapshot(compile_all)  # hooks run from the last to the first
before_snapshot(_app.load_all)
after_restore(aws.reset)

startup.over()


def lambda_handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Serve one request."""
    return _serve(event, context)
