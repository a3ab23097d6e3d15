"""The runtime client against a Runtime API over real sockets."""

from __future__ import annotations

import asyncio
import base64
import json
import os
from collections.abc import Iterator

import pytest

from karma.core.runtime.client import Invocation, RuntimeApi, RuntimeApiRefused
from karma.core.runtime.scope import AsgiApp, Receive, Scope, Send, to_request
from karma.core.runtime.serve import AppNotFound, answer, load_app, serve_forever
from tests.fixtures.runtime.golden import answer_next, url_event
from tests.fixtures.runtime.record.raw_runtime_api import Event, RawRequest, RawRuntimeApi

APPS = "tests.fixtures.runtime.apps"


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("_X_AMZN_TRACE_ID", raising=False)
    yield
    # The client sets it itself, behind the back of monkeypatch.
    os.environ.pop("_X_AMZN_TRACE_ID", None)


def event(request_id: str = "r1", payload: bytes | None = None, **headers: str) -> Event:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Event(
        url_event() if payload is None else payload,
        {"Lambda-Runtime-Aws-Request-Id": request_id, "Lambda-Runtime-Deadline-Ms": "1700000000000", **named},
    )


def serve(target: str, *events: Event) -> RawRuntimeApi:
    """Serve all events, then be told that the environment is over."""
    with RawRuntimeApi(events) as server, pytest.raises(RuntimeApiRefused):
        serve_forever(target, server.address)
    return server


def answer_once(app: AsgiApp, given: Event | None = None) -> RawRequest:
    with RawRuntimeApi([given or event()]) as server:
        asyncio.run(answer_next(app, server.address))
    return next(request for request in server.requests if request.method == "POST")


def body_of(request: RawRequest) -> bytes:
    return request.body.partition(bytes(8))[2]


class TestInvocations:
    def test_each_is_answered_in_turn_over_one_connection(self) -> None:
        server = serve(f"{APPS}:echo", event("r1"), event("r2"), event("r3"))

        assert [request.path.split("/")[-2] for request in server.posts("/response")] == ["r1", "r2", "r3"]
        assert server.connections == 1

    def test_the_streaming_headers_are_sent_and_the_invocation_id_is_echoed(self) -> None:
        server = serve(f"{APPS}:echo", event(Lambda_Runtime_Invocation_Id="inv-7"), event("r2"))

        first, second = server.posts("/response")
        assert first.header("Lambda-Runtime-Function-Response-Mode") == "streaming"
        assert first.header("Content-Type") == "application/vnd.awslambda.http-integration-response"
        assert first.header("Lambda-Runtime-Invocation-Id") == "inv-7"
        assert second.header("Lambda-Runtime-Invocation-Id") == ""

    def test_the_trace_id_is_the_invocations_own(self) -> None:
        server = serve(f"{APPS}:echo", event(Lambda_Runtime_Trace_Id="Root=1-a"), event("r2"))

        seen = [json.loads(body_of(request)) for request in server.posts("/response")]
        assert [each["trace_id"] for each in seen] == ["Root=1-a", ""]

    def test_the_deadline_reaches_the_app(self) -> None:
        server = serve(f"{APPS}:echo", event())

        seen = json.loads(body_of(server.posts("/response")[0]))
        assert seen["extensions"]["karma.deadline"] == {"epoch_ms": 1_700_000_000_000}

    def test_an_event_that_is_not_http_fails_and_the_next_is_served(self) -> None:
        server = serve(f"{APPS}:echo", event("odd", b'{"a": 1}', Lambda_Runtime_Invocation_Id="i"), event("good"))

        (error,) = server.posts("/error")
        assert error.path.endswith("/invocation/odd/error")
        assert error.header("Lambda-Runtime-Function-Error-Type") == "Runtime.UnsupportedEvent"
        assert error.header("Lambda-Runtime-Invocation-Id") == "i"
        assert json.loads(error.body)["errorType"] == "Runtime.UnsupportedEvent"
        assert server.posts("/response")[0].path.endswith("/invocation/good/response")

    def test_a_failed_app_costs_its_own_invocation_only(self, capsys: pytest.CaptureFixture[str]) -> None:
        server = serve(f"{APPS}:broken", event("r1"), event("r2"))

        assert len(server.posts("/response")) == 2
        logged = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
        assert [(line["message"], line["request_id"]) for line in logged] == [
            ("invocation.failed", "r1"),
            ("invocation.failed", "r2"),
        ]

    def test_a_kept_connection_that_the_server_closed_is_opened_again(self) -> None:
        with RawRuntimeApi([event()], end_status=None) as server, pytest.raises(OSError, match=r".*"):
            serve_forever(f"{APPS}:echo", server.address)

        assert len(server.posts("/response")) == 1
        assert server.connections == 2


class TestStreaming:
    def test_each_body_message_is_a_chunk_of_its_own(self) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            for word in (b"one", b"", b"two", b"\0\r\n0\r\n\r\n"):
                await send({"type": "http.response.body", "body": word, "more_body": True})
            await send({"type": "http.response.body", "body": b"three"})

        assert answer_once(app).chunks[2:] == (b"one", b"two", b"\0\r\n0\r\n\r\n", b"three")

    def test_nothing_is_sent_before_the_first_body_message_and_an_empty_one_sends_the_head(self) -> None:
        sent: list[int] = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            sent.append(len(server.posts("/response")))
            await send({"type": "http.response.body", "more_body": True})
            await send({"type": "http.response.body", "body": b"x"})

        with RawRuntimeApi([event()]) as server:
            asyncio.run(answer_next(app, server.address))

        assert sent == [0]
        assert [len(each) for each in server.posts("/response")[0].chunks][1:] == [8, 1]

    def test_concurrent_writers_and_a_cancelled_one_never_break_a_chunk(self) -> None:
        """More than a socket buffer holds, so that writers have to wait in the middle of a chunk."""
        piece = bytes(range(256)) * 8192

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"first", "more_body": True})

            async def write() -> None:
                await send({"type": "http.response.body", "body": piece, "more_body": True})

            writers = [asyncio.create_task(write()) for _ in range(5)]
            await asyncio.sleep(0)
            writers[1].cancel()
            await asyncio.gather(*writers, return_exceptions=True)
            await send({"type": "http.response.body", "body": b"last"})

        chunks = answer_once(app).chunks[2:]
        assert chunks[0] == b"first"
        assert chunks[-1] == b"last"
        assert set(chunks[1:-1]) == {piece}
        assert 4 <= len(chunks[1:-1]) <= 5

    def test_the_loop_goes_on_while_a_write_waits(self) -> None:
        ticks = 0

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            nonlocal ticks

            async def tick() -> None:
                nonlocal ticks
                while True:
                    ticks += 1
                    await asyncio.sleep(0)

            ticking = asyncio.create_task(tick())
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": bytes(32 * 1024 * 1024)})
            ticking.cancel()

        assert len(answer_once(app).body) > 32 * 1024 * 1024
        assert ticks > 1

    def test_the_request_is_received_once_and_the_end_is_a_disconnect(self) -> None:
        received: list[str] = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            received.append((await receive())["type"])
            waiting = asyncio.ensure_future(receive())
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
            await asyncio.sleep(0)
            received.append("waiting" if not waiting.done() else "done")
            await send({"type": "http.response.body"})
            received.append((await waiting)["type"])

        answer_once(app)

        assert received == ["http.request", "waiting", "http.disconnect"]


class TestFailures:
    @staticmethod
    def fault(request: RawRequest) -> dict[str, object]:
        fault = json.loads(base64.b64decode(request.trailers["Lambda-Runtime-Function-Error-Body"]))
        assert isinstance(fault, dict)
        return fault

    def test_before_the_first_byte_there_is_no_prelude(self) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            raise KeyError("x")

        request = answer_once(app)

        assert request.chunks == ()
        assert request.header("Content-Type") == "application/octet-stream"
        assert request.trailers["Lambda-Runtime-Function-Error-Type"] == "KeyError"

    def test_after_the_first_byte_the_error_is_in_the_trailers(self) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"half", "more_body": True})
            raise ValueError("für\r\nX: injected")

        request = answer_once(app)

        assert body_of(request) == b"half"
        assert self.fault(request)["errorMessage"] == "für\r\nX: injected"
        assert set(request.trailers) == {"Lambda-Runtime-Function-Error-Type", "Lambda-Runtime-Function-Error-Body"}

    @pytest.mark.parametrize(
        "messages",
        [
            [],
            [{"type": "http.response.start", "status": 200}],
            [{"type": "http.response.body", "body": b"x"}],
            [{"type": "http.response.start", "status": 200}, {"type": "http.response.start", "status": 200}],
            [{"type": "websocket.accept"}],
        ],
    )
    def test_a_response_that_is_not_asgi_is_an_error(self, messages: list[dict[str, object]]) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            for message in messages:
                await send(message)

        assert answer_once(app).trailers["Lambda-Runtime-Function-Error-Type"] == "ProtocolViolation"

    def test_an_error_behind_the_last_byte_is_logged_and_changes_nothing(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await send({"type": "http.response.start", "status": 200})
            await send({"type": "http.response.body", "body": b"whole"})
            await send({"type": "http.response.body", "body": b"too much"})

        request = answer_once(app)

        assert body_of(request) == b"whole"
        assert request.trailers == {}
        assert "ProtocolViolation" in capsys.readouterr().err

    def test_an_exception_that_cannot_be_shown_is_reported_all_the_same(self) -> None:
        class Größe(Exception):  # noqa: PLC2401 - the name is the case
            def __str__(self) -> str:
                raise RuntimeError

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            raise Größe

        assert answer_once(app).trailers["Lambda-Runtime-Function-Error-Type"] == "Gr\\xf6\\xdfe"

    def test_a_response_that_the_runtime_api_stops_taking_fails_in_the_app(self) -> None:
        """And the process ends: the environment is over."""
        seen: list[str] = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await send({"type": "http.response.start", "status": 200})
            try:
                while True:
                    await send({"type": "http.response.body", "body": bytes(65536), "more_body": True})
            except OSError:
                seen.append("OSError")
                raise

        async def scenario() -> None:
            server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
            port = server.sockets[0].getsockname()[1]
            api, invocation = RuntimeApi(f"127.0.0.1:{port}"), Invocation("r1", url_event(), 0)
            await answer(app, to_request(invocation), api.response(invocation))
            server.close()

        async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(1000)
            writer.transport.abort()

        asyncio.run(scenario())

        assert seen == ["OSError"]

    def test_a_cancelled_app_is_a_failed_one(self) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            raise asyncio.CancelledError

        assert answer_once(app).trailers["Lambda-Runtime-Function-Error-Type"] == "CancelledError"


class TestInit:
    @pytest.mark.parametrize(
        ("target", "error_type"),
        [
            ("no_such_module_here:app", "Runtime.ImportModuleError"),
            (f"{APPS}:missing", "Runtime.HandlerNotFound"),
            (f"{APPS}:NOT_AN_APP", "Runtime.HandlerNotFound"),
            ("app", "Runtime.HandlerNotFound"),
        ],
    )
    def test_an_app_that_cannot_be_imported_ends_the_process(self, target: str, error_type: str) -> None:
        with RawRuntimeApi() as server, pytest.raises(SystemExit) as end:
            serve_forever(target, server.address)

        assert end.value.code == 1
        (request,) = server.requests
        assert request.path == "/2018-06-01/runtime/init/error"
        assert request.header("Lambda-Runtime-Function-Error-Type") == error_type

    def test_a_target_without_an_attribute_is_named(self) -> None:
        with pytest.raises(AppNotFound, match="module:attribute"):
            load_app("agent_stream.app")
