"""Addresses of servers that users name: the forms on which no resolver, socket or parser stumbles.

Python tells of an impossible address in many ways (ValueError from `urlsplit`, UnicodeError from the resolver,
OverflowError from a socket), and of some only when a connection is opened. Checked here, they are wrong input.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from typing import Final
from urllib.parse import SplitResult, urlsplit, urlunsplit

_MAX_HOST_CHARS: Final = 253
_MAX_LABEL_CHARS: Final = 63
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_ENDING: Final = re.compile(r"\](:[0-9]*)?$")


def split_address(url: str) -> SplitResult:
    """Split a URL whose host and port can exist; whether they do, and may be asked, is another question.

    Raises:
        ValueError: they cannot; the message says what the URL must be, as messages about fields do.
    """
    try:
        found = urlsplit(url)
        host, port = found.hostname, found.port
    except ValueError:
        raise ValueError("must be a URL, with a port from 1 to 65535 and IPv6 addresses in brackets") from None
    if port == 0:
        raise ValueError("must have a port from 1 to 65535, or none")
    is_literal = "[" in found.netloc
    if not host or not _can_exist(host, is_literal=is_literal) or (is_literal and not _ENDING.search(found.netloc)):
        raise ValueError(
            f"must have a host: an address, or a name of at most {_MAX_HOST_CHARS} characters, "
            f"with 1 to {_MAX_LABEL_CHARS} between its dots"
        )
    return found


def require_server(url: str, *, loopback: bool) -> SplitResult:
    """Split the URL of a server that an account names, as `split_address` does.

    Args:
        url: what the account sent.
        loopback: servers of this machine may be named, by http:// too.

    Raises:
        ValueError: as `split_address`, or it is not https:.
    """
    found = split_address(url)
    if found.scheme != "https" and not (loopback and found.hostname in _LOOPBACK):
        raise ValueError("must begin with https://")
    return found


def require_no_private_literal(found: SplitResult, *, is_allowed: Callable[[str], bool]) -> None:
    """Refuse a URL whose host is itself an address outside of the internet; names are judged when they are resolved.

    Args:
        found: the URL, as `require_server` split it.
        is_allowed: tells whether an address may be asked; the one that requests to it are judged by.

    Raises:
        ValueError: it is such an address.
    """
    try:
        address = ipaddress.ip_address(found.hostname or "")
    except ValueError:
        return
    if not is_allowed(str(address)):
        raise ValueError("must not have a private, local or reserved address")


def shown_address(url: str) -> str:
    """Return a URL for those who may know where it leads, without what may let them in: name and password, query."""
    found = urlsplit(url)
    return urlunsplit((found.scheme, found.netloc.rpartition("@")[2], found.path, "", ""))


def _can_exist(host: str, *, is_literal: bool) -> bool:
    if is_literal:
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            return False
        return True
    name = host.removesuffix(".")
    return len(name) <= _MAX_HOST_CHARS and all(1 <= len(label) <= _MAX_LABEL_CHARS for label in name.split("."))
