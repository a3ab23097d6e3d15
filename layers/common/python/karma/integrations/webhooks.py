"""Sends payloads of webhooks to addresses that users name, without giving access to internal networks (SSRF).

A name is resolved for each attempt, every address it has must be a public one, and the connection goes to one of those,
so that a later answer of DNS cannot change it. Redirects are not followed. What counts is the status: headers are read
in their bounds, and of the body nothing, so a receiver cannot cost memory or time by its answer. One time bounds all.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from datetime import timedelta
from functools import cache
from typing import Final
from urllib.parse import SplitResult, urlsplit

from karma.core.clock import monotonic
from karma.integrations.guard import Cutoff, is_public, within
from karma.integrations.retry_after import pause_of
from karma.webhooks.domain import TIMEOUT_S, DeliveryError, ReceiverAnswer
from karma.webhooks.ports import PostFailed

USER_AGENT: Final = "Karma-Webhooks/1.0"
_CONNECT_S: Final = 5.0
_MAX_ADDRESSES: Final = 3
"""Addresses of a name that are tried, as long as none is reached."""
_MOST_S: Final = 10 * 86_400.0
"""Longest pause that is read from an answer, in seconds; the domain has shorter bounds."""

Resolve = Callable[[str, int], Sequence[str]]


def resolved(host: str, port: int) -> Sequence[str]:
    """Return all addresses of a name from the system's resolver.

    Raises:
        OSError: there are none, or the resolver did not answer.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError as exc:  # a name that cannot be
        raise OSError("the name cannot be resolved") from exc
    return [str(each[4][0]) for each in found]


class WebhookPosts:
    """Sends payloads by POST, each over a connection of its own; may be called from several threads."""

    def __init__(
        self,
        *,
        is_allowed: Callable[[str], bool] = is_public,
        resolve: Resolve = resolved,
        tls: Callable[[], ssl.SSLContext] | None = None,
        time_s: float = TIMEOUT_S,
    ) -> None:
        """Make the sender; `tls` returns the context by which certificates are judged, None: the system's."""
        self._is_allowed = is_allowed
        self._resolve = resolve
        self._tls = tls or _tls
        self._time_s = time_s

    def post(self, url: str, payload: bytes, headers: Mapping[str, str]) -> ReceiverAnswer:
        """See Posts; blocks for `time_s` seconds at the most."""
        cutoff = Cutoff(monotonic() + self._time_s)
        timer = threading.Timer(self._time_s, cutoff.ring)
        timer.daemon = True
        timer.start()
        try:
            return self._post(urlsplit(url), payload, headers, cutoff)
        except PostFailed:
            raise
        except (OSError, http.client.HTTPException, ValueError) as exc:
            raise PostFailed(_code_of(exc, is_over=cutoff.has_rung)) from exc
        finally:
            timer.cancel()

    def _post(self, url: SplitResult, payload: bytes, headers: Mapping[str, str], cutoff: Cutoff) -> ReceiverAnswer:
        host = str(url.hostname)
        port = url.port or (443 if url.scheme == "https" else 80)
        addresses = self._allowed(host, port, cutoff)
        kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
        with ExitStack() as closing:
            connected = closing.enter_context(_connect(addresses, port, cutoff))
            if url.scheme == "https":
                context = self._tls()
                wrapped = context.wrap_socket(connected, server_hostname=host, do_handshake_on_connect=False)
                connected = closing.enter_context(wrapped)
                cutoff.watch(wrapped)
                wrapped.do_handshake()
            connection = kind(host, port)
            connection.sock = connected
            target = (url.path or "/") + (f"?{url.query}" if url.query else "")
            sent = {"Content-Type": "application/json", "User-Agent": USER_AGENT, "Connection": "close", **headers}
            connection.request("POST", target, body=payload, headers=sent)
            answer = closing.enter_context(connection.getresponse())
            if cutoff.has_rung:
                raise TimeoutError  # headers that are cut off look like their end
            seconds = pause_of({name.lower(): value for name, value in answer.getheaders()})
            return ReceiverAnswer(
                status_code=answer.status,
                retry_after=None if seconds is None else timedelta(seconds=min(seconds, _MOST_S)),
            )

    def _allowed(self, host: str, port: int, cutoff: Cutoff) -> Sequence[str]:
        try:
            addresses = list(within(cutoff, lambda: self._resolve(host, port)))
        except TimeoutError:
            raise
        except OSError as exc:
            raise PostFailed(DeliveryError.ADDRESS_REFUSED) from exc
        if not addresses or not all(map(self._is_allowed, addresses)):
            raise PostFailed(DeliveryError.ADDRESS_REFUSED)
        return list(dict.fromkeys(addresses))[:_MAX_ADDRESSES]


def _connect(addresses: Sequence[str], port: int, cutoff: Cutoff) -> socket.socket:
    for at, address in enumerate(addresses, 1):
        left = max(0.1, min(_CONNECT_S, cutoff.until - monotonic()))
        try:
            connected = socket.create_connection((address, port), timeout=left)
        except OSError:
            if at == len(addresses) or cutoff.has_rung:
                raise
            continue
        connected.settimeout(max(0.1, cutoff.until - monotonic()))
        cutoff.watch(connected)
        return connected
    raise OSError("no address")


@cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()


def _code_of(exc: Exception, *, is_over: bool) -> DeliveryError:
    if is_over or isinstance(exc, TimeoutError):
        return DeliveryError.TIMED_OUT
    if isinstance(exc, ssl.SSLError):
        return DeliveryError.TLS_FAILED
    if isinstance(exc, http.client.RemoteDisconnected):
        return DeliveryError.UNREACHABLE
    if isinstance(exc, (http.client.HTTPException, ValueError)):
        return DeliveryError.BAD_ANSWER
    return DeliveryError.UNREACHABLE
