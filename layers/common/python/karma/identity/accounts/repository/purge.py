"""Data of a deleted account in the identity table, and its removal."""

from __future__ import annotations

from karma.core.dynamo.access import query
from karma.core.dynamo.partitions import delete_keys, empty
from karma.core.purge import PurgeAttempt
from karma.identity.items import TOMBSTONE, ApiKeyItem, IdentityItem, api_key_lookup, owned_pk

_PAGE = 100


class AccountPurge:
    """Last step of a deletion: removes all data of the account in the identity table but its tombstone."""

    name = "account"

    def purge_account(self, purge: PurgeAttempt) -> bool:
        """Remove sessions, tokens, API keys, audit entries and records of requests; return True if nothing is left."""
        mine = owned_pk(purge.user_id)
        # What is found by an item of the partition goes before it.
        return (
            self._remove_lookups(purge)
            and empty(IdentityItem, mine, purge, index=IdentityItem.gsi1)
            and empty(IdentityItem, f"IDEMPOTENCY#{purge.user_id}", purge)
            and empty(IdentityItem, f"USER#{purge.user_id}", purge, keep={TOMBSTONE})
        )

    def _remove_lookups(self, purge: PurgeAttempt) -> bool:
        start: dict[str, str] | None = None
        while not purge.over():
            page = query(
                IdentityItem,
                f"USER#{purge.user_id}",
                IdentityItem.sk.startswith("APIKEY#"),
                limit=_PAGE,
                start=start,
                consistent=True,
            )
            keys = [api_key_lookup(item.hash) for item in page.items if isinstance(item, ApiKeyItem)]
            delete_keys(IdentityItem, keys)
            start = page.last
            if start is None:
                return True
        return False
