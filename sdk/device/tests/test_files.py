"""Files of a device: sent and fetched over lost answers, cut connections and restarts, and whole or not at all."""

import hashlib
import json
import os
import random
import sys
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from karma_device.errors import FileRefused, FileUnfinished
from karma_device.files import DeviceFiles
from karma_device_testing.cloud import Broker, MakeDevice, wait_until
from karma_device_testing.files import PART_BYTES, FileService, file_service

DATA = random.Random(11).randbytes(3 * PART_BYTES + 5)


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileService]:
    # Pauses are of the network; here there is none to wait for.
    monkeypatch.setattr("karma_device.backoff.Backoff.next_delay_s", lambda _: 0.02)
    with file_service() as running:
        yield running


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "run.log"
    path.write_bytes(DATA)
    return path


@pytest.fixture
def files(service: FileService, tmp_path: Path) -> DeviceFiles:
    return service.files(tmp_path / "uploads")


def log_of(folder: Path) -> Path:
    """Make a short file, with which everything is imported and opened once."""
    path = folder / "short.log"
    path.write_bytes(b"short")
    return path


class TestUploads:
    def test_all_bytes_arrive_once(self, service: FileService, files: DeviceFiles, log: Path, tmp_path: Path) -> None:
        found = files.upload(log, to="/logs", category="diagnosis", metadata={"boot": "b1"})
        [kept] = service.uploads.values()
        assert (kept.data, service.puts) == (DATA, [1, 2, 3, 4])
        assert (found.status, found.size, found.sha256) == ("ready", len(DATA), hashlib.sha256(DATA).hexdigest())
        asked = {name: service.asks[0][name] for name in ("name", "path", "category", "metadata")}
        assert asked == {"name": "run.log", "path": "/logs", "category": "diagnosis", "metadata": {"boot": "b1"}}
        assert list((tmp_path / "uploads").iterdir()) == []

    def test_an_empty_file_is_a_file(self, service: FileService, files: DeviceFiles, tmp_path: Path) -> None:
        (tmp_path / "empty").touch()
        assert files.upload(tmp_path / "empty").size == 0
        assert service.puts == [1]

    def test_an_answer_that_is_lost_is_asked_for_again_under_its_id(
        self, service: FileService, files: DeviceFiles, log: Path
    ) -> None:
        service.silent = 2
        files.upload(log)
        assert len({ask["id"] for ask in service.asks if ask["op"] == "upload"}) == 1
        assert len(service.uploads) == 1

    def test_what_the_service_cannot_do_now_is_asked_again(
        self, service: FileService, files: DeviceFiles, log: Path
    ) -> None:
        service.busy = 3
        assert files.upload(log).status == "ready"

    @pytest.mark.parametrize("answer", [403, 404, 500, 503])
    def test_a_part_that_does_not_arrive_is_sent_again(
        self, service: FileService, files: DeviceFiles, log: Path, answer: int
    ) -> None:
        service.fails = [answer, answer]
        files.upload(log)
        assert sorted(service.puts) == [1, 2, 3, 4]

    def test_after_a_restart_the_same_call_sends_what_is_missing(
        self, service: FileService, log: Path, tmp_path: Path
    ) -> None:
        service.fails = [500] * 1_000
        first = service.files(tmp_path / "uploads")
        with pytest.raises(FileUnfinished):
            first.upload(log, to="/logs", within_s=0.3)
        service.fails = []
        [upload] = service.uploads.values()
        upload.parts[2] = DATA[PART_BYTES : 2 * PART_BYTES]
        service.puts.clear()

        service.files(tmp_path / "uploads").upload(log, to="/logs")

        assert (service.puts, len(service.uploads)) == ([1, 3, 4], 1)
        assert upload.data == DATA

    def test_an_upload_that_came_to_nothing_is_begun_anew(
        self, service: FileService, log: Path, tmp_path: Path
    ) -> None:
        service.fails = [500] * 1_000
        with pytest.raises(FileUnfinished):
            service.files(tmp_path / "uploads").upload(log, within_s=0.2)
        service.fails = []
        [upload] = service.uploads.values()
        upload.status, upload.rejection = "rejected", "upload_expired"
        assert service.files(tmp_path / "uploads").upload(log).id != upload.id

    def test_a_file_that_is_changed_meanwhile_is_not_kept(
        self, service: FileService, files: DeviceFiles, log: Path
    ) -> None:
        service.silent = 1
        begun = threading.Event()
        send = service.asking._send

        def change(topic: str, payload: bytes) -> None:
            if not begun.is_set():
                begun.set()
                log.write_bytes(b"\0" * len(DATA))
            send(topic, payload)

        service.asking._send = change
        with pytest.raises(FileRefused) as refused:
            files.upload(log)
        assert refused.value.code == "SHA256_MISMATCH"
        assert files.upload(log).status == "ready", "what it is now"

    def test_what_is_appended_meanwhile_is_not_sent(self, service: FileService, files: DeviceFiles, log: Path) -> None:
        send = service.asking._send

        def append(topic: str, payload: bytes) -> None:
            with log.open("ab") as file:
                file.write(b"more")
            send(topic, payload)

        service.asking._send = append
        assert files.upload(log).size == len(DATA)

    def test_a_large_file_takes_no_memory(
        self, service: FileService, files: DeviceFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("karma_device_testing.files.PART_BYTES", 8 * 1024 * 1024)
        service.hashed = hashlib.sha256()
        with (tmp_path / "large").open("wb") as file:
            file.truncate(20 * 1024 * 1024)
        files.upload(log_of(tmp_path))
        tracemalloc.start()
        service.hashed = hashlib.sha256()
        try:
            assert files.upload(tmp_path / "large").size == 20 * 1024 * 1024
            assert tracemalloc.get_traced_memory()[1] < 2 * 1024 * 1024
        finally:
            tracemalloc.stop()

    def test_a_refusal_says_why(self, service: FileService, files: DeviceFiles, log: Path, tmp_path: Path) -> None:
        service.keep(b"x", "run.log", "/")
        with pytest.raises(FileRefused) as refused:
            files.upload(log)
        assert refused.value.code == "ALREADY_EXISTS"
        assert list((tmp_path / "uploads").iterdir()) == []

    @pytest.mark.fault("F-49b")
    def test_a_file_that_has_grown_since_is_sent_as_it_is_now(
        self, service: FileService, log: Path, tmp_path: Path
    ) -> None:
        service.fails = [500] * 1_000
        with pytest.raises(FileUnfinished):
            service.files(tmp_path / "uploads").upload(log, within_s=0.2)
        service.fails = []
        with log.open("ab") as file:
            file.write(b"more")
        files = service.files(tmp_path / "uploads")
        assert files.upload(log).size == len(DATA) + 4
        [kept] = service.uploads.values()
        assert kept.data == DATA + b"more"

    @pytest.mark.fault("F-49b")
    def test_an_upload_whose_place_another_has_taken_is_begun_anew(
        self, service: FileService, log: Path, tmp_path: Path
    ) -> None:
        service.fails = [500] * 1_000
        for data in (DATA, DATA + b"more"):
            log.write_bytes(data)
            with pytest.raises(FileUnfinished):
                service.files(tmp_path / "uploads").upload(log, within_s=0.2)
        service.fails = []
        log.write_bytes(DATA)
        assert service.files(tmp_path / "uploads").upload(log).size == len(DATA)

    @pytest.mark.fault("F-49b")
    def test_a_device_that_lost_its_notes_sends_the_file_again(
        self, service: FileService, log: Path, tmp_path: Path
    ) -> None:
        service.fails = [500] * 1_000
        with pytest.raises(FileUnfinished):
            service.files(tmp_path / "uploads").upload(log, within_s=0.2)
        service.fails = []
        assert service.files(tmp_path / "other").upload(log).status == "ready"

    def test_without_a_connection_it_waits_and_then_ends(
        self, service: FileService, files: DeviceFiles, log: Path
    ) -> None:
        service.ready = False
        with pytest.raises(FileUnfinished):
            files.upload(log, within_s=0.1)
        assert service.asks == []

    def test_a_device_that_is_closed_waits_no_longer(self, service: FileService, files: DeviceFiles, log: Path) -> None:
        service.silent = 1_000_000
        ended = threading.Event()

        def upload() -> None:
            with pytest.raises(FileUnfinished):
                files.upload(log)
            ended.set()

        threading.Thread(target=upload, daemon=True).start()
        wait_until(lambda: service.asks)
        service.asking.close()
        assert ended.wait(5)


@pytest.mark.fault("F-49d")
class TestWhatIsNoPlainFile:
    """Nothing is listed with other bytes than can be read."""

    @pytest.mark.parametrize("says", [0, 4_096, len(DATA) + 5])
    def test_one_that_says_another_size_is_sent_as_it_is_read(
        self, service: FileService, files: DeviceFiles, log: Path, monkeypatch: pytest.MonkeyPatch, says: int
    ) -> None:
        log.write_bytes(DATA[:300] if says == 4_096 else DATA)
        fstat = os.fstat

        def as_proc(fd: int) -> os.stat_result:
            found = list(fstat(fd))
            found[6] = says
            return os.stat_result(found)

        monkeypatch.setattr("karma_device.sources.os.fstat", as_proc)
        assert files.upload(log).status == "ready"
        [kept] = service.uploads.values()
        assert kept.data == log.read_bytes()

    @pytest.mark.skipif(not Path("/proc/version").exists(), reason="no /proc here")
    def test_a_file_of_proc_is_sent(self, service: FileService, files: DeviceFiles) -> None:
        files.upload("/proc/version", name="version")
        [kept] = service.uploads.values()
        assert kept.data == Path("/proc/version").read_bytes() != b""

    def test_one_without_an_end_is_refused(
        self, files: DeviceFiles, log: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("karma_device.sources.COPY_BYTES", len(DATA) - 1)
        monkeypatch.setattr(
            "karma_device.sources.os.fstat", lambda fd, stat=os.fstat: os.stat_result([*stat(fd)[:6], 0, *stat(fd)[7:]])
        )
        with pytest.raises(FileRefused, match=r"run\.log") as refused:
            files.upload(log)
        assert refused.value.code == "NOT_A_FILE"

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
    def test_a_pipe_and_a_disk_are_refused_at_once(
        self, service: FileService, files: DeviceFiles, tmp_path: Path
    ) -> None:
        os.mkfifo(tmp_path / "pipe")
        for each in (tmp_path / "pipe", Path("/dev/zero")):
            with pytest.raises(FileRefused, match=each.name) as refused:
                files.upload(each)
            assert refused.value.code == "NOT_A_FILE"
        with pytest.raises(IsADirectoryError):
            files.upload(tmp_path)
        assert service.asks == []
        assert list(files.list()) == []

    def test_one_that_becomes_shorter_while_it_is_sent_is_refused(
        self, service: FileService, files: DeviceFiles, log: Path
    ) -> None:
        send = service.asking._send

        def cut(topic: str, payload: bytes) -> None:
            os.truncate(log, 10)
            send(topic, payload)

        service.asking._send = cut
        with pytest.raises(FileRefused) as refused:
            files.upload(log)
        assert refused.value.code == "CHANGED"
        assert files.upload(log).size == 10


@pytest.mark.fault("F-49c")
class TestWhatIsNoText:
    """A name that no JSON can have is refused by this device, and by a code."""

    @pytest.mark.skipif(sys.platform != "linux", reason="names are text here")
    def test_the_name_of_a_file(self, service: FileService, files: DeviceFiles, tmp_path: Path) -> None:
        path = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.txt")
        Path(path).write_bytes(b"latin")
        with pytest.raises(FileRefused, match="caf") as refused:
            files.upload(path)
        assert (refused.value.code, service.asks) == ("NAME", [])
        assert files.upload(path, name="café.txt").name == "café.txt"

    def test_another_member(self, service: FileService, files: DeviceFiles, log: Path) -> None:
        for call in (
            lambda: files.upload(log, to="/\udce9"),
            lambda: files.upload(log, metadata={"t": float("nan")}),
            lambda: files.download(path="/\udce9"),
            lambda: list(files.list("/\udce9")),
        ):
            with pytest.raises(FileRefused) as refused:
                call()
            assert refused.value.code == "VALIDATION_ERROR"
        assert service.asks == []


class TestDownloads:
    def test_a_file_comes_whole_under_its_name(self, service: FileService, files: DeviceFiles, tmp_path: Path) -> None:
        kept = service.keep(DATA)
        path = files.download(path="/config/limits.json", to=tmp_path)
        assert (path, path.read_bytes()) == (tmp_path / "limits.json", DATA)
        assert files.download(kept.id, to=tmp_path / "other").read_bytes() == DATA
        assert files.download(kept.id, to=tmp_path / "other").read_bytes() == DATA
        assert service.ranges == ["", ""], "what is there is not fetched again"
        assert [each.name for each in tmp_path.glob(".karma-*")] == []

    def test_a_link_whose_time_is_over_is_renewed(
        self, service: FileService, files: DeviceFiles, tmp_path: Path
    ) -> None:
        kept = service.keep(DATA)
        service.fails = [403]
        files.download(kept.id, to=tmp_path)
        assert [ask["op"] for ask in service.asks] == ["download", "download"]

    def test_it_goes_on_behind_what_has_come(self, service: FileService, files: DeviceFiles, tmp_path: Path) -> None:
        kept = service.keep(DATA)
        part = tmp_path / f".karma-{kept.asked['sha256'][:32]}.part"
        part.write_bytes(DATA[:1_000])
        part.with_suffix(".json").write_text(json.dumps({"offset": 1_000, "etag": '"one"'}))
        assert files.download(kept.id, to=tmp_path / "a").read_bytes() == DATA
        assert service.ranges == ["bytes=1000-"]

    def test_other_bytes_are_not_taken(self, service: FileService, files: DeviceFiles, tmp_path: Path) -> None:
        kept = service.keep(DATA)
        kept.parts[1] = b"y" * len(DATA)
        (tmp_path / "a").write_text("as it was")
        with pytest.raises(FileRefused) as refused:
            files.download(kept.id, to=tmp_path / "a")
        assert (refused.value.code, (tmp_path / "a").read_text()) == ("HASH", "as it was")

    @pytest.mark.parametrize("name", ["../a", "a/b", "..", ""])
    def test_a_name_does_not_lead_out_of_the_folder(
        self, service: FileService, files: DeviceFiles, tmp_path: Path, name: str
    ) -> None:
        kept = service.keep(DATA, name)
        with pytest.raises(FileRefused):
            files.download(kept.id, to=tmp_path)

    def test_what_is_not_there_is_refused(self, files: DeviceFiles, tmp_path: Path) -> None:
        with pytest.raises(FileRefused) as refused:
            files.download(path="/none", to=tmp_path)
        assert refused.value.code == "NOT_FOUND"

    def test_lists_come_page_by_page(self, service: FileService, files: DeviceFiles) -> None:
        for name in "abcde":
            service.keep(b"", name)
        assert [each.name for each in files.list("/config")] == list("abcde")
        assert files.show("f1").name == "b"


def test_answers_arrive_by_the_broker_on_the_topic_of_the_thing_alone(
    broker: Broker, make_device: MakeDevice, tmp_path: Path
) -> None:
    device = make_device()
    device.start()
    assert device.wait_ready(20)
    sqs, data = broker.client("sqs"), broker.client("iot-data")
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.extend(device.files.list()), daemon=True)
    thread.start()

    asks: list[dict[str, Any]] = []

    def asked() -> bool:
        received = sqs.receive_message(QueueUrl=broker.asks_url).get("Messages", [])
        asks.extend(json.loads(message["Body"]) for message in received)
        return bool(asks)

    wait_until(asked, what="the ask")
    view = {"id": "f1", "name": "a", "path": "/", "size": 1, "checksum_sha256": None, "status": "ready"}
    answer = {"id": asks[0]["id"], "status": "ok", "files": [view], "next_cursor": None}
    data.publish(topic=f"file/karma/{asks[0]['thing']}/answer", qos=1, payload=json.dumps(answer).encode())
    thread.join(20)
    assert [each.name for each in found] == ["a"]
