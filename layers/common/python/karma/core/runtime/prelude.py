"""The head of a streamed response: JSON with status, headers and cookies, which Lambda turns into HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterable

# Lambda frames the response itself and rejects, or worse forwards, a framing that the app chose.
_NOT_OURS_TO_SEND = frozenset(
    {"connection", "content-length", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"}
)


def encode_prelude(status: int, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return the prelude without its separator; repeated headers are joined, cookies are a list.

    Raises:
        ValueError: a header contains a line break or a NUL, which would end it on the wire.
    """
    joined: dict[str, str] = {}
    cookies: list[str] = []
    for raw_name, raw_value in headers:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        if name in _NOT_OURS_TO_SEND:
            continue
        if any(character in "\r\n\0" for character in name + value):
            raise ValueError(f"header {name!r} contains a line break or a NUL")
        if name == "set-cookie":
            cookies.append(value)
        else:
            joined[name] = f"{joined[name]}, {value}" if name in joined else value
    head: dict[str, object] = {"statusCode": status, "headers": joined}
    if cookies:
        head["cookies"] = cookies
    return json.dumps(head, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
