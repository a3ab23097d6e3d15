"""Every error class of the model's SDK and of its transport ends a run with a documented code."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from types import ModuleType, SimpleNamespace
from typing import Any

import anthropic
import httpx2
import pytest

from karma.integrations.anthropic import AnthropicModel
from karma.integrations.anthropic_errors import meaning_of
from karma.models.domain import ModelErrorCode, Target
from karma.models.ports import ModelFailed, ModelRequest

pytestmark = pytest.mark.fault("F-09a")

REQUEST = httpx2.Request("POST", "https://127.0.0.1/v1/messages")
BY_STATUS = {
    400: ModelErrorCode.MODEL_REJECTED,
    408: ModelErrorCode.MODEL_TIMEOUT,
    413: ModelErrorCode.CONTEXT_WINDOW_EXCEEDED,
    422: ModelErrorCode.MODEL_REJECTED,
    429: ModelErrorCode.MODEL_RATE_LIMITED,
    504: ModelErrorCode.MODEL_TIMEOUT,
    529: ModelErrorCode.MODEL_OVERLOADED,
}
"""Error code by status; all others: MODEL_UNAVAILABLE."""
OURS = {"UnsupportedProtocol", "InvalidURL"}
"""Transport errors that mean a wrong address of the API, which so cannot be reached."""


def classes_of(module: ModuleType) -> list[Any]:
    found = [each for each in vars(module).values() if inspect.isclass(each) and issubclass(each, Exception)]
    return [each for each in found if each.__module__.startswith(module.__name__.partition(".")[0])]


def made(kind: Any) -> Iterator[tuple[Exception, ModelErrorCode]]:
    """Make what a class can say, with the code that its run ends with."""
    if issubclass(kind, anthropic.APIStatusError):
        own = getattr(kind, "status_code", None)
        for status in [own] if own else [*range(401, 432), 499, *range(500, 530)]:
            response = httpx2.Response(status, request=REQUEST)
            yield kind("m", response=response, body=None), BY_STATUS.get(status, ModelErrorCode.MODEL_UNAVAILABLE)
        return
    known = {"message": "m", "request": REQUEST, "response": httpx2.Response(200, request=REQUEST), "body": None}
    own_init = next(each for each in kind.__mro__ if "__init__" in vars(each))
    parameters = list(inspect.signature(kind).parameters.values()) if inspect.isfunction(own_init.__init__) else []
    needed = {
        each.name: known.get(each.name, "x")
        for each in parameters
        if each.default is each.empty and each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)
    }
    if issubclass(kind, anthropic.APITimeoutError | httpx2.TimeoutException):
        code = ModelErrorCode.MODEL_TIMEOUT
    elif issubclass(kind, anthropic.AnthropicError) or kind.__name__ in OURS:
        code = ModelErrorCode.MODEL_UNAVAILABLE
    else:
        code = ModelErrorCode.MODEL_STREAM_CUT
    yield kind(**needed), code


RAISED = [*dict.fromkeys([*classes_of(anthropic), *classes_of(anthropic._exceptions), *classes_of(httpx2)])]


class Answer:
    """A stream that breaks off before its first byte, or in the middle of an event."""

    def __init__(self, fault: Exception, first: bytes) -> None:
        self.fault, self.first = fault, first

    async def iter_bytes(self) -> AsyncIterator[bytes]:
        if self.first:
            yield self.first
        raise self.fault


async def code_of(model: AnthropicModel) -> object:
    request = ModelRequest(target=Target(model="claude-test"), system=[], messages=[], tools=[], max_tokens=1)
    try:
        async for _ in model.stream(request):
            pass
    except ModelFailed as exc:
        return exc.code
    except Exception as exc:  # noqa: BLE001  whatever it is, the test looks at it
        return exc
    return None


def test_every_class_ends_the_run_with_its_code_wherever_it_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    fault: Exception = Exception()
    where = ""
    monkeypatch.setenv("POWERTOOLS_METRICS_NAMESPACE", "Karma")
    logging.disable()

    @asynccontextmanager
    async def create(**_: Any) -> AsyncIterator[Answer]:
        if where == "opening":
            raise fault
        yield Answer(fault, b'event: message_start\ndata: {"type": "mess' if where == "within an event" else b"")

    def client(**_: Any) -> Any:
        if where == "client":
            raise fault
        return SimpleNamespace(messages=SimpleNamespace(with_streaming_response=SimpleNamespace(create=create)))

    monkeypatch.setattr(anthropic, "AsyncAnthropic", client)
    monkeypatch.setattr(anthropic, "DefaultAsyncHttpxClient", lambda **_: None)

    async def try_all() -> list[str]:
        nonlocal fault, where
        wrong = []
        for where in ("client", "opening", "before the first byte", "within an event"):
            model = AnthropicModel(secret_arn="")
            model._key = "k"
            for kind in RAISED:
                for fault, code in made(kind):
                    found = await code_of(model)
                    if found != code:
                        wrong.append(f"{where}: {fault!r} became {found!r}, not {code}")
        return wrong

    try:
        wrong = asyncio.run(try_all())
    finally:
        logging.disable(logging.NOTSET)
    assert len(RAISED) > 50
    assert wrong == []


def test_what_we_have_done_wrong_ourselves_stays_a_bug() -> None:
    assert meaning_of(KeyError("x")) is None
