"""Device files as their owner has them: through the API, the store by real HTTP, and the consumer."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from karma.core.ids import new_id
from karma.files.domain import PART_BYTES
from tests.integration.api.conftest import Api
from tests.support.files import Files, put_device, sha256_base64, unbalanced_bytes

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 40


@pytest.mark.req("R-K-01", "R-K-04")
class TestUploading:
    @pytest.mark.parametrize("checksums", [True, False])
    def test_what_was_sent_in_parts_comes_back_byte_by_byte(self, files: Files, checksums: bool) -> None:
        data = bytes(range(256)) * (PART_BYTES // 256) + b"the last part"

        file_id = files.uploaded(data, checksums=checksums, name="film.bin", sha256=hashlib.sha256(data).hexdigest())
        assert files.listed() == []
        assert files.consume() == []

        assert files.listed() == [file_id]
        link = files.call("GET", f"/{file_id}/download").data
        loaded = httpx.get(link["url"], trust_env=False)
        assert loaded.content == data
        assert files.file(file_id)["accessed_at"] is not None

    @pytest.mark.req("R-K-14", "R-K-15")
    def test_a_ready_file_shows_what_is_stored(self, files: Files) -> None:
        file_id = files.ready(PNG, name="Grün.PNG", path="a//b/./c/")

        assert files.file(file_id) == {
            "id": file_id,
            "device_id": files.device_id,
            "name": "Grün.PNG",
            "path": "/a/b/c",
            "parent_path": "/a/b",
            "type": "image",
            "category": "other",
            "size": len(PNG),
            "mime_type": "image/png",
            "extension": "png",
            "is_directory": False,
            "storage_url": f"s3://{files.stack.bucket}/devices/{files.device_id}/{file_id}",
            "thumbnail": {"status": "pending", "reason": None, "width": None, "height": None},
            "thumbnail_url": None,
            "text": {"status": "none", "reason": None, "pages": None, "characters": None, "is_truncated": False},
            "checksum_md5": hashlib.md5(PNG, usedforsecurity=False).hexdigest(),
            "checksum_sha256": hashlib.sha256(PNG).hexdigest(),
            "metadata": {},
            "permissions": {},
            "status": "ready",
            "rejection": None,
            "created_at": files.file(file_id)["created_at"],
            "modified_at": files.file(file_id)["modified_at"],
            "accessed_at": None,
            "version": 1,
        }

    def test_an_empty_file_is_a_file(self, files: Files) -> None:
        file_id = files.ready(b"")
        assert httpx.get(files.call("GET", f"/{file_id}/download").data["url"], trust_env=False).content == b""

    def test_a_download_is_an_attachment_under_its_name(self, files: Files) -> None:
        file_id = files.ready(b"<html>", name='ü";.html')
        answer = httpx.get(files.call("GET", f"/{file_id}/download").data["url"], trust_env=False)
        assert (
            answer.headers["content-disposition"]
            == "attachment; filename=\"___.html\"; filename*=UTF-8''%C3%BC%22%3B.html"
        )
        assert answer.headers["content-type"] == "text/html"

    def test_the_intent_says_how_to_cut_and_shows_no_id_of_the_store(self, files: Files) -> None:
        answer = files.call("POST", body={"name": "big.bin", "path": "/", "size": 100 * PART_BYTES + 1})
        upload = answer.data["upload"]
        assert (upload["part_size"], upload["part_count"]) == (PART_BYTES, 101)
        assert set(upload) == {"part_size", "part_count", "expires_at"}

    @pytest.mark.fault("F-19a")
    def test_of_more_than_the_plan_has_room_for_is_refused_and_takes_nothing(self, files: Files) -> None:
        for size in (5 * 1024**3, 999_999_999, 2):
            answer = files.call("POST", body={"name": f"{size}.bin", "path": "/", "size": size})
            if size == 999_999_999:
                assert answer.status == 201, answer.text
                continue
            assert (answer.status, answer.code) == (402, "QUOTA_EXCEEDED")
            wanted = {"limit": "storage", "plan": "free", "allowed": 10**9, "requested": size, "resets_at": None}
            assert answer.json["error"]["details"] == wanted
            assert "1 GB" in answer.json["error"]["message"]
        assert unbalanced_bytes(files.stack) == 0
        [first] = [sk for sk in files.rows() if sk.startswith("UPLOAD#")]
        assert files.call("DELETE", f"/{first.removeprefix('UPLOAD#')}").status == 204
        files.begin(b"12")

    def test_a_part_takes_neither_other_bytes_nor_more(self, files: Files) -> None:
        file_id = files.begin(b"12345")
        body = {"part_numbers": [1], "checksums": {"1": sha256_base64(b"12345")}}
        [part] = files.call("POST", f"/{file_id}/parts", body).data["parts"]

        answers = [
            httpx.put(part["url"], content=b"54321", headers=part["headers"], trust_env=False),
            httpx.put(part["url"], content=b"123456", headers=part["headers"], trust_env=False),
            httpx.put(part["url"], content=b"12345", trust_env=False),
        ]

        assert [answer.status_code for answer in answers] == [400, 403, 403]
        incomplete = files.call("POST", f"/{file_id}/complete")
        assert (incomplete.status, incomplete.code) == (409, "UPLOAD_INCOMPLETE")
        assert incomplete.json["error"]["details"] == {"missing_parts": [1]}

    @pytest.mark.fault("F-28a")
    @pytest.mark.parametrize("checksums", [True, False])
    def test_an_upload_that_the_store_has_lost_begins_anew(self, files: Files, checksums: bool) -> None:
        file_id = files.begin(b"12345")
        files.send(file_id, b"12345", checksums=not checksums)
        s3 = files.stack.aws("s3")
        for each in s3.list_multipart_uploads(Bucket=files.stack.bucket)["Uploads"]:
            if each["Key"].endswith(file_id):
                s3.abort_multipart_upload(Bucket=files.stack.bucket, Key=each["Key"], UploadId=each["UploadId"])
        lost = files.call("POST", f"/{file_id}/complete")
        assert (lost.code, lost.json["error"]["details"]) == ("UPLOAD_INCOMPLETE", {"missing_parts": [1]})
        files.send(file_id, b"12345", checksums=checksums)
        assert files.call("POST", f"/{file_id}/complete").status == 202
        assert files.consume() == []
        assert files.file(file_id)["status"] == "ready"

    @pytest.mark.fault("F-28a")
    def test_parts_of_bytes_that_have_arrived_are_refused(self, files: Files) -> None:
        file_id = files.begin(b"12345")
        files.send(file_id, b"12345")
        s3 = files.stack.aws("s3")
        [upload] = [
            each
            for each in s3.list_multipart_uploads(Bucket=files.stack.bucket)["Uploads"]
            if each["Key"].endswith(file_id)
        ]
        place = {"Bucket": files.stack.bucket, "Key": upload["Key"], "UploadId": upload["UploadId"]}
        parts = [{"PartNumber": 1, "ETag": s3.list_parts(**place)["Parts"][0]["ETag"]}]
        s3.complete_multipart_upload(**place, MultipartUpload={"Parts": parts})  # and then the process died
        again = files.call("POST", f"/{file_id}/parts", {"part_numbers": [1]})
        assert (again.status, again.code) == (409, "INVALID_TRANSITION")
        assert files.call("POST", f"/{file_id}/complete").status == 202

    def test_other_bytes_than_declared_are_rejected_and_removed(self, files: Files) -> None:
        file_id = files.uploaded(b"12345", sha256="0" * 64)

        assert files.consume() == []

        assert (files.file(file_id)["status"], files.file(file_id)["rejection"]) == ("rejected", "sha256_mismatch")
        assert files.listed() == []
        assert files.objects() == []
        assert files.call("GET", f"/{file_id}/download").status == 409
        assert files.call("POST", f"/{file_id}/complete").status == 409
        files.ready(b"12345")  # its name is free

    def test_completing_again_says_the_same(self, files: Files) -> None:
        file_id = files.uploaded(b"12345")
        assert files.call("POST", f"/{file_id}/complete").status == 202
        assert files.consume() == []
        assert files.call("POST", f"/{file_id}/complete").data["file"]["status"] == "ready"

    def test_a_name_is_taken_once(self, files: Files) -> None:
        file_id = files.begin(b"1", path="/a", name="e\u0301.txt")
        answer = files.call("POST", body={"name": "\u00e9.txt", "path": "a/", "size": 1})
        assert (answer.status, answer.code) == (409, "ALREADY_EXISTS")
        assert answer.json["error"]["details"] == {"id": file_id}

    def test_a_repeat_with_the_same_key_makes_nothing_new(self, files: Files) -> None:
        body = {"name": "a", "path": "/", "size": 1}
        first, second = (files.call("POST", body=body, Idempotency_Key="k") for _ in range(2))
        assert first.data["file_id"] == second.data["file_id"]

    def test_parts_outside_the_file_and_mixed_checksums_are_refused(self, files: Files) -> None:
        file_id = files.begin(b"x" * (PART_BYTES + 1))
        some: list[dict[str, Any]] = [
            {"part_numbers": [3]},
            {"part_numbers": [1, 2], "checksums": {"1": sha256_base64(b"")}},
        ]
        assert [files.call("POST", f"/{file_id}/parts", body).status for body in some] == [422, 422]
        assert files.call("POST", f"/{file_id}/parts", {"part_numbers": [1]}).status == 200
        mixed = {"part_numbers": [2], "checksums": {"2": sha256_base64(b"x")}}
        assert files.call("POST", f"/{file_id}/parts", mixed).status == 422

    @pytest.mark.fault("F-24h")
    def test_parts_and_checksums_are_judged_together(self, files: Files) -> None:
        file_id = files.begin(b"x" * (PART_BYTES + 1))
        body = {"part_numbers": [1, 3], "checksums": {"1": sha256_base64(b"")}}
        told = files.call("POST", f"/{file_id}/parts", body).json["error"]["details"]
        assert [each["field"] for each in told] == ["part_numbers", "checksums"]


BAD_BODIES: dict[str, dict[str, Any]] = {
    "climbing path": {"path": "/a/../b"},
    "nul in the path": {"path": "/a\x00"},
    "backslash": {"path": "\\a"},
    "escape": {"path": "/\x1b[31m"},
    "long path": {"path": "/" + "ä" * 120 + ("/" + "ä" * 120) * 4},
    "deep path": {"path": "/a" * 33},
    "long segment": {"path": "/" + "a" * 256},
    "empty name": {"name": ""},
    "blank name": {"name": "  "},
    "name with a slash": {"name": "a/b"},
    "dots": {"name": ".."},
    "long name": {"name": "a" * 256},
    "name that turns direction": {"name": "\u202etxt.exe"},
    "line break in the name": {"name": "a\r\nb"},
    "name a number": {"name": 7},
    "negative size": {"size": -1},
    "size of text": {"size": "1"},
    "size of a fraction": {"size": 1.5},
    "true size": {"size": True},
    "too large": {"size": 5 * 1024**3 + 1},
    "no size": {"size": None},
    "short sha256": {"sha256": "0" * 63},
    "sha256 in base64": {"sha256": "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="},
    "type with spaces": {"type": "a b"},
    "long category": {"category": "a" * 51},
    "large metadata": {"metadata": {"a": "x" * 9000}},
    "metadata a list": {"metadata": []},
    "permissions text": {"permissions": "rw"},
    "unknown field": {"mime_type": "image/png"},
}


class TestBadInput:
    @pytest.mark.parametrize("name", BAD_BODIES)
    def test_is_refused_by_field_and_nothing_is_written(self, files: Files, name: str) -> None:
        wrong = BAD_BODIES[name]
        answer = files.call("POST", body={"name": "a", "path": "/", "size": 1, **wrong})
        assert answer.status == 422, answer.text
        fields = [entry["field"] for entry in answer.json["error"]["details"]]
        assert all(next(iter(wrong)) in field for field in fields), fields
        assert files.rows() == {}

    @pytest.mark.parametrize(
        "body",
        [
            {"part_numbers": []},
            {"part_numbers": [0]},
            {"part_numbers": [1, 1]},
            {"part_numbers": [10_001]},
            {"part_numbers": list(range(1, 102))},
            {"part_numbers": [1], "checksums": {"1": "short"}},
            {"part_numbers": [1], "checksums": {"one": sha256_base64(b"")}},
            {"part_numbers": "1"},
        ],
    )
    def test_of_parts_is_refused(self, files: Files, body: dict[str, Any]) -> None:
        file_id = files.begin(b"1")
        assert files.call("POST", f"/{file_id}/parts", body).status == 422

    @pytest.mark.fault("F-13c")
    @pytest.mark.parametrize("path", ["/a" * 32, ("/" + "a" * 127) * 7])
    def test_of_a_directory_that_could_hold_nothing_is_refused(self, files: Files, path: str) -> None:
        answer = files.call("POST", "/directories", {"path": path, "name": "b" * 130})
        assert answer.status == 422, answer.text
        assert files.rows() == {}

    def test_ids_that_are_none_are_unknown(self, files: Files) -> None:
        assert files.call("GET", "/no-id").status == 404
        assert files.call("GET", f"/{new_id()}").status == 404


class TestOthers:
    def test_see_nothing_and_change_nothing(self, files: Files, person: Callable[[], tuple[Api, str]]) -> None:
        file_id = files.ready()
        stranger = Files(files.stack, person()[0], files.device_id, files.consume)
        before = files.rows()
        answers = [
            stranger.call("GET"),
            stranger.call("POST", body={"name": "x", "path": "/", "size": 1}),
            stranger.call("GET", f"/{file_id}"),
            stranger.call("GET", f"/{file_id}/download"),
            stranger.call("PATCH", f"/{file_id}", {"name": "mine"}),
            stranger.call("POST", f"/{file_id}/parts", {"part_numbers": [1]}),
            stranger.call("POST", f"/{file_id}/complete"),
            stranger.call("DELETE", f"/{file_id}"),
            stranger.call("POST", "/directories", {"path": "/mine"}),
        ]
        assert {answer.status for answer in answers} == {404}
        assert files.rows() == before

    def test_do_not_reach_a_file_by_a_device_of_their_own(
        self, files: Files, person: Callable[[], tuple[Api, str]]
    ) -> None:
        file_id = files.ready()
        api, user_id = person()
        own = Files(files.stack, api, put_device(files.stack, user_id), files.consume)
        assert own.call("GET", f"/{file_id}").status == 404
        assert own.call("DELETE", f"/{file_id}").status == 404


class TestListing:
    def test_of_a_directory_has_directories_first_and_pages(self, files: Files) -> None:
        for name in ("b.txt", "A.txt", "c.png"):
            files.ready(name=name, path="/docs")
        files.call("POST", "/directories", {"path": "/docs", "name": "z"})

        pages, cursor = [], ""
        while True:
            data = files.call("GET", query=f"path=/docs&limit=3{cursor}").data
            pages.append([file["name"] for file in data["files"]])
            assert (data["total"], data["total_capped"]) == (4, False)
            if data["next_cursor"] is None:
                break
            cursor = f"&cursor={data['next_cursor']}"

        assert pages == [["z", "A.txt", "b.txt"], ["c.png"]]
        root = files.call("GET", query="path=/").data["files"]
        assert [(entry["name"], entry["is_directory"]) for entry in root] == [("docs", True)]

    def test_of_all_is_newest_first_and_filters(self, files: Files) -> None:
        first = files.ready(name="a.txt", category="config")
        second = files.ready(name="b.png")
        assert files.listed() == [second, first]
        assert files.listed("type=image") == [second]
        assert files.listed("category=config&type=document") == [first]
        data = files.call("GET", query="limit=1").data
        assert data["total"] == 2
        assert files.listed(f"limit=1&cursor={data['next_cursor']}") == [first]

    @pytest.mark.fault("F-13d")
    def test_of_what_is_no_directory_says_so(self, files: Files) -> None:
        files.ready(name="a.txt", path="/docs")
        files.call("POST", "/directories", {"path": "/", "name": "empty"})
        assert files.listed("path=/empty") == []
        for path in ("/nope", "/docs/nope", "/docs/a.txt/b", "/Docs"):
            answer = files.call("GET", query=f"path={path}")
            assert (answer.status, answer.code) == (404, "NOT_FOUND")
            assert path in answer.text
        answer = files.call("GET", query="path=/docs/a.txt")
        assert (answer.status, answer.code) == (409, "NOT_A_DIRECTORY")

    def test_refuses_a_path_that_climbs_and_a_cursor_of_another_list(self, files: Files) -> None:
        for name in ("a", "b"):
            files.ready(name=name)
        cursor = files.call("GET", query="limit=1").data["next_cursor"]
        assert files.call("GET", query="path=/..").status == 422
        assert files.call("GET", query=f"path=/&cursor={cursor}").code == "INVALID_CURSOR"


class TestDeleting:
    def test_leaves_nothing_and_frees_the_name(self, files: Files) -> None:
        file_id = files.ready(name="a", path="/")
        assert files.call("DELETE", f"/{file_id}").status == 204
        assert files.call("GET", f"/{file_id}").status == 404
        assert files.objects() == []
        assert files.rows() == {}
        files.ready(name="a", path="/")

    def test_ends_an_upload(self, files: Files) -> None:
        file_id = files.begin(b"12")
        files.send(file_id, b"12")
        assert files.call("DELETE", f"/{file_id}").status == 204
        assert files.call("POST", f"/{file_id}/complete").status == 404
        assert (files.objects(), files.rows()) == ([], {})

    def test_while_it_is_verified_wins(self, files: Files) -> None:
        file_id = files.uploaded(b"12")
        assert files.call("DELETE", f"/{file_id}").status == 204
        assert files.consume() == []
        assert (files.objects(), files.rows()) == ([], {})

    def test_of_a_directory_wants_it_empty(self, files: Files) -> None:
        file_id = files.ready(path="/docs")
        [directory] = [file for file in files.call("GET", query="path=/").data["files"] if file["is_directory"]]
        refused = files.call("DELETE", f"/{directory['id']}")
        assert (refused.status, refused.code) == (409, "DIRECTORY_NOT_EMPTY")
        files.call("DELETE", f"/{file_id}")
        assert files.call("DELETE", f"/{directory['id']}").status == 204
        assert files.rows() == {}

    @pytest.mark.fault("F-13a")
    def test_of_a_directory_waits_for_unfinished_uploads(self, files: Files) -> None:
        file_id = files.begin(b"12", path="/docs", name="film.bin")
        [directory] = [file for file in files.call("GET", query="path=/").data["files"] if file["is_directory"]]

        refused = files.call("DELETE", f"/{directory['id']}")

        assert (refused.status, refused.code) == (409, "DIRECTORY_NOT_EMPTY")
        assert refused.json["error"]["details"] == {"id": file_id, "name": "film.bin", "status": "uploading"}
        assert files.call("DELETE", f"/{file_id}").status == 204
        assert files.call("DELETE", f"/{directory['id']}").status == 204
        assert files.rows() == {}


class TestChanging:
    def test_moves_a_file_and_its_name(self, files: Files) -> None:
        file_id = files.ready(b"1", name="a", path="/")
        answer = files.call("PATCH", f"/{file_id}", {"name": "b", "path": "/new", "metadata": {"k": 1}, "version": 1})
        assert answer.status == 200, answer.text
        assert answer.headers["etag"] == '"2"'
        assert files.listed("path=/new") == [file_id]
        assert (files.file(file_id)["metadata"], files.file(file_id)["checksum_sha256"]) == (
            {"k": 1},
            hashlib.sha256(b"1").hexdigest(),
        )
        files.ready(name="a", path="/")
        taken = files.call("PATCH", f"/{file_id}", {"name": "a", "path": "/"})
        assert (taken.status, taken.code) == (409, "ALREADY_EXISTS")

    def test_refuses_an_older_version_but_a_download_makes_none(self, files: Files) -> None:
        file_id = files.ready()
        files.call("GET", f"/{file_id}/download")
        assert files.call("PATCH", f"/{file_id}", {"type": "note"}, If_Match='"1"').status == 200
        assert files.call("DELETE", f"/{file_id}", If_Match='"1"').status == 409
        stale = files.call("PATCH", f"/{file_id}", {"type": "other"}, If_Match='"1"')
        assert (stale.status, stale.code) == (409, "STALE_VERSION")

    def test_leaves_directories_where_they_are(self, files: Files) -> None:
        made = files.call("POST", "/directories", {"path": "/a/b"}).data["directory"]
        assert (made["path"], made["name"], made["is_directory"]) == ("/a", "b", True)
        assert files.call("PATCH", f"/{made['id']}", {"name": "c"}).status == 409
        assert files.call("PATCH", f"/{made['id']}", {"metadata": {"k": 1}}).status == 200
        assert files.call("POST", "/directories", {"path": "/a", "name": "b"}).code == "ALREADY_EXISTS"
        assert files.call("POST", "/directories", {"path": "/"}).status == 422

    def test_a_file_is_no_directory(self, files: Files) -> None:
        files.ready(name="a", path="/")
        answer = files.call("POST", body={"name": "b", "path": "/a", "size": 1})
        assert (answer.status, answer.code) == (409, "NOT_A_DIRECTORY")
