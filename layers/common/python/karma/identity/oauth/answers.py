"""Answers of the routes of linked providers: each shape, and beside it the function that renders it."""

from __future__ import annotations

from typing import TypedDict

from karma.core.clock import iso
from karma.core.schemas import ShownMoment
from karma.identity.oauth.domain import Link, ProviderName


class LinkBegunData(TypedDict):
    """URL of the provider's page to which the browser goes."""

    authorization_url: str


class LinkView(TypedDict):
    """A provider that opens the account."""

    provider: ProviderName
    linked_at: ShownMoment


def link_view(link: Link) -> LinkView:
    """Return a linked provider in the shape of the API."""
    return {"provider": link.provider, "linked_at": iso(link.linked_at)}


class LinkListData(TypedDict):
    """Logins of the account: linked providers, and a password if it has one."""

    links: list[LinkView]
    total: int
    has_password: bool
