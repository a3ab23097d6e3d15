"""The end of a session or an API key closes its WebSockets from our side, and succeeds when that fails."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from karma.core.clock import SystemClock
from karma.core.dynamo.access import update
from karma.core.ids import UserId
from karma.core.live import declared
from karma.realtime.channel_repository import ChannelRepository
from karma.realtime.items import OpenConnections, open_key
from karma.realtime.repository import RealtimeRepository
from karma.realtime.service import ConnectionService
from tests.integration.api.conftest import PASSWORD, Api
from tests.support.stack import Context, HttpEvent, Stack

pytestmark = pytest.mark.fault("F-21c")

NEW_PASSWORD = "walnut-lagoon-orbit-71"


class Gateway:
    """API Gateway's management of connections, over HTTP."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.status = 204
        gateway = self

        class Handler(BaseHTTPRequestHandler):
            def do_DELETE(self) -> None:
                gateway.asked.append(self.path)
                self.send_response(gateway.status)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                return

        class Server(ThreadingHTTPServer):
            request_queue_size = 64

        self.server = Server(("127.0.0.1", 0), Handler)


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    found = Gateway()
    thread = threading.Thread(target=found.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield found
    found.server.shutdown()
    thread.join()
    found.server.server_close()


@pytest.fixture
def api(stack: Stack, gateway: Gateway, http_event: HttpEvent, lambda_context: Context) -> Api:
    stack.use("api", WEBSOCKET_URL=f"ws://127.0.0.1:{gateway.server.server_port}/live")
    return Api(http_event, lambda_context)


def open_socket(caller: Api, connection_id: str) -> None:
    ticket = caller.call("POST", "/api/v1/realtime/ticket").data["ticket"]
    ConnectionService(
        store=RealtimeRepository(), channels=ChannelRepository(), sources=declared(), clock=SystemClock()
    ).connect(connection_id, ticket)


def test_each_end_closes_what_it_ended_and_nothing_else(api: Api, gateway: Gateway) -> None:
    email = api.register(verified=True)["email"]

    def session(connection_id: str) -> tuple[Api, str]:
        tokens = api.log_in(email)
        caller = api.as_(authorization="Bearer " + tokens["access_token"])
        open_socket(caller, connection_id)
        return caller, tokens["refresh_token"]

    def closed() -> list[str]:
        found, gateway.asked = sorted(gateway.asked), []
        return [path.removeprefix("/live/@connections/") for path in found]

    def forget(*connection_ids: str) -> None:
        for each in connection_ids:  # as `$disconnect` does
            RealtimeRepository().disconnect(each)

    first, refresh_token = session("first%3D")
    second, _ = session("second")
    made = first.call("POST", "/api/v1/api-keys", {"name": "ci"}).data
    program = api.as_(x_api_key=made["key"])
    open_socket(program, "program")
    assert closed() == []

    assert first.call("POST", "/api/v1/auth/logout", {"refresh_token": refresh_token}).status == 204
    assert closed() == ["first%253D"]
    forget("first%3D")

    assert second.call("DELETE", f"/api/v1/api-keys/{made['api_key']['id']}").status == 204
    assert closed() == ["program"]
    forget("program")

    third, _ = session("third")
    assert third.call("POST", "/api/v1/auth/logout-all").status == 204
    assert closed() == ["second", "third"]
    forget("second", "third")

    fourth, _ = session("fourth")
    body = {"current_password": PASSWORD, "password": NEW_PASSWORD}
    answer = fourth.call("POST", "/api/v1/auth/change-password", body)
    assert answer.status == 200, answer.text
    assert closed() == ["fourth"]


@pytest.mark.fault("F-22c")
def test_logging_out_everywhere_closes_every_socket(api: Api, gateway: Gateway, stack: Stack) -> None:
    email = api.register(verified=True)["email"]
    caller = api.as_(authorization="Bearer " + api.log_in(email)["access_token"])
    open_socket(caller, "c000")
    dynamodb, table = stack.aws("dynamodb"), stack.environment("api")["REALTIME_TABLE"]
    [item] = dynamodb.query(
        TableName=table,
        KeyConditionExpression="pk = :pk",
        ExpressionAttributeValues={":pk": {"S": "CONN#c000"}},
    )["Items"]
    names = [f"c{number:03}" for number in range(120)]
    copies = [{**item, "pk": {"S": f"CONN#{name}"}, "gsi1sk": {"S": f"CONN#{name}"}} for name in names]
    for at in range(0, len(copies), 20):
        puts = [{"PutRequest": {"Item": copy}} for copy in copies[at : at + 20]]
        assert not dynamodb.batch_write_item(RequestItems={table: puts})["UnprocessedItems"]
    user_id = UserId(item["user_id"]["S"])
    entries = {f"{0:013d}#{name}" for name in names[1:]}
    update(OpenConnections(*open_key(user_id)), [OpenConnections.open_ids.add(entries)])
    assert caller.call("POST", "/api/v1/auth/logout-all").status == 204
    assert sorted(gateway.asked) == [f"/live/@connections/{name}" for name in names]


@pytest.mark.parametrize("status", [410, 403, 500])
def test_a_log_out_goes_on_when_a_socket_is_not_closed(status: int, api: Api, gateway: Gateway) -> None:
    email = api.register(verified=True)["email"]
    caller = api.as_(authorization="Bearer " + api.log_in(email)["access_token"])
    open_socket(caller, "c1")
    gateway.status = status
    assert caller.call("POST", "/api/v1/auth/logout-all").status == 204
    assert gateway.asked == ["/live/@connections/c1"]
