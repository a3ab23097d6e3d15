"""Items of runs and their logs in the table `agents`, and their keys; those of threads: conversations/items.py.

| item | pk | sk | index gsi1 |
|---|---|---|---|
| run | RUN#<user>#<run> | HEAD | USER#<user> / RUN#<created_at>#<run> |
| segment of its log | RUN#<user>#<run> | SEG#<n:08d> | |
| what it was started with, in parts | RUN#<user>#<run> | RUNSETUP#<part:04d> | |
| checkpoint at a segment | RUN#<user>#<run> | CHECKPOINT#<n:08d> | |
| label that its owner gave to a point of it | RUN#<user>#<run> | LABEL#<n:08d>#<digest> | |
| request with an Idempotency-Key that gave one | RUN#<user>#<run> | REQUEST#<token> | |
| question with which it ended | RUN#<user>#<run> | INTERRUPT#<n:02d> | while it waits: EXPIRING / <until>#… |
| step of a subagent | RUN#<user>#<run> | DELEGATED#<subagent>#<at:06d> | |
| wish of its writer | RUN#<user>#<run> | CONTROL#<wish> | |
| wish that an agent works no more in it | RUN#<user>#<run> | CONTROLSTOP#<agent> | |
| moment until which it may be paused | RUN#<user>#<run> | PAUSE | while it is: PAUSED / <until>#<user>#<run> |
| run of a deleted thread, for a while | RUN#<user>#<run> | HEAD | THREAD#<user>#<thread>#RUNS / as before |
| it has not ended | RUN#<user>#<run> | ACTIVE | USER#<user>#AGENT#<agent>#ACTIVE / RUN#<created_at>#<run> |
| subagent at work in it | RUN#<user>#<run> | WORKING#<subagent> | USER#<user>#AGENT#<agent>#WORKING / RUN#<at>#<run> |
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
from karma.core.dynamo.packed import PackedAttribute
from karma.core.dynamo.requests import RequestAttributes
from karma.core.ids import AgentId, RunId, UserId
from karma.runs.domain import NOT_KNOWN, Run, RunKey

HEAD = "HEAD"
SEGMENT = "SEG#"
CONTROL = "CONTROL#"
STOP = "CONTROLSTOP#"
"""Apart from the other wishes, which releases read that do not know this one; one read finds both."""
SETUP = "RUNSETUP#"
"""Sorts before the segments, which are read by `sk > SEG#<n>`."""
CHECKPOINT = "CHECKPOINT#"
LABEL = "LABEL#"
"""Sorts before the segments, and apart from the checkpoints, of which the newest is the one to go on from."""
INTERRUPT = "INTERRUPT#"
DELEGATED = "DELEGATED#"
"""Sorts before a run's item, and so before all that `read_whole` reads."""
ACTIVE_SK = "ACTIVE"
WORKING = "WORKING#"
"""Sorts behind the log, and is not read with it."""
PAUSE = "PAUSE"
PAUSED_PK = "PAUSED"
"""Partition of the index with all runs that are paused, which sort by the moment until which they may be."""
EXPIRING_PK = "EXPIRING"
"""Partition of the index with all questions that wait for an answer, which sort by the moment until which they do."""
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


def label_sk(n: int, digest: str) -> str:
    """Return the sort key of a label at a segment, which sorts by its number."""
    return f"{LABEL}{n:08d}#{digest}"


def delegated_sk(subagent: str, at: int) -> str:
    """Return the sort key of a step of a subagent, which sorts by its number."""
    return f"{DELEGATED}{subagent}#{at:06d}"


def parse_delegated_sk(sk: str) -> tuple[str, int]:
    """Return subagent and number of a sort key that `delegated_sk` made; ids of subagents contain no `#`."""
    subagent, _, at = sk.removeprefix(DELEGATED).partition("#")
    return subagent, int(at)


def interrupt_sk(n: int) -> str:
    """Return the sort key of a question of a run, by its number."""
    return f"{INTERRUPT}{n:02d}"


def expiring_sk(key: RunKey, n: int, until: datetime) -> str:
    """Return the sort key of a question in the index."""
    return f"{iso(until)}#{key.user_id}#{key.run_id}#{n:02d}"


def parse_interrupt_sk(sk: str) -> int:
    """Return the number of a sort key that `interrupt_sk` made."""
    return int(sk.removeprefix(INTERRUPT))


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


def working_pk(user_id: UserId, agent_id: AgentId) -> str:
    """Return the partition of the index with a user's runs in which an agent works for another."""
    return f"{agent_runs_pk(user_id, agent_id)}#WORKING"


def working_sk(run_id: RunId, at: datetime) -> str:
    """Return the sort key of such a run in the index, which sorts by the start of the work."""
    return f"{LISTED}{iso(at)}#{run_id}"


class RunsItem(Item):
    """Base of the items of runs."""

    class Meta(TableMeta):
        """Names the table."""

        logical = "agents"


class RunItem(RunsItem, discriminator="run"):
    """A run without its events; what is empty or 0 is absent, so that most runs have a KB at the most.

    Its ids are in its key; runs of releases before `engine_schema` 7 have them once more.
    """

    thread_id = UnicodeAttribute()
    status = UnicodeAttribute()
    model = UnicodeAttribute()
    agent_id = UnicodeAttribute(null=True)
    agent_version = NumberAttribute(null=True)
    parent_run_id = UnicodeAttribute(null=True)
    schedule_id = UnicodeAttribute(null=True)
    webhook = UnicodeAttribute(null=True)
    finished_at = UnicodeAttribute(null=True)
    error_code = UnicodeAttribute(null=True)
    cancel_reason = UnicodeAttribute(null=True)
    stop_reason = UnicodeAttribute(null=True)
    turns = NumberAttribute(default=0)
    steps = NumberAttribute(null=True)
    """Absent where they are as many as `turns`, and in runs that earlier releases ended."""
    usage = UnicodeAttribute(null=True)
    """JSON of an AG-UI TokenUsage: of all calls together."""
    usages = UnicodeAttribute(null=True)
    """JSON list of an AG-UI TokenUsage a model, where several have answered."""
    cost_micros = NumberAttribute(null=True)
    delegated = UnicodeAttribute(null=True)
    """JSON list of what each agent has used that was called."""
    pending_tool_call_ids = UnicodeAttribute(null=True)
    """JSON list."""
    interrupt_ids = UnicodeAttribute(null=True)
    """JSON list of the questions with which it ended."""
    input_query = UnicodeAttribute(null=True)
    """Beginning of the message that it answers; as `response` absent in runs of releases that kept none."""
    response = UnicodeAttribute(null=True)
    """Beginning of its last words."""
    asked_hash = UnicodeAttribute(default="")
    answers = NumberAttribute(default=-1)
    begins_at = NumberAttribute(default=-1)
    follows = NumberAttribute(default=NOT_KNOWN)
    last_message = NumberAttribute(default=-1)
    paused_at = UnicodeAttribute(null=True)
    paused_ms = NumberAttribute(null=True)
    resumed_epoch = NumberAttribute(null=True)
    reserved_micros = NumberAttribute(default=0)
    budgets = UnicodeAttribute(null=True)
    """JSON of its budgets, as `dump_budgets` makes it; absent: it has none."""
    steps_before = NumberAttribute(null=True, attr_name="turns_before")
    """Called as in releases that counted the calls of the model."""
    unattended = NumberAttribute(null=True)
    labels = NumberAttribute(null=True)
    """Number of labels on points of it; absent: it has none."""
    engine_schema = NumberAttribute()
    previous_run_id = UnicodeAttribute(null=True)
    """Run of its thread before it; "": it is the first. Absent in runs from before threads knew their runs."""
    deleted_at = UnicodeAttribute(null=True)
    """Its thread was deleted: the run is not listed and not found, and its item refuses late writes for a while."""


class ActiveItem(RunsItem, discriminator="run_active"):
    """Lists a run in the index until it has ended; it stays, without the index's attributes, when it has."""


class WorkingItem(RunsItem, discriminator="run_working"):
    """Lists in the index a run in which an agent works that the run's own agent, or another one, has called.

    It stays, without the index's attributes, when that has ended.
    """


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
    events = PackedAttribute(null=True)
    """JSON lines."""
    shows = NumberAttribute(null=True)
    terminal = BooleanAttribute(default=False)


class SetupItem(RunsItem, discriminator="run_setup"):
    """A part of what a run was started with."""

    data = BinaryAttribute(legacy_encoding=False)


class DelegatedItem(RunsItem, discriminator="run_delegated"):
    """A step of a subagent."""

    data = BinaryAttribute(legacy_encoding=False)
    by = UnicodeAttribute()
    """The run that did it."""
    n = NumberAttribute()
    epoch = NumberAttribute()
    attachments = UnicodeSetAttribute(null=True)
    """Ids of attachments that its thread holds for it; absent: none, or a release that held none for steps."""


class CheckpointItem(RunsItem, discriminator="run_checkpoint"):
    """A point of a run from which another process can go on."""

    epoch = NumberAttribute()
    position = NumberAttribute()
    turns = NumberAttribute()
    steps = NumberAttribute(null=True)
    """Absent where they are as many as `turns`, and in those of releases that counted no answers that broke off."""
    usage = UnicodeAttribute()
    """JSON list: the fields of the Usage of all calls together, in order."""
    usages = UnicodeAttribute(null=True)
    """JSON of Usages; None in those of releases that knew one model a run."""
    spent_micros = NumberAttribute()
    spent_tokens = NumberAttribute(null=True)
    """Absent in those of releases without budgets."""
    kind = UnicodeAttribute(null=True)
    """Absent, as `messages` and `created_at`, in those of releases that listed no checkpoints."""
    messages = NumberAttribute(null=True)
    description = UnicodeAttribute(null=True)


class CheckpointLabelItem(RunsItem, discriminator="run_checkpoint_label"):
    """A label that a run's owner gave to a point of it; it repeats what a list shows of that point."""

    position = NumberAttribute()
    steps = NumberAttribute(attr_name="turns")
    """Called as in releases that counted the calls of the model."""
    messages = NumberAttribute()
    total_tokens = NumberAttribute(null=True)
    cost_micros = NumberAttribute(null=True)
    status = UnicodeAttribute()
    description = UnicodeAttribute(default="")
    tags = UnicodeAttribute(default="[]")
    """JSON list."""


class CheckpointRequestItem(RequestAttributes, RunsItem, discriminator="run_checkpoint_request"):
    """The label that a request with an Idempotency-Key gave."""


class RestoreRequestItem(RequestAttributes, RunsItem, discriminator="run_restore_request"):
    """A request with an Idempotency-Key that went back to a point: `made_id` is `<messages then>#<id of what it made>`.

    Earlier releases had it with the run, without the id.
    """


class InterruptItem(RunsItem, discriminator="run_interrupt"):
    """A question with which a run ended, and its answer."""

    asked = UnicodeAttribute()
    """JSON of the question, as `dump_interrupt` makes it."""
    answer_status = UnicodeAttribute(null=True)
    """Absent: it is open."""
    answer_payload = UnicodeAttribute(null=True)
    """JSON."""
    answered_by = UnicodeAttribute(null=True)
    """The run that began with the answer."""
    answered_at = UnicodeAttribute(null=True)
    put_offs = NumberAttribute(null=True)
    """The number of times that it was put off since it expired; absent: none."""
    lapsed_at = UnicodeAttribute(null=True)
    """Present from then on: it was cancelled by nobody."""


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


def list_position(run: Run, *, of_agent: bool) -> dict[str, str]:
    """Return the whole key of a run in the list of its agent's runs, or of its user's: lists go on behind it."""
    user = user_pk(run.key.user_id)
    if of_agent and run.agent_id is not None:
        key = {"pk": run_id_pk(run.key.run_id), "sk": user, "gsi1pk": agent_runs_pk(run.key.user_id, run.agent_id)}
    else:
        key = {"pk": run_pk(run.key), "sk": HEAD, "gsi1pk": user}
    return {**key, "gsi1sk": list_sk(run)}
