"""Whole directories that are moved and deleted, as their owner sees it: what is there at once, and what in the end."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import httpx
import pytest

from karma.core.clock import SystemClock
from karma.core.ids import DeviceId
from karma.files.marks import MAX_MARKS
from karma.files.removal import FilesOfDevices
from karma.files.repository.files import FileRepository
from karma.files.repository.tree_changes import TreeChangeRepository
from karma.files.trees.sweep import send_open_changes
from karma.integrations.s3 import S3Files
from karma.integrations.sqs import SqsQueue
from tests.fakes.devices import FakeClock
from tests.integration.api.conftest import Answer
from tests.support.files import Files, unbalanced_bytes
from tests.support.stack import Drain, Stack


def change_of(files: Files, change_id: str, *, method: str = "GET", then: str = "") -> Answer:
    return files.api.call(method, f"/api/v1/devices/{files.device_id}/tree-changes/{change_id}{then}")


def directory_at(files: Files, path: str) -> str:
    """Return the id of the directory with a path."""
    device_id = DeviceId(files.device_id)
    above, _, name = path.rpartition("/")
    holder = FileRepository().holder(device_id, above or "/", name)
    assert holder is not None
    return holder


def deleted(files: Files, directory: str) -> dict[str, Any]:
    answer = files.call("DELETE", f"/{directory}", query="recursive=true")
    assert answer.status == 202, answer.text
    found: dict[str, Any] = answer.data["tree_change"]
    return found


def moved(files: Files, directory: str, **body: Any) -> dict[str, Any]:
    answer = files.call("POST", f"/{directory}/move", body)
    assert answer.status == 202, answer.text
    found: dict[str, Any] = answer.data["tree_change"]
    return found


def names(files: Files, path: str) -> list[str] | str:
    answer = files.call("GET", query=f"path={path}")
    return [file["name"] for file in answer.data["files"]] if answer.status == 200 else answer.code


def queue_again(stack: Stack) -> int:
    """Let the sweep of tree changes look an hour later."""
    clock = FakeClock(SystemClock().now() + timedelta(hours=1))
    return send_open_changes(TreeChangeRepository(), SqsQueue(stack.queues["files"]), clock)


class TestDeletingADirectory:
    def test_takes_all_that_is_in_it_at_once_and_its_bytes_in_the_background(self, files: Files, stack: Stack) -> None:
        kept = files.ready(name="kept.txt", path="/other")
        deep = files.ready(name="deep.txt", path="/docs/a/b")
        half = files.begin(b"12345", name="half.txt", path="/docs/a")
        files.send(half, b"12345")
        link = files.call("POST", f"/{deep}/share", {}).data["token"]
        directory = directory_at(files, "/docs")

        made = deleted(files, directory)
        assert (made["kind"], made["state"], made["has_begun"], made["target_path"]) == ("delete", "queued", True, None)
        for each in (deep, half, directory, directory_at(files, "/docs/a")):
            assert files.call("GET", f"/{each}").status == 404
        assert files.api.call("GET", f"/api/v1/shares/{link}").status == 404
        assert names(files, "/docs/a") == "NOT_FOUND"
        assert names(files, "/") == ["other"]
        assert set(files.listed()) == {kept, directory_at(files, "/other")}
        refused = files.call("POST", body={"name": "new.txt", "path": "/docs/a", "size": 1})
        assert (refused.status, refused.code) == (409, "TREE_BUSY")
        assert refused.json["error"]["details"]["id"] == made["id"]
        assert files.call("POST", "/directories", {"path": "/docs"}).code == "TREE_BUSY"
        assert deleted(files, directory) == made, "a repeat is told of the same work"

        assert files.consume() == []
        over = change_of(files, made["id"]).data["tree_change"]
        assert (over["state"], over["done"], over["total"], over["error"]) == ("succeeded", 4, 4, None)
        assert unbalanced_bytes(stack) == 0
        assert [key for key in files.objects() if kept not in key] == []
        assert not [key for key in files.rows() if key.startswith(("UPLOAD#", "SHARE#")) and deep not in key]
        assert files.call("DELETE", f"/{directory}", query="recursive=true").status == 404
        files.ready(name="deep.txt", path="/docs/a/b")

    def test_that_is_empty_and_a_file_by_the_same_request(self, files: Files) -> None:
        made = files.call("POST", "/directories", {"path": "/empty"}).data["directory"]["id"]
        assert deleted(files, made)["state"] == "queued"
        assert files.consume() == []
        assert files.call("DELETE", f"/{files.ready()}", query="recursive=true").status == 204

    def test_without_the_flag_or_of_another_version_is_refused(self, files: Files) -> None:
        files.begin(b"1", path="/docs")
        directory = directory_at(files, "/docs")
        assert files.call("DELETE", f"/{directory}").code == "DIRECTORY_NOT_EMPTY"
        refused = files.call("DELETE", f"/{directory}", query="recursive=true", **{"if-match": '"7"'})
        assert refused.code == "STALE_VERSION"
        assert files.call("DELETE", f"/{directory}", query="recursive=perhaps").status == 422
        assert names(files, "/") == ["docs"]


class TestMovingADirectory:
    def test_shows_the_whole_tree_at_its_new_path(self, files: Files, stack: Stack) -> None:
        deep = files.ready(name="deep.txt", path="/docs/a/b")
        half = files.begin(b"12345", name="half.txt", path="/docs/a")
        link = files.call("POST", f"/{deep}/share", {}).data["token"]
        directory = directory_at(files, "/docs")
        version = files.file(deep)["version"]

        made = moved(files, directory, path="/archive/2026", name="papers")
        assert (made["source_path"], made["target_path"], made["has_begun"]) == ("/docs", "/archive/2026/papers", False)
        assert files.file(deep)["path"] == "/docs/a/b", "nothing is seen of it before the tree was looked at"
        assert names(files, "/archive/2026/papers") == "NOT_FOUND"
        assert names(files, "/docs") == ["a"]
        assert files.call("PATCH", f"/{deep}", {"name": "x"}).code == "TREE_BUSY"
        assert files.call("DELETE", f"/{deep}").code == "TREE_BUSY"
        taken = files.call("POST", body={"name": "papers", "path": "/archive/2026", "size": 1})
        assert taken.code == "TREE_BUSY"

        assert files.consume() == []
        over = change_of(files, made["id"]).data["tree_change"]
        assert (over["state"], over["done"], over["total"], over["has_begun"]) == ("succeeded", 4, 4, True)
        assert names(files, "/docs") == "NOT_FOUND"
        assert names(files, "/archive/2026/papers/a") == ["b"]
        assert names(files, "/archive/2026/papers/a/b") == ["deep.txt"]
        shown = files.file(deep)
        assert (shown["path"], shown["version"]) == ("/archive/2026/papers/a/b", version + 1)
        assert files.file(directory)["name"] == "papers"
        opened = files.api.call("GET", f"/api/v1/shares/{link}")
        assert httpx.get(opened.headers["location"], trust_env=False).content == b"hello"
        files.send(half, b"12345")
        assert files.call("POST", f"/{half}/complete").data["file"]["path"] == "/archive/2026/papers/a"
        assert files.consume() == []
        assert names(files, "/archive/2026/papers/a") == ["b", "half.txt"]
        assert unbalanced_bytes(stack) == 0
        files.ready(name="deep.txt", path="/docs/a/b")

    def test_may_be_its_new_name_alone_and_a_repeat_of_the_request_is_one(self, files: Files) -> None:
        files.ready(path="/docs")
        directory = directory_at(files, "/docs")
        key = {"idempotency-key": "move-once"}
        first = files.call("POST", f"/{directory}/move", {"name": "Docs"}, **key)
        again = files.call("POST", f"/{directory}/move", {"name": "Docs"}, **key)
        assert (first.status, again.status) == (202, 202)
        assert first.data["tree_change"]["id"] == again.data["tree_change"]["id"]
        other = files.call("POST", f"/{directory}/move", {"name": "else"}, **key)
        assert other.code == "IDEMPOTENCY_KEY_REUSED"
        assert files.consume() == []
        assert names(files, "/Docs") == ["notes.txt"]

    @pytest.mark.parametrize(
        ("body", "status", "told"),
        [
            ({}, 422, "VALIDATION_ERROR"),
            ({"name": None}, 422, "VALIDATION_ERROR"),
            ({"path": "/"}, 422, "VALIDATION_ERROR"),
            ({"path": "/docs/a"}, 422, "VALIDATION_ERROR"),
            ({"path": "/docs"}, 422, "VALIDATION_ERROR"),
            ({"path": "/" + "/".join("x" * 32)}, 422, "VALIDATION_ERROR"),
            ({"path": "/" + "/".join(["y" * 255] * 4)}, 422, "VALIDATION_ERROR"),
            ({"path": "/.."}, 422, "VALIDATION_ERROR"),
            ({"name": "a/b"}, 422, "VALIDATION_ERROR"),
            ({"path": "/taken.txt"}, 409, "NOT_A_DIRECTORY"),
            ({"name": "taken.txt"}, 409, "ALREADY_EXISTS"),
            ({"name": "other"}, 409, "ALREADY_EXISTS"),
            ({"name": "fine", "version": 9}, 409, "STALE_VERSION"),
        ],
        ids=lambda value: str(value)[:30],
    )
    def test_to_where_it_cannot_be_is_refused(self, files: Files, body: dict[str, Any], status: int, told: str) -> None:
        files.begin(b"1", name="one", path="/docs/a")
        files.begin(b"1", name="taken.txt")
        files.call("POST", "/directories", {"path": "/other"})
        before = files.rows()
        refused = files.call("POST", f"/{directory_at(files, '/docs')}/move", body)
        assert (refused.status, refused.code) == (status, told), refused.text
        assert files.rows().keys() - before.keys() == set(), "nothing is half made"

    def test_of_a_file_or_of_what_is_not_there_is_refused(self, files: Files) -> None:
        assert files.call("POST", f"/{files.ready()}/move", {"name": "x"}).code == "INVALID_TRANSITION"
        assert files.call("POST", "/01994b93-51c4-7a08-b3d2-7e1f90ac6d54/move", {"name": "x"}).status == 404
        assert change_of(files, "01994b93-51c4-7a08-b3d2-7e1f90ac6d54").status == 404
        assert change_of(files, "none").status == 404

    def test_fails_where_a_directory_in_it_would_be_too_deep(self, files: Files) -> None:
        files.begin(b"1", path="/docs/" + "/".join("abcdefgh"))
        files.call("POST", "/directories", {"path": "/" + "/".join("x" * 24)})
        directory = directory_at(files, "/docs")
        made = moved(files, directory, path="/" + "/".join("x" * 24))
        assert files.consume() == []
        over = change_of(files, made["id"]).data["tree_change"]
        assert (over["state"], over["has_begun"], over["error"]["code"]) == ("failed", False, "PATH_TOO_DEEP")
        assert names(files, "/docs") == ["a"]
        moved(files, directory, path="/" + "/".join("x" * 23))
        assert files.consume() == []
        assert names(files, "/docs") == "NOT_FOUND"

    def test_is_cancelled_until_it_has_begun(self, files: Files) -> None:
        files.ready(path="/docs")
        directory = directory_at(files, "/docs")
        made = moved(files, directory, name="papers")
        cancelled = change_of(files, made["id"], method="POST", then="/cancel")
        assert (cancelled.status, cancelled.data["tree_change"]["state"]) == (200, "cancelled")
        assert change_of(files, made["id"], method="POST", then="/cancel").status == 200
        assert files.consume() == []
        assert names(files, "/docs") == ["notes.txt"]
        files.begin(b"1", name="papers")
        again = moved(files, directory, name="texts")
        assert files.consume() == []
        assert change_of(files, again["id"], method="POST", then="/cancel").code == "INVALID_TRANSITION"
        gone = deleted(files, directory)
        assert change_of(files, gone["id"], method="POST", then="/cancel").code == "INVALID_TRANSITION"
        listed = files.api.call("GET", f"/api/v1/devices/{files.device_id}/tree-changes").data["tree_changes"]
        assert {each["id"]: each["state"] for each in listed} == {
            made["id"]: "cancelled", again["id"]: "succeeded", gone["id"]: "queued",
        }  # fmt: skip


class TestWorkAtOnce:
    def test_on_trees_that_overlap_is_refused(self, files: Files) -> None:
        files.begin(b"1", path="/docs/a/b")
        files.call("POST", "/directories", {"path": "/other"})
        made = moved(files, directory_at(files, "/docs/a"), path="/other")
        for path in ("/docs", "/docs/a", "/docs/a/b", "/other"):
            inner = directory_at(files, path)
            for refused in (
                files.call("POST", f"/{inner}/move", {"name": "z"}),
                files.call("DELETE", f"/{inner}", query="recursive=true"),
            ):
                assert (refused.status, refused.code) == (409, "TREE_BUSY"), path
                assert refused.json["error"]["details"]["id"] == made["id"]
        files.call("POST", "/directories", {"path": "/third"})
        into = files.call("POST", f"/{directory_at(files, '/third')}/move", {"path": "/docs/a"})
        assert into.code == "TREE_BUSY"
        moved(files, directory_at(files, "/third"), path="/docs")
        assert files.consume() == []
        assert names(files, "/docs") == ["third"]
        assert names(files, "/other/a") == ["b"]

    def test_is_limited(self, files: Files) -> None:
        made = [
            files.call("POST", "/directories", {"path": f"/d{number}"}).data["directory"]["id"]
            for number in range(MAX_MARKS + 1)
        ]
        for each in made[:-1]:
            deleted(files, each)
        refused = files.call("DELETE", f"/{made[-1]}", query="recursive=true")
        assert (refused.status, refused.headers["retry-after"]) == (429, "10")
        assert files.consume() == []
        deleted(files, made[-1])

    def test_goes_on_when_its_message_was_lost(self, files: Files, stack: Stack, drain: Drain) -> None:
        files.begin(b"1", path="/docs")
        made = deleted(files, directory_at(files, "/docs"))
        assert len(drain(stack.queues["files"])) == 1
        assert queue_again(stack) == 1
        assert queue_again(stack) == 0, "not before it had its time"
        assert files.consume() == []
        assert change_of(files, made["id"]).data["tree_change"]["state"] == "succeeded"
        assert queue_again(stack) == 0

    @pytest.mark.parametrize("kind", ["move", "delete"])
    def test_ends_with_the_device(self, files: Files, stack: Stack, kind: str) -> None:
        files.ready(path="/docs/a")
        directory = directory_at(files, "/docs")
        made = moved(files, directory, name="b") if kind == "move" else deleted(files, directory)
        assert files.api.call("DELETE", f"/api/v1/devices/{files.device_id}").status == 204
        FilesOfDevices(FileRepository(), S3Files(stack.bucket)).remove(DeviceId(files.device_id), limit=500)
        assert files.consume() == []
        assert (files.objects(), files.rows(), unbalanced_bytes(stack)) == ([], {}, 0)
        assert change_of(files, made["id"]).status == 404
