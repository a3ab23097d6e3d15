"""Every field of every body that is a name or title, enumerated from the description of the API, is one line that shows
something."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from karma.configuration.domain import is_name
from karma.core.lines import is_line, shows
from karma.files.domain import clean_name, clean_path, new_name, new_path
from tests.support import contract
from tests.unit.http.test_body_errors import bodies, told

TURNS = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
SAMPLE = "\x00\n\x1b\x7f\x85\x9f\u2028\u2029\u202a\u202e\u2066\u2069"
UNSEEN = [
    "\u200b",
    "\u200b\u200d\u2060",
    "\ufeff",
    "\u00ad\u034f",
    "\u3164",
    "\u2800 \u200e",
    "\U000e0041",
    "\u2003\u200b",
]
GOOD = [
    "a",
    "\U0001f469\u200d\U0001f680",
    "\u2764\ufe0f",
    "\u05d0\u200f 1",
    "\u0645\u06cc\u200c\u0634\u0648\u062f",
    "\u30b1\u3099",
    "a\u00a0b",
    "\ufffd",
]
TOOLS = {("subagents", 0, "name")}
"""Names by which models call tools: of fewer characters than people's."""
NAMES = {"name", "title"}
"""Members that are names by what they are called; a value of a closed list is none."""


def named(
    schema: Mapping[str, Any], schemas: Mapping[str, Any], at: tuple[str | int, ...] = ()
) -> Iterator[tuple[str | int, ...]]:
    """Yield the places of names in a body."""
    if "$ref" in schema:
        schema = schemas[schema["$ref"].rpartition("/")[2]]
    for each in schema.get("anyOf", ()):
        yield from named(each, schemas, at)
    if at and at[-1] in NAMES and schema.get("type") == "string" and "enum" not in schema:
        yield at
    if "items" in schema:
        yield from named(schema["items"], schemas, (*at, 0))
    for member, inner in schema.get("properties", {}).items():
        yield from named(inner, schemas, (*at, member))


def fields() -> list[tuple[str, tuple[str | int, ...]]]:
    document = contract.committed()
    schemas = document["components"]["schemas"]
    found = set()
    for path in document["paths"].values():
        for operation in path.values():
            for content in operation.get("requestBody", {}).get("content", {}).values():
                refs = [content["schema"], *content["schema"].get("anyOf", ())]
                for ref in (each["$ref"] for each in refs if "$ref" in each):
                    name = ref.rpartition("/")[2]
                    found |= {(name, at) for at in named(schemas[name], schemas)}
    return sorted((each for each in found if each[1] not in TOOLS), key=str)


def patterns(of: object) -> Iterator[str]:
    """Yield every pattern of a document."""
    for each in of.values() if isinstance(of, dict) else of if isinstance(of, list) else ():
        yield from patterns(each)
    if isinstance(of, dict) and isinstance(of.get("pattern"), str):
        yield of["pattern"]


def body(at: tuple[str | int, ...], value: object) -> object:
    for part in reversed(at):
        value = [value] if part == 0 else {part: value}
    return value


@pytest.mark.fault("F-24n")
class TestNames:
    @pytest.mark.parametrize(("model", "at"), fields(), ids=str)
    def test_each_is_refused_by_its_field(self, model: str, at: tuple[str | int, ...]) -> None:
        field = ".".join(map(str, at))
        wrong = [*(f"a{char}b" for char in SAMPLE), *UNSEEN]
        assert [text for text in wrong if field not in told(bodies()[model], body(at, text))] == []
        assert [text for text in GOOD if field in told(bodies()[model], body(at, text))] == []

    def test_a_pattern_that_takes_no_line_break_takes_none_of_the_others(self) -> None:
        """Also where a text is no name but stands on one line beside others, such as a webhook's description."""
        found = {text for text in patterns(contract.committed()) if r"\x00-\x1f" in text}
        assert {text for text in found if any(re.search(text, f"a{char}b") for char in SAMPLE)} == set()
        assert len(found) > 1

    def test_the_description_names_all_kinds(self) -> None:
        found = {model for model, _ in fields()}
        nouns = (
            "Register",
            "PatchProfile",
            "Device",
            "Project",
            "Agent",
            "Avatar",
            "Task",
            "File",
            "Directory",
            "ApiKey",
        )
        assert [noun for noun in nouns if not any(noun in model for model in found)] == []

    def test_the_characters_are_those_of_unicode(self) -> None:
        """No control, no end of a line or paragraph, no half of a character, nothing that turns text around it."""
        every = [chr(code) for code in (*range(0x3100), *range(0xD800, 0x10000), *range(0xE0000, 0xE0200))]
        never = {
            char
            for char in every
            if unicodedata.category(char) in {"Cc", "Zl", "Zp", "Cs"} or unicodedata.bidirectional(char) in TURNS
        }
        assert {char for char in every if not is_line(f"a{char}b")} == never
        assert [char for char in every if unicodedata.category(char) == "Zs" and shows(char)] == []
        assert [char for char in every if unicodedata.category(char)[0] in "LNPS" and not shows(char)] == [
            *"\u115f\u1160\u2800",
            "\uffa0",
        ], "letters and a symbol that Unicode draws as nothing"

    def test_what_was_stored_before_is_found_by_its_name(self) -> None:
        assert is_name("a\u2028b")
        for name in ("a\u2028b", "\u200b"):
            assert (clean_name(name), clean_path(f"/x/{name}")) == (name, f"/x/{name}")
            for new, text in ((new_name, name), (new_path, f"/{name}/x"), (new_path, f"x/{name}")):
                with pytest.raises(ValueError, match="must not have control characters"):
                    new(text)
        assert (new_path("/"), new_path(""), new_path("a//b/")) == ("/", "/", "/a/b")
