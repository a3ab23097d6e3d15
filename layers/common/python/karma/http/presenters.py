"""Answers as bytes, which routes return, so that FastAPI neither validates nor encodes a second time.

A route's return type says what it answers, and `make lint` that it does; karma.http.openapi reads the same type:

    async def get_task(...) -> Answer[TaskData]:
        return ok({"task": task_view(task)})
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from typing import Generic, TypeVar

from starlette.responses import Response

from karma.core import freeform
from karma.core.clock import SystemClock, epoch_ms
from karma.http import envelope as http

_CLOCK = SystemClock()
_JSON = "application/json"

style: ContextVar[http.Style] = ContextVar("style", default="envelope")
"""Style of the request's answer, chosen by the prefix of its path; set by the edge."""


_Data = TypeVar("_Data")


class Answer(Response, Generic[_Data]):
    """A response whose data have a shape: in the envelope under /api/v1, bare under /api."""


class BareAnswer(Answer[_Data]):
    """A response that is never in the envelope."""


def ok(data: _Data, status: int = 200, *, headers: Mapping[str, str] | None = None) -> Answer[_Data]:
    """Answer with data (what `karma.core.freeform.render` writes): in the envelope under /api/v1, bare under /api."""
    if style.get() == "agio":
        return bare(data, status, headers=headers)
    body = http.success(data, now_ms=epoch_ms(_CLOCK.now()))
    return Answer(body, status_code=status, headers=headers, media_type=_JSON)


def bare(data: _Data, status: int = 200, *, headers: Mapping[str, str] | None = None) -> BareAnswer[_Data]:
    """Answer with data as it is: health, OpenAPI, and everything of Agio's."""
    return BareAnswer(freeform.render(data), status_code=status, headers=headers, media_type=_JSON)


def no_content() -> Response:
    """Answer 204."""
    return Response(status_code=204)
