"""Replies of the Runtime API are read however they are cut."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from karma.core.runtime.wire import Reply, ReplyParser, RuntimeApiUnreachable, chunk, last_chunk
from tests.fixtures.runtime.record.raw_runtime_api import parse_request

SIZED = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nLambda-Runtime-Aws-Request-Id: 1\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=1\r\nhel\r\n2\r\nlo\r\n0\r\nX: y\r\n\r\n"


def parse(data: bytes, *, cuts: tuple[int, ...] = ()) -> Reply | None:
    parser = ReplyParser()
    reply = None
    edges = [0, *sorted(cuts), len(data)]
    for start, end in itertools.pairwise(edges):
        if start < end:
            reply = parser.feed(data[start:end])
    return reply


@given(cuts=st.sets(st.integers(0, 90), max_size=12), data=st.sampled_from([SIZED, CHUNKED]))
def test_a_reply_is_the_same_however_it_is_cut(cuts: set[int], data: bytes) -> None:
    reply = parse(data, cuts=tuple(cut for cut in cuts if cut < len(data)))

    assert reply is not None
    assert (reply.status, reply.body, reply.keep_alive) == (200, b"hello", True)


def test_header_names_are_lower_case() -> None:
    reply = parse(SIZED)

    assert reply is not None
    assert reply.headers["lambda-runtime-aws-request-id"] == "1"


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        b"HTTP/1.0 202 Accepted\r\nContent-Length: 0\r\n\r\n",
    ],
)
def test_a_server_that_closes_is_not_kept(data: bytes) -> None:
    reply = parse(data)

    assert reply is not None
    assert not reply.keep_alive


def test_interim_replies_are_skipped() -> None:
    reply = parse(b"HTTP/1.1 100 Continue\r\n\r\n" + SIZED)

    assert reply is not None
    assert reply.status == 200


def test_a_body_without_a_length_ends_with_the_connection() -> None:
    parser = ReplyParser()

    assert parser.feed(b"HTTP/1.0 200 OK\r\n\r\npart") is None
    reply = parser.feed(b"")
    assert reply is not None
    assert (reply.body, reply.keep_alive) == (b"part", False)


def test_no_content_has_no_body() -> None:
    reply = parse(b"HTTP/1.1 204 No Content\r\n\r\n")

    assert reply is not None
    assert reply.body == b""


@pytest.mark.parametrize("data", [b"", b"HTTP/1.1 200", SIZED[:-1], CHUNKED[:-2]])
def test_a_connection_that_ends_early_is_an_error(data: bytes) -> None:
    parser = ReplyParser()
    if data:
        assert parser.feed(data) is None

    with pytest.raises(RuntimeApiUnreachable):
        parser.feed(b"")


def test_another_protocol_is_an_error() -> None:
    with pytest.raises(ValueError, match="not an HTTP/1 response"):
        ReplyParser().feed(b"SSH-2.0 hello\r\n\r\n")


@given(pieces=st.lists(st.binary(min_size=1, max_size=300), max_size=8))
def test_chunks_are_read_back_one_by_one(pieces: list[bytes]) -> None:
    head = b"POST /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"

    request = parse_request(head + b"".join(map(chunk, pieces)) + last_chunk({"A": "1", "B": "2"}))

    assert list(request.chunks) == pieces
    assert request.trailers == {"A": "1", "B": "2"}
