"""These tests speak to servers of their own over the loopback interface: sockets are the subject here."""

from __future__ import annotations

import pytest
import pytest_socket


@pytest.fixture(autouse=True)
def _loopback_only(socket_enabled: None) -> None:
    pytest_socket.socket_allow_hosts(["127.0.0.1", "localhost"])
