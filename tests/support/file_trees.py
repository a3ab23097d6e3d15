"""Operations on one device's files, with few names so that they meet; and a simple tree that predicts their results.

`Workshop` carries operations out by the real services over any repository of files. `Tree` predicts the result of each
when nothing else happens. `check_tree` checks the rules that hold whatever happens at the same time.
"""

from __future__ import annotations

import random
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from karma.core.errors import AppError
from karma.core.ids import DeviceId, FileId, UserId
from karma.files.domain import ROOT, DeviceFile, FileStatus, child_of, split_path
from karma.files.ports import Devices
from karma.files.repository.files import FileRepository
from karma.files.schemas import ChangeFileRequest, CreateDirectoryRequest, CreateFileRequest
from karma.files.service import FileQuery, FileService
from karma.files.sweeps import FileSweep
from karma.files.uploads import NewFile, UploadService
from karma.files.verification import UploadVerifier
from tests.fakes.devices import FakeClock
from tests.fakes.files import MemoryStore
from tests.fakes.mail import MemoryQueue
from tests.support.interleaving import take_turns
from tests.support.plans import allowance

NAMES = ("a", "A", "\u00e9")
"""The last one is spelled in two ways."""
KINDS = ("make", "upload", "upload", "complete", "verify", "move", "delete", "delete", "expire")


@dataclass(frozen=True)
class Operation:
    """An operation on the entry of a path, given as a string like `/a/A`."""

    kind: str
    path: str
    target: str = "/a"
    """Target path of a move."""
    decomposed: bool = False
    """True: names are spelled in Unicode's form NFD, as some clients send them."""

    @property
    def spelled(self) -> tuple[str, str]:
        """Return path and target as the client sends them."""
        form: Literal["NFC", "NFD"] = "NFD" if self.decomposed else "NFC"
        return unicodedata.normalize(form, self.path), unicodedata.normalize(form, self.target)


def random_operation(chance: random.Random) -> Operation:
    """Draw an operation."""
    path, target = ("".join(f"/{chance.choice(NAMES)}" for _ in range(chance.choice((1, 1, 2, 3)))) for _ in "12")
    return Operation(chance.choice(KINDS), path, target, chance.random() < 0.3)


@dataclass
class Workshop:
    """Carries operations out on entries by their paths; `ids` finds the last entry of a path also when it is gone."""

    files: FileRepository
    devices: Devices
    owner_id: UserId
    device_id: DeviceId
    clock: FakeClock = field(default_factory=FakeClock)
    store: MemoryStore = field(default_factory=MemoryStore)
    ids: dict[str, FileId] = field(default_factory=dict)
    begun: set[FileId] = field(default_factory=set)
    """Every entry that was created by name, also one whose path another has taken since."""
    remembers: bool = True
    """True: operations reach for the last entry of a path when none is there."""

    def __post_init__(self) -> None:
        self.allowance = allowance(self.owner_id)
        queue = MemoryQueue()
        self._uploads = UploadService(self.files, self.store, self.devices, queue, self.clock)
        self._service = FileService(self.files, self.store, self.devices, self.clock)
        self._verifier = UploadVerifier(self.files, self.store, self.clock)
        self._sweep = FileSweep(self.files, self.store, queue, self.clock)

    def carry_out(self, operation: Operation) -> AppError | None:
        """Return the error that the client gets, if any; anything else is raised."""
        path, target = operation.spelled
        act: Callable[[], None] = {
            "make": lambda: self._make(path),
            "upload": lambda: self._upload(path),
            "complete": lambda: self._complete(operation.path),
            "verify": lambda: self._verify(operation.path),
            "move": lambda: self._move(operation.path, target),
            "delete": lambda: self._delete(operation.path),
            "expire": self._expire,
        }[operation.kind]
        try:
            act()
        except AppError as exc:
            return exc
        return None

    def listing(self, path: str) -> str | set[str]:
        """Return the names that listing a directory shows, or the code of the refusal."""
        try:
            page = self._service.list(self.owner_id, self.device_id, FileQuery(path=path, limit=100))
        except AppError as exc:
            return exc.code
        return {entry.name for entry in page.files}

    def empty(self) -> None:
        """Delete every entry that has a name, the lowest first: nothing refuses."""
        for entry in sorted(self.named(), key=lambda entry: -len(child_of(entry.path, entry.name).split("/"))):
            self._service.delete(self.owner_id, self.device_id, entry.id)
        self._expire()

    def named(self) -> list[DeviceFile]:
        """Return the entries that have a name, of those that were ever made."""
        found = [self.files.find(self.device_id, file_id) for file_id in self.made]
        return [entry for entry in found if entry is not None and has_name(entry)]

    @property
    def made(self) -> set[FileId]:
        """Return the ids of entries created by name, and of the directories above them."""
        listed = self.files.newest(self.device_id, limit=500).files
        return {*self.begun, *(entry.id for entry in listed)}

    def _at(self, path: str) -> FileId | None:
        return self.files.holder(self.device_id, *split_path(path)) or (self.ids.get(path) if self.remembers else None)

    def _make(self, path: str) -> None:
        place = CreateDirectoryRequest(path=path).place()
        made = self._service.make_directory(self.owner_id, self.device_id, path=place[0], name=place[1])
        self._note(made)

    def _upload(self, path: str) -> None:
        above, name = split_path(path)
        body = CreateFileRequest(name=name, path=above, size=path.count("/"))
        made = self._uploads.create(
            self.owner_id, self.device_id, NewFile(**body.model_dump()), allowance=self.allowance
        )
        self._note(made)

    def _note(self, made: DeviceFile) -> None:
        self.ids[child_of(made.path, made.name)] = made.id
        self.begun.add(made.id)

    def _complete(self, path: str) -> None:
        if (file_id := self._at(path)) is None:
            return
        found = self._service.get(self.owner_id, self.device_id, file_id)
        if found.status is FileStatus.UPLOADING:
            self._uploads.parts(self.owner_id, self.device_id, file_id, [1], {})
            stored = self.files.find(self.device_id, file_id)
            if stored is not None and stored.upload_id in self.store.uploads:
                self.store.put_part(stored.upload_id, 1, b"x" * stored.size)
        self._uploads.complete(self.owner_id, self.device_id, file_id)

    def _verify(self, path: str) -> None:
        if (file_id := self._at(path)) is not None:
            self._verifier.verify(self.device_id, file_id)

    def _move(self, path: str, target: str) -> None:
        if (file_id := self._at(path)) is None:
            return
        above, name = split_path(target)
        body = ChangeFileRequest(path=above, name=name).model_dump(exclude_unset=True)
        moved = self._service.change(self.owner_id, self.device_id, file_id, body, version=None)
        if self.ids.get(path) == file_id:
            del self.ids[path]
        self.ids[child_of(moved.path, moved.name)] = file_id

    def _delete(self, path: str) -> None:
        if (file_id := self._at(path)) is not None:
            self._service.delete(self.owner_id, self.device_id, file_id)
            if self.ids.get(path) == file_id:
                del self.ids[path]

    def _expire(self) -> None:
        self.clock.pass_time(hours=25)
        self._sweep.run()


def bytes_of(entries: Iterable[DeviceFile]) -> int:
    """Return the bytes that these entries take of the owner's plan: of each file that was begun and has not ended."""
    return sum(
        entry.size
        for entry in entries
        if not entry.is_directory and entry.status in (FileStatus.UPLOADING, FileStatus.VERIFYING, FileStatus.READY)
    )


def in_turns(files: FileRepository, methods: Iterable[str]) -> None:
    """Let actors of an interleaving take turns before each call of these methods of a repository."""

    def turning(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            take_turns(name)
            return method(*args, **kwargs)

        return call

    for name in methods:
        setattr(files, name, turning(name, getattr(files, name)))


def has_name(entry: DeviceFile) -> bool:
    """Tell whether an entry is in the tree."""
    return entry.status not in (FileStatus.REJECTED, FileStatus.DELETING)


def check_tree(entries: Iterable[DeviceFile], holders: Mapping[str, FileId]) -> Counter[str]:
    """Check that entries with names, and the names' holders by path, are a tree; return how many each path holds."""
    named = [entry for entry in entries if has_name(entry)]
    by_path = {child_of(entry.path, entry.name): entry for entry in named}
    assert len(by_path) == len(named), "two entries have one path"
    assert holders == {path: entry.id for path, entry in by_path.items()}
    for entry in named:
        above = by_path.get(entry.path)
        assert entry.path == ROOT or (above is not None and above.is_directory), f"{entry.path} is gone or a file"
    return Counter(entry.path for entry in named)


class Tree:
    """Predicted state of each path: `directory`, or a file's."""

    def __init__(self) -> None:
        self.states: dict[str, str] = {}

    def foretell(self, operation: Operation) -> str | None:
        """Apply an operation; return the code of the error that it should end in."""
        act: Callable[[Operation], str | None] = getattr(self, f"_{operation.kind}")
        return act(operation)

    def listing(self, path: str) -> str | set[str]:
        """Predict the names that listing a directory shows, or the code of the refusal."""
        state = self.states.get(path, "directory" if path == ROOT else "")
        if state != "directory":
            return "NOT_A_DIRECTORY" if state else "NOT_FOUND"
        below = {split_path(each): state for each, state in self.states.items()}
        return {name for (above, name), state in below.items() if above == path and state in ("ready", "directory")}

    def _make(self, operation: Operation) -> str | None:
        return self._put(operation.path, "directory")

    def _upload(self, operation: Operation) -> str | None:
        return self._put(operation.path, "uploading")

    def _complete(self, operation: Operation) -> str | None:
        if self.states.get(operation.path) == "uploading":
            self.states[operation.path] = "verifying"
        return None

    def _verify(self, operation: Operation) -> str | None:
        if self.states.get(operation.path) == "verifying":
            self.states[operation.path] = "ready"
        return None

    def _move(self, operation: Operation) -> str | None:
        state = self.states.get(operation.path)
        if state is None or (operation.path == operation.target and state in ("ready", "directory")):
            return None
        if state != "ready":
            return "INVALID_TRANSITION"
        refused = self._put(operation.target, "ready")
        if refused is None:
            del self.states[operation.path]
        return refused

    def _delete(self, operation: Operation) -> str | None:
        if any(split_path(path)[0] == operation.path for path in self.states):
            return "DIRECTORY_NOT_EMPTY"
        self.states.pop(operation.path, None)
        return None

    def _expire(self, _: Operation) -> str | None:
        self.states = {path: state for path, state in self.states.items() if state in ("ready", "directory")}
        return None

    def _put(self, path: str, state: str) -> str | None:
        above = [path[:at] for at, char in enumerate(path) if char == "/" and at]
        if any(self.states.get(each, "directory") != "directory" for each in above):
            return "NOT_A_DIRECTORY"
        if path in self.states:
            return "ALREADY_EXISTS"
        self.states |= dict.fromkeys(above, "directory") | {path: state}
        return None
