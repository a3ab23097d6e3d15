"""Requests run without an event loop as long as they do not wait."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from contextvars import ContextVar
from typing import Any, get_args

import pytest
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from karma.http.access import RequestSource
from karma.http.edge import REQUEST_ID
from karma.http.gateway import AnswerTooLarge, Gateway, complete
from karma.http.headers import text_of

seen: ContextVar[str] = ContextVar("seen", default="nothing")


def event(path: str = "/", **more: Any) -> dict[str, Any]:
    http = {"method": "POST", "path": path, "sourceIp": "203.0.113.7"}
    return {"version": "2.0", "headers": {}, "requestContext": {"http": http}, **more}


async def has_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


class TestARequest:
    def test_that_does_not_wait_runs_without_an_event_loop(self) -> None:
        loops: list[bool] = []

        async def request() -> None:
            loops.append(await has_a_loop())

        complete(request())
        assert loops == [False]

    def test_that_waits_goes_on_as_a_task_of_a_loop(self) -> None:
        said: list[object] = []

        async def request() -> None:
            token = seen.set("before")
            await asyncio.sleep(0)
            said.append(asyncio.current_task() is not None)
            async with asyncio.timeout(5):
                said.append(await asyncio.to_thread(seen.get))
            seen.reset(token)  # refused in another context than that of `set`

        complete(request())
        assert said == [True, "before"]

    def test_leaves_nothing_of_its_context_behind(self) -> None:
        async def request() -> None:
            seen.set("inside")

        complete(request())
        assert seen.get() == "nothing"

    @pytest.mark.parametrize("waits", [False, True])
    def test_raises_what_it_raises(self, waits: bool) -> None:
        async def request() -> None:
            if waits:
                await asyncio.sleep(0)
            raise LookupError("lost")

        with pytest.raises(LookupError, match="lost"):
            complete(request())

    def test_that_asks_for_a_loop_before_it_waits_is_told_so(self) -> None:
        async def request() -> None:
            await asyncio.sleep(1)

        with pytest.raises(RuntimeError, match="no running event loop"):
            complete(request())


class TestAnEvent:
    @pytest.mark.parametrize("waits", [False, True])
    def test_is_served_by_the_app(self, waits: bool) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            if waits:
                await asyncio.sleep(0)
            request = await receive()
            headers = [(b"content-type", b"application/json"), (b"set-cookie", b"a=b")]
            await send({"type": "http.response.start", "status": 201, "headers": headers})
            await send({"type": "http.response.body", "body": scope["path"].encode() + request["body"]})

        assert Gateway(app)(event("/caf%C3%A9", body="aGk=", isBase64Encoded=True), None) == {
            "statusCode": 201,
            "headers": {"content-type": "application/json"},
            "cookies": ["a=b"],
            "body": "/caféhi",
            "isBase64Encoded": False,
        }

    @pytest.mark.fault("F-24u")
    @pytest.mark.parametrize("text", ["B\u00fcro/1.0", "\u65e5\u672c", "\U0001f4bb", "plain/1.0"])
    def test_says_who_asks_in_the_text_that_was_sent(self, text: str) -> None:
        told: list[str] = []
        source = get_args(RequestSource)[1].dependency

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            scope[REQUEST_ID] = "r1"
            told.append(str((await source(Request(scope))).user_agent))
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body", "body": b""})

        Gateway(app)(event(headers={"User-Agent": text}), None)
        assert told == [text]
        assert text_of("B\u00fcro") == "B\u00fcro"
        assert text_of("\u65e5") == "\u65e5"

    def test_may_have_no_headers_and_text_that_is_not_unicode(self) -> None:
        scopes: list[MutableMapping[str, Any]] = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            scopes.append(scope)
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body", "body": b""})

        given = event(headers={"X-Odd": "\ud800"}, cookies=["a=1", "b=2"], rawQueryString="q=1")
        assert Gateway(app)(given, None)["statusCode"] == 204
        assert scopes[0]["headers"] == [[b"x-odd", b"?"], [b"cookie", b"a=1; b=2"]]
        assert scopes[0]["query_string"] == b"q=1"
        assert Gateway(app)(event() | {"headers": None}, None)["statusCode"] == 204

    @pytest.mark.fault("F-24j")
    def test_whose_answer_a_function_may_not_give_fails_and_names_the_route(self) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"x" * 7_000_000})

        with pytest.raises(AnswerTooLarge, match=r"^POST /things: 7000\d\d\d bytes of 6291556$"):
            Gateway(app)(event("/things"), None)


class TestAnExchange:
    def test_whoever_waits_for_the_end_of_the_request_hears_of_it(self) -> None:
        heard: list[str] = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await asyncio.sleep(0)
            heard.append((await receive())["type"])

            async def listen() -> None:
                heard.append((await receive())["type"])

            listening = [asyncio.create_task(listen()) for _ in range(2)]
            await send({"type": "http.response.start", "status": 200, "headers": []})
            for part, more in ((b"a", True), (b"b", False)):
                await asyncio.sleep(0)
                assert heard == ["http.request"]
                await send({"type": "http.response.body", "body": part, "more_body": more})
            await asyncio.gather(*listening)
            heard.append((await receive())["type"])

        assert Gateway(app)(event(), None)["body"] == "ab"
        assert heard == ["http.request", *["http.disconnect"] * 3]

    @pytest.mark.parametrize(
        "sent",
        [
            [{"type": "http.response.body", "body": b"x"}],
            [{"type": "http.response.start", "status": 200}, {"type": "http.response.start", "status": 200}],
        ],
    )
    def test_an_answer_out_of_order_is_an_error_of_ours(
        self, sent: list[dict[str, Any]], caplog: pytest.LogCaptureFixture
    ) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            for message in sent:
                await send(message)

        answer = Gateway(app)(event(), None)
        assert (answer["statusCode"], answer["body"]) == (500, "Internal Server Error")
        assert "Unexpected http.response" in caplog.text

    def test_what_follows_an_answer_does_not_change_it(self, caplog: pytest.LogCaptureFixture) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await send({"type": "http.response.start", "status": 200})
            await send({"type": "http.response.body", "body": b"x"})
            await send({"type": "http.response.body", "body": b"y"})

        answer = Gateway(app)(event(), None)
        assert (answer["statusCode"], answer["body"]) == (200, "x")
        assert "Unexpected http.response.body" in caplog.text
