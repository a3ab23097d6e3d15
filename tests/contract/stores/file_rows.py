"""Files of one device in each of their states, over a database or in memory, each made when it is first asked for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from functools import cached_property
from typing import Any

from karma.billing.allowances import Metric
from karma.billing.repository.usage import UsageRepository
from karma.core.clock import iso
from karma.core.ids import DeviceId, FileId, UserId, new_id
from karma.files.domain import DeviceFile, Digests, FileStatus, Rejection
from karma.files.repository.files import FileRepository
from tests.fakes.files import MemoryDevices, MemoryFiles
from tests.fakes.usage import MemoryUsage
from tests.support.plans import allowance, reserved
from tests.support.rows import NOW


class FileRows(ABC):
    """A device with files."""

    @property
    @abstractmethod
    def files(self) -> FileRepository:
        """The repository that is tried."""

    @property
    @abstractmethod
    def usage(self) -> MemoryUsage | UsageRepository:
        """What owners have taken of their plans."""

    @property
    @abstractmethod
    def owner_id(self) -> UserId:
        """Who has the device."""

    @property
    @abstractmethod
    def device_id(self) -> DeviceId:
        """An active device."""

    @abstractmethod
    def lose_device(self) -> None:
        """Begin to delete the device."""

    def new_file(self, **changes: Any) -> DeviceFile:
        made = DeviceFile(
            id=FileId(new_id()),
            device_id=self.device_id,
            user_id=self.owner_id,
            name="notes.txt",
            path="/a",
            type="text",
            category="document",
            size=5,
            status=FileStatus.UPLOADING,
            created_at=iso(NOW),
            modified_at=iso(NOW),
        )
        return replace(made, **changes)

    def new_directory(self, name: str = "a", path: str = "/") -> DeviceFile:
        return self.new_file(name=name, path=path, status=FileStatus.READY, is_directory=True, size=0)

    def add(self, entry: DeviceFile, *directories: DeviceFile) -> None:
        """Add an entry as its owner does, whose plan has no limits; a file's bytes are reserved."""
        room = None if entry.is_directory else reserved(self.owner_id, Metric.STORAGE, entry.size)
        self.files.add(entry, reservation=room, directories=directories, due=None if entry.is_directory else NOW)

    @property
    def stored_bytes(self) -> int:
        """What the owner's plan holds for files."""
        return next(each.used for each in self.usage.read(allowance(self.owner_id)) if each.metric is Metric.STORAGE)

    @cached_property
    def uploading(self) -> DeviceFile:
        file = self.new_file()
        self.add(file, self.new_directory())
        return file

    @cached_property
    def verifying(self) -> DeviceFile:
        return self.files.completed(self.uploading, now=NOW, due=NOW)

    @cached_property
    def ready(self) -> DeviceFile:
        self.files.publish(self.verifying, Digests(5, "s", "m", "text/plain"), now=NOW)
        return self._found(self.verifying)

    @cached_property
    def rejected(self) -> DeviceFile:
        self.files.reject(self.verifying, Rejection.SIZE, now=NOW, due=NOW)
        return self._found(self.verifying)

    @cached_property
    def vanishing(self) -> DeviceFile:
        self.files.begin_delete(self.ready, now=NOW, due=NOW)
        return self._found(self.ready)

    @cached_property
    def folder(self) -> DeviceFile:
        folder = self.new_directory("b")
        self.add(folder)
        return folder

    @cached_property
    def subfolder(self) -> DeviceFile:
        subfolder = self.new_directory(path=f"/{self.folder.name}")
        self.add(subfolder)
        return subfolder

    def _found(self, file: DeviceFile) -> DeviceFile:
        found = self.files.find(file.device_id, file.id)
        assert found is not None
        return found


class MemoryFileRows(FileRows):
    """Files in memory."""

    def __init__(self) -> None:
        self._device_id = DeviceId(new_id())
        self._owner_id = UserId(new_id())
        self.devices = MemoryDevices({self._device_id: self._owner_id})
        self._files = MemoryFiles(self.devices)

    @property
    def files(self) -> MemoryFiles:
        return self._files

    @property
    def usage(self) -> MemoryUsage:
        return self._files.usage

    @property
    def owner_id(self) -> UserId:
        return self._owner_id

    @property
    def device_id(self) -> DeviceId:
        return self._device_id

    def lose_device(self) -> None:
        self.devices.owners.clear()
