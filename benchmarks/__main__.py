"""`python -m benchmarks [--write FILE] [--items N] [area ...]`: compares targets with measurements on this machine.

A miss is no error.

Areas: cold webhook ingest api calls stream memory cache runs mcp push bodies search; all without arguments.
`--write` puts the rows into the table of a Markdown file, between its two marker lines; others stay as they are.
`--items` is how many items each table has while `calls` is measured.
"""

from __future__ import annotations

import argparse
import platform
import sys
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent
for _root in ("layers/common/python", "functions"):
    sys.path.insert(0, str(ROOT / _root))

from benchmarks import (  # noqa: E402  # noqa: E402
    bodies,
    calls,
    cold,
    mcp_clients,
    memory,
    prompt_cache,
    pushes,
    report,
    search,
    stream,
    turns,
    warm,
)
from benchmarks.report import Row  # noqa: E402
from benchmarks.world import World, quiet, seeded  # noqa: E402

_FROM, _TO = "<!-- figures -->", "<!-- end of figures -->"
AREAS: dict[str, Callable[[World], list[Row]]] = {
    "cold": cold.measure,
    "webhook": warm.webhook,
    "ingest": warm.ingest,
    "api": warm.api,
    "calls": calls.rows,
    "stream": stream.measure,
    "memory": memory.measure,
    "cache": prompt_cache.measure,
    "runs": turns.measure,
    "mcp": mcp_clients.measure,
    "push": pushes.measure,
    "bodies": bodies.measure,
    "search": search.measure,
}


def main(arguments: Sequence[str]) -> int:
    """Measure and print; return 2 when an area could not be measured or is unknown."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("--write", type=Path, help="Markdown file whose table is replaced")
    parser.add_argument("--items", type=int, default=calls.ITEMS, help="items a table, for `calls`")
    parser.add_argument("areas", nargs="*", metavar="area", help=", ".join(AREAS))
    options = parser.parse_args(arguments)
    areas: list[str] = options.areas
    unknown = set(areas) - AREAS.keys()
    if unknown:
        print(f"unknown: {', '.join(sorted(unknown))}; areas are {', '.join(AREAS)}", file=sys.stderr)
        return 2
    measured: dict[str, Callable[[World], list[Row]]] = {**AREAS, "calls": partial(calls.rows, items=options.items)}
    rows: list[Row] = []
    broken = 0
    load = psutil.getloadavg()[0]
    print(f"CPython {platform.python_version()}, {psutil.cpu_count()} cores, load before {load:.1f}", flush=True)
    with quiet(), seeded() as world:
        for name in areas or measured:
            print(f"measuring {name} ...", file=sys.stderr, flush=True)
            try:
                rows += measured[name](world)
            except Exception:  # noqa: BLE001  one area that fails must not take the others' figures along
                broken += 1
                traceback.print_exc()
    print(report.text(rows))
    if options.write is not None and not broken:
        _write(options.write, [row for row in rows if not row.metric.startswith("calls: ")])  # docs/calls.md has those
    missed = sum(row.ok is False for row in rows)
    print(f"\n{len(rows)} figures, {missed} missed, {broken} areas not measured")
    return 2 if broken else 0


def _write(path: Path, rows: Sequence[Row]) -> None:
    text = path.read_text()
    before, _, rest = text.partition(_FROM)
    table, _, after = rest.partition(_TO)
    path.write_text(f"{before}{_FROM}\n{report.merged(table, rows)}\n{_TO}{after}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
