"""Asks of a device for its own files: it gets these and no others, once, and is told why when it does not."""

from __future__ import annotations

from functools import partial
from typing import Any

import httpx
import pytest

from karma.billing.plans import PlanName
from karma.core.dynamo.access import update
from karma.core.errors import StorageUnavailable, Upstream
from karma.core.ids import DeviceId, FileId, new_id
from karma.devices.allowance import FILE_REFUSALS_AN_HOUR, FILE_UNITS_AN_HOUR, LETTERS_AN_HOUR
from karma.devices.lookup import DeviceLookup
from karma.devices.repository.hours import Cost, HourRepository
from karma.files.domain import PART_BYTES
from karma.files.repository.files import FileRepository
from karma.files.service import FileQuery
from karma.files.sweeps import FileSweep
from karma.files.uploads import NewFile, UploadService
from karma.identity.items import UserItem, user_key
from karma.integrations.s3 import S3Files
from tests.support.accounts import open_account
from tests.support.asks import Asking, code_of, sha256
from tests.support.at_once import at_once
from tests.support.devices import World
from tests.support.files import unbalanced_bytes
from tests.support.plans import allowances
from tests.support.transfers import Transfers, spoken_by

DATA = b"x" * 1_000


@pytest.fixture
def asking(world: World) -> Asking:
    return Asking(world)


def hour_of(world: World) -> int:
    return world.clock.ms // 3_600_000


class TestUploads:
    @pytest.mark.req("R-K-14", "R-K-15")
    def test_a_file_of_the_device_is_its_owners(self, asking: Asking) -> None:
        file_id = asking.ready(DATA, category="diagnosis", metadata={"boot": "b1"})
        shown = asking.ask("show", file_id=file_id)["file"]
        assert (shown["status"], shown["checksum_sha256"], shown["rejection"]) == ("ready", sha256(DATA), None)

        page = asking.files.list(asking.world.user, asking.id, FileQuery(path="/logs"))

        [file] = page.files
        assert (file.id, file.name, file.category, file.size) == (file_id, "run.log", "diagnosis", len(DATA))
        assert (file.user_id, file.metadata) == (asking.world.user, {"boot": "b1"})

    def test_the_same_ask_again_makes_nothing_twice(self, asking: Asking) -> None:
        first, again = (asking.begin(DATA, ask_id="u-1") for _ in range(2))
        assert first["file"] == again["file"]
        assert unbalanced_bytes(asking.world.stack) == 0
        asking.send(again, DATA)
        asking.ask("complete", ask_id="c-1", file_id=first["file"]["id"])
        asking.ask("complete", ask_id="c-1", file_id=first["file"]["id"])
        assert asking.verify(first["file"]["id"]) == "ready"
        over = asking.begin(DATA, ask_id="u-1")
        assert (over["file"]["status"], over["parts"], over["expires_at"]) == ("ready", [], None)

    def test_the_id_of_an_ask_is_of_one_file(self, asking: Asking) -> None:
        asking.begin(DATA, ask_id="u-1")
        assert code_of(asking.begin(DATA + b"y", ask_id="u-1")) == "IDEMPOTENCY_KEY_REUSED"

    def test_what_is_missing_is_asked_for_again_and_nothing_else(self, asking: Asking) -> None:
        data = b"a" * PART_BYTES + b"b" * 5
        begun = asking.begin(data)
        file_id = begun["file"]["id"]
        assert ([each["size"] for each in begun["parts"]], begun["missing"]) == ([PART_BYTES, 5], 2)
        asking.send({**begun, "parts": begun["parts"][1:]}, data)
        incomplete = asking.ask("complete", file_id=file_id)
        assert (code_of(incomplete), incomplete["error"]["details"]) == ("UPLOAD_INCOMPLETE", {"missing_parts": [1]})

        left = asking.ask("parts", file_id=file_id)

        assert ([each["part_number"] for each in left["parts"]], left["missing"]) == ([1], 1)
        asking.send(left, data)
        assert asking.ask("parts", file_id=file_id)["missing"] == 0
        asking.ask("complete", file_id=file_id)
        assert asking.verify(file_id) == "ready"
        assert code_of(asking.ask("parts", file_id=file_id)) == "INVALID_TRANSITION"

    def test_an_answer_has_twenty_links_at_the_most(self, asking: Asking) -> None:
        begun = asking.begin(b"", size=25 * PART_BYTES)
        assert (len(begun["parts"]), begun["missing"]) == (20, 25)
        few = asking.ask("parts", file_id=begun["file"]["id"], limit=3)
        assert (len(few["parts"]), few["missing"]) == (3, 25)

    def test_other_bytes_than_those_of_the_hash_are_not_listed(self, asking: Asking) -> None:
        begun = asking.begin(DATA, sha256=sha256(b"other"))
        asking.send(begun, DATA)
        asking.ask("complete", file_id=begun["file"]["id"])
        assert asking.verify(begun["file"]["id"]) == "rejected"
        shown = asking.ask("show", file_id=begun["file"]["id"])["file"]
        assert (shown["status"], shown["rejection"]) == ("rejected", "sha256_mismatch")
        assert unbalanced_bytes(asking.world.stack) == 0
        assert asking.begin(DATA)["status"] == "ok", "the name is free"

    def test_another_size_than_was_said_does_not_arrive(self, asking: Asking) -> None:
        [part] = asking.begin(DATA)["parts"]
        assert httpx.put(part["url"], content=DATA + b"y", trust_env=False).status_code == 403

    def test_a_name_that_is_taken_is_told_with_its_file(self, asking: Asking) -> None:
        first = asking.ready(DATA)
        taken = asking.begin(DATA)
        assert (code_of(taken), taken["error"]["details"]) == ("ALREADY_EXISTS", {"id": first})

    def test_where_a_file_or_a_directory_stands_there_is_no_other(self, asking: Asking) -> None:
        asking.ready(DATA)
        assert code_of(asking.begin(DATA, path="/logs/run.log")) == "NOT_A_DIRECTORY"
        assert code_of(asking.begin(DATA, path="/", name="logs")) == "ALREADY_EXISTS"
        assert code_of(asking.ask("download", path="/", name="logs")) == "INVALID_TRANSITION"
        assert code_of(asking.ask("list", path="/logs/run.log")) == "NOT_A_DIRECTORY"

    def test_a_plan_without_room_refuses(self, world: World) -> None:
        asking = Asking(world, plan=allowances(PlanName.FREE))
        full = asking.begin(b"", size=2 * 10**9)
        assert (code_of(full), full["error"]["details"]["limit"]) == ("QUOTA_EXCEEDED", "storage")
        assert unbalanced_bytes(world.stack) == 0

    def test_an_upload_that_the_owner_deletes_is_gone(self, asking: Asking) -> None:
        begun = asking.begin(DATA, ask_id="u-1")
        asking.files.delete(asking.world.user, asking.id, begun["file"]["id"])
        assert code_of(asking.ask("complete", file_id=begun["file"]["id"])) == "NOT_FOUND"
        assert code_of(asking.begin(DATA, ask_id="u-1")) == "GONE"


@pytest.mark.fault("F-49b")
class TestUnfinishedUploads:
    """A device that lost the id of its upload, or whose file has grown, gets the name all the same."""

    def test_a_new_upload_takes_the_place_of_an_unfinished_one(self, asking: Asking) -> None:
        first = asking.begin(b"a" * PART_BYTES + b"b", ask_id="u-1")
        asking.send({**first, "parts": first["parts"][:1]}, b"a" * PART_BYTES)
        grown = asking.begin(DATA, ask_id="u-2")
        assert grown["file"] == asking.begin(DATA, ask_id="u-2")["file"], "a repeat finds its own"
        assert unbalanced_bytes(asking.world.stack) == 0
        assert code_of(asking.ask("show", file_id=first["file"]["id"])) == "NOT_FOUND"
        assert code_of(asking.begin(b"a" * PART_BYTES + b"b", ask_id="u-1")) == "GONE"
        assert httpx.put(first["parts"][1]["url"], content=b"b", trust_env=False).status_code == 404
        unfinished = asking.world.stack.aws("s3").list_multipart_uploads(Bucket=asking.world.stack.bucket)["Uploads"]
        assert [each["Key"].split("/")[-1] for each in unfinished if asking.id in each["Key"]] == [grown["file"]["id"]]
        asking.send(grown, DATA)
        asking.ask("complete", file_id=grown["file"]["id"])
        assert asking.verify(grown["file"]["id"]) == "ready"

    def test_it_ends_though_its_parts_cannot_be_removed_now(self, asking: Asking) -> None:
        class Broken(S3Files):
            def abort_upload(self, device_id: DeviceId, file_id: FileId, upload_id: str) -> None:
                raise StorageUnavailable("no answer")

        first = asking.begin(DATA)["file"]["id"]
        asking.restart(Broken(asking.world.stack.bucket))
        assert asking.begin(DATA)["status"] == "ok"
        files, store = FileRepository(), S3Files(asking.world.stack.bucket)
        asking.world.clock.pass_time(minutes=1)
        FileSweep(files, store, asking.queue, asking.world.clock).run()
        assert files.unlisted(asking.id, first) is None
        assert unbalanced_bytes(asking.world.stack) == 0

    def test_an_upload_of_the_owner_or_one_that_has_all_its_bytes_stays(self, asking: Asking) -> None:
        world, lookup = asking.world, DeviceLookup(asking.world.repository)
        store = S3Files(world.stack.bucket)
        uploads = UploadService(FileRepository(), store, lookup, asking.queue, world.clock)
        new = NewFile(name="run.log", path="/logs", size=5)
        mine = uploads.create(world.user, asking.id, new, allowance=allowances().of(world.user))
        taken = asking.begin(DATA)
        assert (code_of(taken), taken["error"]["details"]) == ("ALREADY_EXISTS", {"id": mine.id})
        whole = asking.begin(DATA, name="whole")
        asking.send(whole, DATA)
        asking.ask("complete", file_id=whole["file"]["id"])
        assert code_of(asking.begin(DATA + b"y", name="whole")) == "ALREADY_EXISTS"

    def test_only_the_difference_is_taken_of_the_plan(self, world: World) -> None:
        asking = Asking(world, plan=allowances(PlanName.FREE))
        limit = asking.begin(b"", size=2 * 10**9)["error"]["details"]["allowed"]
        first = asking.begin(b"", size=limit - 10)["file"]["id"]
        assert code_of(asking.begin(b"", size=limit + 1)) == "QUOTA_EXCEEDED"
        assert asking.ask("show", file_id=first)["file"]["status"] == "uploading", "the refused one changes nothing"
        for size in (limit, limit, 5, 1_000):
            assert asking.begin(b"", size=size)["status"] == "ok"
            assert unbalanced_bytes(world.stack) == 0

    @pytest.mark.parametrize("ask_ids", [("u-1", "u-1", "u-1"), ("u-1", "u-2", "u-3")], ids=["repeats", "others"])
    def test_of_several_at_once_one_is_left(self, asking: Asking, ask_ids: tuple[str, ...]) -> None:
        asking.begin(DATA + b"old", ask_id="u-0")
        body = {"op": "upload", "name": "run.log", "path": "/logs", "size": len(DATA), "sha256": sha256(DATA)}
        at_once(*(partial(asking.asks.take, asking.message({"id": each, **body})) for each in ask_ids))
        answered = {answer["id"]: answer for _, answer in asking.answers.told[-3:]}
        ids = {answer["file"]["id"] for answer in answered.values() if answer["status"] == "ok"}
        assert unbalanced_bytes(asking.world.stack) == 0
        left = [each for each in ids if asking.ask("show", file_id=each)["status"] == "ok"]
        assert len(left) == 1
        if len(set(ask_ids)) == 1:
            assert len(ids) == 1, "repeats of one ask have one file"


class TestDownloadsAndLists:
    def test_bytes_come_by_id_and_by_path(self, asking: Asking) -> None:
        file_id = asking.ready(DATA)
        ways: list[dict[str, Any]] = [{"file_id": file_id}, {"path": "/logs", "name": "run.log"}]
        for members in ways:
            answer = asking.ask("download", **members)
            assert (answer["file"]["id"], answer["file"]["checksum_sha256"]) == (file_id, sha256(DATA))
            assert httpx.get(answer["url"], trust_env=False).content == DATA
        assert code_of(asking.ask("download", path="/", name="run.log")) == "NOT_FOUND"
        assert code_of(asking.ask("download", file_id=new_id())) == "NOT_FOUND"

    def test_what_is_not_there_yet_is_not_given(self, asking: Asking) -> None:
        begun = asking.begin(DATA)
        assert code_of(asking.ask("download", file_id=begun["file"]["id"])) == "INVALID_TRANSITION"

    def test_lists_go_page_by_page(self, asking: Asking) -> None:
        for name in ("a", "b", "c"):
            asking.ready(b"", name=name)
        names: list[str] = []
        cursor: str | None = None
        for _ in range(2):
            page = asking.ask("list", path="/logs", limit=2, cursor=cursor)
            names += [each["name"] for each in page["files"]]
            cursor = page["next_cursor"]
        assert (names, cursor) == (["a", "b", "c"], None)
        assert {each["name"] for each in asking.ask("list")["files"]} == {"a", "b", "c", "logs"}
        assert code_of(asking.ask("list", path="/none")) == "NOT_FOUND"


class TestWhoAsks:
    """Nobody reaches what is another device's, or was."""

    def test_a_file_of_another_device_does_not_exist(self, asking: Asking, world: World) -> None:
        other = Asking(world)
        file_id = other.ready(DATA)
        for operation in ("show", "download", "complete", "parts"):
            assert code_of(asking.ask(operation, file_id=file_id)) == "NOT_FOUND"
        assert asking.ask("list")["files"] == []

    @pytest.mark.parametrize(
        "changes",
        [
            pytest.param({"certificate_id": "f" * 64}, id="another certificate"),
            pytest.param({"certificate_id": ""}, id="no certificate"),
            pytest.param({"topic": "file/karma/EOS-UNKNOWN/ask"}, id="an unknown thing"),
            pytest.param({"topic": "file/karma/x/answer"}, id="another topic"),
            pytest.param({"received_ms": 0}, id="an old message"),
        ],
    )
    def test_who_may_not_speak_is_not_answered(self, asking: Asking, changes: dict[str, Any]) -> None:
        body = {"id": "u-1", "op": "upload", "name": "a", "size": 1, "sha256": sha256(b"a")}
        outcome = asking.asks.take(asking.message(body, **changes))
        assert outcome.startswith("dropped")
        assert (asking.answers.told, unbalanced_bytes(asking.world.stack)) == ([], 0)

    def test_a_certificate_speaks_for_its_own_thing_only(self, asking: Asking, world: World) -> None:
        other = world.create()
        message = asking.message({"id": "1", "op": "list"}, certificate_id=other.certificate.id)
        assert asking.asks.take(message) == "dropped CERTIFICATE"

    def test_a_deleted_device_is_not_answered(self, asking: Asking) -> None:
        begun = asking.begin(DATA)
        asking.world.devices.delete(asking.world.user, asking.id)
        message = asking.message({"id": "1", "op": "complete", "file_id": begun["file"]["id"]})
        assert asking.asks.take(message) == "dropped UNKNOWN_DEVICE"

    @pytest.mark.req("R-K-11")
    def test_a_device_that_changed_hands_leaves_its_files_behind(self, asking: Asking, world: World) -> None:
        file_id, before = asking.ready(DATA), asking.message({"id": "1", "op": "list"})
        begun = asking.begin(DATA, ask_id="u-2", name="b")
        world.clock.pass_time(seconds=1)
        bob = open_account()
        mine = spoken_by(asking.device, Transfers(world.clock).hand_over(world.user, asking.id, bob))
        assert asking.asks.take(before) == "dropped BEFORE_TRANSFER"

        assert asking.ask("list", by=mine)["files"] == []
        for operation, old in (("download", file_id), ("complete", begun["file"]["id"])):
            assert code_of(asking.ask(operation, file_id=old)) == "NOT_FOUND"
        anew = asking.begin(DATA, ask_id="u-2", name="b")
        assert anew["file"]["id"] != begun["file"]["id"]
        assert [each.id for each in asking.files.list(bob, asking.id, FileQuery()).files] == [
            each["id"] for each in asking.ask("list")["files"]
        ]

    def test_the_owners_rights_are_those_of_now(self, asking: Asking) -> None:
        file_id = asking.ready(DATA)
        user = UserItem(*user_key(asking.world.user))
        update(user, [UserItem.role.set("viewer")])
        assert code_of(asking.begin(DATA, name="b")) == "FORBIDDEN"
        assert asking.ask("download", file_id=file_id)["status"] == "ok"
        update(user, [UserItem.disabled_at.set("2026-11-21T12:00:00.000Z")])
        assert code_of(asking.ask("download", file_id=file_id)) == "ACCOUNT_DISABLED"


class TestWhatIsAsked:
    @pytest.mark.parametrize(
        ("payload", "reason"),
        [
            pytest.param(b"{", "NOT_JSON", id="no JSON"),
            pytest.param(b"[]", "WRONG_SHAPE", id="no object"),
            pytest.param(b'{"op": "list"}', "WRONG_VALUE", id="no id"),
            pytest.param(b'{"id": "a b", "op": "list"}', "WRONG_VALUE", id="an id with a blank"),
            pytest.param(b'{"id": "1", "x": "' + b"y" * 40_000 + b'"}', "TOO_LARGE", id="40 KB"),
        ],
    )
    def test_what_cannot_be_answered_is_a_dead_letter(self, asking: Asking, payload: bytes, reason: str) -> None:
        assert asking.asks.take(asking.message(payload)) == f"unreadable {reason}"
        [letter], _ = asking.world.dead_letters.page(asking.id, limit=5)
        assert (letter.refused[0].reason, letter.topic) == (reason, asking.message(b"").topic)

    @pytest.mark.parametrize(
        ("members", "field"),
        [
            pytest.param({"op": "delete"}, "op", id="another operation"),
            pytest.param({"path": "/logs/../../other"}, "path", id="a path that goes up"),
            pytest.param({"name": "../other"}, "name", id="a name with a slash"),
            pytest.param({"name": ".."}, "name", id="a name that goes up"),
            pytest.param({"name": "a\u0000b"}, "name", id="a name with NUL"),
            pytest.param({"size": -1}, "size", id="less than nothing"),
            pytest.param({"size": 5 * 1024**3 + 1}, "size", id="more than a file may have"),
            pytest.param({"size": 10**30}, "size", id="more than 64 bits"),
            pytest.param({"sha256": "0"}, "sha256", id="no hash"),
            pytest.param({"sha256": None}, "sha256", id="without a hash"),
            pytest.param({"category": "a b"}, "category", id="a category of two words"),
            pytest.param({"metadata": {"a": "b" * 9_000}}, "metadata", id="metadata of 9 KB"),
        ],
    )
    def test_what_is_wrong_is_named(self, asking: Asking, members: dict[str, Any], field: str) -> None:
        body = {"op": "upload", "name": "a", "size": 1, "sha256": sha256(b"a"), **members}
        answer = asking.ask(body.pop("op"), **body)
        assert code_of(answer) == "VALIDATION_ERROR"
        assert [each["field"] for each in answer["error"]["details"]] == [field]
        assert unbalanced_bytes(asking.world.stack) == 0

    @pytest.mark.parametrize("cursor", ["x", 5, "WyIvIiwiIixmYWxzZV0="], ids=["text", "number", "another id"])
    def test_a_cursor_is_one_of_ours(self, asking: Asking, cursor: object) -> None:
        assert code_of(asking.ask("list", cursor=cursor)) == "INVALID_CURSOR"


@pytest.mark.fault("F-49c")
def test_an_ask_with_what_json_cannot_write_is_answered_and_its_owner_is_told(asking: Asking) -> None:
    body = b'{"id": "n-1", "op": "upload", "name": "a", "size": 1, "sha256": "%s", "metadata": {"t": NaN}}'
    assert asking.asks.take(asking.message(body % sha256(b"a").encode())) == "upload"
    assert asking.answers.told[-1][1]["status"] == "ok"
    assert asking.asks.take(asking.message(b'{"id": "n-2", "op": "list", "limit": 1e400}')) == "list"
    letters, _ = asking.world.dead_letters.page(asking.id, limit=5)
    assert sorted((each.refused[0].field, each.taken) for each in letters) == [("limit", True), ('metadata["t"]', True)]


class TestFloods:
    def test_an_hour_has_an_end(self, asking: Asking) -> None:
        hours, hour = HourRepository(), hour_of(asking.world)
        assert hours.take(asking.id, Cost.FILES, FILE_UNITS_AN_HOUR - 1, hour=hour, most=FILE_UNITS_AN_HOUR)
        assert asking.ask("list")["status"] == "ok"
        over = asking.ask("list")
        assert (code_of(over), over["error"]["retryable"]) == ("RATE_LIMITED", True)
        assert over["error"]["retry_after_s"] == 3_600
        asking.restart()
        left = FILE_REFUSALS_AN_HOUR - 1
        assert hours.take(asking.id, Cost.FILE_REFUSALS, left, hour=hour, most=FILE_REFUSALS_AN_HOUR)
        assert asking.asks.take(asking.message({"id": "1", "op": "list"})) == "dropped TOO_FAST"
        asking.world.clock.pass_time(hours=1)
        assert asking.ask("list")["status"] == "ok"

    def test_an_hour_has_so_many_dead_letters(self, asking: Asking) -> None:
        hours, hour = HourRepository(), hour_of(asking.world)
        assert hours.take(asking.id, Cost.LETTERS, LETTERS_AN_HOUR - 1, hour=hour, most=LETTERS_AN_HOUR)
        for n in range(3):
            asking.asks.take(asking.message(b"{" * (n + 1)))
        letters, _ = asking.world.dead_letters.page(asking.id, limit=5)
        assert [(each.refused[0].reason, each.refused_count) for each in letters] == [("NOT_JSON", 1), ("TOO_MANY", 2)]

    def test_links_are_counted(self, asking: Asking) -> None:
        hours, hour = HourRepository(), hour_of(asking.world)
        assert hours.take(asking.id, Cost.FILES, FILE_UNITS_AN_HOUR - 24, hour=hour, most=FILE_UNITS_AN_HOUR)
        begun = asking.begin(b"", size=25 * PART_BYTES)
        assert begun["status"] == "ok"
        assert asking.ask("parts", file_id=begun["file"]["id"], limit=4)["status"] == "ok"
        assert code_of(asking.ask("show", file_id=begun["file"]["id"])) == "RATE_LIMITED"


class TestFailures:
    def test_an_answer_that_cannot_be_sent_is_asked_for_again(self, asking: Asking) -> None:
        asking.answers.fails = True
        body = {"id": "u-1", "op": "upload", "name": "a", "size": 1, "sha256": sha256(b"a")}
        message = asking.message(body)
        with pytest.raises(Upstream):
            asking.asks.take(message)
        asking.answers.fails = False
        assert asking.asks.take(message) == "upload"
        assert asking.begin(b"a", ask_id="u-1", name="a", path="/")["status"] == "ok"
        assert unbalanced_bytes(asking.world.stack) == 0

    def test_what_aws_does_not_do_now_may_be_asked_again(self, asking: Asking) -> None:
        begun = asking.begin(DATA)
        asking.send(begun, DATA)
        asking.queue.down = True
        failed = asking.ask("complete", file_id=begun["file"]["id"])
        assert (code_of(failed), failed["error"]["retryable"]) == ("UPSTREAM_ERROR", True)
        asking.queue.down = False
        assert asking.ask("complete", file_id=begun["file"]["id"])["file"]["status"] == "verifying"
