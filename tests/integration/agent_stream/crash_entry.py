"""The functions of the stream as processes that a crash test can end: one request, or one run to go on with, each."""

import asyncio
from typing import Any

from agent_stream import execution, services
from agent_stream.app import app
from karma.integrations.anthropic import load_sdk
from tests.support.asgi import exchange

load_sdk()


def serve(event: dict[str, Any], context: object) -> dict[str, Any]:
    """Answer the request `{"headers": ..., "body": ...}` to `POST /api/agent`."""
    request = exchange("POST", "/api/agent", body=event["body"], headers=event["headers"])

    async def and_close() -> None:
        try:
            await request.run(app)
        finally:
            await services.model().close()

    asyncio.run(and_close())
    return {"status": request.status, "data": request.data.decode()}


def execute(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Go on with the run that a message names."""
    return execution.lambda_handler(event, context)
