"""Use cases of releases: create, upload, publish, list, read, delete."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from karma.core.clock import Clock
from karma.core.errors import AlreadyExists, InvalidTransition, NotFound, StaleVersion, StorageThrottled
from karma.core.ids import UserId, is_id, new_id
from karma.core.observability import count, logger
from karma.core.records import Record
from karma.core.repeat import repeat
from karma.core.requests import IdempotencyKey, no_longer, repeatable
from karma.firmware.domain import (
    FirmwareChanged,
    FirmwareMismatch,
    FirmwareNotUploaded,
    Release,
    ReleaseId,
    ReleaseInUse,
    ReleaseState,
    TooManyReleases,
    VersionTaken,
)
from karma.firmware.manifest import read_manifest, require_signed
from karma.firmware.ports import FirmwareBytes, Fleet, Releases, Rollouts, SignedUpload

MET = (StorageThrottled, FirmwareChanged)
"""Another write came first: it is made again on what is stored now."""


class ReleasePage(Record, kw_only=True):
    """A page of releases, newest first."""

    releases: tuple[Release, ...]
    next_below: ReleaseId | None
    """Ids of the next page are below this one; None at the end."""


class SignedManifest(NamedTuple):
    """A manifest with its signature, as they were sent."""

    manifest: str
    signature: str
    public_key: str


class ReleaseService:
    """Use cases of releases. Each raises NotFound for a release of another account."""

    def __init__(self, releases: Releases, rollouts: Rollouts, store: FirmwareBytes, clock: Clock) -> None:
        self._releases = releases
        self._rollouts = rollouts
        self._store = store
        self._clock = clock

    def get(self, user_id: UserId, release_id: str) -> Release:
        """Read one release.

        Raises:
            NotFound: absent or deleted.
        """
        release = self._releases.get(user_id, ReleaseId(release_id)) if is_id(release_id) else None
        if release is None:
            raise NotFound(f"Firmware release {release_id} not found")
        return release

    def page(self, user_id: UserId, *, below: str, limit: int) -> ReleasePage:
        """Return a page by age, from below an id on; "" is the newest."""
        found = self._releases.page(user_id, below=below, limit=limit + 1)
        shown = found[:limit]
        return ReleasePage(releases=tuple(shown), next_below=shown[-1].id if len(found) > limit else None)

    def create(
        self, user_id: UserId, signed: SignedManifest, *, idempotency_key: IdempotencyKey | None = None
    ) -> Release:
        """Store a draft of what a manifest names; a repeat with the same key returns the one that the first made.

        Raises:
            ValidationFailed: the manifest is none, or the signature is not its.
            VersionTaken: another release of the account has its version.
            TooManyReleases: the account has as many as one may have.
            Gone: the one that the first made was deleted meanwhile.
            IdempotencyKeyReused: the first asked for another release.
            AccountGone: the account is deleted.
        """
        now = self._clock.now()
        said = read_manifest(signed.manifest)
        require_signed(signed.manifest, signature=signed.signature, public_key=signed.public_key)
        release = Release(
            id=ReleaseId(new_id()),
            user_id=user_id,
            state=ReleaseState.DRAFT,
            release_version=said.version,
            models=said.models,
            size=said.size,
            sha256=said.sha256,
            rollback_index=said.rollback_index,
            manifest=signed.manifest,
            signature=signed.signature,
            public_key=signed.public_key,
            created_at=now,
            updated_at=now,
            version=1,
        )
        request = repeatable(idempotency_key, *signed, at=now)
        if request is not None and (made := self._releases.made_by(user_id, request)) is not None:
            return self._earlier(user_id, made)
        try:
            self._releases.create(release, request=request)
        except (TooManyReleases, VersionTaken):
            raise
        except AlreadyExists:  # by the same request, sent twice at once
            return self._earlier(user_id, self._releases.made_by(user_id, request) if request else None)
        count("FirmwareReleaseCreated")
        logger.info("firmware_release.created", release_id=release.id)
        return release

    def upload(self, user_id: UserId, release_id: str) -> SignedUpload:
        """Sign the request that sends the bytes of a draft, for 15 minutes.

        Raises:
            NotFound: as `get`.
            InvalidTransition: it is published.
        """
        release = self.get(user_id, release_id)
        if release.state is not ReleaseState.DRAFT:
            raise InvalidTransition(f"Release {release.id} is published: its bytes are what they are for good")
        return self._store.upload(release)

    def publish(self, user_id: UserId, release_id: str, *, version: int | None = None) -> Release:
        """Compare what was uploaded with the manifest, and publish it for good; of a published one nothing.

        Raises:
            NotFound: as `get`.
            StaleVersion: `version` is not the stored one.
            FirmwareNotUploaded: nothing was uploaded.
            FirmwareMismatch: size or hash are not those of the manifest. What was uploaded may be uploaded anew.
        """

        def once() -> Release:
            release = self._of_version(user_id, release_id, version)
            if release.state is ReleaseState.PUBLISHED:
                return release
            self._require_bytes(release)
            now = self._clock.now()
            published = replace(
                release,
                state=ReleaseState.PUBLISHED,
                published_at=now,
                updated_at=now,
                version=release.version + 1,
            )
            self._releases.publish(published)
            count("FirmwareReleasePublished")
            logger.info("firmware_release.published", release_id=release.id)
            return published

        return repeat(once, on=MET)

    def delete(self, user_id: UserId, release_id: str, *, version: int | None = None) -> None:
        """Delete a release with its bytes; its version is free again.

        Raises:
            NotFound, StaleVersion: as `publish`.
            ReleaseInUse: an unfinished rollout brings it to devices.
        """

        def once() -> Release:
            fleet = self._rollouts.fleet(user_id)
            release = self._of_version(user_id, release_id, version)
            self._require_unused(release, fleet)
            # Bytes first: a release without them is not published, or was not needed any more; a repeat goes on.
            self._store.remove(user_id, release.id)
            self._releases.delete(release, fleet=fleet)
            return release

        deleted = repeat(once, on=MET)
        # Again, since an upload may have ended in between; later ones are removed with the account.
        self._store.remove(user_id, deleted.id)
        count("FirmwareReleaseDeleted")

    def _require_unused(self, release: Release, fleet: Fleet) -> None:
        for rollout_id in sorted(fleet.open):
            rollout = self._rollouts.get(release.user_id, rollout_id)
            if rollout is not None and rollout.release_id == release.id:
                raise ReleaseInUse(
                    f"Rollout {rollout_id} brings release {release.id} to devices; cancel it first",
                    details={"rollout_id": rollout_id},
                )

    def _require_bytes(self, release: Release) -> None:
        found = self._store.digest(release, at_most=release.size)
        if found is None:
            raise FirmwareNotUploaded(f"Nothing was uploaded for release {release.id}; upload it, then publish")
        size, sha256 = found
        if size != release.size:
            raise FirmwareMismatch(
                f"The manifest names {release.size} bytes, and {'more' if size > release.size else size} were uploaded",
                details={"field": "size", "expected": release.size},
            )
        if sha256 != release.sha256:
            raise FirmwareMismatch(
                "The SHA-256 of what was uploaded is not the one of the manifest",
                details={"field": "sha256", "expected": release.sha256, "found": sha256},
            )

    def _earlier(self, user_id: UserId, made: ReleaseId | None) -> Release:
        stored = self._releases.get(user_id, made) if made else None
        if stored is None:
            raise no_longer(made)
        return stored

    def _of_version(self, user_id: UserId, release_id: str, version: int | None) -> Release:
        release = self.get(user_id, release_id)
        if version is not None and release.version != version:
            raise StaleVersion(f"Release {release.id} has version {release.version}")
        return release
