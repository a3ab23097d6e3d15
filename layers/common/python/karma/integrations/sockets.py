"""API Gateway's side of the WebSocket: closing a connection by its id."""

from __future__ import annotations

from karma.core import aws
from karma.core.errors import Upstream
from karma.core.faults import AWS_FAULTS, code_of, upstream_of


class SocketsUnavailable(Upstream):
    """API Gateway did not close a connection; it may be asked again."""

    status = 503
    code = "SOCKETS_UNAVAILABLE"
    retry_after_s = 1


class Sockets:
    """The connections of one WebSocket API."""

    def __init__(self, url: str) -> None:
        """`url` is the one that clients connect to; its connections are managed under the same one by http(s)."""
        self._endpoint_url = f"http{url.removeprefix('ws')}"

    def close(self, connection_id: str) -> None:
        """Close a connection from our side; one that is gone is closed already.

        Raises:
            SocketsUnavailable: not known to be closed.
        """
        try:
            client = aws.client("apigatewaymanagementapi", endpoint_url=self._endpoint_url)
            client.delete_connection(ConnectionId=connection_id)
        except AWS_FAULTS as exc:
            if code_of(exc) == "GoneException":
                return
            found = upstream_of(exc, system="The WebSocket", busy=SocketsUnavailable, unavailable=SocketsUnavailable)
            raise found or SocketsUnavailable("The WebSocket refuses to close a connection", repeatable=False) from exc
