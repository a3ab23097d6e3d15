"""The prelude of a streamed answer: its status, headers and cookies."""

from __future__ import annotations

import json

import pytest

from karma.core.runtime.prelude import encode_prelude


@pytest.mark.req("R-K-39")
def test_an_event_stream_keeps_its_headers_and_leaves_the_connection_to_the_edge() -> None:
    headers = [
        (b"content-type", b"text/event-stream"),
        (b"cache-control", b"no-cache"),
        (b"connection", b"keep-alive"),
        (b"Content-Length", b"10"),
        (b"Transfer-Encoding", b"chunked"),
        (b"keep-alive", b"timeout=5"),
    ]

    assert json.loads(encode_prelude(200, headers)) == {
        "statusCode": 200,
        "headers": {"content-type": "text/event-stream", "cache-control": "no-cache"},
    }


def test_cookies_are_a_list_and_other_repeated_headers_are_joined() -> None:
    headers = [(b"set-cookie", b"a=1, 2"), (b"Vary", b"origin"), (b"Set-Cookie", b"b=2"), (b"vary", b"accept")]

    assert json.loads(encode_prelude(302, headers)) == {
        "statusCode": 302,
        "headers": {"vary": "origin, accept"},
        "cookies": ["a=1, 2", "b=2"],
    }


@pytest.mark.parametrize("value", [b"a\r\nset-cookie: b=1", b"a\nb", b"\0" * 8])
def test_a_header_that_would_end_itself_is_refused(value: bytes) -> None:
    with pytest.raises(ValueError, match="x-odd"):
        encode_prelude(200, [(b"x-odd", value)])
