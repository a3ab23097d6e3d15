"""Fetching firmware: cuts of the connection and of the power, links that end, and bytes that are not the manifest's."""

import base64
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from karma_device.firmware import FirmwareDownload, FirmwareRefused, FirmwareUnfetched, Manifest, read_manifest
from karma_device_testing.firmware import DATA, KEY, MANIFEST, OTHER, Shop, text_of


def never() -> str:
    raise AssertionError("no other link is needed")


def test_what_comes_is_kept_whole_and_not_fetched_again(shop: Shop, tmp_path: Path) -> None:
    download = FirmwareDownload(tmp_path, MANIFEST)
    path = download.fetch(shop.url, renew=never)
    assert path.read_bytes() == DATA
    assert [each.name for each in tmp_path.iterdir()] == [f"{MANIFEST.sha256}.bin"]
    assert FirmwareDownload(tmp_path, MANIFEST).fetch(shop.url, renew=never) == path
    assert shop.ranges == [""]


def test_cut_connections_cost_nothing_that_has_come(shop: Shop, tmp_path: Path) -> None:
    shop.cut_after = 2 * 1024 * 1024
    assert FirmwareDownload(tmp_path, MANIFEST).fetch(shop.url, renew=never).read_bytes() == DATA
    assert shop.ranges == ["", "bytes=2097152-", "bytes=4194304-"]


PROGRAM = """
import sys
from karma_device_testing.firmware import DATA, KEY, MANIFEST, OTHER, Shop, text_of
from karma_device.firmware import FirmwareDownload, Manifest
folder, url, size, sha256 = sys.argv[1:]
FirmwareDownload(folder, Manifest("2.0.0", ("EOS-3A",), int(size), sha256, 3)).fetch(url, renew=str)
"""


def test_a_cut_of_the_power_in_the_middle_costs_a_megabyte_at_the_most(shop: Shop, tmp_path: Path) -> None:
    shop.hang_after = 4 * 1024 * 1024
    command = [sys.executable, "-c", PROGRAM, str(tmp_path), shop.url, str(len(DATA)), MANIFEST.sha256]
    device = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    deadline = time.monotonic() + 30
    note = tmp_path / f"{MANIFEST.sha256}.json"
    while not (note.exists() and json.loads(note.read_text())["offset"] >= 3 * 1024 * 1024):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    device.kill()  # SIGKILL: nothing is tidied up
    device.wait()
    part = tmp_path / f"{MANIFEST.sha256}.part"
    with part.open("r+b") as file:  # what was not forced to the disk may be anything
        file.seek(json.loads(note.read_text())["offset"])
        file.write(b"\0" * 100)
    shop.hang_after = None
    before = shop.sent
    assert FirmwareDownload(tmp_path, MANIFEST).fetch(shop.url, renew=never).read_bytes() == DATA
    assert shop.ranges[0] == ""
    assert re.fullmatch(r"bytes=[34]\d{6}-", shop.ranges[1])
    assert shop.sent - before <= len(DATA) - 3 * 1024 * 1024


def test_a_link_whose_time_is_over_is_renewed(shop: Shop, tmp_path: Path) -> None:
    shop.cut_after, shop.forbids = 3 * 1024 * 1024, {"/link"}
    renewed: list[str] = []

    def renew() -> str:
        renewed.append(shop.url.replace("/link", f"/link{len(renewed)}"))
        return renewed[-1]

    assert FirmwareDownload(tmp_path, MANIFEST).fetch(shop.url, renew=renew).read_bytes() == DATA
    assert len(renewed) == 1


def test_another_object_behind_the_link_is_fetched_from_its_begin(shop: Shop, tmp_path: Path) -> None:
    shop.cut_after = 2 * 1024 * 1024
    with pytest.raises(FirmwareUnfetched):
        FirmwareDownload(tmp_path, MANIFEST).fetch(shop.url, renew=never, within_s=0.0)
    shop.cut_after, shop.tag = None, '"two"'
    assert FirmwareDownload(tmp_path, MANIFEST).fetch(shop.url, renew=never).read_bytes() == DATA


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let tries follow each other at once."""
    monkeypatch.setattr("karma_device.backoff.Backoff.next_delay_s", lambda _: 0.0)


@pytest.mark.fault("F-43a")
@pytest.mark.usefixtures("no_pauses")
def test_a_line_that_is_reset_before_each_megabyte_gets_on(shop: Shop, tmp_path: Path) -> None:
    shop.reset_after = 700_000
    assert FirmwareDownload(tmp_path, MANIFEST).fetch(shop.url, renew=never).read_bytes() == DATA
    begins = [int(each.removeprefix("bytes=").removesuffix("-")) for each in shop.ranges[1:]]
    assert begins == sorted(set(begins)), "each goes on behind the one before"


@pytest.mark.fault("F-43b")
def test_who_sends_a_byte_now_and_then_does_not_keep_a_device_beyond_its_time(shop: Shop, tmp_path: Path) -> None:
    shop.drips_s = 0.01
    begun = time.monotonic()
    with pytest.raises(FirmwareUnfetched):
        FirmwareDownload(tmp_path, MANIFEST).fetch(shop.url, renew=never, within_s=0.3)
    assert time.monotonic() - begun < 20


@pytest.mark.fault("F-43c")
@pytest.mark.usefixtures("no_pauses")
def test_bytes_that_are_not_there_any_more_are_refused(shop: Shop, tmp_path: Path) -> None:
    shop.forbids_all = True
    with pytest.raises(FirmwareRefused) as refused:
        FirmwareDownload(tmp_path, MANIFEST).fetch(shop.url, renew=lambda: shop.url)
    assert refused.value.code == "LINK"
    shop.forbids_all, shop.forbids, shop.reset_after = False, {"/link"}, 100_000
    links = iter(f"/fresh{number}" for number in range(1_000))

    def renew() -> str:
        # Each link is good for once: whoever gets bytes by it has another one refused later, and goes on.
        shop.forbids = set() if len(shop.forbids) > 1 else {"/link", "/old"}
        return shop.url.replace("/link", next(links))

    assert FirmwareDownload(tmp_path, MANIFEST).fetch(shop.url, renew=renew).read_bytes() == DATA


def test_other_bytes_are_refused_and_not_kept(shop: Shop, tmp_path: Path) -> None:
    shop.data = DATA[:-1] + b"x"
    with pytest.raises(FirmwareRefused) as refused:
        FirmwareDownload(tmp_path, MANIFEST).fetch(shop.url, renew=never)
    assert refused.value.code == "HASH"
    assert list(tmp_path.iterdir()) == []
    shop.data = DATA + b"x"
    with pytest.raises(FirmwareRefused) as refused:
        FirmwareDownload(tmp_path, MANIFEST).fetch(shop.url, renew=never)
    assert refused.value.code == "SIZE"


def test_a_disk_without_room_is_refused_before_the_first_byte(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 5}))
    with pytest.raises(FirmwareRefused) as refused:
        FirmwareDownload(tmp_path, MANIFEST).fetch(shop.url, renew=never)
    assert (refused.value.code, shop.ranges) == ("DISK_FULL", [])


def read(
    text: str, *, by: Ed25519PrivateKey = KEY, keys: tuple[Ed25519PrivateKey, ...] = (KEY,), index: int = 3
) -> Manifest:
    trusted = [base64.b64encode(each.public_key().public_bytes_raw()).decode() for each in keys]
    signature = base64.b64encode(by.sign(text.encode())).decode()
    return read_manifest(text, signature, keys=trusted, model="EOS-3A", installed_index=3)


@pytest.mark.fault("F-49h")
def test_a_manifest_with_a_member_twice_is_refused() -> None:
    with pytest.raises(FirmwareRefused) as refused:
        read(f'{{"size": 1, {text_of()[1:]}')
    assert refused.value.code == "MANIFEST"


def test_a_manifest_is_read_when_any_trusted_key_has_signed_it() -> None:
    assert read(text_of()) == MANIFEST
    assert read(text_of(), by=OTHER, keys=(KEY, OTHER)) == MANIFEST


WRONG: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({}, {"by": OTHER}, "SIGNATURE"),
    ({}, {"keys": ()}, "SIGNATURE"),
    ({"models": ["EOS-3B"]}, {}, "MODEL"),
    ({"rollback_index": 2}, {}, "ROLLBACK"),
    ({"sha256": "../../etc/passwd"}, {}, "MANIFEST"),
    ({"size": "many"}, {}, "MANIFEST"),
]


@pytest.mark.parametrize(("changed", "asked", "code"), WRONG)
def test_a_wrong_manifest_is_refused(changed: dict[str, Any], asked: dict[str, Any], code: str) -> None:
    with pytest.raises(FirmwareRefused) as refused:
        read(text_of(**changed), **asked)
    assert refused.value.code == code
