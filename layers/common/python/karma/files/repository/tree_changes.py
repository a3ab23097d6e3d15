"""Tree changes over DynamoDB: each with its mark, which is written in the same transaction (docs/adr/0074)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final, cast

from pynamodb.expressions.condition import Condition
from pynamodb.expressions.update import Action

from karma.core.clock import epoch_ms, from_epoch_ms, iso
from karma.core.dynamo.access import get, update
from karma.core.dynamo.failures import ConditionFailed
from karma.core.dynamo.newest import END, newest
from karma.core.dynamo.requests import note_request, noted, request_key
from karma.core.dynamo.transaction import Transaction
from karma.core.dynamo.work import due_sk, query_work
from karma.core.errors import AlreadyExists, StaleVersion
from karma.core.ids import DeviceId, FileId, UserId
from karma.core.requests import RepeatableRequest
from karma.devices.transactional import require_device
from karma.files.domain import DeviceFile, DirectoryNotEmpty, split_path
from karma.files.marks import TreeChangeId, TreeChangeKind, TreeMarks
from karma.files.repository.items import (
    TREE_PREFIX,
    TREE_SWEEP_PARTITION,
    FileItem,
    FileRequestItem,
    TreeChangeItem,
    directory_pk,
    directory_sk,
    files_pk,
    listed_key,
    tree_change_key,
)
from karma.files.repository.names import NameChanges
from karma.files.trees.domain import (
    OPEN,
    RETENTION,
    TreeChange,
    TreeChangeFailure,
    TreeChangeKey,
    TreeChangeLost,
    TreeChangeState,
)

_NOT_BEGUN: Final = TreeChangeItem.is_begun == False  # noqa: E712


class TreeChangeRepository:
    """Reads and conditional writes of tree changes in the `devices` table."""

    def add(
        self,
        change: TreeChange,
        directory: DeviceFile,
        marks: TreeMarks,
        *,
        directories: Iterable[DeviceFile] = (),
        due: datetime,
        request: RepeatableRequest | None = None,
    ) -> None:
        """Write a new tree change and its mark; a move takes the name of its target, too: all or none.

        Args:
            change: the new tree change.
            directory: the directory that is moved or deleted, as it was read.
            marks: the device's marks as they were read, by which both places are still.
            directories: the missing directories above the target, as `FileRepository.missing` returned them.
            due: moment at which a sweep must look at it.
            request: the request that asks for it, whose record is written, too.

        Raises:
            AlreadyExists: the target's name is taken, or `made_by` names a tree change of this request.
            StaleVersion: the directory was changed or removed since it was read.
            NotFound: the device does not exist any more.
            ConditionFailed: another request made or removed one of the directories above the target meanwhile.
            TreeMarksChanged: the marks are others by now.
        """
        tx, device_id = Transaction(), change.key.device_id
        require_device(tx, change.user_id, device_id)
        stale = StaleVersion(f"Directory {directory.id} was changed by somebody else; read it again")
        tx.check(FileItem, listed_key(device_id, directory.id), FileItem.revision == directory.revision, on_fail=stale)
        names = NameChanges(tx, device_id, marks.version)
        if change.target:
            path, name = split_path(change.target)
            names.take(replace(directory, path=path, name=name), on_fail=AlreadyExists(f"{name} exists in {path}"))
            names.make(directories)
        names.mark([*marks.marks, change.mark])
        names.write()
        tx.put(_item(change, due=due))
        if request is not None:
            item = FileRequestItem(*request_key(files_pk(device_id), request))
            note_request(tx, item, request, change.key.change_id)
        tx.commit()

    def made_by(self, device_id: DeviceId, request: RepeatableRequest) -> TreeChangeId | None:
        """Return the id of the tree change that a request made: one read; None: it made none within 25 hours.

        Raises:
            IdempotencyKeyReused: the request that made it asked for something else.
        """
        made = noted(FileRequestItem, request_key(files_pk(device_id), request), request)
        return TreeChangeId(made) if made else None

    def get(self, key: TreeChangeKey) -> TreeChange | None:
        """Read a tree change, strongly consistent: one read."""
        item = get(TreeChangeItem, tree_change_key(*key), consistent=True)
        return _change_of(item) if item is not None else None

    def page(
        self, device_id: DeviceId, *, limit: int, now: datetime, after: str = ""
    ) -> tuple[list[TreeChange], str | None]:
        """Read a device's tree changes, newest first, without forgotten ones: one query.

        Return also where the next page goes on, its `after`; None: nothing follows.
        """
        is_kept = TreeChangeItem.expires_at.does_not_exist() | (TreeChangeItem.expires_at > int(now.timestamp()))
        found = newest(
            TreeChangeItem,
            [files_pk(device_id)],
            limit=limit,
            prefix=TREE_PREFIX,
            below=after or END,
            filter_condition=is_kept,
            drops_few=True,
        )
        return [_change_of(item) for item in found.items], found.below

    # The worker

    def take(self, change: TreeChange, *, until: datetime) -> TreeChange:
        """Hold a tree change that was read until a moment: one update.

        Raises:
            TreeChangeLost: it is not as it was read.
        """
        actions = [
            TreeChangeItem.state.set(TreeChangeState.RUNNING.value),
            TreeChangeItem.attempts.set(change.attempts + 1),
        ]
        return self._hold(change, actions, held_until=until, due=until)

    def save(self, change: TreeChange, *, held_until: datetime | None, due: datetime) -> TreeChange:
        """Note how far a held tree change has come: one update.

        Args:
            change: with the numbers that are to be stored, and the version that was read.
            held_until: until when its worker holds it; None: no more.
            due: when the sweep looks after it.

        Raises:
            TreeChangeLost: it is not as it was read.
        """
        actions = [
            TreeChangeItem.done.set(change.done),
            TreeChangeItem.total.set(change.total or 0),
            TreeChangeItem.attempts.set(change.attempts),
        ]
        return self._hold(change, actions, held_until=held_until, due=due)

    def _hold(
        self, change: TreeChange, actions: Sequence[Action], *, held_until: datetime | None, due: datetime
    ) -> TreeChange:
        held = TreeChangeItem.held_until_ms.set(epoch_ms(held_until) if held_until else 0)
        looked_at = TreeChangeItem.gsi1sk.set(due_sk(due, change.key.change_id))
        item = TreeChangeItem(*tree_change_key(*change.key))
        try:
            stored = update(item, [*actions, held, looked_at], TreeChangeItem.version == change.version)
        except ConditionFailed:
            raise TreeChangeLost from None
        return _change_of(stored)

    def begin_move(self, change: TreeChange, directory: DeviceFile, marks: TreeMarks, *, at: datetime) -> TreeChange:
        """Let readers see a held move from now on: its directory gets the new path, and its mark is begun: all or none.

        Args:
            change: with the number of its entries.
            directory: as it was read, at its old path.
            marks: the device's marks as they were read.
            at: moment of the change.

        Raises:
            TreeChangeLost: it is not as it was read, or the directory is not.
            TreeMarksChanged: the marks are others by now.
        """
        begun = replace(change, is_begun=True, done=0, version=change.version + 1)
        path, name = split_path(change.target)
        tx, device_id = Transaction(), change.key.device_id
        names = NameChanges(tx, device_id, marks.version)
        names.mark([*marks.without(change.key.change_id), begun.mark])
        names.write()
        tx.update(
            FileItem(*listed_key(device_id, directory.id)),
            [
                FileItem.path.set(path),
                FileItem.name.set(name),
                FileItem.revision.set(directory.revision + 1),
                FileItem.modified_at.set(iso(at)),
                FileItem.updated_at.set(iso(at)),
                FileItem.gsi1pk.set(directory_pk(device_id, path)),
                FileItem.gsi1sk.set(directory_sk(name, directory.id, is_directory=True)),
            ],
            FileItem.revision == directory.revision,
        )
        tx.update(
            TreeChangeItem(*tree_change_key(*change.key)),
            [
                TreeChangeItem.is_begun.set(True),
                TreeChangeItem.total.set(change.total or 0),
                TreeChangeItem.done.set(0),
            ],
            TreeChangeItem.version == change.version,
        )
        self._commit(tx)
        return begun

    def finish(self, change: TreeChange, marks: TreeMarks, *, at: datetime) -> None:
        """End a held tree change of which all is done: the last name at its source goes, and its mark: all or none.

        Raises:
            TreeChangeLost: it is not as it was read, its directory is gone, or names are taken in its source.
            TreeMarksChanged: the marks are others by now.
        """
        tx, device_id = Transaction(), change.key.device_id
        names = self._unmarked(tx, change, marks)
        names.free_empty(change.directory_id, change.source)
        names.write()
        if change.kind is TreeChangeKind.DELETE:
            tx.delete(FileItem(*listed_key(device_id, change.directory_id)), FileItem.pk.exists())
        self._end(tx, change, TreeChangeState.SUCCEEDED, TreeChangeItem.version == change.version, at=at)

    def give_up(
        self, change: TreeChange, marks: TreeMarks, *, at: datetime, failure: TreeChangeFailure | None = None
    ) -> None:
        """End a move that has not begun, as cancelled or for a failure: its target's name is freed: all or none.

        Raises:
            TreeChangeLost: it has begun, is over, or was removed; a failed one: it is not as it was read.
            TreeMarksChanged: the marks are others by now.
        """
        tx = Transaction()
        names = self._unmarked(tx, change, marks)
        names.free_empty(change.directory_id, change.target)
        names.write()
        if failure is None:
            is_open = TreeChangeItem.state.is_in(*sorted(OPEN)) & _NOT_BEGUN
            self._end(tx, change, TreeChangeState.CANCELLED, is_open, at=at)
            return
        is_as_read = (TreeChangeItem.version == change.version) & _NOT_BEGUN
        told = TreeChangeItem.failure.set(list(failure))
        self._end(tx, change, TreeChangeState.FAILED, is_as_read, told, at=at)

    def _unmarked(self, tx: Transaction, change: TreeChange, marks: TreeMarks) -> NameChanges:
        names = NameChanges(tx, change.key.device_id, marks.version)
        names.mark(marks.without(change.key.change_id))
        return names

    def _end(
        self, tx: Transaction, change: TreeChange, state: TreeChangeState, then: Condition, *more: Action, at: datetime
    ) -> None:
        tx.update(
            TreeChangeItem(*tree_change_key(*change.key)),
            [
                TreeChangeItem.state.set(state.value),
                TreeChangeItem.done.set(change.done),
                TreeChangeItem.ended_ms.set(epoch_ms(at)),
                TreeChangeItem.updated_at.set(iso(at)),
                TreeChangeItem.expires_at.set(epoch_ms(at + RETENTION) // 1000),
                TreeChangeItem.gsi1pk.remove(),
                TreeChangeItem.gsi1sk.remove(),
                *more,
            ],
            then,
        )
        self._commit(tx)

    def _commit(self, tx: Transaction) -> None:
        try:
            tx.commit()
        except (ConditionFailed, DirectoryNotEmpty):
            raise TreeChangeLost from None

    # The sweep

    def due(self, *, before: datetime, limit: int) -> list[TreeChangeKey]:
        """Read tree changes that no worker holds, though they are not over, the longest due first: one query."""
        return query_work(
            TreeChangeItem,
            TREE_SWEEP_PARTITION,
            TreeChangeItem.gsi1sk < iso(before),
            lambda item: TreeChangeKey(DeviceId(item.device_id), TreeChangeId(item.change_id)),
            limit=limit,
        ).items

    def put_off(self, key: TreeChangeKey, *, before: datetime, until: datetime) -> None:
        """Let the sweep look after a tree change again at `until`, if it was due `before`: one update."""
        with contextlib.suppress(ConditionFailed):
            update(
                TreeChangeItem(*tree_change_key(*key)),
                [TreeChangeItem.gsi1sk.set(due_sk(until, key.change_id))],
                TreeChangeItem.gsi1sk < iso(before),
            )


def _item(change: TreeChange, *, due: datetime) -> TreeChangeItem:
    made_at = iso(from_epoch_ms(change.created_ms))
    return TreeChangeItem(
        *tree_change_key(*change.key),
        change_id=change.key.change_id,
        device_id=change.key.device_id,
        user_id=change.user_id,
        kind=change.kind.value,
        directory_id=change.directory_id,
        source=change.source,
        target=change.target or None,
        state=change.state.value,
        is_begun=change.is_begun,
        created_ms=change.created_ms,
        created_at=made_at,
        updated_at=made_at,
        gsi1pk=TREE_SWEEP_PARTITION,
        gsi1sk=due_sk(due, change.key.change_id),
    )


def _change_of(item: TreeChangeItem) -> TreeChange:
    failure = cast("list[str] | None", item.failure)
    return TreeChange(
        key=TreeChangeKey(DeviceId(item.device_id), TreeChangeId(item.change_id)),
        user_id=UserId(item.user_id),
        kind=TreeChangeKind(item.kind),
        directory_id=FileId(item.directory_id),
        source=item.source,
        target=item.target or "",
        state=TreeChangeState(item.state),
        is_begun=bool(item.is_begun),
        total=int(total) if (total := cast("float | None", item.total)) is not None else None,
        done=int(item.done),
        created_ms=int(item.created_ms),
        ended_ms=int(item.ended_ms or 0) or None,
        attempts=int(item.attempts),
        held_until_ms=int(item.held_until_ms),
        failure=TreeChangeFailure(*failure) if failure else None,
        version=int(item.version or 0),
    )
