from pathlib import Path
from typing import Any

import pytest

from karma_device.config import DeviceConfig, tls_context
from karma_device.errors import CredentialsInvalid

BASE: dict[str, Any] = {
    "host": "h",
    "thing_name": "EOS-1",
    "ca": "ca.pem",
    "certificate": "c.pem",
    "private_key": "k.pem",
}


@pytest.mark.parametrize(
    "wrong",
    [
        {"thing_name": "a/b"},
        {"thing_name": ""},
        {"boot_id": ""},
        {"boot_id": "x" * 65},
        {"ack_timeout_s": 0},
        {"max_inflight": 0},
        {"port": 0},
        {"port": 70_000},
        {"keepalive_s": 70_000},
        {"state_dir": ""},
    ],
)
def test_a_configuration_that_cannot_work_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        DeviceConfig(**{**BASE, **wrong})


def test_the_key_is_not_in_the_representation() -> None:
    assert "SECRET" not in repr(DeviceConfig(**{**BASE, "private_key": "-----BEGIN SECRET"}))


def test_incomplete_credentials_name_what_is_missing() -> None:
    with pytest.raises(KeyError, match="mqtt_host"):
        DeviceConfig.from_credentials({})


def test_broken_pem_is_an_ssl_error_and_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(CredentialsInvalid, match="`ca`"):
        tls_context(DeviceConfig(**{**BASE, "ca": "-----BEGIN CERTIFICATE-----\nnope"}))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.fault("F-14a")
def test_a_folder_may_be_text_or_a_path_and_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/eos")
    for given in ("/var/lib/karma", Path("/var/lib/karma")):
        assert DeviceConfig(**{**BASE, "state_dir": given}).state_path == Path("/var/lib/karma/EOS-1.sqlite3")
    assert DeviceConfig(**BASE).state_path == Path("/home/eos/.karma-device/EOS-1.sqlite3")
    assert DeviceConfig(**{**BASE, "state_dir": "~/s"}).state_path == Path("/home/eos/s/EOS-1.sqlite3")
