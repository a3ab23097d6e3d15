"""Headers of viewers that CloudFront forwards to the functions, and headers that it sends to browsers."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from agent_stream.app import ROUTES
from api import description
from api.routes import oauth
from infra.artifacts import source_entries
from infra.catalog import STREAM_PATHS
from infra.constructs.cors import REQUEST_HEADERS
from tests.infra.synthesized import Json, Synthesized
from tests.support import contract

pytestmark = pytest.mark.fault("F-22b")

ROOT = Path(__file__).resolve().parents[2]
FUNCTIONS = ROOT / "functions"
READERS = (FUNCTIONS / "api", FUNCTIONS / "agent_stream", ROOT / "layers/common/python/karma/http")
OF_NO_VIEWER = {"x-karma-origin", "content-length", "accept-encoding"}
"""Headers that CloudFront sets itself: its proof, the length of the body that it forwards, and gzip or not."""
NOT_READ = {"cache-control", "x-request-id"}
"""Headers that browsers may send and no function reads."""
_READ = re.compile(r'(?:headers\.get|header|_header)\((?:scope, )?b?"([A-Za-z-]+)"')


def the(aws: Synthesized, kind: str) -> Json:
    (found,) = aws.of_type(f"AWS::CloudFront::{kind}").values()
    properties: Json = found["Properties"]
    return properties


def reaching(aws: Synthesized) -> set[str]:
    cached = the(aws, "CachePolicy")["CachePolicyConfig"]["ParametersInCacheKeyAndForwardedToOrigin"]["HeadersConfig"]
    passed = the(aws, "OriginRequestPolicy")["OriginRequestPolicyConfig"]["HeadersConfig"]
    assert {cached["HeaderBehavior"], passed["HeaderBehavior"]} == {"whitelist"}
    for config in (cached, passed):
        assert len(config["Headers"]) <= 10, "AWS's quota"
    return {name.lower() for config in (cached, passed) for name in config["Headers"]}


def read_by_functions() -> set[str]:
    """Name the headers that the API and the stream read: in their sources, and as parameters of their documents."""
    sources = [path for folder in READERS for path in folder.rglob("*.py")]
    found = {match.lower() for path in sources for match in _READ.findall(path.read_text())}
    for name in contract.DOCUMENTS:
        for operations in contract.committed(name)["paths"].values():
            for operation in operations.values():
                parameters = operation.get("parameters", ())
                found |= {each["name"].lower() for each in parameters if each["in"] == "header"}
    return found


def test_every_header_that_the_code_reads_reaches_it_and_no_other_does(aws: Synthesized) -> None:
    read = read_by_functions()
    assert {"authorization", "x-api-key", "last-event-id", "if-match", "cloudfront-viewer-address"} <= read
    by_the_edges = {"origin", "access-control-request-headers", "access-control-request-method"}
    from_browsers = set(REQUEST_HEADERS) - NOT_READ
    assert reaching(aws) == (read - OF_NO_VIEWER) | by_the_edges | from_browsers
    assert "host" not in reaching(aws)


def test_the_paths_of_the_stream_are_those_that_it_serves() -> None:
    assert set(STREAM_PATHS) == {re.sub(r"{[^}]*}", "*", route.path) for route in ROUTES}


def test_the_cookie_of_logins_reaches_the_api_and_no_other(aws: Synthesized) -> None:
    cookies = the(aws, "OriginRequestPolicy")["OriginRequestPolicyConfig"]["CookiesConfig"]
    assert cookies == {"CookieBehavior": "whitelist", "Cookies": [oauth.COOKIE]}
    assert not re.findall(r"\.cookies\b", "".join(path.read_text() for path in FUNCTIONS.rglob("agent_stream/*.py")))


def test_both_policies_hold_for_every_path(aws: Synthesized) -> None:
    distribution = the(aws, "Distribution")["DistributionConfig"]
    for behavior in (distribution["DefaultCacheBehavior"], *distribution["CacheBehaviors"]):
        for member, kind in (
            ("CachePolicyId", "CachePolicy"),
            ("OriginRequestPolicyId", "OriginRequestPolicy"),
            ("ResponseHeadersPolicyId", "ResponseHeadersPolicy"),
        ):
            (path,) = aws.of_type(f"AWS::CloudFront::{kind}")
            assert behavior[member] == {"Ref": path.partition("/")[2]}


def test_nothing_is_kept_for_another_caller(aws: Synthesized) -> None:
    config = the(aws, "CachePolicy")["CachePolicyConfig"]
    assert (config["MinTTL"], config["DefaultTTL"], config["MaxTTL"]) == (0, 0, 1)
    key = config["ParametersInCacheKeyAndForwardedToOrigin"]
    assert {"Authorization", "X-API-Key", "Accept"} <= set(key["HeadersConfig"]["Headers"])
    assert key["QueryStringsConfig"]["QueryStringBehavior"] == "all"
    passed = the(aws, "OriginRequestPolicy")["OriginRequestPolicyConfig"]
    assert passed["QueryStringsConfig"]["QueryStringBehavior"] == "all"


@pytest.mark.fault("F-22a")
def test_every_answer_has_a_content_security_policy_unless_its_origin_gave_one(aws: Synthesized) -> None:
    headers = the(aws, "ResponseHeadersPolicy")["ResponseHeadersPolicyConfig"]["SecurityHeadersConfig"]
    policy = headers["ContentSecurityPolicy"]
    assert policy["Override"] is False
    assert "default-src 'none'" in policy["ContentSecurityPolicy"]
    assert "http" not in json.dumps(policy), "no other host"


@pytest.mark.fault("F-22a")
def test_the_api_s_archive_holds_what_its_pages_load() -> None:
    shipped = {entry.name for entry in source_entries(FUNCTIONS / "api", prefix="api")}
    for name in description.FILES:
        assert shipped & {f"api/static/{name}", f"api/static/{name}.gz"}, f"{name} is missing: run `make install`"


@pytest.mark.fault("F-22d")
def test_no_error_is_kept(aws: Synthesized) -> None:
    """CloudFront keeps these statuses for ten seconds by itself (its documentation on error responses lists them)."""
    told = the(aws, "Distribution")["DistributionConfig"]["CustomErrorResponses"]
    assert {each["ErrorCode"]: each["ErrorCachingMinTTL"] for each in told} == dict.fromkeys(
        (400, 403, 404, 405, 414, 416, 500, 501, 502, 503, 504), 0
    )
    assert all(set(each) == {"ErrorCode", "ErrorCachingMinTTL"} for each in told), "a page in the place of the answer"
