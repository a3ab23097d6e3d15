"""Checkpoints as they are stored: four bytes with the length of a JSON, the JSON, and the bytes that are no part."""

from __future__ import annotations

import struct

import orjson

from karma.telemetry.exports.domain import StoredTablePart, Written

_HEAD = struct.Struct("<I")


def stored(written: Written) -> bytes:
    """Return the object of a checkpoint."""
    head = orjson.dumps(
        {"parts": [list(each) for each in written.parts], "writer": written.writer, "whole": written.whole}
    )
    return b"".join([_HEAD.pack(len(head)), head, written.rest])


def read(data: bytes) -> Written:
    """Return the checkpoint of an object that `stored` made."""
    [size] = _HEAD.unpack_from(data)
    end = _HEAD.size + size
    head = orjson.loads(data[_HEAD.size : end])
    return Written(
        parts=tuple(StoredTablePart(*each) for each in head["parts"]),
        writer=head["writer"],
        rest=data[end:],
        whole=head["whole"],
    )
