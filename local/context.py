"""Writes a new context from templates/context: CRUD of one noun, with its tests in every ring.

    python -m local.context jar              `make context NOUN=jar`
    python -m local.context box boxes        where the plural is not the noun with an s

The files of the template are a whole context of a noun called `noun`; a new one has its own word everywhere. What is
central and stays so is written as well: permissions (who may do it), rows of docs/permissions.md (what each caller is
answered), a section of docs/api.md, rows of docs/adr/0034 (what bounds its items), the
README's list of contexts.
"""

from __future__ import annotations

import argparse
import ast
import builtins
import io
import keyword
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TEMPLATE = Path("templates/context")
PERMISSIONS = Path("layers/common/python/karma/identity/permissions.py")
TABLE = Path("docs/permissions.md")
KARMA = Path("layers/common/python/karma")
API = Path("docs/api.md")
BOUNDS = Path("docs/adr/0034-plan-limits.md")
README = Path("README.md")

_GRANTS = '    "noun:read": _ALL,\n    "noun:write": _ACTIVE,\n'
_UNKNOWN = "401 | 401 | 401 | 401 | 404"
_ROWS = f"""\
| `api POST /api/v1/nouns` | noun:write | {_UNKNOWN} | 403 | 201 | 201 | 201 | 201 | 403 |
| `api GET /api/v1/nouns` | noun:read | {_UNKNOWN} | 200 | 200 | 200 | 200 | 200 | 403 |
| `api GET /api/v1/nouns/{{noun_id}}` | noun:read | {_UNKNOWN} | 200 | 200 | 404 | 404 | 200 | 403 |
| `api PATCH /api/v1/nouns/{{noun_id}}` | noun:write | {_UNKNOWN} | 403 | 200 | 404 | 404 | 200 | 403 |
| `api DELETE /api/v1/nouns/{{noun_id}}` | noun:write | {_UNKNOWN} | 403 | 204 | 404 | 404 | 204 | 403 |
"""
_SECTION = """\
## Nouns
`GET|POST /nouns`, `GET|PATCH|DELETE /nouns/{id}`: the caller's own, newest first. A new noun needs a `name`;
it may have a `note`.

"""
_BOUNDED = """\
| `noun` | **rate alone**, until a count of an account's nouns bounds them |
| `noun_request` | rate, time 25 hours |
"""
_NEXT = """\
{count} files of templates/context are written, and {edited} changed:
  {changed}

Next:
  1. layers/common/python/karma/{plural}: say in __init__.py what it is for; what it is in domain, schemas, answers.
  2. {permissions}:
     decide who may {noun}:read and {noun}:write; then check each cell of its rows in {table}.
  3. {api}: say what holds for its routes.
  4. {bounds}: say what bounds its items; a count or a plan's limit is better than the rate of requests alone.
  5. After each change: make docs map, and what each refused condition answers, to be read before it is committed:
     REWRITE=1 .venv/bin/pytest tests/contract/stores/test_refusals.py -k "ministack and {store}"
  6. make install, once: without the engine that it installs, whatever needs a database is an error. Then
     ROUTES=/{plural} .venv/bin/pytest {tests}
  7. A second noun of the context, a sweep, ids that others take: CONTRIBUTING.md, A new context.
"""
CHECKS = (
    "tests/unit/nouns",
    "tests/unit/test_architecture.py",
    "tests/unit/test_bounds.py",
    "tests/unit/http/test_names.py",
    "tests/unit/runs/test_happenings.py",
    "tests/unit/test_decisions.py::test_the_readme_lists_all_contexts",
    "tests/unit/identity/test_deletion.py",
    "tests/unit/core/test_paging.py::test_every_list_is_cut_or_its_largest_page_fits",
    "tests/contract/api/test_examples.py",
    "tests/contract/stores/test_nouns.py",
    "tests/contract/stores/test_refusals.py",
    "tests/contract/stores/test_completeness.py",
    "tests/integration/api/test_nouns.py",
    "tests/integration/permissions/test_matrix.py",
)
"""Tests that a change of a context can break, of a context `nouns`."""


_OF_PYTEST = frozenset({"test", "tests", "fixture", "fixtures", "conftest", "pytest", "mark", "marks"})


class Refused(Exception):
    """The context cannot be made; the message says why."""


class Words:
    """A noun in its forms in code and in sentences."""

    def __init__(self, noun: str, plural: str) -> None:
        for word in (noun, plural):
            if not re.fullmatch(r"[a-z]+", word):
                raise Refused(f"{word!r} is no single lower-case word")
            if keyword.iskeyword(word) or keyword.issoftkeyword(word) or hasattr(builtins, word):
                raise Refused(f"{word!r} is a word of Python's: code could not use it as a name")
            if word in _OF_PYTEST:
                raise Refused(f"{word!r} is a word of pytest's: it would take the context's code for tests")
        if noun == plural:
            raise Refused("the plural names the context, the singular one of it: they must differ")
        self.noun, self.plural = noun, plural

    def into(self, text: str) -> str:
        """Replace the template's noun in a text."""
        if self.noun[0] in "aeiou":
            text = re.sub(r"\b([Aa]) (?=(new )?noun\b)", lambda a: a[0] if a[2] else f"{a[1]}n ", text)
        return re.sub("nouns?|Nouns?|NOUNS?", self._own, text)

    def _own(self, found: re.Match[str]) -> str:
        word = self.plural if found[0].lower() == "nouns" else self.noun
        return next(form(word) for form in (str.lower, str.capitalize, str.upper) if form(found[0]) == found[0])


def make(root: Path, words: Words) -> tuple[list[Path], list[Path]]:
    """Write a context's files below `root`; return the paths that were written and those that were changed.

    Raises:
        Refused: a file or a name of the context exists, or a file that must be changed lacks the place for it.
            Nothing is written then, nor after any other error.
    """
    files = {Path(words.into(path.as_posix())): words.into(text) for path, text in _template(root)}
    changes = dict(_changes(root, words))
    if there := [path for path in files if (root / path).exists()]:
        raise Refused(f"{there[0]} is there already")
    _refuse_taken(root, words, files)
    before = {path: (root / path).read_text() for path in changes}
    made: list[Path] = []
    try:
        for path, text in (files | changes).items():
            made += reversed([each for each in (root / path).parents if not each.exists()])
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            made.append(root / path)
            (root / path).write_text(text)
        python = [str(path) for path in files]
        for arguments in (["check", "--quiet", "--fix", "--select", "I"], ["format", "--quiet"]):
            subprocess.run([sys.executable, "-m", "ruff", *arguments, *python], cwd=root, check=True)
    except BaseException:
        for path in reversed(made):
            if path.is_dir():
                path.rmdir()
            elif path.relative_to(root) in before:
                path.write_text(before[path.relative_to(root)])
            else:
                path.unlink(missing_ok=True)
        raise
    return list(files), list(changes)


def _refuse_taken(root: Path, words: Words, files: Mapping[Path, str]) -> None:
    """Refuse a noun whose names the template uses for something else, or that the code has already.

    Raises:
        Refused: one of them is taken; the message says which, and where.
    """
    own = {form(word) for word in (words.noun, words.plural) for form in (str.lower, str.capitalize, str.upper)}
    for path, text in _template(root):
        names = (
            token.string
            for token in tokenize.generate_tokens(io.StringIO(text).readline)
            if token.type == tokenize.NAME
        )
        if taken := own & set(names):
            raise Refused(f"{min(taken)!r} is the name of something else in {TEMPLATE / path}: take a more exact word")
    classes = {name: path for path in sorted((root / KARMA).rglob("*.py")) for name in _classes(path.read_text())}
    for path, text in files.items():
        if path.is_relative_to(KARMA) and (taken := _classes(text) & classes.keys()):
            where = classes[min(taken)].relative_to(root)
            raise Refused(f"{where} defines {min(taken)!r} already: one name is one idea")
    if re.search(rf'"{words.noun}:', (root / PERMISSIONS).read_text()):
        raise Refused(f"{PERMISSIONS} has permissions of {words.noun!r} already")
    if re.search(rf"^\|[^|\n]*`{words.noun}`", (root / BOUNDS).read_text(), re.MULTILINE):
        raise Refused(f"{BOUNDS} has a kind of item {words.noun!r} already")


def _classes(text: str) -> set[str]:
    return {node.name for node in ast.parse(text).body if isinstance(node, ast.ClassDef)}


def _template(root: Path) -> Iterator[tuple[Path, str]]:
    for path in sorted((root / TEMPLATE).rglob("*.py")):
        yield path.relative_to(root / TEMPLATE), path.read_text()


def _changes(root: Path, words: Words) -> Iterator[tuple[Path, str]]:
    central = (PERMISSIONS, TABLE, API, BOUNDS, README)
    permissions, table, api, bounds, readme = ((root / path).read_text() for path in central)
    yield PERMISSIONS, _with(permissions, r"^ROLES_OF.*?^(?=\})", words.into(_GRANTS), PERMISSIONS)
    yield TABLE, _with(table, r"\A.*?^\| `api [^\n]*\n(?!\| `api )", words.into(_ROWS), TABLE)
    yield API, _with(api, r"\A.*?^(?=## Runs$)", words.into(_SECTION), API)
    yield BOUNDS, _with(bounds, r"^### Every kind of item.*?^\| `[^\n]*\n(?!\| )", words.into(_BOUNDED), BOUNDS)
    yield README, _with(readme, r"one package a context \([^)]+", f", {words.plural}", README)


def _with(text: str, before: str, added: str, path: Path) -> str:
    place = re.search(before, text, re.DOTALL | re.MULTILINE)
    if place is None:
        raise Refused(f"{path} has no place for a new context: see _changes in local/context.py")
    return text[: place.end()] + added + text[place.end() :]


def main(arguments: Sequence[str]) -> int:
    """Make a context; returns the exit status."""
    parser = argparse.ArgumentParser(prog="make context", usage="make context NOUN=jar [PLURAL=jars]")
    parser.add_argument("noun")
    parser.add_argument("plural", nargs="?", default="")
    given = parser.parse_args(arguments)
    try:
        words = Words(given.noun, given.plural or f"{given.noun}s")
        written, changed = make(ROOT, words)
    except Refused as refused:
        print(f"make context: {refused}", file=sys.stderr)
        return 2
    print(
        _NEXT.format(
            count=len(written),
            edited=len(changed),
            changed="\n  ".join(map(str, changed)),
            noun=words.noun,
            plural=words.plural,
            permissions=PERMISSIONS,
            table=TABLE,
            api=API,
            bounds=BOUNDS,
            store=words.into("NounRepository"),
            tests=" ".join(map(words.into, CHECKS)),
        )
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
