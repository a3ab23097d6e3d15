"""Whatever a connection goes through, its socket is closed when `stop` or the failed attempt is over."""

import gc
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from karma_device.config import DeviceConfig
from karma_device.link import IncomingRequest, Link
from karma_device_testing.cloud import Broker, Cloud, MakeDevice, Proxy, wait_until


@pytest.fixture
def proxy(broker: Broker) -> Iterator[Proxy]:
    proxy = Proxy(broker.mqtt_port)
    yield proxy
    proxy.close()


@pytest.fixture
def earlier(cloud: Cloud) -> set[int]:
    """Return the descriptors of TLS sockets that are open already, which are the observer's."""
    assert cloud.thing
    return descriptors()


def descriptors() -> set[int]:
    """Return the descriptors of this process's open TLS sockets, referenced or not."""
    found = (each for each in gc.get_objects() if isinstance(each, ssl.SSLSocket))
    return {each.fileno() for each in found} - {-1}


@pytest.mark.parametrize("attempt", range(3))
def test_a_stop_at_any_moment_of_a_connection_leaves_no_socket(
    make_device: MakeDevice, proxy: Proxy, earlier: set[int], attempt: int
) -> None:
    device = make_device(credentials={"mqtt_port": proxy.port}, connect_timeout_s=5)
    pause = threading.Event()
    for moment in range(12):
        device.start()
        pause.wait((moment + attempt / 3) * 0.004)
        device.stop(timeout_s=1)
        assert descriptors() <= earlier
    device.start()
    assert device.wait_ready(20)
    device.stop()
    assert descriptors() <= earlier


def test_a_connection_given_up_while_a_message_arrives_leaves_no_socket(cloud: Cloud, earlier: set[int]) -> None:
    """Told to end between two packets, paho's network thread leaves its loop without closing anything."""
    reading, ending = threading.Event(), threading.Event()

    def unconfirmed(_request: IncomingRequest) -> bool:
        reading.set()
        ending.wait(20)
        return False

    link = Link(DeviceConfig.from_credentials(cloud.credentials), on_request=unconfirmed, wake=threading.Event())
    link.open()
    wait_until(lambda: link.subscribed, what="subscribed")
    cloud.command("any")
    assert reading.wait(20)
    aborting = threading.Thread(target=link.abort)
    aborting.start()
    wait_until(lambda: link._client._thread_terminate, what="paho was told to end")
    ending.set()
    aborting.join(20)
    assert descriptors() <= earlier


@pytest.mark.parametrize("answer", [b"", b"not TLS\r\n" * 10])
def test_a_failed_handshake_leaves_no_socket(credentials: dict[str, Any], earlier: set[int], answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def refuse() -> None:
            near, _ = server.accept()
            with near, suppress(OSError):
                near.sendall(answer)
                near.recv(65536)

        thread = threading.Thread(target=refuse)
        thread.start()
        config = DeviceConfig.from_credentials({**credentials, "mqtt_port": server.getsockname()[1]})
        link = Link(config, on_request=lambda _request: True, wake=threading.Event())
        with pytest.raises((ssl.SSLError, ConnectionError)) as refused:
            link.open()
        assert descriptors() <= earlier
        assert refused.traceback  # its frames hold the socket: it was closed, not collected
        thread.join()
