"""A deleted device leaves no rows of files, no objects, no uploads."""

from __future__ import annotations

from datetime import timedelta

import pytest

from karma.core.clock import SystemClock
from karma.devices.sweeps import sweep_orphans
from karma.files.removal import FilesOfDevices
from karma.files.repository.files import FileRepository
from karma.integrations.s3 import S3Files
from tests.fakes.devices import FakeClock, FakeRegistry
from tests.support.files import Files, unbalanced_bytes
from tests.support.stack import Stack


@pytest.mark.req("R-K-22")
class TestDeletingADevice:
    def test_leaves_no_file_in_any_state(self, files: Files, stack: Stack) -> None:
        files.ready(name="ready", path="/docs")
        files.uploaded(b"12", name="waits")
        files.send(files.begin(b"34", name="half"), b"34")
        assert len(files.objects()) == 3

        deleted = files.api.call("DELETE", f"/api/v1/devices/{files.device_id}")
        assert deleted.status == 204, deleted.text
        assert files.call("GET").status == 404
        self.sweep(stack)
        assert unbalanced_bytes(stack) == 0

        assert (files.objects(), files.rows()) == ([], {})
        assert files.consume() == []
        assert (files.objects(), files.rows()) == ([], {})

    def sweep(self, stack: Stack) -> None:
        repository = FileRepository()
        sweep_orphans(
            clock=FakeClock(SystemClock().now() + timedelta(minutes=5)),
            registry=FakeRegistry(),
            others=(FilesOfDevices(repository, S3Files(stack.bucket)),),
        )
