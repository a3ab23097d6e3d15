"""Bounds the tokens that a model reads of a PDF: an image of each page, and the text that its pages show."""

from __future__ import annotations

import base64
from typing import Final

from karma.core.foreign import parsing
from karma.core.pdf_pages import content_of

PAGE_TOKENS: Final = 5_000
"""Tokens counted for a page beside its text: the API makes an image of each."""


def most_tokens(value: str) -> int | None:
    """Return an upper bound of the tokens of a PDF in base64; None: it has none that can be told.

    It takes up to a second of a processor for a file, once in a process; karma.core.foreign bounds those of a request.
    """
    try:
        with parsing("pdf", ValueError, ""):
            content = content_of(base64.b64decode(value))
    except ValueError:
        return None
    return content and content.pages * PAGE_TOKENS + content.shown
