r"""The form of names and titles: one line of text that shows something, in the order in which it is stored.

A name stands in lists, mails, logs and prompts beside other texts. A line break or a control character in it ends a
line of those, a change of direction turns what stands around it, and a name of invisible characters cannot be told
from none. So each field that a person reads as a name has this form (`karma.core.schemas.line`); the answers show what
was stored before the rule as it is.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import Final

NEVER: Final = r"\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069"
"""Characters that no name has, as in a class of a pattern: controls, line and paragraph separators, and the embeddings,
overrides and isolates of a direction. The marks U+200E and U+200F turn nothing around them, and are allowed."""
_UNSEEN: Final = (
    r"\s\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2060-\u206f\u2800\u3164"
    r"\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb"
)
"""Characters that show nothing by themselves, such as joiners, which emoji and many scripts need between others."""
_UNSEEN_BEYOND: Final = "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
"""Those beyond U+FFFF, for which JSON Schema's patterns have no notation that all readers of them share."""
WORDS: Final = (
    "must not have control characters, such as line breaks, nor change the direction of text, and must show something"
)
LINE: Final = rf"^[^{NEVER}]*[^{NEVER}{_UNSEEN}][^{NEVER}]*$"
"""Pattern of a name: it has no character of `NEVER`, and one that shows at least."""
_NEVER = re.compile(f"[{NEVER}\ud800-\udfff]")
_SEEN = re.compile(f"[^{_UNSEEN}{_UNSEEN_BEYOND}]")


def is_line(text: str) -> bool:
    """Tell whether a text has the form of a name; blanks at its ends do not matter."""
    return _NEVER.search(text) is None and shows(text)


def composed(text: str) -> str:
    """Return a tag in the one form in which tags are compared, Unicode's NFC: `é` is one, however it was typed."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def composed_tags(tags: Iterable[str]) -> tuple[str, ...]:
    """Return tags in that form, each once; as stored ones are read, of which some are of before the rule."""
    return tuple(dict.fromkeys(map(composed, tags)))


def shows(text: str) -> bool:
    """Tell whether any character of a text can be seen."""
    return _SEEN.search(text) is not None
