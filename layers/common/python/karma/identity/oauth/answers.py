"""Answers of the routes of linked providers: each shape, and beside it the function that renders it."""

from __future__ import annotations

from typing import TypedDict

from karma.core.clock import iso
from karma.core.schemas import ShownMoment
from karma.identity.oauth.domain import Link, ProviderName


class LinkBegunData(TypedDict):
    """Where the browser goes."""

    authorization_url: str


class LinkView(TypedDict):
    """A provider that opens the account."""

    provider: ProviderName
    linked_at: ShownMoment


def link_view(link: Link) -> LinkView:
    """Shape a provider that opens an account."""
    return {"provider": link.provider, "linked_at": iso(link.linked_at)}


class LinkListData(TypedDict):
    """What opens the account."""

    links: list[LinkView]
    total: int
    has_password: bool
