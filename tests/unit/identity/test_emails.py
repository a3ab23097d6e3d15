"""An e-mail address has one spelling."""

from __future__ import annotations

import pytest

from karma.core.errors import ValidationFailed
from karma.identity.accounts import emails


@pytest.mark.parametrize(
    ("written", "stored"),
    [("Ada@Example.com", "ada@example.com"), ("a\u0308@example.com", "\u00e4@example.com")],
)
def test_an_address_has_one_spelling(written: str, stored: str) -> None:
    assert emails.normalise(written) == stored


def test_a_very_long_address_is_refused() -> None:
    with pytest.raises(ValidationFailed):
        emails.normalise("a" * 64 + "@" + ".".join(["b" * 60] * 4) + ".com")
