"""Entry of the API function: HTTP API events, payload 2.0, route `$default` (infra/stacks/app)."""

from __future__ import annotations

import gc

gc.disable()  # nothing that is made below becomes garbage; collecting meanwhile is 8-30 % of a cold start

from typing import Any  # noqa: E402

from pydantic import BaseModel  # noqa: E402

from karma.core import aws  # noqa: E402
from karma.core.imports import absent  # noqa: E402
from karma.core.runtime.snapshot import after_restore  # noqa: E402

# FastAPI describes OpenAPI with 50 models, of which no request but /openapi.json needs one: built when used.
BaseModel.model_config["defer_build"] = True
with absent("email_validator", "pydantic.v1"):
    from api.app import build
    from api.gateway import Gateway

    app = build()
del BaseModel.model_config["defer_build"]

_serve = Gateway(app.build_middleware_stack())
after_restore(aws.reset)

gc.freeze()
gc.enable()


def lambda_handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Serve one request."""
    return _serve(event, context)
