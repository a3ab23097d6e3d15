"""Arguments of tools that others have declared by a JSON Schema, checked before the call leaves us.

The check is a courtesy: it tells the model sooner, and better, what the tool's own server would refuse. So it may cost
little, whatever the schema's author and the model wrote: the validator, jsonschema-rs, holds the interpreter's lock
while it works, and no timeout ends it. What could cost more is passed on unchecked:

| of | not checked is |
| --- | --- |
| a schema | one that has more than `MAX_VALUES` values or `MAX_LEVELS` levels when each `$ref` is replaced by what it |
| | refers to, thus every recursive one; one with references of another kind, or with `unevaluated...` |
| patterns | more than `MAX_PATTERNS`, one of more than `MAX_PATTERN_CHARS`, one that a linear engine has not got |
| arguments | those for which the schema's values times the arguments' own are more than `MAX_STEPS` |

Each value of an expanded schema is applied to each value of the arguments once at the most, hence the product.
Schemas are read as JSON Schema 2020-12, as `karma.tools.json_schema` reads them. The validator is imported at the first
call of such a tool.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import unquote

from karma.conversations.domain import Json, ToolCall, whole_arguments
from karma.core import freeform
from karma.tools.failures import BadArguments

if TYPE_CHECKING:
    import jsonschema_rs

MAX_VALUES: Final = 5_000
"""Members of objects and items of lists of an expanded schema: about 2,000 subschemas."""
MAX_LEVELS: Final = 64
"""Levels of an expanded schema; the validator recurses."""
MAX_PATTERNS: Final = 50
MAX_PATTERN_CHARS: Final = 256
MAX_STEPS: Final = 250_000
"""At most about a tenth of a second, most of it for the description of what is wrong."""

_MAX_MESSAGE_CHARS: Final = 300
_MAX_POINTER_CHARS: Final = 512
_PATTERN_BYTES: Final = 32_768
"""Bytes of a compiled pattern, and of its cache."""
_CHARS_A_STEP: Final = 64
_REFUSED: Final = frozenset({"$anchor", "$dynamicAnchor", "$dynamicRef", "$recursiveAnchor", "$recursiveRef"})
_UNEVALUATED: Final = frozenset({"unevaluatedItems", "unevaluatedProperties"})
"""Keywords that apply their neighbours again: nested, each level doubles the steps."""
_ROOT_ONLY: Final = frozenset({"$id", "$schema"})


class Expansion(NamedTuple):
    """Size of a schema when each reference is replaced by what it refers to."""

    values: int
    patterns: int
    uniques: int
    """Lists that must not have an item twice: each compares every value with every other."""

    def steps(self, value: object) -> int:
        """Return how much work it can be to apply the schema to a value."""
        values, chars = _size(value)
        each = self.values * (values + chars // _CHARS_A_STEP)
        return each + self.patterns * chars + self.uniques * values * values


class JsonArguments:
    """The schema of a tool's arguments."""

    def __init__(self, schema: Json, *, has_formats: bool = False) -> None:
        """`schema` is of type object, and refers to nothing outside of itself.

        With `has_formats` a `format` is a rule; else it is a remark, as JSON Schema has it.
        """
        self.schema = schema
        self._has_formats = has_formats
        self._expansion: Expansion | None = None
        self._validator: jsonschema_rs.Draft202012Validator | None = None
        self._is_ready = False

    def checked(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Return arguments that the schema allows, or that are not checked (see above).

        Raises:
            BadArguments: they are not allowed, or are too deep; the message says why.
        """
        if freeform.is_deeper(arguments):
            raise BadArguments(freeform.TOO_DEEP)
        if not self._is_ready:
            self._expansion = expansion_of(self.schema)
            self._validator = (
                None if self._expansion is None else _validator(self.schema, has_formats=self._has_formats)
            )
            self._is_ready = True
        if self._validator is None or self._expansion is None or self._expansion.steps(arguments) > MAX_STEPS:
            return arguments
        import jsonschema_rs

        try:
            self._validator.validate(arguments)
        except jsonschema_rs.ValidationError as error:
            at = "".join(f"{step}." for step in error.instance_path).removesuffix(".") or "The arguments"
            raise BadArguments(f"{at}: {error.message}"[:_MAX_MESSAGE_CHARS]) from None
        return arguments


def expansion_of(schema: Json) -> Expansion | None:
    """Expand a schema, in as many steps as it has values; None: it is none that is checked."""
    values, patterns, uniques = 0, 0, 0
    rest: list[tuple[Any, int]] = [({k: v for k, v in schema.items() if k not in _ROOT_ONLY}, 1)]
    while rest:
        value, level = rest.pop()
        values += len(value)
        if values > MAX_VALUES or level > MAX_LEVELS:
            return None
        if isinstance(value, dict):
            own = _patterns(value)
            patterns += len(own)
            uniques += value.get("uniqueItems") is True
            if patterns > MAX_PATTERNS or any(len(each) > MAX_PATTERN_CHARS for each in own):
                return None
        for key, each in value.items() if isinstance(value, dict) else enumerate(value):
            inner = each
            if key in _UNEVALUATED or (isinstance(each, str) and (key in _REFUSED or key in _ROOT_ONLY)):
                return None
            if key == "$ref" and isinstance(each, str):
                inner = _target(schema, each)
                if inner is None:
                    return None
            if isinstance(inner, dict | list):
                rest.append((inner, level + 1))
    return Expansion(values, patterns, uniques)


def _patterns(schema: dict[str, Any]) -> list[str]:
    own, named = schema.get("pattern"), schema.get("patternProperties")
    return [*([own] if isinstance(own, str) else []), *(named if isinstance(named, dict) else [])]


def _target(schema: Json, reference: str) -> Any:
    """Return what a JSON Pointer into a schema refers to; None: nothing, or it is none."""
    if len(reference) > _MAX_POINTER_CHARS or not (reference == "#" or reference.startswith("#/")):
        return None
    found: Any = schema
    for step in unquote(reference).split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(found, dict):
            found = found.get(name)
        elif isinstance(found, list) and name.isascii() and name.isdigit() and int(name) < len(found):
            found = found[int(name)]
        else:
            return None
    return found


def _validator(schema: Json, *, has_formats: bool) -> jsonschema_rs.Draft202012Validator | None:
    """Compile a schema whose expansion is bounded; None: it is malformed, or has patterns that are not checked."""
    import jsonschema_rs

    bounded = jsonschema_rs.RegexOptions(size_limit=_PATTERN_BYTES, dfa_size_limit=_PATTERN_BYTES)
    own = {name: value for name, value in schema.items() if name not in _ROOT_ONLY}
    try:
        return jsonschema_rs.Draft202012Validator(
            own, pattern_options=bounded, validate_formats=has_formats, offline=True
        )
    except (ValueError, jsonschema_rs.ReferencingError):
        return None


def _size(value: object) -> tuple[int, int]:
    """Return how many values a value consists of, and how many characters are in them and in their names."""
    values, chars = 0, 0
    rest = [value]
    while rest:
        each = rest.pop()
        values += 1
        if isinstance(each, str):
            chars += len(each)
        elif isinstance(each, int):
            chars += each.bit_length()  # of any length, where the text was read by Python's own reader
        elif isinstance(each, dict):
            chars += sum(map(len, each))
            rest += each.values()
        elif isinstance(each, list):
            rest += each
    return values, chars


def is_readable(call: ToolCall) -> bool:
    """Tell whether a call's arguments are a JSON object, or none."""
    text, levels = whole_arguments(call.arguments), freeform.MAX_LEVELS + 1
    try:
        return isinstance(freeform.loads(text, levels=levels, replace_surrogates=True, is_exact=False), dict)
    except ValueError:
        return False
