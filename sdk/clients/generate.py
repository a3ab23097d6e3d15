"""Makes the typed API clients from docs/openapi.json: `make clients`, into build/clients.

    python   karma_cloud_client: httpx, attrs; every operation sync and async    (openapi-python-client)
    js       @karma-cloud/client: fetch, types of every path                      (openapi-typescript, openapi-fetch)
    agent    @karma-cloud/agent: AG-UI over cut connections, from sdk/js           (tsc)

Nothing of what is made is kept in the repository: the description, and sdk/js, are the sources.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs/openapi.json"
TOOLS = ROOT / ".engine/contract/bin"
NODE_TOOLS = ROOT / "node_modules/.bin"
SESSION = Path(__file__).with_name("python") / "session.py"
"""Written by hand, as what `typescript/src` has beside the schema: it keeps a caller logged in."""
TYPESCRIPT = Path(__file__).with_name("typescript")
AGENT = ROOT / "sdk/js"


def make_python(out: Path) -> Path:
    """Write the Python package; return its folder.

    Raises:
        subprocess.CalledProcessError: the description holds something that the generator cannot say.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    # The generator formats what it wrote with the ruff beside it.
    path = os.pathsep.join([str(TOOLS), os.environ.get("PATH", "")])
    command = [str(TOOLS / "openapi-python-client"), "generate", "--fail-on-warning", "--overwrite"]
    options = [
        "--path",
        str(DOCUMENT),
        "--output-path",
        str(out),
        "--config",
        str(Path(__file__).parent / "python.yaml"),
    ]
    subprocess.run([*command, *options], check=True, env={**os.environ, "PATH": path})
    shutil.copy(SESSION, out / "karma_cloud_client" / SESSION.name)
    return out


def make_typescript(out: Path) -> Path:
    """Write and compile the npm package; return its folder.

    Raises:
        subprocess.CalledProcessError: the types or the package do not compile.
    """
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(TYPESCRIPT, out)
    # A member with a default may be left out of a request; by itself the tool takes it for one that is always there.
    types = [str(NODE_TOOLS / "openapi-typescript"), str(DOCUMENT), "--default-non-nullable=false"]
    subprocess.run([*types, "-o", str(out / "src/schema.ts")], check=True)
    return _compiled(out)


def make_agent(out: Path) -> Path:
    """Compile the npm package of sdk/js; return its folder.

    Raises:
        subprocess.CalledProcessError: it does not compile.
    """
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(AGENT, out)
    return _compiled(out)


def _compiled(package: Path) -> Path:
    # The compiler looks for packages beside and above what it compiles.
    (package / "node_modules").symlink_to(ROOT / "node_modules", target_is_directory=True)
    subprocess.run([str(NODE_TOOLS / "tsc"), "-p", str(package)], check=True)
    (package / "node_modules").unlink()
    return package


def main() -> int:
    """Make all below build/clients, or the folder given."""
    base = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build/clients"
    for made in (make_python(base / "python"), make_typescript(base / "js"), make_agent(base / "agent")):
        print(f"  {made}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
