"""The API as clients meet it: through a host of its own, with CORS, documents and the envelope."""

import secrets

import httpx
import pytest

from local.api_client import ApiClient, ApiRefused
from local.deployment import Deployment
from local.seed import verify_email

from .conftest import User


class TestFront:
    @pytest.mark.req("R-M-22")
    @pytest.mark.needs("iot")  # one of the components that are probed
    def test_health_is_public(self, deployment: Deployment) -> None:
        answer = httpx.get(f"{deployment.addresses.api_url}/api/v1/health", timeout=30)
        assert answer.json()["status"] == "healthy"

    @pytest.mark.req("R-K-01", "R-M-20", "R-M-21")
    def test_documents_and_index_are_public(self, deployment: Deployment) -> None:
        with httpx.Client(base_url=deployment.addresses.api_url, timeout=30) as http:
            assert "/api/v1/devices" in http.get("/openapi.json").json()["paths"]
            page = http.get("/docs")
        assert page.status_code == 200
        assert "swagger" in page.text.lower()

    @pytest.mark.req("R-K-47")
    @pytest.mark.needs("http-api")  # a function URL's CORS settings are read by nobody else
    @pytest.mark.fault("F-23a")
    @pytest.mark.parametrize(
        ("origin", "allowed"),
        [
            ("http://localhost:3000", True),
            ("http://localhost:4321", True),
            ("https://127.0.0.1:8443", True),
            ("http://[::1]:65535", True),
            ("http://localhost", True),
            ("https://app.example.com", False),
            ("http://localhost.example.com:3000", False),
            ("null", False),
        ],
    )
    def test_a_page_of_this_machine_may_call_and_no_other(
        self, deployment: Deployment, origin: str, *, allowed: bool
    ) -> None:
        headers = {"Origin": origin, "Access-Control-Request-Method": "POST"}
        asked = {**headers, "Access-Control-Request-Headers": "authorization,content-type"}
        upload = {**headers, "Access-Control-Request-Method": "PUT", "Access-Control-Request-Headers": "content-type"}
        addresses, bucket = deployment.addresses, deployment.outputs["BucketName"]
        answers = [
            httpx.options(f"{addresses.api_url}/api/v1/devices", headers=asked, timeout=30),
            httpx.options(f"{addresses.stream_url}/api/agent", headers=asked, timeout=30),
            httpx.options(f"{deployment.engine.endpoint_url}/{bucket}/a", headers=upload, timeout=30),
        ]
        for answer in answers:
            assert answer.headers.get("access-control-allow-origin") == (origin if allowed else None), answer.url
            assert ("access-control-allow-credentials" in answer.headers) == allowed
        if allowed:
            assert "POST" in answers[0].headers["access-control-allow-methods"]
            assert "PUT" in answers[2].headers["access-control-allow-methods"]

    def test_an_unknown_route_answers_in_the_envelope(self, deployment: Deployment) -> None:
        answer = httpx.get(f"{deployment.addresses.api_url}/api/v1/nothing?x=1", timeout=30)
        assert answer.status_code == 404
        body = answer.json()
        assert body["success"] is False
        assert body["error"]["path"] == "/api/v1/nothing"


class TestAccounts:
    def test_who_registers_can_log_in_and_is_known(self, user: User) -> None:
        me = user.api.call("GET", "/users/me")["user"]
        assert (me["id"], me["email"], me["role"]) == (user.id, user.email, "user")

    def test_a_wrong_password_is_refused(self, user: User, deployment: Deployment) -> None:
        with ApiClient(deployment.addresses.api_url) as api, pytest.raises(ApiRefused) as refused:
            api.log_in(user.email, secrets.token_urlsafe(16))
        assert refused.value.status == 401

    @pytest.mark.needs("ses-v2")  # only a verified address may make keys
    def test_an_api_key_is_its_owner(self, newcomer: User, deployment: Deployment) -> None:
        verify_email(newcomer.api, deployment.engine.endpoint_url, newcomer.email)
        key = newcomer.api.call("POST", "/api-keys", {"name": "e2e"})["key"]
        with ApiClient(deployment.addresses.api_url, api_key=key) as api:
            assert api.call("GET", "/users/me")["user"]["id"] == newcomer.id
