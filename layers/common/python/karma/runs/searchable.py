"""Rows of search for runs: the question, the beginning of the answer, and the status."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from karma.core.happenings import Image, ItemChange, text_in
from karma.core.search_rows import RowChange, SearchKey, SearchText, SearchType
from karma.core.searchables import SearchSource, kind_of, moment_in, rows_of_item

_RUN: Final = SearchType(
    name="run",
    words=("runs", "运行"),
    permission="run:read",
    statuses={
        "queued": ("排队中",),
        "running": ("运行中",),
        "paused": ("已暂停",),
        "finished": ("已完成",),
        "interrupted": (),
        "cancelled": ("已取消", "canceled"),
        "failed": ("失败",),
    },
)


class RunSource:
    """Runs, each found by its owner as long as its thread is not deleted."""

    types: Sequence[SearchType] = (_RUN,)

    def rows(self, change: ItemChange) -> Iterable[RowChange]:
        """Return the row of a run."""
        if kind_of(change) != _RUN.name:
            return []
        return rows_of_item(change, _row)


def source() -> SearchSource:
    """Return what is found of runs."""
    return RunSource()


def _row(image: Image) -> RowChange:
    from karma.runs.items import parse_run_pk  # local: few changes are of a run

    user_id, run_id = parse_run_pk(text_in(image, "pk"))
    key = SearchKey(user_id, _RUN.name, run_id, moment_in(image, "created_at"))
    if text_in(image, "deleted_at"):
        return RowChange(key, None)
    text = SearchText(
        name=text_in(image, "input_query"),
        tags=tuple(filter(None, [text_in(image, "agent_id")])),
        text=text_in(image, "response"),
        status=text_in(image, "status"),
        updated_ms=moment_in(image, "finished_at") or key.created_ms,
    )
    return RowChange(key, text)
