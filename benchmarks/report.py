"""The table that is printed and written to docs/performance.md."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One measured figure against its target."""

    area: str
    metric: str
    baseline: str
    measured: str
    target: str
    ok: bool | None
    """The target is met; None: there is no target."""

    @property
    def verdict(self) -> str:
        """Return `ok`, `miss` or ""."""
        return "" if self.ok is None else "ok" if self.ok else "miss"


HEADINGS = ("function", "metric", "baseline of the run", "measured", "target", "")


def text(rows: Sequence[Row]) -> str:
    """Render for a terminal."""
    cells = [HEADINGS, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(HEADINGS))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells
    )


def markdown(rows: Sequence[Row]) -> str:
    """Render for the documentation."""
    lines = ["| " + " | ".join(HEADINGS) + " |", "|" + "---|" * len(HEADINGS)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in _cells(row)) + " |" for row in rows]
    return "\n".join(lines)


def merged(table: str, rows: Sequence[Row]) -> str:
    """Render a table that `markdown` has rendered, with new rows in the place of those of the same area and metric."""
    old = [line for line in table.strip().splitlines()[2:] if line.startswith("| ")]
    new = {_name(line): line for line in markdown(rows).splitlines()[2:]}
    kept = [new.pop(_name(line), line) for line in old]
    return "\n".join([*markdown(()).splitlines(), *kept, *new.values()])


def _name(line: str) -> tuple[str, ...]:
    return tuple(line.split(" | ")[:2])


def _cells(row: Row) -> tuple[str, ...]:
    return row.area, row.metric, row.baseline, row.measured, row.target, row.verdict
