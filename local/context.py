"""Writes a new context from templates/context: CRUD of one noun, with its tests in every ring.

    python -m local.context jar              `make context NOUN=jar`
    python -m local.context entry entries    where the plural is not the noun with an s

The files of the template are a whole context of a noun called `noun`; a new one has its own word everywhere. What is
central and stays so is written as well: permissions (who may do it), rows of docs/permissions.md (what each caller is
answered), a section of docs/api.md, rows of docs/adr/0034 (what bounds its items).
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TEMPLATE = Path("templates/context")
PERMISSIONS = Path("layers/common/python/karma/identity/permissions.py")
TABLE = Path("docs/permissions.md")
API = Path("docs/api.md")
BOUNDS = Path("docs/adr/0034-plan-limits.md")

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
  6. .venv/bin/pytest {tests}
     ROUTES=/{plural} .venv/bin/pytest tests/integration/permissions/test_matrix.py
"""


class Refused(Exception):
    """The context cannot be made; the message says why."""


class Words:
    """A noun in its forms in code and in sentences."""

    def __init__(self, noun: str, plural: str) -> None:
        for word in (noun, plural):
            if not re.fullmatch(r"[a-z]+", word):
                raise Refused(f"{word!r} is no single lower-case word")
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
        Refused: a file of the context exists, or a file that must be changed lacks the place for it.
    """
    files = {Path(words.into(path.as_posix())): words.into(text) for path, text in _template(root)}
    changes = dict(_changes(root, words))
    if there := [path for path in files if (root / path).exists()]:
        raise Refused(f"{there[0]} is there already")
    for path, text in (files | changes).items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    python = [str(path) for path in files]
    for arguments in (["check", "--quiet", "--fix", "--select", "I"], ["format", "--quiet"]):
        subprocess.run([sys.executable, "-m", "ruff", *arguments, *python], cwd=root, check=True)
    return list(files), list(changes)


def _template(root: Path) -> Iterator[tuple[Path, str]]:
    for path in sorted((root / TEMPLATE).rglob("*.py")):
        yield path.relative_to(root / TEMPLATE), path.read_text()


def _changes(root: Path, words: Words) -> Iterator[tuple[Path, str]]:
    permissions, table, api, bounds = ((root / path).read_text() for path in (PERMISSIONS, TABLE, API, BOUNDS))
    yield PERMISSIONS, _with(permissions, r"^ROLES_OF.*?^(?=\})", words.into(_GRANTS), PERMISSIONS)
    yield TABLE, _with(table, r"\A.*?^\| `api [^\n]*\n(?!\| `api )", words.into(_ROWS), TABLE)
    yield API, _with(api, r"\A.*?^(?=## Runs$)", words.into(_SECTION), API)
    yield BOUNDS, _with(bounds, r"^### Every kind of item.*?^\| `[^\n]*\n(?!\| )", words.into(_BOUNDED), BOUNDS)


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
            tests=" ".join(str(path) for path in written if path.name.startswith("test_")),
        )
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
