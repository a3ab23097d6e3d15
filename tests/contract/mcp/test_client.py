"""Our client against the official server, over real HTTP: each revision, answers in JSON and in events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from karma.integrations.mcp import McpClient
from karma.mcp.domain import HANDSHAKE, MODERN, Listing, McpEndpoint, McpErrorCode, McpFailed
from karma.mcp.ports import CallOutcome
from tests.support.mcp_server import HEADERS, TOKEN, Seen, serving

Served = tuple[str, Seen, str]
"""Address, what it sees, and which kind of server it is."""


@pytest.fixture(
    scope="module",
    params=["modern-events", "modern-json", "before-events", "before-json", "before-resumable"],
)
def served(request: pytest.FixtureRequest) -> Iterator[Served]:
    kind: str = request.param
    is_modern, json_response = kind.startswith("modern"), kind.endswith("json")
    with serving(is_modern=is_modern, json_response=json_response, is_resumable="resumable" in kind) as (url, seen):
        yield url, seen, kind


@asynccontextmanager
async def client() -> AsyncIterator[McpClient]:
    made = McpClient(is_allowed=lambda _: True)
    try:
        yield made
    finally:
        await made.close()


def endpoint(url: str, **more: Any) -> McpEndpoint:
    return McpEndpoint(
        url=url, headers=HEADERS, **{"timeout_s": 10, "session_of": ("user", "server", "thread"), **more}
    )


async def call(url: str, name: str, arguments: dict[str, Any], **more: Any) -> CallOutcome:
    async with client() as asking:
        listing = await asking.list_tools(endpoint(url), server="w")
        tool = next(each for each in listing.tools if each.name == name)
        return await asking.call(endpoint(url, **more), tool, arguments, version=listing.version)


async def listed(url: str) -> Listing:
    async with client() as asking:
        return await asking.list_tools(endpoint(url), server="w")


@pytest.mark.fault("F-29a")
def test_the_revision_is_found_and_all_tools_are_listed(served: Served) -> None:
    url, _, kind = served
    listing = asyncio.run(listed(url))
    assert listing.version == (MODERN if kind.startswith("modern") else HANDSHAKE[0])
    assert [each.name for each in listing.tools if each.is_repeatable] == ["weather", "echo", "advance"]
    assert {each.name for each in listing.tools} >= {"order", "fail", "told", "wait", "large", "ask"}
    weather = listing.tools[0]
    assert (weather.description, weather.schema["required"]) == ("Tell the weather of a city.", ["city"])
    assert listing.left_out == ()
    assert (listing.fresh_ms is None) == (listing.version != MODERN)


@pytest.mark.parametrize(
    ("name", "arguments", "value"),
    [
        ("weather", {"city": "Zürich"}, {"city": "Zürich", "degrees": 21}),
        ("echo", {"text": "line\nline \u2028 😀"}, "line\nline \u2028 😀"),
        ("order", {"item": "tea"}, "ordered tea"),
        ("told", {"steps": 3}, "done"),
        ("large", {"characters": 300_000}, "x" * 300_000),
    ],
)
def test_a_call_gives_what_the_tool_says(served: Served, name: str, arguments: dict[str, Any], value: object) -> None:
    assert asyncio.run(call(served[0], name, arguments)) == CallOutcome(value, is_error=False)


def test_what_a_tool_calls_an_error_is_a_result(served: Served) -> None:
    for name, arguments in (("fail", {"why": "no"}), ("echo", {"text": 5})):
        outcome = asyncio.run(call(served[0], name, arguments))
        assert outcome.is_error
        assert "Error executing tool" in str(outcome.value)


def test_a_question_is_told_and_not_answered(served: Served) -> None:
    with pytest.raises(McpFailed) as failed:
        asyncio.run(call(served[0], "ask", {}))
    # One from before that answers in JSON has no stream in which to ask; it finds that out before it asks who can.
    assert failed.value.code is (McpErrorCode.FAILED if served[2] == "before-json" else McpErrorCode.INPUT_REQUIRED)
    assert "elicitation" in failed.value.message


def test_a_slow_tool_ends_in_time_and_a_large_result_is_refused(served: Served) -> None:
    for name, arguments, more, code in (
        ("wait", {"seconds": 30}, {"timeout_s": 0.5}, McpErrorCode.TIMED_OUT),
        ("large", {"characters": 3_000}, {"max_result_bytes": 2_000}, McpErrorCode.TOO_LARGE),
        ("large", {"characters": 2_000_000}, {}, McpErrorCode.TOO_LARGE),
    ):
        with pytest.raises(McpFailed) as failed:
            asyncio.run(call(served[0], name, arguments, **more))
        assert failed.value.code is code


@pytest.mark.fault("F-29ae")
@pytest.mark.parametrize("how", ["cancelled", "timed out"])
@pytest.mark.parametrize("kind", ["modern", "before", "before-json", "before-resumable"])
def test_a_server_is_told_of_a_call_that_is_given_up(kind: str, how: str) -> None:
    async def given_up(url: str) -> None:
        patience_s = 0.5 if how == "timed out" else 10
        async with client() as asking:
            listing = await asking.list_tools(endpoint(url), server="w")
            wait = next(each for each in listing.tools if each.name == "wait")
            at = endpoint(url, timeout_s=patience_s)
            waiting = asyncio.create_task(asking.call(at, wait, {"seconds": 30}, version=listing.version))
            if how == "cancelled":
                await asyncio.sleep(0.5)
                waiting.cancel()
            with pytest.raises(asyncio.CancelledError if how == "cancelled" else McpFailed):
                await waiting

    with serving(is_modern=kind == "modern", json_response="json" in kind, is_resumable="resumable" in kind) as (
        url,
        seen,
    ):
        asyncio.run(given_up(url))
        assert seen.cancelled.wait(5)


def test_who_has_no_right_header_is_told_of_oauth(served: Served) -> None:
    async def without() -> None:
        async with client() as asking:
            await asking.list_tools(McpEndpoint(url=served[0], headers={"Authorization": "Bearer wrong"}), server="w")

    with pytest.raises(McpFailed, match="OAuth") as failed:
        asyncio.run(without())
    assert failed.value.code is McpErrorCode.UNAUTHORIZED
    assert "wrong" not in failed.value.message


def sessions_of(seen: Seen) -> set[str]:
    return {each["mcp-session-id"] for each in seen.headers if "mcp-session-id" in each}


@pytest.mark.fault("F-29b")
@pytest.mark.parametrize("loses_by_400", [False, True], ids=["404", "400"])
def test_calls_of_one_process_share_a_session_and_begin_another_when_it_is_over(loses_by_400: bool) -> None:
    async def calls(url: str, seen: Seen) -> None:
        async with client() as asking:
            listing = await asking.list_tools(endpoint(url), server="w")
            echo = next(each for each in listing.tools if each.name == "echo")
            for _ in range(3):
                await asking.call(endpoint(url), echo, {"text": "a"}, version=listing.version)
            assert len(sessions_of(seen)) == 1
            for key, dialect in asking._sessions._kept.items():
                asking._sessions._kept[key] = type(dialect)(dialect.version, "0" * 32, dialect.until)
            assert (await asking.call(endpoint(url), echo, {"text": "b"}, version=listing.version)).value == "b"
            assert len(sessions_of(seen)) == 3

    with serving(is_modern=False, loses_by_400=loses_by_400) as (url, seen):
        asyncio.run(calls(url, seen))


@pytest.mark.fault("F-29c")
@pytest.mark.parametrize("is_lost", [False, True], ids=["none yet", "one that is over"])
def test_calls_at_once_begin_one_session(is_lost: bool) -> None:
    async def calls(url: str, seen: Seen) -> None:
        async with client() as asking:
            listing = await asking.list_tools(endpoint(url, session_of=()), server="w")
            echo = next(each for each in listing.tools if each.name == "echo")
            if is_lost:
                await asking.call(endpoint(url), echo, {"text": "a"}, version=listing.version)
                for key, dialect in asking._sessions._kept.items():
                    asking._sessions._kept[key] = type(dialect)(dialect.version, "0" * 32, dialect.until)
            seen.headers.clear()
            asked = (asking.call(endpoint(url), echo, {"text": f"{n}"}, version=listing.version) for n in range(8))
            assert [each.value for each in await asyncio.gather(*asked)] == [f"{n}" for n in range(8)]
            assert len(sessions_of(seen) - {"0" * 32}) == 1

    with serving(is_modern=False) as (url, seen):
        asyncio.run(calls(url, seen))


@pytest.mark.fault("F-29i")
def test_a_stream_that_the_server_leaves_is_taken_up_and_the_call_made_once() -> None:
    with serving(is_modern=False, is_resumable=True) as (url, seen):
        assert asyncio.run(call(url, "leave", {"seconds": 0.5})).value == "worked"
        assert seen.calls == ["leave"]
        assert [each["last-event-id"] for each in seen.headers if "last-event-id" in each]


def test_no_header_is_in_a_text_that_shows_an_endpoint() -> None:
    assert TOKEN not in repr(endpoint("https://example.com/mcp"))
