"""Mails have a whole text in each language, and no header holds what a person wrote."""

from __future__ import annotations

import html
import re

import pytest

from karma.identity.domain import Locale
from karma.mail.domain import Addressed, MailKind
from karma.mail.texts import compose

URL = "https://app.example.com"
WITH_LINK = {
    MailKind.VERIFY_EMAIL: "verify-email",
    MailKind.CONFIRM_NEW_EMAIL: "verify-email",
    MailKind.RESET_PASSWORD: "reset-password",
}


def addressed(kind: MailKind, locale: Locale = Locale.EN, name: str = "Ada") -> Addressed:
    token = "secret-token" if kind in WITH_LINK else None
    return Addressed(kind=kind, to="ada@example.com", proven=True, name=name, locale=locale.value, token=token)


@pytest.mark.parametrize("locale", list(Locale))
@pytest.mark.parametrize("kind", list(MailKind))
def test_each_letter_is_whole_in_each_language(kind: MailKind, locale: Locale) -> None:
    letter = compose(addressed(kind, locale), public_url=URL)
    assert letter.subject
    assert "Ada" in letter.text
    assert ("\u4e00" <= letter.subject[1] <= "\u9fff") is (locale is Locale.ZH)
    assert (f"{URL}/{WITH_LINK.get(kind)}#token=secret-token" in letter.text) is (kind in WITH_LINK)
    shown = html.unescape(re.sub(r"<[^>]*>", "", letter.html))
    said = [line for line in letter.text.split("\n\n") if not line.startswith(URL)]
    assert all(line.strip() in shown for line in said)


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", 'A"><img src=x>', "A & B", "a\r\nBcc: eve@example.com"])
def test_a_name_is_text_and_never_a_header(name: str) -> None:
    for kind in MailKind:
        letter = compose(addressed(kind, name=name), public_url=URL)
        assert letter.subject == compose(addressed(kind), public_url=URL).subject
        assert "<script" not in letter.html
        assert "<img" not in letter.html


def test_the_token_stands_behind_the_hash() -> None:
    """Browsers send no fragment: it reaches no server's log and no Referer."""
    letter = compose(addressed(MailKind.RESET_PASSWORD), public_url=URL)
    [link] = re.findall(r"https://\S+", letter.text)
    assert link.split("#") == [f"{URL}/reset-password", "token=secret-token"]
