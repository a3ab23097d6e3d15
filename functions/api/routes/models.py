from __future__ import annotations

from typing import Annotated

from api.services import configuration
from api.services.process import clock, settings
from karma.configuration.answers import ModelListData, model_view
from karma.http.access import permit
from karma.http.openapi import answers
from karma.http.presenters import Answer, ok
from karma.http.routing import Router
from karma.identity.domain import Caller

router = Router("models")

Reader = Annotated[Caller, permit("config:read")]


@router.get("/llm/models", responses=answers())
async def list_models(_: Reader) -> Answer[ModelListData]:
    """List the models that are configured and enabled, with what they cost now."""
    now, default = clock().now(), settings().model_id
    found = [model_view(each, default=default, at=now) for each in configuration.current().models()]
    return ok({"total": len(found), "models": found})
