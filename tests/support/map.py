"""Build docs/architecture.md: the rooms of the code, the arrows between them, and walks through them.

`python -m tests.support.map` (`make map`) draws it from the imports, from the docstring that opens each package, and
from docs/architecture.toml, which names the steps of the walks. A unit test fails when the page is stale, when a step
names what is not there, or when rooms need each other in a circle.
"""

from __future__ import annotations

import ast
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LAYER = ROOT / "layers/common/python/karma"
FUNCTIONS = ROOT / "functions"
WALKS = ROOT / "docs/architecture.toml"
PAGE = ROOT / "docs/architecture.md"


class Circle(Exception):
    """Rooms need each other, directly or by way of others."""


class NoSuchName(Exception):
    """A step of a walk names a function or class that does not exist."""


@dataclass(frozen=True)
class Room:
    """A package: a context, the core, the integrations, or a function."""

    name: str
    """`karma.devices`, or `api` for a function's."""
    folder: Path

    @property
    def paragraph(self) -> str:
        """Return the docstring that opens the package, without the end of its first line."""
        return ast.get_docstring(ast.parse((self.folder / "__init__.py").read_text())) or ""


@dataclass
class Map:
    """Rooms, and how many imports of each go to each other."""

    rooms: Mapping[str, Room]
    arrows: dict[str, dict[str, int]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(int)))


def _packages(folder: Path, prefix: str) -> Iterator[Room]:
    for each in sorted(folder.iterdir()):
        if (each / "__init__.py").exists():
            yield Room(f"{prefix}{each.name}", each)


@cache
def rooms() -> Mapping[str, Room]:
    """Return the packages by their names; what they import is not read."""
    return {room.name: room for room in (*_packages(LAYER, "karma."), *_packages(FUNCTIONS, ""))}


@cache
def drawn() -> Map:
    """Read every import, those for type checkers and those within functions as well."""
    found = Map(rooms())
    for room in found.rooms.values():
        for source in sorted(room.folder.rglob("*.py")):
            for module in _imported(ast.parse(source.read_text())):
                name = ".".join(module.split(".")[: 2 if module.startswith("karma.") else 1])
                if name in found.rooms and name != room.name:
                    found.arrows[room.name][name] += 1
    return found


def _imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def levels(arrows: Mapping[str, Mapping[str, int]], names: Iterable[str]) -> list[list[str]]:
    """Order rooms so that each needs only those of lower levels; the lowest level comes last.

    Raises:
        Circle: rooms need each other; the message names them.
    """
    height: dict[str, int] = {}
    left = set(names)
    while left:
        ready = {name for name in left if all(needed in height for needed in arrows.get(name, ()))}
        if not ready:
            raise Circle(" -> ".join(_circle(arrows, left)))
        height |= {name: max((height[needed] + 1 for needed in arrows.get(name, ())), default=0) for name in ready}
        left -= ready
    return [sorted(name for name in height if height[name] == level) for level in range(max(height.values()), -1, -1)]


def _circle(arrows: Mapping[str, Mapping[str, int]], left: set[str]) -> list[str]:
    way = [min(left)]
    while way[-1] not in way[:-1]:
        way.append(min(name for name in arrows[way[-1]] if name in left))
    return way[way.index(way[-1]) :]


def line_of(path: str, name: str) -> int:
    """Return the line on which a file defines a class, function or method (`Class.method`).

    Raises:
        NoSuchName: the file does not define the name.
    """
    body: Iterable[ast.stmt] = ast.parse((ROOT / path).read_text()).body if (ROOT / path).is_file() else ()
    line = 0
    for part in name.split("."):
        kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        found = next((node for node in body if isinstance(node, kinds) and node.name == part), None)
        if found is None:
            raise NoSuchName(f"{path}: {name}")
        line, body = found.lineno, found.body
    return line


def page() -> str:
    """Render the page.

    Raises:
        Circle: rooms need each other.
        NoSuchName: a step of a walk names what does not exist.
    """
    found = drawn()
    stacked = levels(found.arrows, found.rooms)
    told = tomllib.loads(WALKS.read_text())
    lines = [
        "# Architecture",
        "",
        "Generated by `make map` from the imports and `architecture.toml`.",
        "",
        told["opening"].strip(),
        "",
    ]
    lines += ["```mermaid", "flowchart TD"]
    for level, names in enumerate(stacked):
        lines += [
            f"  subgraph level{len(stacked) - 1 - level} [ ]",
            *(f"    {_id(name)}[{name}]" for name in names),
            "  end",
        ]
    lines += [
        f"  {_id(name)} --> {_id(needed)}" for names in stacked for name in names for needed in _nearest(found, name)
    ]
    lines += ["```", "", told["drawing"].strip(), ""]
    for name in (name for names in stacked for name in names):
        needs = ", ".join(f"`{needed}`" for needed in sorted(found.arrows[name]))
        lines += [
            f"## {name}",
            "",
            found.rooms[name].paragraph,
            "",
            f"Needs {needs}." if needs else "Needs no other room.",
            "",
        ]
    for walk in told["walk"]:
        lines += [f"## A walk: {walk['name']}", "", walk["sentence"], ""]
        for number, (path, name, sentence) in enumerate(walk["steps"], 1):
            lines.append(f"{number}. [`{name}`](../{path}#L{line_of(path, name)}) in `{path}`: {sentence}")
        lines.append("")
    return "\n".join(lines).rstrip("\n") + "\n"


def _id(name: str) -> str:
    return name.replace(".", "_")


def _nearest(found: Map, name: str) -> list[str]:
    """Return the rooms that a room needs directly, without those that a longer way shows already."""
    direct = set(found.arrows[name])
    by_others: set[str] = set()
    for each in direct:
        by_others |= _below(found, each)
    return sorted(direct - by_others)


def _below(found: Map, name: str) -> set[str]:
    seen: set[str] = set()
    left = list(found.arrows[name])
    while left:
        each = left.pop()
        if each not in seen:
            seen.add(each)
            left += found.arrows[each]
    return seen


def main() -> None:
    """Write the page."""
    PAGE.write_text(page())


if __name__ == "__main__":
    main()
