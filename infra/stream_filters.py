"""Records of tables' streams that Lambda hands to functions; it filters without charge, and drops the others unseen.

Whoever begins to read another kind of item in such a function adds it here: the integration tests hand a function only
what its filter lets through.
"""

from collections.abc import Mapping
from typing import Any, Final

from infra.catalog import FunctionName

_SHOWN_WORK: Final = ["task", "project", "project_member", "project_device"]
_EVENTFUL: Final = ["run", "thread", "avatar"]

STREAM_FILTERS: Final[Mapping[FunctionName, tuple[Mapping[str, Any], ...]]] = {
    # Runs that begin or end, and not the many pieces of their logs.
    FunctionName.METRICS: (
        {"eventName": ["INSERT"], "dynamodb": {"NewImage": {"type": {"S": ["run"]}}}},
        {
            "eventName": ["MODIFY"],
            "dynamodb": {
                "OldImage": {"type": {"S": ["run"]}, "status": {"S": ["queued", "running", "paused"]}},
                "NewImage": {"status": {"S": ["finished", "interrupted", "cancelled", "failed"]}},
            },
        },
    ),
    # New samples.
    FunctionName.SAMPLES: ({"eventName": ["INSERT"], "dynamodb": {"Keys": {"pk": {"S": [{"prefix": "DEV#"}]}}}},),
    # What events, live messages and rows of search are made of.
    FunctionName.EVENTS: (
        {"dynamodb": {"NewImage": {"type": {"S": _EVENTFUL}}}},
        {"eventName": ["REMOVE"], "dynamodb": {"OldImage": {"type": {"S": _EVENTFUL}}}},
        {"eventName": ["INSERT"], "dynamodb": {"NewImage": {"type": {"S": ["segment", "messages"]}}}},
    ),
    # The same of the work table.
    FunctionName.WORK_ROUTER: (
        {"dynamodb": {"NewImage": {"type": {"S": _SHOWN_WORK}}}},
        {"eventName": ["REMOVE"], "dynamodb": {"OldImage": {"type": {"S": _SHOWN_WORK}}}},
    ),
    # Most other records are rate limits and tokens.
    FunctionName.IDENTITY_ROUTER: (
        {"eventName": ["MODIFY"], "dynamodb": {"OldImage": {"type": {"S": ["user", "session", "api_key"]}}}},
        {"eventName": ["INSERT"], "dynamodb": {"NewImage": {"type": {"S": ["account_tombstone", "notice"]}}}},
    ),
}
"""Patterns of Lambda's, of which one lets a record through; a function that is not named is handed all."""
