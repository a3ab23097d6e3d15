"""URLs of strangers: nothing but public addresses over https, resolved once, within bounds."""

import ipaddress
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

import pytest

from karma.conversations.ports import Fetched, NotFetched
from karma.core.clock import monotonic
from karma.integrations.fetch import MAX_REDIRECTS, Fetcher
from karma.integrations.guard import is_public

pytestmark = pytest.mark.fault("F-04a")

PUBLIC = "93.184.216.34"
INNER = [
    "127.0.0.1", "127.9.9.9", "0.0.0.0", "10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1",
    "169.254.169.254", "169.254.100.1", "192.0.0.8", "192.0.2.1", "198.18.0.1", "203.0.113.9", "224.0.0.1",
    "240.0.0.1", "255.255.255.255", "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "ff02::1",
    "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::ffff:10.0.0.1", "2002:7f00:1::", "2002:a9fe:a9fe::",
    "64:ff9b::a9fe:a9fe", "64:ff9b::7f00:1", "2001:0:7f00:1::", "2001:db8::1", "", "localhost", "127.1",
]  # fmt: skip


class Web:
    """Hosts by address, each answering with bytes on a socket pair; notes what was resolved and connected to."""

    def __init__(self, names: Mapping[str, Sequence[str]], answers: dict[str, list[bytes]]) -> None:
        self.names = names
        self.answers = answers
        self.resolved: list[str] = []
        self.connected: list[tuple[str, str]] = []
        self.requests: list[bytes] = []
        self._threads: list[threading.Thread] = []

    def resolve(self, host: str) -> Sequence[str]:
        self.resolved.append(host)
        if host not in self.names:
            raise socket.gaierror(host)
        return self.names[host]

    def connect(self, address: str, host: str) -> socket.socket:
        self.connected.append((address, host))
        ours, theirs = socket.socketpair()

        def serve() -> None:
            with theirs, suppress(OSError):
                data = b""
                while b"\r\n\r\n" not in data:
                    received = theirs.recv(65536)
                    if not received:
                        return
                    data += received
                self.requests.append(data)
                answer = self.answers[host].pop(0)
                theirs.sendall(answer)
                if b"hang" in answer:
                    theirs.recv(1)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        self._threads.append(thread)
        return ours

    def fetch(self, url: str, *, max_bytes: int = 1000, time_s: float = 5.0) -> Fetched:
        fetcher = Fetcher(resolve=self.resolve, connect=self.connect, time_s=time_s)
        try:
            return fetcher.fetch(url, max_bytes=max_bytes)
        finally:
            for thread in self._threads:
                thread.join(5)
                assert not thread.is_alive()


def page(body: bytes, *headers: bytes, status: bytes = b"200 OK") -> bytes:
    length = b"content-length: %d" % len(body)
    return b"HTTP/1.1 " + status + b"\r\n" + b"\r\n".join([length, *headers]) + b"\r\n\r\n" + body


def redirect(place: bytes) -> bytes:
    return page(b"", b"location: " + place, status=b"302 Found")


SPECIAL = """
0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24 192.0.2.0/24 192.31.196.0/24
192.52.193.0/24 192.88.99.0/24 192.168.0.0/16 192.175.48.0/24 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 224.0.0.0/4
240.0.0.0/4 ::/128 ::1/128 ::ffff:0:0/104 64:ff9b::/96 64:ff9b:1::/48 100::/64 100:0:0:1::/64 2001::/23 2001:db8::/32
2002::/16 2620:4f:8000::/48 3fff::/20 5f00::/16 fc00::/7 fe80::/10 fec0::/10 ff00::/8
"""
"""IANA's special-purpose registries of both families, multicast, and the former site-local addresses."""


@contextmanager
def refused(why: str) -> Iterator[None]:
    with pytest.raises(NotFetched, match=why):
        yield


@pytest.mark.parametrize("address", INNER)
def test_no_address_of_an_inner_network_is_public(address: str) -> None:
    assert not is_public(address)
    web = Web({"inner.example": [PUBLIC, address]}, {})

    with refused("public address"):
        web.fetch("https://inner.example/")

    assert web.connected == []


@pytest.mark.fault("F-25e")
@pytest.mark.parametrize("block", SPECIAL.split())
def test_no_address_of_a_special_purpose_is_public(block: str) -> None:
    network = ipaddress.ip_network(block)

    for at in (0, network.num_addresses // 2, network.num_addresses - 1):
        assert not is_public(str(network[at]))


@pytest.mark.fault("F-25e")
@pytest.mark.parametrize(
    "address",
    [
        "1.0.0.0",
        "9.255.255.255",
        "11.0.0.0",
        "192.88.98.255",
        "192.88.100.0",
        "223.255.255.255",
        "2001:200::",
        "2003::",
        "3ffe::",
    ],
)
def test_an_address_beside_a_range_of_a_special_purpose_is_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.fault("F-25e")
def test_a_resolver_that_does_not_answer_is_not_waited_for() -> None:
    is_over = threading.Event()

    def resolve(host: str) -> Sequence[str]:
        is_over.wait(10)
        return [PUBLIC]

    def connect(address: str, host: str) -> socket.socket:
        raise AssertionError("it was too late")

    started = monotonic()
    try:
        with refused("was not there within 0.1 s"):
            Fetcher(resolve=resolve, connect=connect, time_s=0.1).fetch("https://slow.example/", max_bytes=10)
        assert monotonic() - started < 5
    finally:
        is_over.set()


@pytest.mark.parametrize("address", [PUBLIC, "8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8"])
def test_addresses_of_the_internet_are_public(address: str) -> None:
    assert is_public(address)


def test_the_connection_goes_to_the_address_that_was_checked() -> None:
    web = Web({"example.com": [PUBLIC]}, {"example.com": [page(b"hello", b"content-type: text/plain")]})

    assert web.fetch("https://Example.com./a?b=c#d") == Fetched(b"hello", "text/plain")

    assert (web.resolved, web.connected) == (["example.com"], [(PUBLIC, "example.com")])
    (request,) = web.requests
    assert request.startswith(b"GET /a?b=c HTTP/1.1\r\n")
    assert not any(word in request.lower() for word in (b"authorization", b"cookie", b"x-karma"))


def test_redirects_are_checked_like_the_first_url() -> None:
    names = {"a.example": [PUBLIC], "b.example": [PUBLIC], "meta.example": ["169.254.169.254"]}
    web = Web(names, {"a.example": [redirect(b"//b.example/x")], "b.example": [page(b"there")]})
    assert web.fetch("https://a.example/").data == b"there"

    for place, why in {
        b"https://meta.example/latest/meta-data": "public address",
        b"https://169.254.169.254/": "public address",
        b"http://b.example/": "https",
        b"file:///etc/passwd": "https",
        b"https://user@b.example/": "without a user",
        b"": "redirects to nowhere",
    }.items():
        names["169.254.169.254"] = ["169.254.169.254"]
        with refused(why):
            Web(names, {"a.example": [redirect(place)]}).fetch("https://a.example/")
    with refused(f"more than {MAX_REDIRECTS} times"):
        Web(names, {"a.example": [redirect(b"/again")] * 9}).fetch("https://a.example/")


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/", "example.com", "", "https://", "https:///a", "https://a:b@example.com/", "gopher://x",
        "https://example.com:8080/", "https://example.com:x/", "https://exa mple.com/", "https://[::1", "https://é.com/",
        "https://example.com/\r\nX: y", "https://example.com/" + "a" * 2048, "data:image/png;base64,", "https://..",
    ],
)  # fmt: skip
def test_what_is_no_plain_https_url_is_refused_before_anybody_is_asked(url: str) -> None:
    web = Web({}, {})

    with refused("must be|could not"):
        web.fetch(url)

    assert web.connected == []


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (page(b"x" * 1001), "more than 1000 bytes"),
        (b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n" + b"x" * 1001, "more than 1000 bytes"),
        (page(b"", status=b"404 Not Found"), "status 404"),
        (page(b"x" * 10)[:-5], "could not be fetched"),
        (b"nonsense\r\n\r\n", "could not be fetched"),
    ],
)
def test_what_is_too_large_broken_or_absent_is_refused(answer: bytes, why: str) -> None:
    with refused(why):
        Web({"example.com": [PUBLIC]}, {"example.com": [answer]}).fetch("https://example.com/")


@pytest.mark.parametrize("answer", [b"HTTP/1.1 200 OK\r\nhang: x", page(b"hang") + b"", b"hang"])
def test_time_is_bounded_wherever_a_server_stops(answer: bytes) -> None:
    started = monotonic()
    cut = answer.replace(b"content-length: 4", b"content-length: 400")

    with refused("within 0.2 s"):
        Web({"example.com": [PUBLIC]}, {"example.com": [cut]}).fetch("https://example.com/", time_s=0.2)

    assert monotonic() - started < 4


def test_a_name_that_nobody_knows_is_refused() -> None:
    with refused("could not be fetched"):
        Web({}, {}).fetch("https://nowhere.example/")
