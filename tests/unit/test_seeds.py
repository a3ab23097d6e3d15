"""One number decides what a run tries: no test draws by itself, and no two tests draw alike."""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support.seeds import ROOT, WHOLE, chosen, dice, made_of_sources, pytest_report_header

MAY_DRAW = {
    "tests/support/seeds.py": "draws the number where SEED=random asks for it",
    "tests/integration/conftest.py": "numbers of AWS accounts on one engine, which are names; no case depends on them",
    "tests/contract/stores/conftest.py": "numbers of AWS accounts on one engine, which are names",
    "tests/integration/permissions/world.py": "addresses of clients, so that no limit of one is reached",
    "tests/unit/runtime/test_snapshot.py": "looks at whether a restored process draws anew",
}
"""Modules that draw what no number repeats, and why no run depends on it."""


def drawn_anew(source: str) -> Iterator[int]:
    """Yield the lines that call a generator which nothing seeded, or read a seed of their own."""
    tree = ast.parse(source)
    modules, functions = set[str](), dict[str, str]()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {each.asname or each.name for each in node.names if each.name == "random"}
        if isinstance(node, ast.ImportFrom) and node.module == "random":
            functions |= {each.asname or each.name: each.name for each in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.endswith("SEED"):
            yield node.lineno
        if not isinstance(node, ast.Call):
            continue
        called = ""
        if isinstance(node.func, ast.Name):
            called = functions.get(node.func.id, "")
        elif isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name):
            called = node.func.attr if node.func.value.id in modules else ""
        repeats = called == "Random" and bool(node.args) and "getpid" not in ast.unparse(node)
        if called and not repeats:
            yield node.lineno


def test_no_test_draws_by_itself() -> None:
    found = set[str]()
    files = [file for folder in ("tests", "sdk/device/tests") for file in (ROOT / folder).rglob("*.py")]
    assert len(files) > 500
    for file in sorted(files):
        path, source = file.relative_to(ROOT).as_posix(), file.read_text()
        lines = list(drawn_anew(source)) if "random" in source or "SEED" in source else []
        if lines and path != "tests/unit/test_seeds.py":
            found |= {path} if path in MAY_DRAW else {f"{path}:{line}" for line in lines}
    assert found == MAY_DRAW.keys(), "take the fixture `seed`, or `dice` of tests/support/seeds.py"


@pytest.mark.parametrize(
    ("line", "is_drawn"),
    [
        ("import random; random.random()", True),
        ("import random; random.sample([1], 1)", True),
        ("import random as r; r.Random()", True),
        ("from random import SystemRandom; SystemRandom().random()", True),
        ("from random import choice as pick; pick([1])", True),
        ("import os, random; random.Random(os.getpid())", True),
        ("import os; os.environ.get('MY_SEED')", True),
        ("import random; random.Random(seed).random()", False),
        ("from random import Random; Random(7)", False),
        ("dice('x').random()", False),
    ],
)
def test_drawing_is_seen(line: str, is_drawn: bool) -> None:
    assert bool(list(drawn_anew(line))) is is_drawn


class TestTheNumber:
    def test_is_made_of_the_sources(self, tmp_path: Path) -> None:
        (tmp_path / "layers").mkdir()
        (tmp_path / "layers/a.py").write_text("one")
        first = made_of_sources(tmp_path)
        (tmp_path / "layers/build").mkdir()
        (tmp_path / "layers/build/made.py").write_text("made")
        (tmp_path / "layers/a.txt").write_text("no source")
        assert made_of_sources(tmp_path) == first
        (tmp_path / "layers/a.py").write_text("two")
        changed = made_of_sources(tmp_path)
        (tmp_path / "layers/a.py").rename(tmp_path / "layers/b.py")
        assert len({first, changed, made_of_sources(tmp_path)}) == 3

    def test_may_be_said_or_drawn(self) -> None:
        assert chosen("12") == 12
        assert chosen("") == made_of_sources(ROOT)
        chosen.cache_clear()
        drawn = chosen("random")
        chosen.cache_clear()
        assert drawn != chosen("random")
        with pytest.raises(ValueError, match="today"):
            chosen("today")


class TestTheHeader:
    def test_names_the_number_and_each_variable_that_takes_a_whole(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in WHOLE:
            monkeypatch.delenv(name, raising=False)
        number, parts = pytest_report_header()
        assert "plays it again" in number
        told = re.findall(r"^\| `(\w+)=all`", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
        assert sorted(told) == list(WHOLE) == re.findall(r"(\w+)=all", parts)

    def test_leaves_out_what_is_whole(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("STORES", "all")
        assert "STORES" not in pytest_report_header()[1]


class TestDice:
    def test_fall_alike_for_the_same_words_and_the_same_number(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SEED", "1")
        assert dice("a").random() == dice("a").random()
        assert dice("a").random() != dice("b").random()
        before = dice("a").random()
        monkeypatch.setenv("SEED", "2")
        assert dice("a").random() != before

    @pytest.mark.parametrize("nth", range(3))
    def test_are_each_test_s_own(self, nth: int, seed: int, request: pytest.FixtureRequest) -> None:
        ids = [f"{request.node.nodeid.partition('[')[0]}[{n}]" for n in range(3)]
        numbers = [dice(each).getrandbits(32) for each in ids]
        assert seed == numbers[nth]
        assert len(set(numbers)) == 3


PROBE = """
import random
import pytest
from hypothesis import given, settings, strategies as st

@settings(max_examples=30)
@given(st.text() | st.integers() | st.floats())
def test_examples(value):
    print(f"<{value!a}>")

@pytest.mark.parametrize("nth", range(3))
def test_nth(seed, nth):
    print(f"<nth {nth}: {seed} {random.random()}>")
"""


def told(probe: Path, *more: str) -> list[str]:
    """Run the tests of the number 5 in a process of its own; return its header and what each drew."""
    command = (sys.executable, "-m", "pytest", "-n0", "-s", "-p", "no:cacheprovider", "-p", "tests.support.seeds")
    done = subprocess.run(
        [*command, "-c", os.devnull, f"--rootdir={probe.parent}", *more, str(probe)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, "SEED": "5"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return re.findall(r"<.+?>|seed of this run.*", done.stdout)


def test_a_test_alone_tries_what_it_tried_among_others(tmp_path: Path) -> None:
    probe = tmp_path / "test_probe.py"
    probe.write_text(PROBE)
    whole = told(probe)
    assert whole.count("seed of this run: 5 (SEED=5 plays it again)") == 1
    probe.write_text(f"import http.server, karma.runs.domain\n{PROBE}")  # whose constants are no examples more
    alone = told(probe, "-k", "examples or 1")
    assert len(set(alone)) > 25
    assert not set(alone) - set(whole)


def test_hypothesis_keeps_no_examples() -> None:
    assert settings().database is None
