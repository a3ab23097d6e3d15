"""Converts the value that a handler returned into the result of its command's answer.

The work is done, so no result makes the command fail: parts that cannot be sent are replaced by marks.

| returned | sent |
|---|---|
| an object | as it is |
| another value, `"ok"` or `[1, 2]` | `{"value": …}` |
| NaN or an infinity in it | null |
| half of a surrogate pair in it | U+FFFD |
| something that JSON does not have, such as a `datetime`, in it | `{"not_kept": "NOT_JSON", "type": "datetime"}` |
| more than 60 levels, or an object in itself | `{"not_kept": "TOO_DEEP"}` |
| over 30 KB | `{"not_kept": "TOO_LARGE", "size": bytes, "begins": its first 1,000 characters}` |
"""

import json
import math
from collections.abc import Mapping

from karma_device.messages import MAX_RESULT_BYTES, Json, encode_json

_MAX_LEVELS = 60
"""Levels of a result at the most; the service accepts 64."""
_BEGINS_CHARS = 1_000
_MAX_PARTS = 20_000
"""Parts of a result: as many do not fit, and one object held twice by each of many doubles with each level."""


class _TooMany(Exception):
    pass


def sendable(result: object) -> tuple[dict[str, Json], str]:
    """Return the object to send, and a description of the changes to the result, "" when there are none."""
    copier = _Copier()
    try:
        copied = copier.copy(result, ())
    except _TooMany:
        return {"not_kept": "TOO_LARGE"}, f"more than {_MAX_PARTS} parts"
    except Exception as exc:  # noqa: BLE001  a class of the handler's own may do anything when it is read
        return {"not_kept": "NOT_JSON", "type": type(result).__name__}, f"{type(exc).__name__} while it was read"
    if not isinstance(copied, dict):
        copied = {"value": copied}
        copier.changed.append(f"{type(result).__name__} is no object")
    text = encode_json(copied)
    if len(text) > MAX_RESULT_BYTES:
        begins = text.decode()[:_BEGINS_CHARS]
        copied = {"not_kept": "TOO_LARGE", "size": len(text), "begins": begins}
        copier.changed.append(f"{len(text)} bytes exceed {MAX_RESULT_BYTES}")
    return copied, "; ".join(copier.changed[:5])


class _Copier:
    """Copies a value into one that JSON has."""

    def __init__(self) -> None:
        self.changed: list[str] = []
        self._parts = 0

    def copy(self, value: object, above: tuple[int, ...]) -> Json:
        self._parts += 1
        if self._parts > _MAX_PARTS:
            raise _TooMany
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, int):
            return self._integer(int(value))
        if isinstance(value, float):
            return float(value) if math.isfinite(value) else self._mark(None, str(float(value)))
        if not isinstance(value, Mapping | list | tuple):
            name = type(value).__name__
            return self._mark({"not_kept": "NOT_JSON", "type": name}, name)
        if id(value) in above or len(above) >= _MAX_LEVELS:
            return self._mark({"not_kept": "TOO_DEEP"}, "too deep")
        inside = (*above, id(value))
        if isinstance(value, Mapping):
            return {self._name(name): self.copy(each, inside) for name, each in value.items()}
        return [self.copy(each, inside) for each in value]

    def _name(self, name: object) -> str:
        if isinstance(name, str):
            return self._text(name)
        # As the standard library writes them: null, true, 1, 1.5.
        if name is None or isinstance(name, bool | int | float):
            return json.dumps(name)
        return str(self._mark(type(name).__name__, f"a member's name that is a {type(name).__name__}"))

    def _integer(self, value: int) -> Json:
        # The service takes a whole number beyond 64 bits as a float; Python writes none of thousands of digits.
        if -(2**63) <= value < 2**64:
            return value
        try:
            return float(value)
        except OverflowError:
            return self._mark(None, "a whole number beyond every float")

    def _text(self, value: str) -> str:
        text = value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        if text != value:
            self.changed.append("half of a surrogate pair")
        return text

    def _mark(self, mark: Json, what: str) -> Json:
        self.changed.append(what)
        return mark
