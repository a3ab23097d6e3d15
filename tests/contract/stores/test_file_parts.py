"""Previews of files and links to them: one suite for the rows in memory and for DynamoDB."""

from __future__ import annotations

from dataclasses import replace

import pytest

from karma.core.dynamo.failures import ConditionFailed
from karma.core.errors import NotFound
from karma.core.ids import FileId, new_id
from karma.files.domain import DeviceFile, FileStatus, ShareId
from karma.files.previews import Refusal, expected_of, refused
from tests.contexts.files import FileRows, MemoryFileRows, StoredFileRows
from tests.support.rows import LATER, NOW
from tests.support.stores import Store


@pytest.fixture
def rows(store: Store) -> FileRows:
    return MemoryFileRows() if store.in_memory else StoredFileRows()


def found(rows: FileRows, file: DeviceFile) -> DeviceFile:
    stored = rows.files.find(file.device_id, file.id)
    assert stored is not None
    return stored


class TestAPreview:
    def test_is_noted_once_and_changes_nothing_of_the_file(self, rows: FileRows) -> None:
        file = rows.pictured
        assert file.previews == expected_of("application/pdf")
        made = replace(refused(file.previews, Refusal.ENCRYPTED), excerpt="the beginning")
        rows.previews.previewed(file, made, now=LATER)
        assert found(rows, file) == replace(file, previews=made)
        with pytest.raises(ConditionFailed):
            rows.previews.previewed(file, refused(file.previews, Refusal.DAMAGED), now=LATER)

    def test_stays_with_a_renamed_file(self, rows: FileRows) -> None:
        file = rows.pictured
        rows.files.change(file, replace(file, name="b.pdf", revision=2), directories=())
        rows.previews.previewed(file, refused(file.previews, Refusal.NO_TEXT), now=LATER)
        assert found(rows, file).previews.text.reason is Refusal.NO_TEXT
        rows.files.begin_delete(found(rows, file), now=LATER, due=LATER)
        assert found(rows, file).status is FileStatus.DELETING

    def test_of_a_deleted_file_is_not_noted(self, rows: FileRows) -> None:
        file = rows.pictured
        rows.files.begin_delete(file, now=NOW, due=NOW)
        with pytest.raises(ConditionFailed):
            rows.previews.previewed(file, refused(file.previews, Refusal.DAMAGED), now=LATER)


class TestALink:
    def test_is_found_by_its_file_and_by_its_id(self, rows: FileRows) -> None:
        share = rows.shared
        assert rows.shares.of_file(share.device_id, share.file_id) == [share]
        assert rows.shares.find(share.device_id, share.file_id, share.id) == share
        assert rows.shares.find(share.device_id, FileId(new_id()), share.id) is None

    def test_opens_as_often_as_it_may_and_until_it_ends(self, rows: FileRows) -> None:
        share = rows.shared
        with pytest.raises(ConditionFailed):
            rows.shares.opened(share, now=LATER)
        for _ in "12":
            rows.shares.opened(share, now=NOW)
        with pytest.raises(ConditionFailed):
            rows.shares.opened(share, now=NOW)
        assert [each.downloads for each in rows.shares.of_file(share.device_id, share.file_id)] == [2]

    def test_opens_nothing_once_it_is_removed(self, rows: FileRows) -> None:
        share = rows.shared
        rows.shares.remove(share.device_id, share.file_id, share.id)
        with pytest.raises(ConditionFailed):
            rows.shares.opened(share, now=NOW)
        with pytest.raises(ConditionFailed):
            rows.shares.remove(share.device_id, share.file_id, share.id)

    def test_is_made_of_a_listed_file_of_an_active_device_alone(self, rows: FileRows) -> None:
        share = rows.shared
        with pytest.raises(NotFound):
            rows.shares.add(replace(share, id=ShareId(new_id()), file_id=FileId(new_id())))
        rows.lose_device()
        with pytest.raises(NotFound):
            rows.shares.add(replace(share, id=ShareId(new_id())))
