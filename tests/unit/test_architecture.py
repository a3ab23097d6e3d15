"""Imports that each package may have. The rules are the tables below; each failure lists the offending imports."""

import ast
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.support.map import PAGE, Circle, Room, drawn, levels, page, rooms

ROOT = Path(__file__).resolve().parents[2]
LAYER = ROOT / "layers/common/python"
FUNCTIONS = ROOT / "functions"

CONTEXTS = {path.parent.name for path in LAYER.glob("karma/*/__init__.py")} - {"core", "http", "integrations"}

MOST_LINES, MOST_LINES_OF_A_FUNCTION = 450, 60

VENDORS = {
    # import name -> the only places that may import it, as path prefixes below the root
    "tantivy": ("layers/common/python/karma/integrations/tantivy/",),
    "stripe": ("layers/common/python/karma/integrations/stripe",),
    "anthropic": ("layers/common/python/karma/integrations/anthropic",),
    "httpx2": ("layers/common/python/karma/integrations/",),
    "pynamodb": ("layers/common/python/karma/",),  # narrowed below to core.dynamo and repositories
    "fastapi": ("functions/api/", "layers/common/python/karma/http/"),
    "mangum": ("layers/common/python/karma/http/",),
    "starlette": ("functions/api/", "functions/agent_stream/", "layers/common/python/karma/http/"),
    "argon2": ("layers/common/python/karma/identity/",),
    "bcrypt": ("layers/common/python/karma/identity/",),
    "jwt": ("layers/common/python/karma/identity/",),
    "joserfc": ("layers/common/python/karma/integrations/oauth/",),
    "oauthlib": ("layers/common/python/karma/integrations/oauth/",),
    "urllib3": ("layers/common/python/karma/integrations/oauth/",),
    "boto3": (),
    "ag_ui": (),
}


def sources(*folders: Path) -> Iterator[Path]:
    for folder in folders:
        yield from sorted(path for path in folder.rglob("*.py") if "__pycache__" not in path.parts)


@cache
def imports(path: Path) -> list[tuple[str, int]]:
    """Return every imported dotted name with its line, without imports for type checkers only."""
    return list(_imports(path))


def _imports(path: Path) -> Iterator[tuple[str, int]]:
    tree = ast.parse(path.read_text())
    typing_only: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            typing_only.update(child for statement in node.body for child in ast.walk(statement))
    for node in ast.walk(tree):
        if node in typing_only:
            continue
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            for alias in node.names:
                yield f"{node.module}.{alias.name}", node.lineno


def offenders(paths: Iterator[Path], allowed: Callable[[Path, str], bool]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in paths
        for name, line in imports(path)
        if not allowed(path, name)
    ]


def told(found: list[str], remedy: str) -> str:
    """Return the message of a rule that is broken: each place, and what to do."""
    return "\n".join([*found, f"What to do: {remedy}. See CONTRIBUTING.md, Where a line goes."])


def context_of(path: Path) -> str | None:
    relative = path.relative_to(LAYER / "karma") if path.is_relative_to(LAYER / "karma") else None
    return relative.parts[0] if relative and relative.parts[0] in CONTEXTS else None


def test_the_core_imports_no_context() -> None:
    def allowed(_: Path, name: str) -> bool:
        return not name.startswith("karma.") or name.startswith("karma.core")

    found = offenders(sources(LAYER / "karma/core"), allowed)
    assert not found, told(found, "the core knows no context: move what needs one into that context")


def test_shared_code_imports_no_function_and_nothing_outside_the_layer() -> None:
    forbidden = {folder.name for folder in FUNCTIONS.iterdir() if folder.is_dir()} | {
        "infra",
        "local",
        "tests",
        "benchmarks",
    }

    def allowed(_: Path, name: str) -> bool:
        return name.split(".", maxsplit=1)[0] not in forbidden

    found = offenders(sources(LAYER), allowed)
    assert not found, told(found, "the layer is deployed alone: move what both need into it")


def test_a_function_imports_no_other_function() -> None:
    names = {folder.name for folder in FUNCTIONS.iterdir() if folder.is_dir()}

    def allowed(path: Path, name: str) -> bool:
        top = name.split(".", maxsplit=1)[0]
        return top not in names or top == path.relative_to(FUNCTIONS).parts[0]

    found = offenders(sources(FUNCTIONS), allowed)
    assert not found, told(found, "each function is deployed alone: move what both need into the layer")


def test_a_context_reaches_another_only_through_its_services() -> None:
    """Repositories, stored items and request bodies are a context's own."""
    private = {"repository", "items", "keys", "schemas", "log"}

    def allowed(path: Path, name: str) -> bool:
        parts = name.split(".")
        if len(parts) < 3 or parts[0] != "karma" or parts[1] not in CONTEXTS:
            return True
        return parts[1] == context_of(path) or private.isdisjoint(parts[2:-1])

    found = offenders(sources(LAYER / "karma"), allowed)
    assert not found, told(found, "declare a port that its service fulfils; in a transaction, its `transactional.py`")


IMPURE = {
    "pynamodb", "botocore", "boto3", "fastapi", "starlette", "pydantic", "stripe", "anthropic", "aws_lambda_powertools",
}  # fmt: skip
PURE_CORE = {
    "clock",
    "conditions",
    "errors",
    "foreign",
    "freeform",
    "happenings",
    "ids",
    "json_patch",
    "lines",
    "live",
    "pdf_objects",
    "pdf_pages",
    "records",
    "search_rows",
    "surrogates",
}


def is_pure(name: str) -> bool:
    """Tell whether a module of ours only computes: no storage, vendor or framework, also not through its imports."""
    parts = name.split(".")
    if parts[0] != "karma":
        return parts[0] not in IMPURE
    if parts[1] == "core":
        return parts[2] in PURE_CORE
    # A module, or one of a folder: karma.identity.domain, karma.identity.oauth.domain.
    paths = [LAYER.joinpath(*parts[:depth]).with_suffix(".py") for depth in (3, 4)]
    found = next((path for path in paths if path.exists()), None)
    return found is not None and all(is_pure(imported) for imported, _ in imports(found))


def test_domains_are_pure() -> None:
    domains = [*LAYER.glob("karma/**/domain.py")]
    assert domains
    found = offenders(iter(domains), lambda _, name: is_pure(name))
    assert not found, told(found, "a domain only computes: read, write and ask vendors in a service or a repository")


def test_pynamodb_stays_in_repositories_and_the_database_core() -> None:
    def allowed(path: Path, name: str) -> bool:
        if name.split(".", maxsplit=1)[0] != "pynamodb":
            return True
        return (
            "core/dynamo/" in path.as_posix() or "repository" in path.as_posix() or path.name in {"items.py", "log.py"}
        )

    found = offenders(sources(LAYER, FUNCTIONS), allowed)
    assert not found, told(found, "move it into the context's repository")


@pytest.mark.parametrize("vendor", sorted(VENDORS))
def test_a_vendor_is_imported_only_where_it_belongs(vendor: str) -> None:
    homes = VENDORS[vendor]

    def allowed(path: Path, name: str) -> bool:
        return name.split(".", maxsplit=1)[0] != vendor or path.relative_to(ROOT).as_posix().startswith(homes)

    found = offenders(sources(LAYER, FUNCTIONS), allowed)
    assert not found, told(found, "declare a port in the context and fulfil it in karma/integrations")


def test_integrations_know_a_context_by_its_ports_and_pure_modules_only() -> None:
    def allowed(_: Path, name: str) -> bool:
        parts = name.split(".")
        return len(parts) < 3 or parts[0] != "karma" or parts[1] not in CONTEXTS or parts[2] == "ports" or is_pure(name)

    found = offenders(sources(LAYER / "karma/integrations"), allowed)
    assert not found, told(found, "take what it needs as an argument, or declare it in the context's ports")


def test_package_files_hold_a_docstring_at_most() -> None:
    """No barrels: an import of one module never loads its neighbours."""
    filled = [
        str(path.relative_to(ROOT))
        for path in sources(LAYER, FUNCTIONS)
        if path.name == "__init__.py"
        and not all(
            isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            for node in ast.parse(path.read_text()).body
        )
    ]
    assert not filled, told(filled, "leave the docstring, and move the rest into a module beside it")


@pytest.mark.parametrize("room", rooms().values(), ids=lambda room: room.name)
def test_each_room_says_what_it_is_for_and_who_is_who(room: Room) -> None:
    assert room.paragraph.partition("\n")[0].endswith("."), f"{room.folder}/__init__.py: say what it is for"


def test_no_room_needs_another_that_needs_it() -> None:
    found = drawn()
    assert levels(found.arrows, found.rooms)[-1] == ["karma.core"]


def test_a_circle_is_named() -> None:
    with pytest.raises(Circle, match="a -> b -> a"):
        levels({"a": {"b": 1}, "b": {"a": 1}, "c": {}}, "abc")


def test_the_map_is_current() -> None:
    assert PAGE.read_text() == page(), "run `make map`"


def test_only_the_settings_read_the_environment() -> None:
    readers = [
        str(path.relative_to(ROOT))
        for path in sources(LAYER / "karma", FUNCTIONS)
        if any(word in path.read_text() for word in ("os.environ", "os.getenv", "environ["))
    ]
    below = "layers/common/python/karma/core/runtime/"
    settings = "layers/common/python/karma/core/settings.py"
    found = [path for path in readers if path != settings and not path.startswith(below)]
    assert settings in readers
    assert not found, told(found, "make it a field of the function's Settings, and a variable in infra/catalog.py")


def test_the_composition_root_of_a_function_is_named_services() -> None:
    """Nobody else loads the settings or tells the process its tables, so nobody else can build what needs them."""
    composed = {"load", "bind_tables"}
    elsewhere = []
    for path in sources(FUNCTIONS):
        if "services" in {path.stem, path.parent.name}:
            continue
        tree = ast.parse(path.read_text())
        roots = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "services"]
        inside = {child for root in roots for child in ast.walk(root)}
        elsewhere += [
            f"{path.relative_to(ROOT)}:{node.lineno} calls {node.func.id}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in composed
            if node not in inside
        ]
    assert not elsewhere, told(elsewhere, "build it in `services`, the composition root of the function")


def test_a_long_file_says_why_it_is_one_and_no_function_is_long() -> None:
    named = ("benchmarks", "functions", "infra", "layers", "local", "sdk/device", "sdk/python", "tests")
    folders = [ROOT / name for name in named]
    long: list[str] = []
    for path in sources(*folders):
        if any(part.startswith(".") or part == "node_modules" for part in path.relative_to(ROOT).parts):
            continue
        name, text = str(path.relative_to(ROOT)), path.read_text()
        if text.count("\n") > MOST_LINES and f"more than {MOST_LINES} lines" not in text.partition('"""\n\n')[0]:
            long.append(name)
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                long += [f"{name}: {node.name}"] if lines > MOST_LINES_OF_A_FUNCTION else []
    assert not long, told(long, f"divide it; a file beyond {MOST_LINES} lines says in its docstring why it is one")


def test_immutable_dataclasses_are_records() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {line}"
        for path in sources(LAYER, FUNCTIONS)
        for line in path.read_text().splitlines()
        if line.lstrip().startswith("@dataclass(") and "frozen=True" in line
    ]
    assert not found, told(found, "class Name(Record, kw_only=True): see karma/core/records.py")


def test_docstrings_say_what_a_thing_is() -> None:
    """One that begins with a question word is half a sentence, which somebody who arrived today has to finish."""
    named = ("benchmarks", "functions", "infra", "layers", "local", "sdk", "tests")
    question = re.compile(r"(What|When|Who|Whose|Which|Where|How|Why)\b")
    maybe = re.compile(rf'"\s*{question.pattern}')  # few files are parsed, which takes seconds of all
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in sources(*(ROOT / name for name in named))
        if not any(part.startswith(".") or part == "node_modules" for part in path.relative_to(ROOT).parts)
        if maybe.search(text := path.read_text())
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        if question.match(node.value.value.lstrip())
    ]
    assert not found, told(found, "begin with the thing: a noun, or a verb for a function")
