"""Points of runs that their owners see and go back to: checkpoints, and labels that an owner gave to some; their ids.

    checkpoint   written by the run at each turn of the model and each store of results (docs/adr/0042)
    label        written for the owner at the run's latest durable point: its newest checkpoint, or where it began or
                 ended; it has a description and tags, and is listed beside that checkpoint

An id names the run, the segment and the label. Whose run it is it does not say: that is the caller.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

import orjson

from karma.conversations.domain import is_readable_id
from karma.core.errors import Conflict
from karma.core.ids import RunId
from karma.core.records import Record
from karma.core.requests import RepeatableRequest
from karma.models.told_usage import usage_of
from karma.runs.domain import Checkpoint, CheckpointKind, Run, RunKey, RunStatus

MAX_POINT_DESCRIPTION_CHARS = 200
MAX_POINT_TAGS = 10
MAX_TAG_CHARS = 32
"""Characters of a tag; with the others this keeps the item of a label below 1 KB for most alphabets."""

MAX_LABELS = 100
"""Labels of one run."""

_ID_PREFIX = "ckpt_"
_PLACE = re.compile(r"([1-9][0-9]{0,7})(?:\.([0-9a-f]{16}))?#(.+)")


def too_many_labels() -> Conflict:
    """Return the error for a run that has all the labels that it may have."""
    return Conflict(
        f"A run has {MAX_LABELS} labels at the most",
        code="TOO_MANY_OBJECTS",
        details={"kind": "checkpoint_label", "limit": MAX_LABELS},
    )


class PointId(NamedTuple):
    """The parts of an id: a segment of a run's log, and a label there; "" for the checkpoint itself."""

    run_id: RunId
    n: int
    label: str = ""

    @property
    def place(self) -> tuple[int, str]:
        """Return the place in the list of the run's points, in which labels follow the checkpoint that they name."""
        return self.n, self.label


class Noted(NamedTuple):
    """A request to go back to a point, whose repeats do so no more."""

    run: RunKey
    """The run to a point of which it goes back."""
    request: RepeatableRequest


class Earlier(NamedTuple):
    """A request to go back to a point that was carried out."""

    size: int
    """Messages that the thread had then."""
    made_id: str
    """Id of the thread that was restored, or of the run that began; "": a release noted it that did not keep that."""


class RunPoint(Record, kw_only=True):
    """A checkpoint of a run, or a label on a point of it, as its owner sees it."""

    id: PointId
    kind: CheckpointKind | None
    """None, as further fields: it is older than the release that notes it."""
    position: int
    """Position of the last message of the run's branch at that point."""
    steps: int
    """Answers of the model until then that came to their end."""
    messages: int | None
    """Messages of the conversation until then, those before the run included."""
    total_tokens: int | None
    cost_micros: int | None
    status: RunStatus
    """The run's status at that point."""
    at: datetime | None
    description: str | None
    tags: tuple[str, ...] = ()


def write_point_id(point: PointId) -> str:
    """Return an id as clients are told it; it has only characters that paths may have."""
    label = f".{point.label}" if point.label else ""
    text = f"{point.n}{label}#{point.run_id}"
    return _ID_PREFIX + base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def read_point_id(text: str) -> PointId | None:
    """Read an id that `write_point_id` wrote; None: it wrote no such one."""
    body = text.removeprefix(_ID_PREFIX)
    if body == text:
        return None
    try:
        place = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True).decode("ascii")
    except (binascii.Error, ValueError):
        return None
    match = _PLACE.fullmatch(place)
    if match is None or not is_readable_id(match[3]):
        return None
    point = PointId(RunId(match[3]), int(match[1]), match[2] or "")
    # The last character of base64 may have bits that say nothing: of those that mean the same one is an id.
    return point if write_point_id(point) == text else None


def label_of(description: str, tags: Sequence[str]) -> str:
    """Return the name of a label at its point: the same words there are the same label."""
    return hashlib.sha256(orjson.dumps([description, list(tags)])).hexdigest()[:16]


def point_of(run_id: RunId, checkpoint: Checkpoint) -> RunPoint:
    """Return a checkpoint as its run's owner sees it."""
    progress = checkpoint.progress
    total = progress.usages.total
    is_counted = total.input_tokens is not None and total.output_tokens is not None
    return RunPoint(
        id=PointId(run_id, checkpoint.n),
        kind=checkpoint.kind,
        position=checkpoint.position,
        steps=progress.steps,
        messages=progress.messages,
        total_tokens=(total.input_tokens or 0) + (total.output_tokens or 0) if is_counted else None,
        cost_micros=progress.spent_micros,
        status=RunStatus.RUNNING,
        at=checkpoint.at,
        description=_described(checkpoint),
    )


def latest_point(run: Run, *, n: int, checkpoint: Checkpoint | None) -> RunPoint:
    """Return the latest durable point of a run: its end, or its newest checkpoint, or where it began.

    `n` is the number of the log's last segment.
    """
    if run.last_message >= 0:
        total = (usage_of(run.usages) or {}).get("totalTokens")
        return RunPoint(
            id=PointId(run.key.run_id, n),
            kind=CheckpointKind.MANUAL,
            position=run.last_message,
            steps=run.steps,
            messages=None,
            total_tokens=total if isinstance(total, int) else None,
            cost_micros=run.cost_micros,
            status=run.status,
            at=run.finished_at,
            description=None,
        )
    if checkpoint is not None:
        return point_of(run.key.run_id, checkpoint)
    return RunPoint(
        id=PointId(run.key.run_id, 1),
        kind=CheckpointKind.MANUAL,
        position=run.answers,
        steps=0,
        messages=None,
        total_tokens=0,
        cost_micros=0,
        status=run.status,
        at=run.created_at,
        description=None,
    )


def _described(checkpoint: Checkpoint) -> str | None:
    turn = checkpoint.progress.steps
    match checkpoint.kind:
        case CheckpointKind.TURN:
            return f"After turn {turn} of the model"
        case CheckpointKind.TOOLS:
            return f"After results of tools in turn {turn}"
        case CheckpointKind.COMPACTION:
            return "After the conversation was summarised"
        case CheckpointKind.FORK:
            return checkpoint.description or "Where it goes on from another run"
        case _:
            return None
