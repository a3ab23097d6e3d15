"""Paths, parts and states of files."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from karma.core.ids import DeviceId, FileId, UserId
from karma.files.domain import (
    MAX_FILE_BYTES,
    MAX_PATH_BYTES,
    PART_BYTES,
    TRANSITIONS,
    DeviceFile,
    Digests,
    FileStatus,
    Rejection,
    clean_name,
    clean_path,
    directories_above,
    parent_of,
    sources_of,
)


def file(size: int, **fields: object) -> DeviceFile:
    return DeviceFile(
        id=FileId("f"), device_id=DeviceId("d"), user_id=UserId("u"), name="a", path="/", type="t", category="c",
        size=size, status=FileStatus.UPLOADING, created_at="", modified_at="", **fields,  # type: ignore[arg-type]
    )  # fmt: skip


class TestParts:
    @given(st.integers(0, MAX_FILE_BYTES))
    def test_cover_the_file_within_what_s3_takes(self, size: int) -> None:
        cut = file(size)
        sizes = [cut.part_bytes(number) for number in range(1, cut.part_count + 1)]
        assert sum(sizes) == size
        assert len(sizes) <= 1000
        assert all(part == PART_BYTES for part in sizes[:-1])
        assert 0 <= sizes[-1] <= PART_BYTES
        assert sizes[-1] > 0 or size == 0


class TestPaths:
    @pytest.mark.parametrize(
        ("given_path", "path"),
        [("", "/"), ("/", "/"), ("a", "/a"), ("//a/./b//", "/a/b"), ("e\u0301", "/\u00e9"), (" a /b", "/ a /b")],
    )
    def test_are_absolute_and_normal(self, given_path: str, path: str) -> None:
        assert clean_path(given_path) == path

    @pytest.mark.parametrize(
        "path", ["..", "/a/..", "a\\b", "a\x00", "\x7f", "a\u0085", "\u202e", "\ud800", "/ /", "a/" * 33]
    )
    def test_that_mean_harm_are_refused(self, path: str) -> None:
        with pytest.raises(ValueError, match=r"must|at most"):
            clean_path(path)

    @given(st.text(max_size=400))
    def test_once_clean_stay_the_same(self, text: str) -> None:
        try:
            path = clean_path(text)
        except ValueError:
            return
        assert clean_path(path) == path
        assert path == unicodedata.normalize("NFC", path)
        assert path.startswith("/")
        assert "//" not in path
        assert len(path.encode()) <= MAX_PATH_BYTES
        assert ".." not in path.split("/")

    def test_know_what_is_above_them(self) -> None:
        assert directories_above("/a/b") == [("/", "a"), ("/a", "b")]
        assert directories_above("/") == []
        assert (parent_of("/a/b"), parent_of("/a"), parent_of("/")) == ("/a", "/", None)

    @pytest.mark.parametrize("name", ["", " ", ".", "..", "a/b", "a\nb", "a" * 256])
    def test_names_are_one_segment(self, name: str) -> None:
        with pytest.raises(ValueError, match=r"must|at most"):
            clean_name(name)


class TestStates:
    def test_end_in_deleting(self) -> None:
        assert TRANSITIONS.keys() == set(FileStatus)
        assert sources_of(FileStatus.READY) == {FileStatus.VERIFYING}
        assert sources_of(FileStatus.DELETING) == set(FileStatus) - {FileStatus.DELETING}

    @pytest.mark.parametrize(
        ("declared", "size", "reason"),
        [(None, 5, None), ("a", 5, None), ("b", 5, Rejection.SHA256), ("b", 4, Rejection.SIZE)],
    )
    def test_what_is_declared_must_be_what_is_stored(
        self, declared: str | None, size: int, reason: Rejection | None
    ) -> None:
        assert file(5, declared_sha256=declared).rejection_of(Digests(size, "a", "m", "text/plain")) == reason
