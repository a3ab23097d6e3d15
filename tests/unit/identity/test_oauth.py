"""Redirects, names and digests of logins through a provider."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from karma.core.errors import ValidationFailed
from karma.identity.oauth.domain import checked_redirect, digest, display_name

ORIGINS = ["https://app.example.com", "http://localhost:3000"]


class TestARedirect:
    @given(st.text(), st.sampled_from(["", "https://", "//", "https://app.example.com", "http://localhost:3000"]))
    def test_leads_to_one_of_our_origins_or_nowhere(self, text: str, before: str) -> None:
        try:
            page = checked_redirect(before + text, ORIGINS)
        except ValidationFailed:
            return
        parts = urlsplit(page)
        assert f"{parts.scheme}://{parts.netloc}" in ORIGINS
        assert not parts.fragment
        rest = page.removeprefix(f"{parts.scheme}://{parts.netloc}")
        assert rest == "" or rest[0] in "/?", "no browser reads another host in it"

    def test_is_the_first_front_page_by_default(self) -> None:
        assert checked_redirect(None, ORIGINS) == "https://app.example.com/"

    @pytest.mark.parametrize(
        "page", ["https://app.example.com", "http://localhost:3000/a?b=c%20d", ORIGINS[0] + "?n=1"]
    )
    def test_stays_as_it_was_given(self, page: str) -> None:
        assert checked_redirect(page, ORIGINS) == page

    @pytest.mark.fault("F-23a")
    @pytest.mark.parametrize("origin", ["http://localhost:1", "http://localhost:3000", "http://localhost:65535"])
    def test_may_be_any_port_where_an_origin_says_so(self, origin: str) -> None:
        assert checked_redirect(f"{origin}/a", [ORIGINS[0], "http://localhost:*"]) == f"{origin}/a"

    @pytest.mark.parametrize(
        "page",
        ["http://localhost:*/a", "http://localhost:x/", "https://localhost:1/", "http://localhost/", "//localhost:1/"],
    )
    def test_is_no_other_origin_for_that(self, page: str) -> None:
        with pytest.raises(ValidationFailed):
            checked_redirect(page, [ORIGINS[0], "http://localhost:*"])


class TestAName:
    @given(st.one_of(st.none(), st.text()), st.text())
    def test_can_be_shown(self, name: str | None, fallback: str) -> None:
        shown = display_name(name, fallback)
        assert 1 <= len(shown) <= 255
        assert shown.isprintable()
        assert shown == shown.strip()

    def test_falls_back(self) -> None:
        assert display_name(None, "ada") == display_name(" \n", "ada") == "ada"
        assert display_name(None, "") == "?"


def test_any_text_has_a_digest() -> None:
    assert len(digest("\ud800")) == 64
