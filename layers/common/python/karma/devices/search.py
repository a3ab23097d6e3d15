"""Search of devices by words, as `searchDatabase` and the search route use it ("online devices")."""

from __future__ import annotations

from dataclasses import dataclass

from karma.devices.domain import CurrentDevice, DeviceModel, DeviceStatus

_NOISE = frozenset(
    {"all", "any", "device", "devices", "eos", "find", "list", "me", "my", "show", "the", "which", "are"}
)


@dataclass(frozen=True)
class SearchWords:
    """A parsed query: words of status and model filter, the others must occur."""

    statuses: frozenset[str]
    models: frozenset[str]
    words: tuple[str, ...]

    @classmethod
    def read(cls, query: str) -> SearchWords:
        """Parse a query."""
        words = [word.strip(".,;:!?\"'()") for word in query.casefold().split()]
        statuses = frozenset(word for word in words if word in set(DeviceStatus))
        models = frozenset(model for word in words for model in DeviceModel if word in _model_words(model))
        models_words = frozenset(word for model in models for word in _model_words(model))
        rest = tuple(word for word in words if word and word not in _NOISE | statuses | models_words)
        return cls(statuses, models, rest)

    def score(self, current: CurrentDevice) -> int:
        """Return the score of a device, 0 if it does not match; a word at the start of a text scores above others."""
        device = current.device
        if self.statuses and current.status not in self.statuses:
            return 0
        if self.models and device.model not in self.models:
            return 0
        score = 1
        name = device.name.casefold()
        texts = (
            name,
            device.serial_number.casefold(),
            device.id,
            device.mac.casefold(),
            *map(str.casefold, device.tags),
        )
        for word in self.words:
            if any(text.startswith(word) for text in (*name.split(), *texts)):
                score += 3
            elif any(word in text for text in texts):
                score += 1
            else:
                return 0
        return score


def _model_words(model: DeviceModel) -> tuple[str, str]:
    return (model.casefold(), model.casefold().removeprefix("eos-"))
