"""Reads server-sent events as bytes arrive.

A library would hide what counts here: which frame carried an `id`, also one without data. And lines end at LF alone:
Python's own splitting ends them at U+2028, too.
"""

from __future__ import annotations

from typing import NamedTuple

MAX_FRAME_BYTES = 16 * 1024 * 1024
"""Bytes of one frame at the most; a conversation that is shown anew may have 4 MB before it is escaped."""


class FrameTooLarge(Exception):
    """A frame is larger than `MAX_FRAME_BYTES`: the server is not one of agents."""


class FrameTorn(Exception):
    """A frame is not what the server has sent: something in between has cut it or put it there."""


class Frame(NamedTuple):
    """One server-sent event."""

    data: bytes
    """Its data, the lines of it joined by LF; b"" in a frame that only names a position."""
    id: str | None
    """The value of its `id` line; None: it has none."""


class FrameReader:
    """Cuts a stream of bytes into frames."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, chunk: bytes) -> list[Frame]:
        """Take bytes, and return the frames that they complete; comments are left out.

        Raises:
            FrameTooLarge: a frame does not end.
        """
        # A frame's end may be cut between its two line feeds.
        begin = max(0, len(self._rest) - 1)
        self._rest += chunk
        if self._rest.find(b"\n\n", begin) < 0:
            if len(self._rest) > MAX_FRAME_BYTES:
                raise FrameTooLarge(f"A frame has more than {MAX_FRAME_BYTES} bytes")
            return []
        *whole, rest = bytes(self._rest).split(b"\n\n")
        self._rest = bytearray(rest)
        return [frame for frame in map(_frame, whole) if frame.data or frame.id is not None]


def _frame(text: bytes) -> Frame:
    data: list[bytes] = []
    frame_id: str | None = None
    for line in text.split(b"\n"):
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            data.append(value)
        elif name == b"id":
            frame_id = value.decode()
    return Frame(b"\n".join(data), frame_id)
