"""Ports of conversations: a store of attachments, files of devices, and fetching URLs that a client names."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from karma.core.ids import UserId


class Attachments(Protocol):
    """A store of media and long results of a user's conversations. All calls block."""

    def keep(self, user_id: UserId, data: bytes) -> str:
        """Store bytes and return their id; the same bytes of the same user have the same id."""
        ...

    def read(self, user_id: UserId, attachment_id: str) -> bytes | None:
        """Return stored bytes; None when this user has none of that id."""
        ...

    def url(self, user_id: UserId, attachment_id: str, media_type: str) -> str:
        """Return a URL at which anybody who has it can read the bytes, for some hours.

        Its path ends with `attachments/<user>/<id>`.
        """
        ...


class DeviceFiles(Protocol):
    """Files of a user's devices: karma.files.reading."""

    def read(self, user_id: UserId, device_id: str, file_id: str, *, max_bytes: int) -> bytes:
        """Return a ready file's bytes. Blocks.

        Raises:
            NotFound: the user has no such file.
            InvalidTransition: the file is not uploaded yet, or is a directory.
            PayloadTooLarge: the file has more than `max_bytes`.
        """
        ...


class Fetched(NamedTuple):
    """Content of a URL."""

    data: bytes
    media_type: str
    """MIME type as the server named it; "" when it did not."""


class NotFetched(ValueError):
    """A URL may not be fetched, or could not be; the message completes "the URL ..."."""


class Fetch(Protocol):
    """Fetches URLs that clients name: integrations.fetch.Fetcher."""

    def fetch(self, url: str, *, max_bytes: int) -> Fetched:
        """Return the content of a URL. Blocks.

        Raises:
            NotFetched: the URL may not be fetched, or could not be.
        """
        ...
