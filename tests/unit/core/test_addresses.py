"""Addresses that cannot be are refused by their form, wherever somebody names one; others are nobody's bug either."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import httpcore2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from karma.conversations.ports import NotFetched
from karma.core.addresses import require_no_private_literal, require_server, shown_address, split_address
from karma.core.errors import ValidationFailed
from karma.core.ids import UserId, new_id
from karma.integrations.fetch import Fetcher
from karma.integrations.guard import is_public, is_public_or_loopback
from karma.integrations.guarded_http import resolved
from karma.integrations.mcp import McpClient
from karma.mcp.domain import McpEndpoint, McpFailed
from karma.mcp.service import NewMcpServer
from tests.unit.mcp.test_service import World

LABEL = "a" * 63
LONGEST = ".".join([LABEL, LABEL, LABEL, "a" * 61])
IMPOSSIBLE = [
    "https://a.example.com:0/",
    "https://a.example.com:65536/",
    "https://a.example.com:99999/",
    "https://a.example.com:x/",
    "https://a.example.com:-1/",
    "https://[1:2:3]/",
    "https://[::::]/",
    "https://[:]/",
    "https://[1.2.3.4]/",
    "https://[v1.x]/",
    "https://[::1/",
    "https://[::1]x/",
    "https://[]/",
    "https://::1/",
    "https:///path",
    "https://",
    "https://:443/",
    "https://./",
    "https://../",
    "https://.example.com/",
    "https://a..example.com/",
    "https://a.example.com../",
    f"https://{LABEL}a.com/",
    f"https://a.{LABEL}a/",
    f"https://{LONGEST}a/",
    "https://" + "a." * 150 + "com/",
    "https://" + "a" * 300 + "/",
    "https://\u2100.com/",
]
POSSIBLE = [
    "https://a.example.com",
    "https://a.example.com:/",
    "https://a.example.com.:65535/x?y",
    "https://[::1]:1/",
    "https://[2606:4700::1111]",
    "https://[::ffff:1.2.3.4]/",
    "https://1.2.3.4/",
    "https://1.2.3.999/",
    "https://127.1/",
    f"https://{LABEL}.com/",
    f"https://{LONGEST}./",
    "https://xn--a.com/",
]
ODD = ["::", "1:2", "99999", ":443", "xn--", "a" * 63, "a" * 64, "\u00e9", "\u2100", "\0", "\n", "127.0.0.1"]
PARTS = st.sampled_from([*"aA0.:-[]/@?#%\\ ", *ODD])


async def nowhere(host: str, port: int) -> list[str]:
    raise OSError


def message_of(url: str) -> str | None:
    try:
        split_address(url)
    except ValueError as exc:
        return str(exc)
    return None


@pytest.mark.parametrize("url", IMPOSSIBLE)
def test_an_address_that_cannot_be_is_wrong_input(url: str) -> None:
    assert (message_of(url) or "").startswith("must ")
    with pytest.raises(ValidationFailed) as refused:
        World().service.create(UserId(new_id()), server_at(url))
    details: Any = refused.value.details
    assert [each["field"] for each in details] == ["url"]


@pytest.mark.parametrize("url", POSSIBLE)
def test_one_that_can_be_is_for_the_resolver_to_judge(url: str) -> None:
    assert message_of(url) is None
    httpcore2.URL(url)


@given(st.lists(PARTS, max_size=8).map("".join))
def test_whatever_is_let_through_no_layer_stumbles_on_it(rest: str) -> None:
    url = f"https://{rest}"
    assert (message_of(url) or "must ").startswith("must ")
    with pytest.raises(NotFetched):
        Fetcher(resolve=lambda _: []).fetch(url, max_bytes=1)
    if message_of(url) is None and url.isascii() and url.isprintable() and " " not in url:
        found = split_address(url)
        str(found.hostname).encode("idna")

        async def asked() -> None:
            with pytest.raises(McpFailed):
                await McpClient(resolve=nowhere).list_tools(McpEndpoint(url=url, headers={}, timeout_s=5), server="x")

        asyncio.run(asked())


@pytest.mark.parametrize("host", ["a" * 64, "a..b", "." * 3])
def test_a_resolver_s_own_complaint_is_that_of_a_name_without_address(host: str) -> None:
    with pytest.raises(UnicodeError):
        socket.getaddrinfo(host, 443)
    with pytest.raises(OSError, match="cannot be resolved"):
        asyncio.run(resolved(host, 443))


def server_at(url: str) -> NewMcpServer:
    return NewMcpServer(name="a", url=url, headers={}, exposures=(), timeout_s=5, max_result_bytes=1_024)


PRIVATE = (
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "224.0.0.1",
    "0.0.0.0",
    "[fd00::1]",
    "[fe80::1]",
    "[::ffff:10.0.0.1]",
    "[64:ff9b::a00:1]",
    "[2002:a00:1::1]",
    "[2001::1]",
)


@pytest.mark.fault("F-49j")
@pytest.mark.parametrize("host", [*PRIVATE, "127.0.0.1", "[::1]"])
def test_an_address_outside_of_the_internet_is_refused_before_it_is_asked(host: str) -> None:
    with pytest.raises(ValueError, match="private, local or reserved"):
        require_no_private_literal(require_server(f"https://{host}:8443/x", loopback=False), is_allowed=is_public)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("8.8.8.8", False), ("[2606:4700::1]", False), ("a.example", False), ("127.0.0.1", True), ("[::1]", True)],
)
def test_public_addresses_and_names_are_left_to_the_delivery(host: str, loopback: bool) -> None:
    is_allowed = is_public_or_loopback if loopback else is_public
    require_no_private_literal(require_server(f"https://{host}/x", loopback=loopback), is_allowed=is_allowed)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://app.example.com/runs/7?token=t#part", "https://app.example.com/runs/7"),
        ("https://ada:word@app.example.com:8443", "https://app.example.com:8443"),
        ("https://a@b@[2001:db8::1]:8443/?x", "https://[2001:db8::1]:8443/"),
    ],
)
def test_an_address_is_shown_without_what_lets_in(url: str, shown: str) -> None:
    assert shown_address(url) == shown
