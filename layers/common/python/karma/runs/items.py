"""Items of runs and their logs in the table `agents`, and their keys; those of threads: conversations/items.py.

| item | pk | sk | index gsi1 |
|---|---|---|---|
| run | RUN#<user>#<run> | HEAD | USER#<user> / RUN#<created_at>#<run> |
| segment of its log | RUN#<user>#<run> | SEG#<n:08d> | |
| what it was started with, in parts | RUN#<user>#<run> | RUNSETUP#<part:04d> | |
| checkpoint at a segment | RUN#<user>#<run> | CHECKPOINT#<n:08d> | |
| wish of its writer | RUN#<user>#<run> | CONTROL#<wish> | |
| moment until which it may be paused | RUN#<user>#<run> | PAUSE | while it is: PAUSED / <until>#<user>#<run> |
| run of a deleted thread, for a while | RUN#<user>#<run> | HEAD | THREAD#<user>#<thread>#RUNS / as before |
| it has not ended | RUN#<user>#<run> | ACTIVE | USER#<user>#AGENT#<agent>#ACTIVE / RUN#<created_at>#<run> |
| owner of a run id | RUNID#<run> | USER#<user> | USER#<user>#AGENT#<agent> / RUN#<created_at>#<run> |
| number of a user's runs | USER#<user> | COUNTER#runs | |
| attachment that counts towards a user's storage | USER#<user> | ATTACHMENT#<sha256> | |
| one that no thread names | USER#<user> | ATTACHMENT#<sha256> | THREAD#<user>#<thread>#ATTACHMENTS / as sk |

Run ids may be the client's own, so the user is part of their keys: guessing or reusing an id never
gives access to another user's run. The counter is written in the transaction that starts a run, so it needs no stream.
"""

from __future__ import annotations

from datetime import datetime

from pynamodb.attributes import (
    BinaryAttribute,
    BooleanAttribute,
    NumberAttribute,
    UnicodeAttribute,
    UnicodeSetAttribute,
)

from karma.conversations.domain import ThreadKey
from karma.core.clock import iso
from karma.core.dynamo.items import Item, TableMeta
from karma.core.ids import AgentId, RunId, UserId
from karma.runs.domain import Run, RunKey

HEAD = "HEAD"
SEGMENT = "SEG#"
CONTROL = "CONTROL#"
SETUP = "RUNSETUP#"
"""Sorts before the segments, which are read by `sk > SEG#<n>`."""
CHECKPOINT = "CHECKPOINT#"
ACTIVE_SK = "ACTIVE"
PAUSE = "PAUSE"
PAUSED_PK = "PAUSED"
"""Partition of the index with all runs that are paused, which sort by the moment until which they may be."""
LISTED = "RUN#"
ATTACHMENT = "ATTACHMENT#"
PART_BYTES = 350_000
"""Bytes of a part of a setup; an item holds at most 400 KB, of which keys and attributes need some."""


def run_pk(key: RunKey) -> str:
    """Return the partition of a run and its log."""
    return f"RUN#{key.user_id}#{key.run_id}"


def parse_run_pk(pk: str) -> RunKey:
    """Return the run of a partition that `run_pk` made; user ids contain no `#`."""
    _, user_id, run_id = pk.split("#", 2)
    return RunKey(UserId(user_id), RunId(run_id))


def segment_sk(n: int) -> str:
    """Return the sort key of a segment, which sorts by number."""
    return f"{SEGMENT}{n:08d}"


def parse_segment_sk(sk: str) -> int:
    """Return the number of a sort key that `segment_sk` made."""
    return int(sk.removeprefix(SEGMENT))


def setup_sk(part: int) -> str:
    """Return the sort key of a part of a run's setup."""
    return f"{SETUP}{part:04d}"


def checkpoint_sk(n: int) -> str:
    """Return the sort key of the checkpoint at a segment, which sorts by its number."""
    return f"{CHECKPOINT}{n:08d}"


def parse_checkpoint_sk(sk: str) -> int:
    """Return the number of a sort key that `checkpoint_sk` made."""
    return int(sk.removeprefix(CHECKPOINT))


def paused_sk(key: RunKey, until: datetime) -> str:
    """Return the sort key of a paused run in the index."""
    return f"{iso(until)}#{key.user_id}#{key.run_id}"


def run_id_pk(run_id: RunId) -> str:
    """Return the partition with the owners of a run id."""
    return f"RUNID#{run_id}"


def parse_run_id_pk(pk: str) -> RunId:
    """Return the run id of a partition that `run_id_pk` made."""
    return RunId(pk.removeprefix("RUNID#"))


def user_pk(user_id: UserId) -> str:
    """Return the partition of a user's list in the index, and of their counter in the table."""
    return f"USER#{user_id}"


def unlisted_pk(thread: ThreadKey) -> str:
    """Return the partition of the index with the runs of a deleted thread."""
    return f"THREAD#{thread.user_id}#{thread.thread_id}#RUNS"


def released_pk(thread: ThreadKey) -> str:
    """Return the partition of the index with the attachments that only a deleted thread named."""
    return f"THREAD#{thread.user_id}#{thread.thread_id}#ATTACHMENTS"


def agent_runs_pk(user_id: UserId, agent_id: AgentId) -> str:
    """Return the partition of the index with a user's runs of one agent."""
    return f"{user_pk(user_id)}#AGENT#{agent_id}"


def active_runs_pk(user_id: UserId, agent_id: AgentId) -> str:
    """Return the partition of the index with a user's runs of one agent that have not ended."""
    return f"{agent_runs_pk(user_id, agent_id)}#ACTIVE"


class RunsItem(Item):
    """Base of the items of runs."""

    class Meta(TableMeta):
        """Names the table."""

        logical = "agents"


class RunItem(RunsItem, discriminator="run"):
    """A run without its events."""

    user_id = UnicodeAttribute()
    run_id = UnicodeAttribute()
    thread_id = UnicodeAttribute()
    status = UnicodeAttribute()
    model = UnicodeAttribute()
    agent_id = UnicodeAttribute(null=True)
    agent_version = NumberAttribute(null=True)
    parent_run_id = UnicodeAttribute(default="")
    finished_at = UnicodeAttribute(null=True)
    error_code = UnicodeAttribute(default="")
    cancel_reason = UnicodeAttribute(default="")
    turns = NumberAttribute(default=0)
    usage = UnicodeAttribute(null=True)
    """JSON of an AG-UI TokenUsage: of all calls together."""
    usages = UnicodeAttribute(null=True)
    """JSON list of an AG-UI TokenUsage a model, where several have answered."""
    cost_micros = NumberAttribute(null=True)
    pending_tool_call_ids = UnicodeAttribute(default="[]")
    """JSON list."""
    asked_hash = UnicodeAttribute(default="")
    answers = NumberAttribute(default=-1)
    begins_at = NumberAttribute(default=-1)
    last_message = NumberAttribute(default=-1)
    paused_at = UnicodeAttribute(null=True)
    paused_ms = NumberAttribute(default=0)
    resumed_epoch = NumberAttribute(default=0)
    reserved_micros = NumberAttribute(default=0)
    engine_schema = NumberAttribute()
    previous_run_id = UnicodeAttribute(null=True)
    """Run of its thread before it; "": it is the first. Absent in runs from before threads knew their runs."""
    deleted_at = UnicodeAttribute(null=True)
    """Its thread was deleted: the run is not listed and not found, and its item refuses late writes for a while."""


class ActiveItem(RunsItem, discriminator="run_active"):
    """Lists a run in the index until it has ended; it stays, without the index's attributes, when it has."""


class PauseItem(RunsItem, discriminator="run_pause"):
    """Lists a run in the index while it is paused; it stays, without the index's attributes, when it is not."""


class RunOwnerItem(RunsItem, discriminator="run_owner"):
    """Maps a run id to its owner, and in the index an agent to its runs."""

    user_id = UnicodeAttribute()


class SegmentItem(RunsItem, discriminator="segment"):
    """A segment of a run's log."""

    writer = UnicodeAttribute()
    epoch = NumberAttribute()
    lease_until_ms = NumberAttribute()
    events = BinaryAttribute(legacy_encoding=False, null=True)
    """JSON lines."""
    shows = NumberAttribute(null=True)
    terminal = BooleanAttribute(default=False)


class SetupItem(RunsItem, discriminator="run_setup"):
    """A part of what a run was started with."""

    data = BinaryAttribute(legacy_encoding=False)


class CheckpointItem(RunsItem, discriminator="run_checkpoint"):
    """A point of a run from which another process can go on."""

    epoch = NumberAttribute()
    position = NumberAttribute()
    turns = NumberAttribute()
    usage = UnicodeAttribute()
    """JSON list: the fields of the Usage of all calls together, in order."""
    usages = UnicodeAttribute(null=True)
    """JSON of Usages; None in those of releases that knew one model a run."""
    spent_micros = NumberAttribute()


class ControlItem(RunsItem, discriminator="run_control"):
    """A wish of the run's writer, which reads it."""

    reason = UnicodeAttribute(default="")


class AttachmentItem(RunsItem, discriminator="attachment"):
    """An attachment of threads, which counts towards the account's storage; deleted with the last thread of it."""

    size = NumberAttribute(default=0)
    threads = UnicodeSetAttribute(null=True)
    """Ids of the threads whose messages name it; absent: none does, or it is older than this attribute."""
    is_tracked = BooleanAttribute(default=False)
    """`threads` has been there from its beginning, so that without them nothing names it."""
    is_removed = BooleanAttribute(null=True)
    """Its bytes are being removed: until its item is gone, nothing may name it."""


class RunCounterItem(RunsItem, discriminator="run_counter"):
    """Number of a user's runs."""

    value = NumberAttribute(default=0)


def list_sk(run: Run) -> str:
    """Return the sort key of a run in the lists of the index, which sort by the start of runs."""
    return f"{LISTED}{iso(run.created_at)}#{run.key.run_id}"
