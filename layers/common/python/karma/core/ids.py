"""Ids are UUIDv7 strings: unique, and sorting by creation time to the millisecond."""

from __future__ import annotations

import base64
import os
import re
import time
from datetime import datetime
from typing import NewType

from karma.core.clock import epoch_ms

UserId = NewType("UserId", str)
DeviceId = NewType("DeviceId", str)
CommandId = NewType("CommandId", str)
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
    random = int.from_bytes(os.urandom(10), "big")
    value = (time.time_ns() // 1_000_000 & (1 << 48) - 1) << 80 | random
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
