"""Closes connections of API Gateway's WebSocket by their ids."""

from __future__ import annotations

from karma.core import aws
from karma.core.errors import Upstream
from karma.core.faults import AWS_FAULTS, code_of, upstream_of


class SocketsUnavailable(Upstream):
    """API Gateway did not close a connection; the call may be repeated."""

    status = 503
    code = "SOCKETS_UNAVAILABLE"
    retry_after_s = 1


class Sockets:
    """The connections of one WebSocket API."""

    def __init__(self, url: str) -> None:
        """Make a client; `url` is the one that clients connect to, at which connections are also managed by HTTP."""
        self._endpoint_url = f"http{url.removeprefix('ws')}"

    def close(self, connection_id: str) -> None:
        """Close a connection; an absent one counts as closed.

        Raises:
            SocketsUnavailable: API Gateway did not close it, or did not answer.
        """
        try:
            client = aws.client("apigatewaymanagementapi", endpoint_url=self._endpoint_url)
            client.delete_connection(ConnectionId=connection_id)
        except AWS_FAULTS as exc:
            if code_of(exc) == "GoneException":
                return
            found = upstream_of(exc, system="The WebSocket", busy=SocketsUnavailable, unavailable=SocketsUnavailable)
            raise found or SocketsUnavailable("The WebSocket refuses to close a connection", repeatable=False) from exc
