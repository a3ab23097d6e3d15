"""Routes are found by path and method."""

from __future__ import annotations

import asyncio
import re
from collections.abc import MutableMapping
from typing import Any

import pytest
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from agent_stream.app import ROUTES
from api.app import build
from karma.core.errors import MethodNotAllowed, NotFound
from karma.http.dispatch import Dispatch
from karma.http.edge import address_of
from karma.http.routing import Route as OwnRoute
from karma.identity.limits import RULES


def route(router: APIRouter, path: str, *methods: str) -> None:
    async def endpoint(request: Request) -> Response:
        return PlainTextResponse(f"{path} {dict(request.path_params)}")

    router.add_route(path, endpoint, methods=list(methods))


@pytest.fixture
def dispatch() -> Dispatch:
    router = APIRouter()
    route(router, "/api/v1/things/{thing_id}", "GET", "DELETE")
    route(router, "/api/v1/things/search", "POST")
    route(router, "/api/v1/things/newest", "GET")
    route(router, "/api/v1/things/{thing_id}/parts/{part}", "GET")
    route(router, "/{name}", "GET")
    return Dispatch(router.routes, admit=lambda _scope, _limit: None)


def ask(dispatch: Dispatch, method: str, path: str) -> str:
    said = b""

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: MutableMapping[str, Any]) -> None:
        nonlocal said
        said += message.get("body", b"")

    scope = {"type": "http", "method": method, "path": path, "headers": [], "query_string": b""}
    asyncio.run(dispatch(scope, receive, send))
    return said.decode()


def test_a_fixed_path_wins_over_a_parameter(dispatch: Dispatch) -> None:
    assert ask(dispatch, "GET", "/api/v1/things/newest") == "/api/v1/things/newest {}"
    assert ask(dispatch, "GET", "/api/v1/things/oldest") == "/api/v1/things/{thing_id} {'thing_id': 'oldest'}"


def test_a_parameter_takes_the_methods_that_the_fixed_path_lacks(dispatch: Dispatch) -> None:
    assert ask(dispatch, "DELETE", "/api/v1/things/search") == "/api/v1/things/{thing_id} {'thing_id': 'search'}"


def test_several_parameters_are_read(dispatch: Dispatch) -> None:
    assert "{'thing_id': '1', 'part': 'a b'}" in ask(dispatch, "GET", "/api/v1/things/1/parts/a b")
    assert ask(dispatch, "GET", "/short") == "/{name} {'name': 'short'}"


def test_allow_names_the_methods_of_every_route_with_the_path(dispatch: Dispatch) -> None:
    with pytest.raises(MethodNotAllowed) as caught:
        ask(dispatch, "PUT", "/api/v1/things/search")
    assert caught.value.headers == {"Allow": "DELETE, GET, HEAD, POST"}


@pytest.mark.fault("F-26g")
def test_every_route_names_what_counts_it() -> None:
    assert [each for each in build().router.routes if not isinstance(each, OwnRoute) or each.limit not in RULES] == []


@pytest.mark.fault("F-24p")
@pytest.mark.parametrize("end", ["\n", "\r", "\u2028", "/", " "])
def test_a_path_is_matched_whole_on_every_route(end: str) -> None:
    def refuse(scope: MutableMapping[str, Any], _limit: str) -> None:
        raise PermissionError(scope["route"].path)

    routes = build().router.routes
    served = Dispatch(routes, admit=refuse)
    found = 0
    for each in routes:
        assert isinstance(each, Route)
        if each.path.endswith("}") or each.path == "/":
            continue  # the parameter's own form judges it
        found += 1
        path = re.sub(r"{[a-z_]+}", "x", each.path)
        with pytest.raises((NotFound, MethodNotAllowed, PermissionError)) as caught:
            ask(served, min(each.methods or ()), path + end)
        # Where the last part is another route's parameter, that one's own form judges it.
        assert not isinstance(caught.value, PermissionError) or str(caught.value).endswith("}"), each.path
    assert found > 80
    for one in ROUTES:
        path = re.sub(r"{[a-z_]+}", "x", one.path)
        assert one.match(path) is not None
        assert one.match(path + end) is None


@pytest.mark.fault("F-10d")
def test_head_finds_what_get_finds() -> None:
    async def endpoint() -> Response:
        return PlainTextResponse("found")

    dispatch = Dispatch(
        [OwnRoute(path, endpoint, methods=[method]) for path, method in (("/a", "GET"), ("/a", "PUT"), ("/b", "POST"))],
        admit=lambda _scope, _limit: None,
    )
    assert ask(dispatch, "HEAD", "/a") == ask(dispatch, "GET", "/a") == "found"
    for path, allowed in (("/a", "GET, HEAD, PUT"), ("/b", "POST")):
        with pytest.raises(MethodNotAllowed) as caught:
            ask(dispatch, "DELETE", path)
        assert caught.value.headers == {"Allow": allowed}
    with pytest.raises(MethodNotAllowed):
        ask(dispatch, "HEAD", "/b")


@pytest.mark.parametrize("path", ["", "/", "/api/v1/things/", "/api/v1/things/1/parts", "//", "/api/v1/things/a/b/c/d"])
def test_another_path_is_not_found(dispatch: Dispatch, path: str) -> None:
    with pytest.raises(NotFound):
        ask(dispatch, "GET", path)


@pytest.mark.req("R-K-47")
class TestTheCallersAddress:
    HEADERS = ((b"cloudfront-viewer-address", b"2001:db8::7:443"),)

    def test_is_what_the_gateway_saw(self) -> None:
        assert address_of({"client": ("203.0.113.7", 0), "headers": self.HEADERS}) == "203.0.113.7"

    @pytest.mark.parametrize(
        ("viewer", "address"), [(b"198.51.100.4:46532", "198.51.100.4"), (b"2001:db8::7:443", "2001:db8::7")]
    )
    def test_is_cloudfront_s_word_once_that_proved_itself(self, viewer: bytes, address: str) -> None:
        scope = {
            "client": ("203.0.113.7", 0),
            "headers": ((b"cloudfront-viewer-address", viewer),),
            "karma.origin_proven": True,
        }
        assert address_of(scope) == address

    def test_may_be_unknown(self) -> None:
        assert address_of({"client": None, "headers": ()}) == ""
