"""Entry of the API function: HTTP API events, payload 2.0, route `$default` (infra/stacks/app)."""

from __future__ import annotations

import gc

gc.disable()  # nothing that is made below becomes garbage: collecting while importing is 8-30 % of a cold start

from typing import Any  # noqa: E402

from mangum import Mangum  # noqa: E402

from api.app import build  # noqa: E402

app = build()
_serve = Mangum(app, lifespan="off")

gc.freeze()
gc.enable()


def lambda_handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Serve one request."""
    return _serve(event, context)
