"""Arguments of routes are read from path, query, headers and dependencies."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated, Any
from urllib.parse import quote

import pytest
from fastapi import BackgroundTasks, Cookie, Depends, Header, Query, Request
from fastapi.exceptions import RequestValidationError
from starlette.datastructures import QueryParams
from starlette.responses import Response

from karma.http.routing import Route

order: list[str] = []


async def known(request: Request) -> str:
    order.append("known")
    return request.headers.get("authorization", "nobody")


async def listing(
    request: Request,
    thing: int,
    caller: Annotated[str, Depends(known)],
    needed: Annotated[str, Query()],
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    from_: Annotated[str | None, Query(alias="from")] = None,
    if_match: Annotated[str | None, Header(max_length=8)] = None,
) -> Response:
    return Response(f"{request.method} {thing} {caller} {needed} {limit} {from_} {if_match}")


def ask(query: str = "", *, thing: str = "7", **headers: str) -> str:
    said = b""

    async def send(message: Any) -> None:
        nonlocal said
        said += message.get("body", b"")

    async def receive() -> Any:
        raise AssertionError("nobody reads the body")

    scope = {
        "type": "http",
        "method": "GET",
        "path": f"/{thing}",
        "path_params": {"thing": thing},
        "query_string": query.encode(),
        "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()],
    }
    asyncio.run(Route("/{thing}", listing, methods=["GET"]).app(scope, receive, send))  # type: ignore[arg-type]
    return said.decode()


def refused(query: str = "", **given: str) -> list[tuple[Any, ...]]:
    with pytest.raises(RequestValidationError) as caught:
        ask(query, **given)
    return [(error["type"], *error["loc"]) for error in caught.value.errors()]


def test_arguments_come_from_path_query_header_and_dependencies() -> None:
    answer = ask("needed=a+b&limit=5&from=x", if_match='"4"', authorization="ada")
    assert answer == 'GET 7 ada a b 5 x "4"'


def test_what_is_not_given_has_its_default() -> None:
    assert ask("needed=") == "GET 7 nobody  20 None None"


def test_everything_wrong_is_named_at_once() -> None:
    assert refused("limit=0", thing="x", if_match="123456789") == [
        ("int_parsing", "path", "thing"),
        ("missing", "query", "needed"),
        ("greater_than_equal", "query", "limit"),
        ("string_too_long", "header", "if-match"),
    ]


@pytest.mark.fault("F-10b")
@pytest.mark.parametrize("query", ["other=1", "other=", "other", "Limit=3", "limit%20=3", "from_=x", "%00=", "=1"])
def test_a_query_parameter_that_is_not_declared_is_named(query: str) -> None:
    name = next(iter(QueryParams(query)))
    with pytest.raises(RequestValidationError) as caught:
        ask(f"needed=&{query}")
    assert [(error["loc"], error["msg"]) for error in caught.value.errors()] == [
        (("query", name), "unknown query parameter; this route takes: from, limit, needed")
    ]


@pytest.mark.fault("F-10c")
@pytest.mark.parametrize(
    "query", ["needed=a&needed=a", "needed=&limit=1&limit=2", "needed=&from=x&needed=&from=", "limit=x&limit"]
)
def test_a_query_parameter_that_is_given_twice_is_named(query: str) -> None:
    names = [each.partition("=")[0] for each in query.split("&")]
    found = refused(query)
    assert {name for kind, _, name in found if kind == "repeated_parameter"} == {
        name for name in names if names.count(name) > 1
    }


@pytest.mark.fault("F-10b")
def test_of_many_unknown_parameters_a_few_are_named() -> None:
    found = refused("needed=&" + "y=&" * 50 + "&".join(f"{n}{'x' * 200}=1" for n in range(50)))
    assert [name for _, _, name in found] == ["y", *(f"{n}{'x' * 64}"[:64] for n in range(19))]


def test_a_query_that_somebody_else_writes_may_have_more() -> None:
    arguments = Route("/{thing}", listing, methods=["GET"], takes_any_query=True).arguments
    known = {"type": "http", "method": "GET", "path_params": {"thing": "7"}, "headers": []}
    scope = {**known, "query_string": b"needed=&iss=x"}
    assert asyncio.run(arguments.of(Request(scope)))["needed"] == ""
    with pytest.raises(RequestValidationError):
        asyncio.run(arguments.of(Request({**scope, "query_string": b"needed=a&iss=x&iss=y&needed=b"})))


def test_dependencies_come_first() -> None:
    order.clear()
    refused()
    assert order == ["known"]


async def with_cookie(value: Annotated[str, Cookie()]) -> Response:
    return Response(value)


async def with_tasks(tasks: BackgroundTasks) -> Response:
    return Response(str(tasks))


async def with_nested(caller: Annotated[Response, Depends(listing)]) -> Response:
    return caller


def blocking() -> Response:
    return Response()


@pytest.mark.parametrize("endpoint", [with_cookie, with_tasks, with_nested, blocking])
def test_what_routes_do_not_serve_is_refused(endpoint: Callable[..., Any]) -> None:
    with pytest.raises(TypeError):
        Route("/{thing}", endpoint, methods=["GET"]).arguments  # noqa: B018  made when asked for


@pytest.mark.fault("F-24s")
@pytest.mark.parametrize("written", ["1_0", "+5", "5.0", " 5", "5 ", "5\n", "\u0665", "1e1", "0x5", "", "-"])
def test_a_whole_number_is_written_with_digits_alone(written: str) -> None:
    assert refused(f"needed=x&limit={quote(written)}") == [("int_parsing", "query", "limit")]
    assert ask("needed=x&limit=05") == ask("needed=x&limit=5")
