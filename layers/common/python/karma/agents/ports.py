"""What the run engine needs from outside. Each has a second implementation in tests/fakes/agents.py."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from types import MappingProxyType
from typing import NamedTuple, Protocol

from karma.agents.domain import (
    History,
    Json,
    Message,
    Run,
    RunEnd,
    RunErrorCode,
    RunKey,
    Segment,
    Thread,
    ThreadKey,
    Usage,
    Wish,
)
from karma.billing.allowances import Reservation
from karma.configuration.current import RunChoice
from karma.core.ids import AgentId, RunId, UserId


class ToolSpec(NamedTuple):
    """A tool as a model is told about it."""

    name: str
    description: str
    parameters: Json
    """JSON Schema of type object."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRequest:
    """One call of a model."""

    model: str
    system: Sequence[str]
    messages: Sequence[Message]
    tools: Sequence[ToolSpec]
    max_tokens: int


class StopReason(StrEnum):
    """Why a model stopped."""

    END = "end"
    TOOL_USE = "tool_use"
    MAX_TOKENS = "max_tokens"
    PAUSED = "paused"
    REFUSED = "refused"
    CONTEXT_FULL = "context_full"


class TextDelta(NamedTuple):
    """More text."""

    text: str


class ToolBegun(NamedTuple):
    """The model begins to call a tool."""

    id: str
    name: str


class ToolArguments(NamedTuple):
    """More of the JSON text of a call's arguments."""

    id: str
    delta: str


class ToolEnded(NamedTuple):
    """The call is complete."""

    call_id: str
    arguments: str


class TurnEnded(NamedTuple):
    """The model's turn is complete: the one sign that nothing was cut off."""

    stop: StopReason
    usage: Usage
    blocks: Sequence[Json]


ModelEvent = TextDelta | ToolBegun | ToolArguments | ToolEnded | TurnEnded


class ModelFailed(Exception):
    """The call failed, before or within its stream. Usage holds what is known to have been spent."""

    def __init__(self, code: RunErrorCode, *, usage: Usage | None = None) -> None:
        super().__init__(code)
        self.code = code
        self.usage = usage or Usage()


class Model(Protocol):
    """Language models behind one API; a request names which."""

    provider: str

    def prepare(self) -> None:
        """Do what must work before a run starts; may block.

        Raises:
            ModelNotConfigured: no key.
        """

    def preload(self) -> None:
        """Start loading what the first call needs, beside other work."""

    def stream(self, request: ModelRequest) -> AsyncIterator[Sequence[ModelEvent]]:
        """Call the model; yields what arrived together, together. TurnEnded comes last or ModelFailed is raised."""


class Configured(Protocol):
    """What admins say about models, agents and tools: karma.configuration.current."""

    def for_run(self, *, agent: str, model: str) -> RunChoice:
        """Tell what a new run of an agent uses. May block.

        Raises:
            ComponentUnavailable: the agent or its model is disabled, or the model is configured no more.
        """


class Spending(Protocol):
    """Where running runs reserve more of their owners' model spend: billing's UsageRepository."""

    def extend(self, reservation: Reservation) -> None:
        """Take more. Blocks.

        Raises:
            QuotaExceeded: less is left; nothing was taken.
        """


class Watchdog(Protocol):
    """Somebody who looks after a run when its process cannot."""

    def arm(self, key: RunKey, *, delay: timedelta) -> None:
        """Have the run looked at after the delay. May block."""


class Sink(Protocol):
    """Where the frames of a run go; never blocks, never raises, drops everything once the client has left."""

    @property
    def is_lost(self) -> bool:
        """Whether the client is known to have left; never on platforms that do not tell."""
        ...

    def write(self, data: bytes) -> None:
        """Send frames."""
        ...


class RunPage(NamedTuple):
    """One page of a user's runs, newest first."""

    runs: list[Run]
    last: dict[str, str] | None


class RunStore(Protocol):
    """Runs, logs and threads at rest. All calls block."""

    def thread(self, key: ThreadKey) -> Thread:
        """Read a thread with its messages, consistently; an absent one is empty."""

    def start(
        self,
        run: Run,
        *,
        thread: Thread,
        segment: Segment,
        messages: tuple[Message, ...],
        after: int | None = None,
        attachments: Mapping[str, int] = MappingProxyType({}),
        reservations: Sequence[Reservation] = (),
    ) -> None:
        """Write a run, its first segment and its new messages, and make it the thread's active run: all or nothing.

        The messages follow the one at position `after`, else the thread's latest. What the run reserves of its
        owner's plan is taken with it, and the attachments that are new in its account are noted, sizes by id.

        Raises:
            RunExists: the id was used before, whatever is left of the plan.
            QuotaExceeded: the plan has no room for it.
            ThreadChanged: `thread` is not the stored one any more, or one of the attachments is noted already.
            AccountGone: the user is deleted.
        """

    def unkept(self, user_id: UserId, attachments: Collection[str]) -> list[str]:
        """Tell which of these attachments no run of the account has noted, consistently."""

    def append(self, segment: Segment, *, history: History | None = None) -> None:
        """Write the next segment, with messages in the same transaction; a repeat by the same writer succeeds.

        Raises:
            OwnershipLost: another writer has this number.
        """

    def finish(self, segment: Segment, how: RunEnd, *, thread: ThreadKey, history: History | None = None) -> None:
        """Write the last segment, end the run, correct what it reserved and free the thread: all or nothing.

        Repeats as in `append`; the correction counts once.

        Raises:
            OwnershipLost: another writer has this number, or has ended the run.
        """

    def wish(self, key: RunKey, wish: Wish, *, at: datetime) -> None:
        """Ask a run's owner to end it. A repeat changes nothing, nor does a wish about a run that has ended."""

    def wishes(self, key: RunKey) -> frozenset[Wish]:
        """Read what is asked of a run's owner; what was written a moment ago may be missing."""

    def tail(self, key: RunKey) -> Segment | None:
        """Read the last segment, consistently."""

    def segments(self, key: RunKey, *, after: int, limit: int) -> list[Segment]:
        """Read segments in order, those above `after`, consistently; at most 1 MB a call."""

    def run(self, key: RunKey) -> Run | None:
        """Read a run, consistently."""

    def runs(
        self, user_id: UserId, *, limit: int, start: dict[str, str] | None, agent_id: AgentId | None = None
    ) -> RunPage:
        """List a user's runs, newest first; with an agent only its."""

    def count(self, user_id: UserId) -> int:
        """Count a user's runs."""

    def count_of_agent(self, user_id: UserId, agent_id: AgentId, *, most: int) -> int:
        """Count a user's runs of an agent, no further than `most`."""

    def owners(self, run_id: RunId) -> list[UserId]:
        """Find whose runs have this id, for operators."""


class Attachments(Protocol):
    """Bytes of a user's conversations that are too large for the conversation itself. All calls block."""

    def keep(self, user_id: UserId, data: bytes) -> str:
        """Keep bytes and return their id; the same bytes of the same user have the same id."""
        ...

    def read(self, user_id: UserId, attachment_id: str) -> bytes | None:
        """Return what was kept; None when there is none of this user's."""
        ...

    def url(self, user_id: UserId, attachment_id: str, media_type: str) -> str:
        """Return an address at which anybody who is given it can read what was kept, for some hours.

        Its path ends with `attachments/<user>/<id>`.
        """
        ...


class DeviceFiles(Protocol):
    """Files of a user's devices: karma.files.reading."""

    def read(self, user_id: UserId, device_id: str, file_id: str, *, max_bytes: int) -> bytes:
        """Return a ready file's bytes. Blocks.

        Raises:
            NotFound: no such file of this user's.
            InvalidTransition: it is not ready, or a directory.
            PayloadTooLarge: it has more bytes.
        """
        ...


class Fetched(NamedTuple):
    """What a URL named."""

    data: bytes
    media_type: str
    """As the server called it; "" when it did not."""


class NotFetched(ValueError):
    """A URL may not be fetched, or could not be; the message completes "the URL ..."."""


class Fetch(Protocol):
    """Fetches what strangers' URLs name: integrations.fetch.Fetcher."""

    def fetch(self, url: str, *, max_bytes: int) -> Fetched:
        """Return what the URL names. Blocks.

        Raises:
            NotFetched: see there.
        """
        ...
