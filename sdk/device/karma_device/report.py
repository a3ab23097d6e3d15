"""Reports of a device: counters while it runs, and the unsent data when it stops."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class DeviceStats:
    """Counters since this object was made, and current sizes."""

    connected: bool
    connections: int
    published_batches: int
    buffered_batches: int
    buffered_bytes: int
    dropped_batches: int
    """Telemetry messages that were dropped: the buffer was full, or the broker refused them permanently."""
    dropped_samples: int
    dropped_metrics: int
    """Values that `record` dropped, since they are no finite numbers; the rest of their samples was sent."""
    state_failure: str | None
    """Reason why the state file could not be written last: a full disk, for example. None: it was written. Meanwhile
    telemetry goes on, and commands are not accepted."""
    last_failure: str | None
    """Reason why the last failed connection could not be made, or ended; None: none has failed."""


@dataclass(frozen=True)
class Unsent:
    """Data that a stopped device has not sent, and where it is kept."""

    samples: int
    """In memory only: the next `start` of this object sends them, the end of the process loses them."""
    answers: int
    """Finished commands whose answers the broker has not confirmed: in the state file, sent at the next start."""
    commands: int
    """Commands that are not finished: in the state file. At the next start those that had not begun run, the others are
    answered OUTCOME_UNKNOWN."""
    state_path: Path

    def __bool__(self) -> bool:
        """Tell whether anything is unsent."""
        return bool(self.samples or self.answers or self.commands)

    def __str__(self) -> str:
        """Describe the unsent data in a sentence."""
        if not self:
            return "nothing is left unsent"
        return (
            f"unsent: {self.samples} samples, in memory until the process ends; {self.answers} answers and"
            f" {self.commands} unfinished commands, kept in {self.state_path} for the next start"
        )
