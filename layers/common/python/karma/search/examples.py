"""Examples of the OpenAPI document for search: see karma/core/examples.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_AT = "2026-11-26T12:00:00Z"
_PIECES = [{"text": "North hall ", "matches": False}, {"text": "pum", "matches": True}, {"text": "p", "matches": False}]

FIELDS: Mapping[str, Any] = {
    "search_objects.q": "online pum",
    "search_objects.type": "device",
    "search_objects.status": "online",
    "search_objects.tag": "north",
    "search_objects.created_after": "2026-11-01T00:00:00Z",
    "search_objects.created_before": "2026-12-01T00:00:00Z",
    "search_objects.sort": "updated_at",
    "SearchHitView.type": "device",
    "SearchHitView.id": "01994b9c-4f70-7e6b-89a0-2b3c4d5e6f71",
    "SearchHitView.name": "North hall pump",
    "SearchHitView.code": "EOS3A-NH-0001 02:00:5e:10:00:01",
    "SearchHitView.tags": ["north"],
    "SearchHitView.text": "EOS-3A Warehouse 2",
    "SearchHitView.status": "online",
    "SearchHitView.created_at": _AT,
    "SearchHitView.updated_at": _AT,
    "highlights": {"name": _PIECES},
    "HighlightsView.name": _PIECES,
    "HighlightsView.code": _PIECES,
    "HighlightsView.text": _PIECES,
    "PieceView.text": "pum",
    "PieceView.matches": True,
    "why": dict.fromkeys(("reading", "missing", "typos", "proximity", "attribute"), 0)
    | {"position": 2, "exactness": 3},
    "WhyView.reading": 0,
    "WhyView.missing": 0,
    "WhyView.typos": 0,
    "WhyView.proximity": 0,
    "WhyView.attribute": 0,
    "WhyView.position": 2,
    "WhyView.exactness": 3,
    "InterpretedView.words": ["pum"],
    "InterpretedView.types": ["device"],
    "InterpretedView.statuses": ["online"],
    "InterpretedView.tags": None,
    "InterpretedView.created_after": None,
    "InterpretedView.created_before": None,
    "InterpretedView.ignored": [],
    "InterpretedView.cut": [],
    "SearchData.engine": "memory",
    "SearchData.as_of": _AT,
    "SearchData.searched": 412,
    "SearchData.is_complete": True,
}
