"""Every function is driven with secrets of its own kind; what it writes, to either stream, holds none of them."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Iterator

import pytest

from karma.core.ids import new_id
from tests.integration.agent_stream.conftest import Streams, add_user
from tests.integration.api.conftest import Api
from tests.integration.billing.conftest import Billing
from tests.integration.billing.test_webhook import signed
from tests.integration.mail.conftest import Post
from tests.support.devices import World
from tests.support.model_server import ModelServer, message, text
from tests.support.stack import Context, HttpEvent, SqsEvent, Stack

Written = Callable[[], str]


@pytest.fixture
def written(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Written]:
    """Return the output of this process so far: its streams, and the stream of the logger."""
    from karma.core.observability import logger

    buffer = io.StringIO()
    monkeypatch.setattr(logger.registered_handler, "stream", buffer)
    logger.setLevel("DEBUG")
    told: list[str] = []

    def read() -> str:
        out, err = capfd.readouterr()
        told.extend((out, err))
        return "".join(told) + buffer.getvalue()

    yield read
    logger.setLevel("INFO")


def assert_silent(text: str, *secrets: str, said: str) -> None:
    """Tell which secret was written; `said` proves that the capture worked."""
    assert said in text
    for secret in secrets:
        assert secret
        for form in (secret, base64.b64encode(secret.encode()).decode(), json.dumps(secret)[1:-1]):
            assert form not in text, f"{secret[:24]!r} was written"


@pytest.mark.req("R-M-28")
def test_an_account_s_life_leaves_no_secret(
    stack: Stack, http_event: HttpEvent, lambda_context: Context, sqs_event: SqsEvent, written: Written
) -> None:
    stack.aws("sesv2").create_email_identity(EmailIdentity="example.com")
    post = Post(stack, lambda_context, sqs_event)
    stack.use("api")
    api = Api(http_event, lambda_context)
    email, password, name = f"{new_id()}@example.com", f"pass-{new_id()}", f"Ada {new_id()}"
    body = {"email": email, "password": password}
    assert api.call("POST", "/api/v1/auth/register", {**body, "name": name}).status == 201
    assert api.call("POST", "/api/v1/auth/login", {**body, "password": f"not {password}"}).status == 401
    links = [post.token_for(email)]
    assert api.call("POST", "/api/v1/auth/verify-email", {"token": links[0]}).status == 204
    assert api.call("POST", "/api/v1/auth/verify-email", {"token": links[0]}).status == 410
    assert api.call("POST", "/api/v1/auth/register", {**body, "name": name}).status == 201
    links.append(post.token_for(email))
    assert api.call("POST", "/api/v1/auth/forgot-password", {"email": email}).status == 202
    links.append(post.token_for(email))
    reset = {"token": links[2], "password": password}
    assert api.call("POST", "/api/v1/auth/reset-password", reset).status == 204
    tokens = api.call("POST", "/api/v1/auth/login", body).data
    known = api.as_(authorization=f"Bearer {tokens['access_token']}")
    key = known.call("POST", "/api/v1/api-keys", {"name": "ci"}, idempotency_key="idempotency-secret").data["key"]
    assert api.call("GET", "/api/v1/users/me", x_api_key=key).status == 200
    assert api.call("GET", "/api/v1/users/me", x_api_key=f"{key}x").status == 401
    assert api.call("GET", "/api/v1/users/me", authorization=f"Bearer {tokens['access_token']}x").status == 401
    other = f"{new_id()}@example.com"
    change = {"email": other, "current_password": password}
    assert known.call("PATCH", "/api/v1/users/me", change).status == 200
    links.append(post.token_for(other))
    assert api.call("POST", "/api/v1/auth/verify-email", {"token": links[3]}).status == 204
    ticket = known.call("POST", "/api/v1/realtime/ticket").data["ticket"]
    new = api.call("POST", "/api/v1/auth/refresh", {"refresh_token": tokens["refresh_token"]}).data
    newest = api.call("POST", "/api/v1/auth/refresh", {"refresh_token": new["refresh_token"]}).data
    assert api.call("POST", "/api/v1/auth/refresh", {"refresh_token": tokens["refresh_token"]}).status == 401
    assert api.call("GET", "/api/v1/nowhere", query=f"token={ticket}").status == 404
    assert api.call("POST", "/api/v1/auth/login", f'{{"password": "{password}"').status == 415
    stack.use("realtime")
    from realtime.handler import lambda_handler

    gateway = {"routeKey": "$connect", "connectionId": "c1=", "requestId": "r"}
    event = {"requestContext": gateway, "queryStringParameters": {"ticket": ticket}}
    # Its session is over: a refresh token of it came twice.
    assert lambda_handler(event, lambda_context)["statusCode"] == 401

    assert_silent(
        written(),
        email, password, name, key, ticket, tokens["access_token"], tokens["refresh_token"], new["refresh_token"],
        new["access_token"], newest["refresh_token"], stack.secret_values["auth"]["k1"], "idempotency-secret", *links,
        other,
        said="request.handled",
    )  # fmt: skip


def test_a_database_that_fails_leaves_no_secret_in_its_traceback(
    stack: Stack, http_event: HttpEvent, lambda_context: Context, written: Written
) -> None:
    stack.use("api")
    api = Api(http_event, lambda_context)
    email, password = f"{new_id()}@example.com", f"pass-{new_id()}"
    stack.aws("dynamodb").delete_table(TableName=stack.tables["identity"])
    body = {"email": email, "password": password, "name": "Ada"}
    assert api.call("POST", "/api/v1/auth/register", body).status == 500
    assert_silent(written(), email, password, said="Traceback")


def test_a_conversation_leaves_neither_prompt_nor_answer(stack: Stack, written: Written) -> None:
    import agent_stream.app  # noqa: F401  before use(): it clears what the module keeps
    from karma.integrations.anthropic import load_sdk

    load_sdk()
    prompt, state, tool = f"my diary says {new_id()}", f"state {new_id()}", f"context {new_id()}"
    with ModelServer() as model:
        stack.use("agent_stream", MODEL_BASE_URL=model.url, MODEL_ID="claude-haiku-5-5")
        user_id, token = add_user(stack, name=f"Eve {new_id()}")
        model.answer(message(text("I wrote ", "it all down")))
        streams = Streams(stack, model, user_id, token)
        body = {
            "messages": [{"id": "u1", "role": "user", "content": prompt}],
            "state": {"x": state},
            "context": [{"description": "d", "value": tool}],
        }
        answer = streams.run(streams.agent(body))
        assert answer.status == 200
        assert streams.run(streams.make("POST", "/api/agent", body=f'{{"messages": "{prompt}"'.encode())).status >= 400
    assert b"it all down" in answer.data
    assert_silent(
        written(), prompt, state, tool, token, stack.secret_values["model"]["api_key"], f"{user_id}@example.com",
        "it all down",
        said="run.started",
    )  # fmt: skip


def test_a_webhook_leaves_neither_body_nor_signature(
    stack: Stack, http_event: HttpEvent, sqs_event: SqsEvent, lambda_context: Context, written: Written
) -> None:
    billing = Billing(stack, http_event, sqs_event, lambda_context)
    email, secret_field = f"{new_id()}@example.com", f"client-secret-{new_id()}"
    data = {"object": {"id": "in_1", "customer_email": email, "client_secret": secret_field}}
    raw = json.dumps({"id": "evt_1", "object": "event", "type": "invoice.paid", "data": data}).encode()
    headers = signed(raw)
    assert billing.post(raw, headers)["statusCode"] == 200
    assert billing.post(raw + b" ", headers)["statusCode"] == 400
    assert billing.post(raw, signed(raw, secret="whsec_other"))["statusCode"] == 400
    billing.drain()
    assert_silent(
        written(), email, secret_field, headers["Stripe-Signature"], stack.secret_values["stripe_api"]["api_key"],
        *stack.secret_values["stripe_webhook"]["secrets"],
        said="billing.",
    )  # fmt: skip


def test_messages_of_devices_are_not_written(stack: Stack, lambda_context: Context, written: Written) -> None:
    stack.use("api")
    world = World(stack)
    made = world.create()
    thing = made.current.device.serial_number
    stack.use("device_ingest")
    from device_ingest.handler import lambda_handler

    texts = [f"metric_{new_id()[-12:]}", f"not json {new_id()}"]
    payloads = [json.dumps(world.samples((0, 1.0), metric=texts[0])).encode(), texts[1].encode()]
    records = [
        {
            "messageId": str(index),
            "body": json.dumps(
                {
                    "payload_b64": base64.b64encode(payload).decode(),
                    "topic": f"dt/karma/{thing}/telemetry",
                    "principal": made.certificate.id,
                    "received_ms": world.clock.ms,
                }
            ),
        }
        for index, payload in enumerate(payloads)
    ]
    assert lambda_handler({"Records": records}, lambda_context) == {"batchItemFailures": []}
    assert_silent(written(), *texts, made.certificate.id, said="ingest.batch")
