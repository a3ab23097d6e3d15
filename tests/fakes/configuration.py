"""In-memory stand-in for the store of components. It passes the same contract suite as DynamoDB's."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from karma.configuration.current import CurrentConfiguration
from karma.configuration.domain import Change, Component, ComponentChanged, built_in_components
from karma.configuration.ports import StoredComponent


class MemoryComponents:
    """Components in dictionaries."""

    def __init__(self) -> None:
        self.histories: dict[str, list[Change]] = defaultdict(list)
        self.reads = 0
        """Number of times that all components were read."""

    def components(self) -> Sequence[StoredComponent]:
        self.reads += 1
        last = sorted((history[-1] for history in self.histories.values() if history), key=lambda change: change.name)
        return [StoredComponent(change.new, change.version) for change in last if change.new]

    def last_change(self, name: str) -> Change | None:
        history = self.histories.get(name)
        return history[-1] if history else None

    def change(self, name: str, version: int) -> Change | None:
        return next((change for change in self.histories.get(name, ()) if change.version == version), None)

    def changes(self, name: str, *, below: int, limit: int) -> Sequence[Change]:
        found = [change for change in self.histories.get(name, ()) if change.version < below]
        return found[::-1][:limit]

    def count(self, *, most: int) -> int:
        return min(most, len(self.components()))

    def append(self, change: Change) -> None:
        if self.change(change.name, change.version) is not None:
            raise ComponentChanged(f"Configuration '{change.name}' was changed by another request; read it again")
        self.histories[change.name].append(change)


def built_in(*, models: Sequence[str] = ("claude-test", "claude-other"), **tools: str) -> Mapping[str, Component]:
    """Return the components that code defines in tests."""
    return built_in_components(models=models, tools=tools or {"echo": "Echo"}, agents={"karma": "Built in"})


def as_built(**tools: str) -> CurrentConfiguration:
    """Return a deployment in which nobody configured anything."""
    return CurrentConfiguration(MemoryComponents(), built_in=built_in(**tools))
