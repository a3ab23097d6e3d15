"""Ids are UUIDv7 strings: unique, and sorting by creation time to the millisecond."""

from __future__ import annotations

import base64
import os
import re
import time
from datetime import datetime
from hashlib import sha256
from typing import NewType

from karma.core.clock import epoch_ms

UserId = NewType("UserId", str)
DeviceId = NewType("DeviceId", str)
CommandId = NewType("CommandId", str)
BulkId = NewType("BulkId", str)
FileId = NewType("FileId", str)
ProjectId = NewType("ProjectId", str)
AgentId = NewType("AgentId", str)
RunId = NewType("RunId", str)
ThreadId = NewType("ThreadId", str)
ApiKeyId = NewType("ApiKeyId", str)
TaskId = NewType("TaskId", str)
SubtaskId = NewType("SubtaskId", str)
AvatarId = NewType("AvatarId", str)

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def new_id() -> str:
    """Make a UUIDv7 (RFC 9562): 48 bits of milliseconds, then 74 random bits from the operating system."""
    return _uuid7(time.time_ns() // 1_000_000, os.urandom(10))


def derived_id(at: datetime, *names: str) -> str:
    """Make the UUIDv7 of something that happened: the same names at the same millisecond give the same id.

    Whoever knows the names knows the id: it is no secret.
    """
    return _uuid7(epoch_ms(at), sha256("\0".join(names).encode()).digest()[:10])


def _uuid7(milliseconds: int, rest: bytes) -> str:
    value = (milliseconds & (1 << 48) - 1) << 80 | int.from_bytes(rest, "big")
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def first_id(moment: datetime) -> str:
    """Return a text that sorts before every id made at this moment or later, and after all older ones."""
    text = f"{max(0, epoch_ms(moment)):012x}"
    return f"{text[:8]}-{text[8:12]}-"


def short_id() -> str:
    """Make a 12-character id of 72 random bits, for use within one object (such as messages of a thread).

    A 36-character message id would be a third of every streamed frame.
    """
    return base64.urlsafe_b64encode(os.urandom(9)).decode()


def is_id(text: str) -> bool:
    """Tell whether the text is a lower-case UUID; texts that are not must not become part of a key."""
    return _UUID.fullmatch(text) is not None


def made_ms(some_id: str) -> int:
    """Return the millisecond since 1970 at which an id was made, by what it says itself; 0: it is no id of ours."""
    return int(some_id[:8] + some_id[9:13], 16) if is_id(some_id) else 0
