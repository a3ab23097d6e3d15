"""What a device tells of itself: counters while it runs, and what it has not sent when it stops."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class DeviceStats:
    """Counters since this object was made, and what is held right now."""

    connected: bool
    connections: int
    published_batches: int
    buffered_batches: int
    buffered_bytes: int
    dropped_batches: int
    """Telemetry messages given up: the buffer was full, or the broker refused them for good."""
    dropped_samples: int
    dropped_metrics: int
    """Values that `record` did not take, since they are no finite numbers; the rest of their samples went."""
    last_failure: str | None
    """Why the last connection that failed could not be made, or ended; None while none has failed."""


@dataclass(frozen=True)
class Unsent:
    """What a stopped device has not sent, and where that is kept."""

    samples: int
    """In memory only: the next `start` of this object sends them, the end of the process loses them."""
    answers: int
    """Finished commands whose answers the broker has not confirmed: in the state file, sent at the next start."""
    commands: int
    """Commands that are not finished: in the state file. At the next start those that had not begun run, the others are
    answered OUTCOME_UNKNOWN."""
    state_path: Path

    def __bool__(self) -> bool:
        """Whether anything was left."""
        return bool(self.samples or self.answers or self.commands)

    def __str__(self) -> str:
        """Say it to a person."""
        if not self:
            return "nothing is left unsent"
        return (
            f"unsent: {self.samples} samples, in memory until the process ends; {self.answers} answers and"
            f" {self.commands} unfinished commands, kept in {self.state_path} for the next start"
        )
