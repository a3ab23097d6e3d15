"""The code that a function can reach, and the part of it that is there with its own dependency layer alone.

Two questions, for imports that a call makes as much as for those of a start:

* which modules does the code name that neither Python, nor the function, nor its layer has;
* which names of a library are other things without what the layer lacks. A library may stand in for an optional part of
  it with something that fails when it is called: `httpcore2.AnyIOBackend` without anyio.

The second is asked in fresh processes, which this module runs by itself.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import re
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cache
from importlib.abc import MetaPathFinder
from importlib.metadata import packages_distributions
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[2]
LAYER: Final = ROOT / "layers" / "common" / "python"
FUNCTIONS: Final = ROOT / "functions"
Reference = tuple[str, str]
"""A module of a library, and the dotted path of a name in it; the path is empty where only the module is imported."""


@cache
def locked(package: str) -> frozenset[str]:
    """Return the distributions that the layer of a package holds, by their normalised names."""
    text = (ROOT / "requirements" / f"{package}.txt").read_text(encoding="utf-8")
    return frozenset(_normal(name) for name in re.findall(r"^([A-Za-z0-9._-]+)==", text, re.MULTILINE))


@cache
def _distributions() -> Mapping[str, frozenset[str]]:
    return {name: frozenset(map(_normal, found)) for name, found in packages_distributions().items()}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def is_there(module: str, held: frozenset[str]) -> bool:
    """Tell whether a module that is not ours is Python's own, or of one of the distributions that are `held`."""
    top = module.partition(".")[0]
    return top in sys.stdlib_module_names or bool(_distributions().get(top, frozenset()) & held)


@cache
def reached(package: str) -> Mapping[Reference, set[str]]:
    """Return what `functions/<package>`, with all of ours that it may import, names of libraries, and where."""
    todo = sorted((FUNCTIONS / package).rglob("*.py"))
    seen, found = set(todo), dict[Reference, set[str]]()
    while todo:
        file = todo.pop()
        for module, name in _named_in(file):
            own = _own(module, name)
            if not own and not _is_ours(module):
                found.setdefault((module, name), set()).add(file.relative_to(ROOT).as_posix())
            todo += [each for each in own if each not in seen]
            seen.update(own)
    return found


@cache
def _named_in(file: Path) -> frozenset[Reference]:
    return frozenset(_references(_parsed(file)))


@cache
def _parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_bytes())


def _is_ours(module: str) -> bool:
    top = module.partition(".")[0]
    return (LAYER / top).is_dir() or (FUNCTIONS / top).is_dir()


@cache
def _own(module: str, name: str) -> Sequence[Path]:
    """Return the files of ours that an import runs: the module, and the packages around it."""
    parts = [*module.split("."), *name.split(".")[:1]]
    starts = [root.joinpath(*parts[:count]) for count in range(1, len(parts) + 1) for root in (LAYER, FUNCTIONS)]
    return [file for at in starts for file in (at.with_suffix(".py"), at / "__init__.py") if file.is_file()]


def _references(tree: ast.Module) -> Iterator[Reference]:
    """Give what a source imports when it runs, and the names that it reads of modules that it imports whole."""
    modules = dict[str, str]()
    skipped = {id(each) for node in ast.walk(tree) if _is_for_types(node) for each in ast.walk(node)}
    live = [node for node in ast.walk(tree) if id(node) not in skipped]
    for node in live:
        if isinstance(node, ast.Import):
            for alias in node.names:
                modules[alias.asname or alias.name.partition(".")[0]] = (
                    alias.name if alias.asname else alias.name.partition(".")[0]
                )
                yield alias.name, ""
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from ((node.module, alias.name) for alias in node.names)
    yield from _found_by_name(live)
    for node in live:
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            yield modules[node.value.id], node.attr


@cache
def _contexts_modules(file: Path) -> Mapping[str, Sequence[Reference]]:
    """Return what each function of a file finds by `karma.core.contexts`."""
    found = dict[str, list[Reference]]()
    for node in ast.walk(_parsed(file)) if file.is_file() else ():
        if isinstance(node, ast.FunctionDef):
            for name in re.findall(r"contexts\.modules\('(\w+)'\)", ast.unparse(node)):
                every = [(f"karma.{at.parent.name}.{name}", "") for at in LAYER.glob(f"karma/*/{name}.py")]
                found.setdefault(node.name, []).extend(every)
    return found


def _found_by_name(live: Sequence[ast.AST]) -> Iterator[Reference]:
    """Give the modules that functions which a source names find by `karma.core.contexts`, in every context."""
    named = {
        alias.asname or alias.name: (node.module or "", alias.name)
        for node in live
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    attributes = [node for node in live if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)]
    of_modules = [
        (".".join(named[ast.unparse(each.value)]), each.attr) for each in attributes if ast.unparse(each.value) in named
    ]
    for module, function in (*named.values(), *of_modules):
        file = LAYER.joinpath(*module.split(".")).with_suffix(".py")
        yield from _contexts_modules(file).get(function, ())


def _is_for_types(node: ast.AST) -> bool:
    """Tell whether only type checkers read a node."""
    if not isinstance(node, ast.If):
        return False
    name = node.test.attr if isinstance(node.test, ast.Attribute) else getattr(node.test, "id", "")
    return name == "TYPE_CHECKING"


def missing(package: str, wanted: Mapping[Reference, set[str]]) -> dict[str, list[str]]:
    """Return the modules that the layer of a package lacks, each with the files that import it."""
    lacks = dict[str, set[str]]()
    for (module, _), files in wanted.items():
        if not is_there(module, locked(package)):
            lacks.setdefault(module, set()).update(files)
    return {module: sorted(files) for module, files in sorted(lacks.items())}


def changed(wanted: Sequence[Reference], held: frozenset[str]) -> list[str]:
    """Return the references that cannot be resolved, or are other things, where only what is `held` can be imported."""
    others = sorted(name for name in _distributions() if not is_there(name, held))
    with_all, with_held = _fingerprints(wanted, []), _fingerprints(wanted, others)
    return sorted(name for name, made in with_held.items() if made != with_all[name])


def _fingerprints(wanted: Sequence[Reference], absent: Sequence[str]) -> dict[str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.reach"],
        input=json.dumps([wanted, absent]),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        cwd=ROOT,
    )
    found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return found


class Absent(MetaPathFinder):
    """Finds none of some libraries, and leaves the others to Python."""

    def __init__(self, names: Collection[str]) -> None:
        """Take the names of their packages."""
        self._names = names

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        """Raise ModuleNotFoundError for a module that is to be absent."""
        del path, target
        if name.partition(".")[0] in self._names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def _made(module: str, name: str) -> str:
    """Tell what a reference stands for: its kind, the names that it has, and those of the classes above it."""
    try:
        value: Any = importlib.import_module(module)
        for part in filter(None, name.split(".")):
            if isinstance(value, ModuleType) and not hasattr(value, part) and find_spec(f"{module}.{part}"):
                value = importlib.import_module(f"{module}.{part}")
            else:
                value = getattr(value, part)
    except (ImportError, AttributeError) as exc:
        return f"{type(exc).__name__}: {exc}"
    if not inspect.isclass(value):
        return type(value).__name__
    return json.dumps([[each.__qualname__ for each in inspect.getmro(value)], sorted(vars(value))])


def _main() -> None:
    wanted, absent = json.load(sys.stdin)
    sys.meta_path.insert(0, Absent(frozenset(absent)))
    sys.stdout.write(json.dumps({f"{module}:{name}": _made(module, name) for module, name in wanted}) + "\n")


if __name__ == "__main__":
    _main()
