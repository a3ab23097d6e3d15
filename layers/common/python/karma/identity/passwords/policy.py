"""Rules for new passwords: those that are guessed first, or made of the account's own words, are refused.

The list of common passwords and the number of guesses that a password takes are zxcvbn's, a package that asks no other
service. It takes 80 ms to load, so only the routes that set passwords load it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import Final

from karma.core.errors import ValidationFailed
from karma.identity.domain import MIN_PASSWORD_CHARS
from karma.identity.passwords.spelling import spelled

PRODUCT: Final = "karma cloud"
_LEAST_SCORE: Final = 2
"""Smallest accepted score of 0 to 4: a million guesses. Below are common passwords and rows of keys."""
_LEAST_GUESSES_OF_CORE: Final = 10**5
"""Smallest number of guesses for the core of a password, without years, digits and signs around it: words are tried
first, with every year and "!". The list has fewer words; six random letters take more guesses."""
_DECORATION: Final = re.compile(r"[\W_]*\d{0,4}[\W_]*")
_CHARS_READ: Final = 40
"""Number of characters at the start of a password that are judged: the time grows with the square of the length, and
nobody guesses so far.
"""
_SHORTEST_WORD: Final = 3


def require_acceptable(password: str, *, of: Iterable[str]) -> None:
    """Check that a password is hard to guess; `of` holds the texts known of its account: name and address.

    Raises:
        ValidationFailed: the password is easy to guess; `details` names `password` and the reason.
    """
    password = spelled(password)
    words = sorted({word for text in (*of, PRODUCT) for word in _words(text)}, key=len, reverse=True)
    folded = rest = _folded(password)
    for word in words:
        rest = rest.replace(word, "")
    if rest != folded and len(_core(rest)) < MIN_PASSWORD_CHARS:
        raise ValidationFailed.of("password", "is made of your name, your address or ours: add words of another kind")
    from zxcvbn import zxcvbn  # local: see above

    whole = zxcvbn(password[:_CHARS_READ], user_inputs=words)
    core = _core(password)[:_CHARS_READ]
    weak_core = core != password and (not core or zxcvbn(core, user_inputs=words)["guesses"] < _LEAST_GUESSES_OF_CORE)
    if whole["score"] < _LEAST_SCORE or weak_core:
        raise ValidationFailed.of("password", "is among the first that are guessed: choose a longer one, of some words")


def _words(text: str) -> list[str]:
    """Split a name or an address into its words, as they may stand in a password."""
    parts = re.split(r"[\W_]+", unicodedata.normalize("NFKC", text).casefold())
    return [part for part in (*parts, "".join(parts)) if len(part) >= _SHORTEST_WORD]


def _core(text: str) -> str:
    """Return a text without the signs around it and up to four digits, such as a year."""
    begins = _DECORATION.match(text)
    text = text[begins.end() :] if begins else text
    ends = _DECORATION.match(text[::-1])
    return text[: len(text) - ends.end()] if ends else text


def _folded(text: str) -> str:
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", text).casefold())
