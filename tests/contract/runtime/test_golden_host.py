"""Our local host serves what AWS's own client sends, as a function URL would."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest

from tests.contract.runtime.hosting import hosting_replay, read_until_cut
from tests.fixtures.runtime.golden import FOLDER, GoldenCase, golden_cases

CASES = golden_cases()
STREAMED = [case for case in CASES if case.error is None]
BY_NAME = {case.name: case for case in CASES}


def get(recorded: Path, log_file: Path) -> httpx.Response:
    """Return the caller's response to a recording, of the second of two calls to the same worker."""

    async def scenario() -> httpx.Response:
        async with hosting_replay(recorded, log_file) as (host, client):
            await client.get("/")
            response = await client.get("/")
            assert host.workers == 1
            return response

    return asyncio.run(scenario())


@pytest.mark.parametrize("case", STREAMED, ids=lambda case: case.name)
def test_a_recorded_stream_becomes_its_http_response(case: GoldenCase, tmp_path: Path) -> None:
    response = get(FOLDER / f"{case.name}.http", tmp_path / "log")

    assert case.prelude is not None
    assert response.status_code == case.prelude["statusCode"]
    assert response.content == b"".join(case.writes)
    assert {name: response.headers[name] for name in case.prelude["headers"]} == case.prelude["headers"]
    assert response.headers.get_list("set-cookie") == case.prelude.get("cookies", [])
    assert response.headers["x-amzn-requestid"]


def test_an_error_before_the_first_byte_is_a_502(tmp_path: Path) -> None:
    response = get(FOLDER / "error-before-first-byte.http", tmp_path / "log")

    assert response.status_code == 502
    assert response.text == "Internal Server Error"


def test_an_error_after_the_first_byte_cuts_the_connection_and_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> bytes:
        async with (
            hosting_replay(FOLDER / "error-after-first-byte.http", tmp_path / "log") as (_, client),
            client.stream("GET", "/") as response,
        ):
            assert response.status_code == 200
            return await read_until_cut(response)

    assert asyncio.run(scenario()) == b"".join(BY_NAME["error-after-first-byte"].writes)
    assert "HandlerBroke" in caplog.text
    assert "two were sent: €" in caplog.text


class TestChangedRecordings:
    """The same recording with one thing wrong."""

    @staticmethod
    def altered(tmp_path: Path, old: bytes, new: bytes) -> Path:
        raw = BY_NAME["metadata"].raw
        assert old in raw
        path = tmp_path / "altered.http"
        path.write_bytes(raw.replace(old, new))
        return path

    def test_without_its_content_type_the_prelude_is_served_raw(self, tmp_path: Path) -> None:
        line = b"Content-Type: application/vnd.awslambda.http-integration-response\r\n"
        response = get(self.altered(tmp_path, line, b""), tmp_path / "log")

        assert response.status_code == 200
        assert response.headers["content-type"] == "application/octet-stream"
        assert response.content == BY_NAME["metadata"].recorded.body
        assert bytes(8) in response.content

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            (b'{"statusCode":201', b'["statusCode",201'),
            (b'"statusCode":201', b'"statusCode":"x"'),
            (b'"statusCode":201', b'"statusCode":099'),
            (b'"cookies":["a', b'"cookies":{"a'),
            (b'"location":"/api', b'"location":"\\r\\n'),
            (bytes(8), b"\0\0\0\0\0\0\0x"),
        ],
    )
    def test_a_bad_prelude_is_a_502(self, tmp_path: Path, old: bytes, new: bytes) -> None:
        assert len(old) == len(new)

        assert get(self.altered(tmp_path, old, new), tmp_path / "log").status_code == 502


@pytest.mark.parametrize(
    ("payload", "status", "body"),
    [
        (b'{"statusCode":404,"headers":{"x-a":"1"},"cookies":["c=1"],"body":"gone"}', 404, b"gone"),
        (b'{"statusCode":200,"body":"AAH/","isBase64Encoded":true}', 200, b"\x00\x01\xff"),
        (b'{"hello":"world"}', 200, b'{"hello":"world"}'),
        (b'"text"', 200, b'"text"'),
        (b"not json", 502, b"Internal Server Error"),
        (b'{"statusCode":200,"body":"*","isBase64Encoded":true}', 502, b"Internal Server Error"),
        (b'"' + b"x" * 6 * 1024 * 1024 + b'"', 502, b"Internal Server Error"),
    ],
    ids=["proxy", "base64", "object", "string", "not-json", "not-base64", "over-6-mb"],
)
def test_a_buffered_answer_is_served_as_a_function_url_would(
    tmp_path: Path, payload: bytes, status: int, body: bytes
) -> None:
    head = b"POST /2018-06-01/runtime/invocation/x/response HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n"
    recorded = tmp_path / "buffered.http"
    recorded.write_bytes(head % len(payload) + payload)

    response = get(recorded, tmp_path / "log")

    assert (response.status_code, response.content) == (status, body)
