"""A WebSocket opens with a ticket, and with nothing else."""

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from local.deployment import Deployment

from .conftest import DEADLINE_S, User

pytestmark = pytest.mark.needs("websocket")


@pytest.mark.req("R-K-01")
def test_a_ticket_opens_one_connection(user: User, deployment: Deployment) -> None:
    issued = user.api.call("POST", "/realtime/ticket")
    assert issued["url"] == deployment.addresses.websocket_url
    address = f"{issued['url']}?ticket={issued['ticket']}"
    with connect(address, open_timeout=DEADLINE_S, proxy=None) as socket:
        socket.send('{"type": "ping"}')
        assert socket.recv(timeout=DEADLINE_S)
    with pytest.raises(InvalidStatus), connect(address, open_timeout=DEADLINE_S, proxy=None):
        pass


@pytest.mark.fault("F-21c")
def test_a_socket_is_closed_when_its_session_ends(user: User, deployment: Deployment) -> None:
    def opened() -> ClientConnection:
        issued = user.api.call("POST", "/realtime/ticket")
        return connect(f"{issued['url']}?ticket={issued['ticket']}", open_timeout=DEADLINE_S, proxy=None)

    with opened() as first, opened() as second:
        for socket in (first, second):
            socket.send('{"type": "ping"}')
            assert socket.recv(timeout=DEADLINE_S)
        user.api.call("POST", "/auth/logout-all")
        for socket in (first, second):
            try:
                with pytest.raises(ConnectionClosed):
                    socket.recv(timeout=DEADLINE_S)
            except TimeoutError:
                pytest.fail("a socket is still open whose session has ended")


def test_nobody_connects_without_a_ticket(deployment: Deployment) -> None:
    with (
        pytest.raises(InvalidStatus) as refused,
        connect(deployment.addresses.websocket_url, open_timeout=DEADLINE_S, proxy=None),
    ):
        pass
    assert refused.value.response.status_code in (401, 403)
