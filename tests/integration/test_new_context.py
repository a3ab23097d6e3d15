"""A context is begun by `make context`: it is made here in a copy of the repository, where its tests pass as they are.

Fails when templates/context is not as the rest of the code is any more, and when a new context needs another file that
is written by hand.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest

from local import context
from local.context import Refused, Words

ROOT = Path(__file__).resolve().parents[2]
LINTED = ROOT / ".mypy_cache"
INSTALLED = (".venv", ".engine", "node_modules")
SYNTHESIZED = "build/test-stacks"
"""Templates of tables and queues, each under the digest of `infra` that it was made of: the copy has the same one."""
MOST = 5
"""Largest number of files, written by hand, that a context may change outside its own folders."""
REFUSALS = "tests/contract/stores/golden/refusals.json"
GENERATED = {
    "docs/architecture.md",
    "docs/faults.md",
    "docs/openapi.json",
    "docs/openapi-stream.json",
    "docs/requirements.md",
    REFUSALS,
}
GENERATORS = ("requirements", "faults", "contract", "map")
"""Generators of `make docs map`."""
TESTS = tuple(map(Words("jar", "jars").into, context.CHECKS))
CHOSEN = (
    "(not test_refusals and not dynamodb_local and not test_names) or (ministack and JarRepository)"
    " or (test_names and JarBody)"
)


class Copy:
    """A copy of the repository in another folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
        ).stdout.split("\0")
        for name in listed:
            if name and (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, folder / name)
                self._copy_compiled(ROOT / name, folder / name)
        self.before = self.files()
        (ROOT / SYNTHESIZED).mkdir(parents=True, exist_ok=True)
        (folder / SYNTHESIZED).parent.mkdir()
        for name in (*INSTALLED, SYNTHESIZED):
            (folder / name).symlink_to(ROOT / name)

    @staticmethod
    def _copy_compiled(source: Path, copy: Path) -> None:
        """Spare the copy's processes what these have compiled: it counts for a source of the same time and content."""
        for compiled in (source.parent / "__pycache__").glob(f"{source.stem}.*.pyc") if source.suffix == ".py" else ():
            (copy.parent / "__pycache__").mkdir(exist_ok=True)
            shutil.copy2(compiled, copy.parent / "__pycache__" / compiled.name)

    def files(self) -> dict[str, str]:
        """Return the files with a digest of each."""
        found = {}
        for folder, inner, names in os.walk(self.folder):
            inner[:] = [name for name in inner if not name.startswith(".") and name not in {"__pycache__", "build"}]
            for path in (Path(folder) / name for name in names):
                if path.suffix != ".pyc" and not path.is_symlink():
                    found[path.relative_to(self.folder).as_posix()] = sha256(path.read_bytes()).hexdigest()
        return found

    def run(self, *arguments: str, **environment: str) -> str:
        """Run a module of Python there; its output when it succeeds."""
        paths = [str(self.folder / name) for name in ("layers/common/python", "functions", ".")]
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "COV", "AWS"))}
        done = subprocess.run(
            [sys.executable, "-m", *arguments],
            cwd=self.folder,
            env={**kept, "PYTHONPATH": os.pathsep.join(paths), **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{' '.join(arguments)}:\n{done.stdout[-12_000:]}\n{done.stderr[-4_000:]}"
        return done.stdout


def test_a_context_of_the_template_passes_every_check_as_it_is(tmp_path: Path) -> None:
    copy = Copy(tmp_path / "copy")
    copy.run("local.context", "jar")
    for each in GENERATORS:
        copy.run(f"tests.support.{each}")
    written = [name for name in copy.files().keys() - copy.before.keys() if name.endswith(".py")]
    for lint in (["check"], ["format", "--check"]):
        copy.run("ruff", *lint, "--no-cache", *written, str(context.PERMISSIONS))
    if LINTED.exists():  # as in CI; without what `make lint` leaves, all that the files import is a minute's work
        shutil.copytree(LINTED, copy.folder / LINTED.name)
        copy.run("mypy", "--follow-imports=silent", *written)
        shutil.rmtree(copy.folder / LINTED.name)
    # With REWRITE what each condition of the new store answers is written down, as its author does.
    said = copy.run("pytest", "-p", "no:cacheprovider", "-q", "-k", CHOSEN, *TESTS, REWRITE="1", ROUTES="/jars")
    assert " passed" in said
    assert "failed" not in said

    after = copy.files()
    own = {name for name in after.keys() - copy.before.keys() if "/jars" in name or name.endswith("_jars.py")}
    touched = {name for name in copy.before if after.get(name) != copy.before[name]}
    by_hand = touched - GENERATED
    print("by hand:", *sorted(by_hand), "generated:", *sorted(touched & GENERATED))  # noqa: T201  how many it is now
    assert after.keys() - copy.before.keys() == own
    assert 0 < len(by_hand) <= MOST, by_hand
    before, now = (
        json.loads((folder / "tests/contract/stores/golden/refusals.json").read_text())
        for folder in (ROOT, copy.folder)
    )
    assert {name.partition(".")[0] for name in now.keys() - before.keys()} == {"JarRepository"}
    assert before.items() <= now.items()


class TestANoun:
    def test_stands_everywhere_in_the_template_s_place(self) -> None:
        words = Words("entry", "entries")
        assert words.into("class Noun(NounsItem): _NOUN = 'NOUNS#'") == "class Entry(EntriesItem): _ENTRY = 'ENTRIES#'"
        assert words.into("A noun; a new noun of its nouns") == "An entry; a new entry of its entries"
        assert Words("pronoun", "pronouns").into("noun, nouns") == "pronoun, pronouns"

    @pytest.mark.parametrize(("noun", "plural"), [("", "s"), ("Jar", "jars"), ("a b", "abs"), ("sheep", "sheep")])
    def test_that_names_no_context_is_refused(self, noun: str, plural: str) -> None:
        with pytest.raises(Refused):
            Words(noun, plural)

    def test_that_is_a_context_already_is_refused_and_nothing_is_written(self, tmp_path: Path) -> None:
        self._copy(tmp_path, Path("functions/api/services/tasks.py"))
        with pytest.raises(Refused, match=r"functions/api/services/tasks\.py"):
            context.make(tmp_path, Words("task", "tasks"))
        assert (tmp_path / context.TABLE).read_text() == (ROOT / context.TABLE).read_text()
        assert not (tmp_path / "layers/common/python/karma/tasks").exists()

    @pytest.mark.parametrize(
        ("noun", "why"),
        [
            ("class", "Python"),
            ("list", "Python"),
            ("match", "Python"),
            ("test", "pytest"),
            ("fixture", "pytest"),
            ("key", "templates/context"),
            ("item", "templates/context"),
            ("run", "runs.py is there already"),
            ("seat", "has a kind of item 'seat' already"),
            ("conversation", "has permissions of 'conversation' already"),
            ("grip", "defines 'Grip' already"),
        ],
    )
    def test_whose_name_is_taken_is_refused_and_nothing_is_written(self, tmp_path: Path, noun: str, why: str) -> None:
        self._copy(tmp_path, Path("functions/api/routes/runs.py"))
        grips = tmp_path / context.KARMA / "devices" / "grips.py"
        grips.parent.mkdir(parents=True)
        grips.write_text("class Grip:\n    pass\n")
        permissions = tmp_path / context.PERMISSIONS
        permissions.write_text(permissions.read_text().replace('"task:read"', '"conversation:read"', 1))
        before = self._files(tmp_path)
        with pytest.raises(Refused, match=why):
            context.make(tmp_path, Words(noun, f"{noun}s"))
        assert self._files(tmp_path) == before

    def test_that_cannot_be_written_whole_leaves_nothing(self, tmp_path: Path) -> None:
        self._copy(tmp_path)
        (tmp_path / "tests").mkdir()
        (tmp_path / "tests" / "contexts").write_text("a file where a folder should be")
        before = self._files(tmp_path)
        with pytest.raises(OSError, match="contexts"):
            context.make(tmp_path, Words("jar", "jars"))
        assert self._files(tmp_path) == before

    def test_that_cannot_be_formatted_leaves_nothing(self, tmp_path: Path) -> None:
        self._copy(tmp_path)
        (tmp_path / "pyproject.toml").write_text("[tool.ruff]\nline-length = 'wide'\n")
        before = self._files(tmp_path)
        with pytest.raises(subprocess.CalledProcessError):
            context.make(tmp_path, Words("jar", "jars"))
        assert self._files(tmp_path) == before

    @staticmethod
    def _copy(root: Path, *more: Path) -> None:
        for path in (context.PERMISSIONS, context.TABLE, context.API, context.BOUNDS, context.README, *more):
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / path, root / path)
        shutil.copytree(ROOT / context.TEMPLATE, root / context.TEMPLATE)

    @staticmethod
    def _files(root: Path) -> dict[str, bytes | None]:
        return {str(path): path.read_bytes() if path.is_file() else None for path in root.rglob("*")}
