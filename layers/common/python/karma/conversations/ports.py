"""What a conversation needs from outside: room for large media, files of devices, and URLs that a client names."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from karma.core.ids import UserId


class Attachments(Protocol):
    """Bytes of a user's conversations that are too large for the conversation itself. All calls block."""

    def keep(self, user_id: UserId, data: bytes) -> str:
        """Keep bytes and return their id; the same bytes of the same user have the same id."""
        ...

    def read(self, user_id: UserId, attachment_id: str) -> bytes | None:
        """Return what was kept; None when there is none of this user's."""
        ...

    def url(self, user_id: UserId, attachment_id: str, media_type: str) -> str:
        """Return an address at which anybody who is given it can read what was kept, for some hours.

        Its path ends with `attachments/<user>/<id>`.
        """
        ...


class DeviceFiles(Protocol):
    """Files of a user's devices: karma.files.reading."""

    def read(self, user_id: UserId, device_id: str, file_id: str, *, max_bytes: int) -> bytes:
        """Return a ready file's bytes. Blocks.

        Raises:
            NotFound: no such file of this user's.
            InvalidTransition: it is not ready, or a directory.
            PayloadTooLarge: it has more bytes.
        """
        ...


class Fetched(NamedTuple):
    """What a URL named."""

    data: bytes
    media_type: str
    """As the server called it; "" when it did not."""


class NotFetched(ValueError):
    """A URL may not be fetched, or could not be; the message completes "the URL ..."."""


class Fetch(Protocol):
    """Fetches what strangers' URLs name: integrations.fetch.Fetcher."""

    def fetch(self, url: str, *, max_bytes: int) -> Fetched:
        """Return what the URL names. Blocks.

        Raises:
            NotFetched: see there.
        """
        ...
