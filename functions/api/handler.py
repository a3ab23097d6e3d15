"""Entry of the API function: HTTP API events, payload 2.0, route `$default` (infra/stacks/app)."""

from __future__ import annotations

import gc

gc.disable()  # nothing that is made below becomes garbage; collecting meanwhile is 8-30 % of a cold start

import asyncio  # noqa: E402
from typing import Any  # noqa: E402

from pydantic import BaseModel  # noqa: E402

from karma.core.imports import absent  # noqa: E402

# FastAPI describes OpenAPI with 50 models, of which no request but /openapi.json needs one: built when used.
BaseModel.model_config["defer_build"] = True
with absent("email_validator", "pydantic.v1"):
    from mangum import Mangum

    from api.app import build
    from api.gateway import HttpApiEvent

    app = build()
del BaseModel.model_config["defer_build"]

_serve = Mangum(app, lifespan="off", custom_handlers=[HttpApiEvent])
_loop = asyncio.get_event_loop()  # made by Mangum, which looks it up again for each request

gc.freeze()
gc.enable()


def lambda_handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Serve one request."""
    asyncio.set_event_loop(_loop)  # whoever used asyncio.run meanwhile has left none
    return _serve(event, context)
