"""The address that serves a path, and the refusal by which the other one names it."""

from __future__ import annotations

import pytest

from karma.http.addresses import STREAM_PATHS, Address, address_of, no_route


@pytest.mark.parametrize("path", STREAM_PATHS)
def test_the_stream_s_paths_are_named_by_the_api_alone(path: str) -> None:
    called = path.replace("*", "r1")
    assert address_of(called) is Address.STREAM
    assert no_route(called, at=Address.API).details == {"served_at": "stream_url"}
    assert no_route(called, at=Address.STREAM).details is None


@pytest.mark.parametrize("path", ["/api/v1/threads", "/api/agents", "/docs", "/docs/static/x.js", "/redoc"])
def test_all_other_paths_under_api_are_named_by_the_stream_alone(path: str) -> None:
    refused = no_route(path, at=Address.STREAM)
    assert (refused.code, refused.status, refused.details) == ("NOT_FOUND", 404, {"served_at": "api_url"})
    assert no_route(path, at=Address.API).details is None


@pytest.mark.parametrize(
    "path", ["", "/", "/apix", "/api", "//api/agent", "/api/agent/", "/api/v1/runs//events", "/api/v1/runs/a/b/events"]
)
def test_what_is_like_a_path_of_the_stream_s_is_none(path: str) -> None:
    assert address_of(path) is not Address.STREAM


@pytest.mark.parametrize("at", list(Address))
@pytest.mark.parametrize("path", ["/https://evil.example", "/api/https://evil.example", "/api/v1/runs/evil/events"])
def test_no_host_and_no_word_of_the_request_is_in_it(path: str, at: Address) -> None:
    refused = no_route(path, at=at)
    assert "evil" not in f"{refused.message} {refused.details}"
    assert "://" not in f"{refused.message} {refused.details}"
