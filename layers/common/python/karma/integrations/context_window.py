"""Tells a prompt that is too long from other requests that a model's provider refuses.

The configured address may be a gateway to any provider, and each reports it in its own way: by the status 413, by the
type or code of the error, or only in a sentence. Types and codes are checked first; a sentence counts when it is about
the length of the input and says that it exceeds a limit. Errors of rate limits and of limits on answers mention tokens,
too: other words in them tell them apart.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

_REFUSED = frozenset({200, 400, 413, 422, 500})
"""Statuses of such errors; 200 is an error within a stream, 500 the answer of some gateways."""

_NAMES = re.compile(
    r"request_too_large|context_?length|context_?window|context_?size|context_limit|model_context"
    r"|(prompt|input|string)_(is_)?too_(long|large)|(max|too_many)_?(input_|prompt_)?tokens|tokens_limit_reached",
    re.IGNORECASE,
)
_SUBJECT = r"(context|prompt|inputs?|messages?|conversation|tokens?|sequence)"
_BEYOND = (
    r"(too long|too large|too many|too big|exceed\w*|longer than|larger than|greater than|more than|beyond|over the"
    r"|maximum|limit|reduce the length|shorten|must be (<=|at most|less))"
)
_SENTENCE = re.compile(rf"\b{_SUBJECT}\b.*\b{_BEYOND}|\b{_BEYOND}.*\b{_SUBJECT}\b", re.IGNORECASE | re.DOTALL)
_LENGTH = re.compile(r"\b(token|context|prompt is too|input is too|input length|too many total text)", re.IGNORECASE)
_RATE = re.compile(r"per (second|minute|hour|day)|rate.?limit|\bTP[MD]\b|quota|try again in", re.IGNORECASE)
_OUTPUT = re.compile(r"^\W*max_(completion_|output_)?tokens\b(?!.*(context|input|prompt))", re.IGNORECASE | re.DOTALL)
_PARAMETER = re.compile(r"\b(image|pixels|document|pdf|pages|tool|schema|name|description|metadata)\b", re.IGNORECASE)


def is_too_long(status: int, body: object) -> bool:
    """Tell whether an error says that the conversation is longer than its model can read.

    Args:
        status: status of the response; 200 for an error within a stream.
        body: body of the response, parsed from JSON, or as text.
    """
    if status == 413:
        return True
    if status not in _REFUSED:
        return False
    names, sentences = _told(body)
    if any(_NAMES.search(name) for name in names):
        return True
    return any(map(_says_so, sentences))


def _says_so(sentence: str) -> bool:
    if _RATE.search(sentence) or _OUTPUT.search(sentence) or _PARAMETER.search(sentence):
        return False
    return bool(_LENGTH.search(sentence)) and bool(_SENTENCE.search(sentence))


def _told(body: object) -> tuple[list[str], list[str]]:
    """Return the types and codes of an error, and its sentences."""
    if isinstance(body, str):
        return [], [body]
    names: list[str] = []
    sentences: list[str] = []
    for level in _levels(body):
        names += [str(level[key]) for key in ("type", "code", "status", "__type") if isinstance(level.get(key), str)]
        sentences += [str(level[key]) for key in ("message", "detail", "error") if isinstance(level.get(key), str)]
    return names, sentences


def _levels(body: object) -> Iterator[Mapping[str, object]]:
    while isinstance(body, dict):
        yield body
        body = body.get("error")
