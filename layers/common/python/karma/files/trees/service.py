"""Use cases of owners with whole trees of files: move or delete one, see how far that is, stop a move."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from karma.core.clock import Clock, epoch_ms
from karma.core.dynamo.failures import ConditionFailed
from karma.core.errors import (
    AlreadyExists,
    Conflict,
    InvalidTransition,
    NotFound,
    StaleVersion,
    ValidationFailed,
)
from karma.core.ids import DeviceId, UserId, is_id, new_id
from karma.core.observability import count, logger
from karma.core.requests import IdempotencyKey, RepeatableRequest, no_longer, repeatable
from karma.files.domain import DeviceFile, child_of, clean_path
from karma.files.entries import TRIES, Entries
from karma.files.marks import MAX_MARKS, TreeChangeId, TreeChangeKind, TreeMarks, TreeMarksChanged, is_within
from karma.files.ports import Devices, Queue
from karma.files.repository.files import FileRepository
from karma.files.repository.tree_changes import TreeChangeRepository
from karma.files.trees.domain import (
    LOOKED_AFTER,
    TooManyTreeChanges,
    TreeChange,
    TreeChangeKey,
    TreeChangeLost,
    TreeChangeState,
)
from karma.files.trees.messages import send_tree_change


class TreeService:
    """Moves and deletes directories with all that is in them, in the background."""

    def __init__(
        self,
        files: FileRepository,
        changes: TreeChangeRepository,
        devices: Devices,
        queue: Queue,
        clock: Clock,
    ) -> None:
        self._files = files
        self._changes = changes
        self._devices = devices
        self._queue = queue
        self._clock = clock
        self._entries = Entries(files, devices, clock)

    def move(
        self,
        user_id: UserId,
        device_id: str,
        directory_id: str,
        *,
        path: str | None,
        name: str | None,
        version: int | None = None,
        idempotency_key: IdempotencyKey | None = None,
    ) -> TreeChange:
        """Have a directory moved with all that is in it; a repeat with the key returns what the first has made.

        Args:
            user_id: owner.
            device_id: the device.
            directory_id: the directory.
            path: path of the directory that will hold it; missing ones are made. None: it stays in its own.
            name: its new name; None: it keeps its own.
            version: the one that the owner has seen; None: whichever it has.
            idempotency_key: of the request.

        Raises:
            NotFound: the directory does not exist or has another owner.
            InvalidTransition: it is a file.
            StaleVersion: `version` is not the stored one.
            ValidationFailed: it would be in itself, where it is, or too deep.
            AlreadyExists: the name is taken by the entry `details.id`; or NOT_A_DIRECTORY, a directory above is a file.
            TreeBusy: either place is in a tree that is being moved or deleted, or has one in it.
            TooManyTreeChanges: as many trees of the device are being moved or deleted as may be.
        """
        owned, now = self._devices.require(user_id, device_id), self._clock.now()
        request = repeatable(idempotency_key, directory_id, path, name, at=now)
        if request is not None and (earlier := self._made_before(owned, request)) is not None:
            return earlier
        directory = self._directory(user_id, device_id, directory_id, version)
        place = replace(
            directory,
            path=directory.path if path is None else path,
            name=directory.name if name is None else name,
        )
        source, target = child_of(directory.path, directory.name), child_of(place.path, place.name)
        _require_target(source, target)
        change = self._new(directory, TreeChangeKind.MOVE, target)

        def write(above: list[DeviceFile], marks: TreeMarks) -> None:
            _require_free(source, marks)
            due = now + LOOKED_AFTER
            self._changes.add(change, directory, marks, directories=above, due=due, request=request)

        try:
            self._entries.write(place, write)
        except AlreadyExists:
            made = self._made_before(owned, request) if request is not None else None
            if made is None:
                raise
            return made
        self._send(change)
        return change

    def delete(
        self, user_id: UserId, device_id: str, entry_id: str, *, version: int | None = None
    ) -> TreeChange | None:
        """Have a directory deleted with all that is in it, which disappears at once; None: it is a file.

        A repeat, before the work is over, returns the same work.

        Raises:
            NotFound: the entry does not exist or has another owner, or the deletion is over.
            StaleVersion: `version` is not the stored one.
            TreeBusy: it is in a tree that is being moved or deleted, or has one in it.
            TooManyTreeChanges: as many trees of the device are being moved or deleted as may be.
            Conflict: others changed it at each of `TRIES` attempts.
        """
        owned = self._devices.require(user_id, device_id)
        for _ in range(TRIES):
            if (begun := self._deletion_of(owned, entry_id)) is not None:
                return begun
            directory, marks = self._entries.look(user_id, device_id, entry_id)
            if not directory.is_directory:
                return None
            if version not in (None, directory.revision):
                raise StaleVersion(f"Directory {entry_id} was changed by somebody else; read it again")
            _require_free(child_of(directory.path, directory.name), marks)
            change = self._new(directory, TreeChangeKind.DELETE)
            try:
                self._changes.add(change, directory, marks, due=self._clock.now() + LOOKED_AFTER)
            except (ConditionFailed, TreeMarksChanged, StaleVersion):
                continue
            self._send(change)
            return change
        raise Conflict(f"Directory {entry_id} is being changed; try again")

    def get(self, user_id: UserId, device_id: str, change_id: str) -> TreeChange:
        """Return a tree change.

        Raises:
            NotFound: it does not exist, is of another account's device, or is no longer kept.
        """
        owned = self._devices.require(user_id, device_id)
        change = self._changes.get(TreeChangeKey(owned, TreeChangeId(change_id))) if is_id(change_id) else None
        if change is None or change.is_forgotten(self._clock.now()):
            raise NotFound(f"Tree change {change_id} not found")
        return change

    def list(
        self, user_id: UserId, device_id: str, *, limit: int, after: str = ""
    ) -> tuple[Sequence[TreeChange], str | None]:
        """Return a device's tree changes, newest first, and the `after` of the next page; None: nothing follows.

        Raises:
            NotFound: the device does not exist or has another owner.
        """
        owned = self._devices.require(user_id, device_id)
        return self._changes.page(owned, limit=limit, after=after, now=self._clock.now())

    def cancel(self, user_id: UserId, device_id: str, change_id: str) -> TreeChange:
        """Let a move be that has not begun; a repeat changes nothing.

        Raises:
            NotFound: as of `get`.
            InvalidTransition: it has begun, or is over; a deletion has begun with its request.
            Conflict: other works began or ended at each of `TRIES` attempts.
        """
        for _ in range(TRIES):
            change = self.get(user_id, device_id, change_id)
            if change.state is TreeChangeState.CANCELLED:
                return change
            if not change.is_open or change.is_begun:
                told = "has begun, and goes on to its end" if change.is_open else f"is over: it has {change.state}"
                raise InvalidTransition(f"Tree change {change_id} {told}")
            try:
                self._changes.give_up(change, self._files.marks(change.key.device_id), at=self._clock.now())
            except (TreeChangeLost, TreeMarksChanged):
                continue
            count("TreeChangeCancelled")
        raise Conflict(f"Tree change {change_id} is being changed; try again")

    def _directory(self, user_id: UserId, device_id: str, directory_id: str, version: int | None) -> DeviceFile:
        directory = self._entries.get(user_id, device_id, directory_id)
        if not directory.is_directory:
            raise InvalidTransition(f"{directory_id} is a file; change its path and name instead")
        if version not in (None, directory.revision):
            raise StaleVersion(f"Directory {directory_id} was changed by somebody else; read it again")
        return directory

    def _new(self, directory: DeviceFile, kind: TreeChangeKind, target: str = "") -> TreeChange:
        return TreeChange(
            key=TreeChangeKey(directory.device_id, TreeChangeId(new_id())),
            user_id=directory.user_id,
            kind=kind,
            directory_id=directory.id,
            source=child_of(directory.path, directory.name),
            target=target,
            is_begun=kind is TreeChangeKind.DELETE,
            created_ms=epoch_ms(self._clock.now()),
        )

    def _send(self, change: TreeChange) -> None:
        count("TreeChangeCreated", kind=change.kind)
        logger.info("tree_change.created", change_id=change.key.change_id, kind=change.kind)
        send_tree_change(self._queue, change.key)

    def _made_before(self, device_id: DeviceId, request: RepeatableRequest) -> TreeChange | None:
        made = self._changes.made_by(device_id, request)
        if made is None:
            return None
        change = self._changes.get(TreeChangeKey(device_id, made))
        if change is None:
            raise no_longer(made)
        return change

    def _deletion_of(self, device_id: DeviceId, entry_id: str) -> TreeChange | None:
        mark = next((mark for mark in self._files.marks(device_id).marks if mark.directory_id == entry_id), None)
        if mark is None or mark.kind is not TreeChangeKind.DELETE:
            return None
        return self._changes.get(TreeChangeKey(device_id, mark.change_id))


def _require_target(source: str, target: str) -> None:
    if target == source:
        raise ValidationFailed.of("path", "the directory has this path and name")
    if is_within(target, source):
        raise ValidationFailed.of("path", "must not be in the directory that is moved")
    try:
        clean_path(target)
    except ValueError as exc:
        raise ValidationFailed.of("path", f"with the name: {exc}") from exc


def _require_free(source: str, marks: TreeMarks) -> None:
    marks.require_still(source, with_what_is_in_it=True)
    if len(marks.marks) >= MAX_MARKS:
        raise TooManyTreeChanges
