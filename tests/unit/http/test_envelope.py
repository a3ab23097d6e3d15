"""Every answer has the form of its prefix: the envelope, or the one of agio's routes."""

import json

import pytest

from karma.core.errors import NotFound, RateLimited, ValidationFailed
from karma.http.envelope import InternalError, failure, phrase, style_of, success


@pytest.mark.req("R-K-24")
def test_success_is_wrapped() -> None:
    assert json.loads(success({"a": 1}, now_ms=5)) == {"success": True, "data": {"a": 1}, "timestamp": 5}


@pytest.mark.req("R-M-20", "R-A-01")
@pytest.mark.parametrize(
    ("path", "style"),
    [
        ("/api/v1/devices", "envelope"),
        ("/api/runs", "agio"),
        ("/api", "agio"),
        ("/nowhere", "envelope"),
        ("/apix", "envelope"),
    ],
)
def test_the_prefix_chooses_the_presenter(path: str, style: str) -> None:
    assert style_of(path) == style


@pytest.mark.parametrize(("status", "name"), [(200, "OK"), (413, "Content Too Large"), (422, "Unprocessable Content")])
def test_a_status_has_the_name_of_rfc_9110_on_every_python(status: int, name: str) -> None:
    assert phrase(status) == name


def test_a_failure_in_the_envelope_names_code_path_and_request() -> None:
    body = json.loads(failure(NotFound("Device x not found"), path="/api/v1/devices/x", request_id="r", now_ms=5))
    assert body == {
        "success": False,
        "error": {
            "code": "NOT_FOUND",
            "type": "NotFound",
            "message": "Device x not found",
            "details": {},
            "path": "/api/v1/devices/x",
            "request_id": "r",
        },
        "timestamp": 5,
    }


@pytest.mark.req("R-A-38", "R-A-39", "R-A-40")
def test_agio_failures_have_their_own_shape() -> None:
    missing = json.loads(failure(NotFound("Run 'x' not found"), path="/api/runs/x", request_id="r", now_ms=5))
    assert missing == {"error": {"type": "NotFound", "message": "Run 'x' not found", "path": "/api/runs/x"}}
    wrong = json.loads(failure(ValidationFailed.of("limit", "at most 100"), path="/api/runs", request_id="r", now_ms=5))
    assert wrong["error"]["type"] == "ValidationError"
    assert wrong["error"]["message"] == "Request validation failed"
    assert wrong["error"]["details"][0]["field"] == "limit"
    assert wrong["error"]["path"] == "/api/runs"
    crashed = json.loads(failure(InternalError(), path="/api/runs/x", request_id="r", now_ms=5))
    assert crashed["error"]["type"] == "InternalServerError"
    assert crashed["error"]["message"] == "An unexpected error occurred"
    assert crashed["error"]["path"] == "/api/runs/x"


def test_a_rate_limit_says_when_to_come_back() -> None:
    assert RateLimited("10 a minute", retry_after_s=7).headers == {"Retry-After": "7"}
