"""Which passwords are refused: those that are guessed first, and those made of the account's own words.

The list of what people choose, and the arithmetic of how many guesses a password takes, are zxcvbn's; it comes with the
package, so no password is asked about anywhere else. It takes 80 ms to load, which only what sets passwords does.
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
"""Of 0 to 4: from a million guesses on. Below lie the common passwords, with or without a digit more, and keyboards."""
_LEAST_GUESSES_OF_CORE: Final = 10**5
"""What a word with a year, a few digits and signs around it has without them is a word, and words are tried first, with
every year and "!". The list has fewer words; six letters in no order take more guesses."""
_DECORATION: Final = re.compile(r"[\W_]*\d{0,4}[\W_]*")
_CHARS_READ: Final = 40
"""What a password begins with decides: the time grows with the square of the length, and nobody guesses so far."""
_SHORTEST_WORD: Final = 3


def require_acceptable(password: str, *, of: Iterable[str]) -> None:
    """Refuse a password that others would guess; `of` is what is known of its account: a name, an address.

    Raises:
        ValidationFailed: naming `password`, and why.
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
    """Return a text without what is put around words to please rules: signs, and up to four digits, such as a year."""
    begins = _DECORATION.match(text)
    text = text[begins.end() :] if begins else text
    ends = _DECORATION.match(text[::-1])
    return text[: len(text) - ends.end()] if ends else text


def _folded(text: str) -> str:
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", text).casefold())
