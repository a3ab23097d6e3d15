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
from karma.files.entries import Entries
from karma.files.marks import MAX_MARKS, TreeChangeId, is_within
from karma.files.ports import Devices
from karma.files.repository.files import FileRepository
from karma.files.repository.tree_changes import TreeChangeRepository
from karma.files.repository.trees import TreeRepository
from karma.files.schemas import ChangeFileRequest, CreateDirectoryRequest, CreateFileRequest, MoveDirectoryRequest
from karma.files.service import FileQuery, FileService
from karma.files.sweeps import FileSweep
from karma.files.trees.domain import TreeChange, TreeChangeKey
from karma.files.trees.service import TreeService
from karma.files.trees.work import TreeTools, TreeWorker
from karma.files.uploads import NewFile, UploadService
from karma.files.verification import UploadVerifier
from tests.fakes.devices import FakeClock
from tests.fakes.files import MemoryStore
from tests.fakes.mail import MemoryQueue
from tests.support.interleaving import take_turns
from tests.support.plans import allowance

NAMES = ("a", "A", "\u00e9")
"""The last one is spelled in two ways."""
KINDS = (
    *("make", "upload", "upload", "complete", "verify", "move", "delete", "delete", "expire"),
    *("move tree", "move tree", "delete tree", "work", "work", "work", "cancel"),
)


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
    changes: TreeChangeRepository
    trees: TreeRepository
    devices: Devices
    owner_id: UserId
    device_id: DeviceId
    clock: FakeClock = field(default_factory=FakeClock)
    store: MemoryStore = field(default_factory=MemoryStore)
    ids: dict[str, FileId] = field(default_factory=dict)
    begun: set[FileId] = field(default_factory=set)
    """Every entry that was created by name, also one whose path another has taken since."""
    asked: dict[TreeChangeId, None] = field(default_factory=dict)
    """Every tree change, in the order in which it was asked for."""
    remembers: bool = True
    """True: operations reach for the last entry of a path when none is there."""

    def __post_init__(self) -> None:
        self.allowance = allowance(self.owner_id)
        queue = MemoryQueue()
        self._uploads = UploadService(self.files, self.store, self.devices, queue, self.clock)
        self._service = FileService(self.files, self.store, self.devices, self.clock)
        self._verifier = UploadVerifier(self.files, self.store, self.clock)
        self._sweep = FileSweep(self.files, self.store, queue, self.clock)
        self._entries = Entries(self.files, self.devices, self.clock)
        self._trees = TreeService(self.files, self.changes, self.devices, queue, self.clock)
        tools = TreeTools(
            files=self.files, changes=self.changes, trees=self.trees, store=self.store, queue=queue, clock=self.clock
        )
        self._worker = TreeWorker(tools, work_s=0)

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
            "move tree": lambda: self._move_tree(operation.path, target),
            "delete tree": lambda: self._delete_tree(operation.path),
            "work": self.work,
            "cancel": self._cancel,
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

    def work(self) -> None:
        """Have the oldest tree change go on by one attempt, as short as one can be."""
        for change in self.open_changes()[:1]:
            self.clock.pass_time(minutes=16)  # the hold of a worker that died or gave up is over
            self._worker.take(change.key)

    def finish_work(self) -> None:
        """Have all tree changes go on until they are over."""
        for _ in range(1_000):
            if not self.open_changes():
                return
            self.work()
        raise AssertionError("a tree change does not end")

    def open_changes(self) -> list[TreeChange]:
        """Return the tree changes that are not over, the oldest first."""
        return [change for change in self.all_changes() if change.is_open]

    def all_changes(self) -> list[TreeChange]:
        """Return all tree changes that were asked for, the oldest first, as they are now."""
        found = [self.changes.get(TreeChangeKey(self.device_id, change_id)) for change_id in list(self.asked)]
        return [change for change in found if change is not None]

    def empty(self) -> None:
        """Delete every entry that has a name, the lowest first: nothing refuses."""
        for entry in sorted(self.named(), key=lambda entry: -len(child_of(entry.path, entry.name).split("/"))):
            self._service.delete(self.owner_id, self.device_id, entry.id)
        self._expire()

    def named(self) -> list[DeviceFile]:
        """Return the entries that have a name, of those that were ever made."""
        found = [self._entries.made(self.device_id, file_id) for file_id in self.made]
        return [entry for entry in found if entry is not None and has_name(entry)]

    @property
    def made(self) -> set[FileId]:
        """Return the ids of entries created by name, and of the directories above them."""
        listed = self.files.newest(self.device_id, limit=500).files
        return {*self.begun, *(entry.id for entry in listed)}

    def _at(self, path: str) -> FileId | None:
        return self._entries.holder(self.device_id, *split_path(path)) or (
            self.ids.get(path) if self.remembers else None
        )

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

    def _move_tree(self, path: str, target: str) -> None:
        if (file_id := self._at(path)) is None:
            return
        above, name = split_path(target)
        body = MoveDirectoryRequest(path=above, name=name)
        made = self._trees.move(self.owner_id, self.device_id, file_id, path=body.path, name=body.name)
        self.asked[made.key.change_id] = None

    def _delete_tree(self, path: str) -> None:
        if (file_id := self._at(path)) is None:
            return
        if (made := self._trees.delete(self.owner_id, self.device_id, file_id)) is None:
            self._service.delete(self.owner_id, self.device_id, file_id)
        else:
            self.asked[made.key.change_id] = None

    def _cancel(self) -> None:
        for change in self.open_changes()[-1:]:
            self._trees.cancel(self.owner_id, self.device_id, change.key.change_id)

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


def in_turns(files: object, methods: Iterable[str]) -> None:
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


def check_tree(entries: Iterable[DeviceFile], holders: Mapping[str, FileId] | None = None) -> Counter[str]:
    """Check that entries with names, and the names' holders by path, are a tree; return how many each path holds.

    While trees are being moved or deleted, the names of what is not shown stand beside them; then there are no holders.
    """
    named = [entry for entry in entries if has_name(entry)]
    by_path = {child_of(entry.path, entry.name): entry for entry in named}
    assert len(by_path) == len(named), "two entries have one path"
    assert holders is None or holders == {path: entry.id for path, entry in by_path.items()}
    for entry in named:
        above = by_path.get(entry.path)
        assert entry.path == ROOT or (above is not None and above.is_directory), f"{entry.path} is gone or a file"
    return Counter(entry.path for entry in named)


@dataclass
class TreeWork:
    """A tree change as the model knows it."""

    source: str
    target: str = ""
    is_begun: bool = False
    is_open: bool = True


class Tree:
    """Predicted state of each path: `directory`, or a file's; and the trees at which work is done."""

    def __init__(self) -> None:
        self.states: dict[str, str] = {}
        self.works: list[TreeWork] = []
        """Every one that was asked for, oldest first."""

    def foretell(self, operation: Operation) -> str | None:
        """Apply an operation; return the code of the error that it should end in."""
        act: Callable[[Operation], str | None] = getattr(self, f"_{operation.kind.replace(' ', '_')}")
        return act(operation)

    def learn(self, changes: Iterable[TreeChange]) -> None:
        """Take over how far each tree change is, of all that were made, oldest first."""
        for work, change in zip(self.works, changes, strict=True):
            if work.target and change.is_begun and not work.is_begun:
                moved = {path: state for path, state in self.states.items() if is_within(path, work.source)}
                self.states = {path: state for path, state in self.states.items() if path not in moved}
                self.states |= {work.target + path.removeprefix(work.source): state for path, state in moved.items()}
            work.is_begun, work.is_open = change.is_begun, change.is_open

    @property
    def open_works(self) -> list[TreeWork]:
        """Return the works that are not over."""
        return [work for work in self.works if work.is_open]

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
        if state is None:
            return None
        if state not in ("ready", "directory"):
            return "INVALID_TRANSITION"
        if self._is_busy(operation.path, state == "directory"):
            return "TREE_BUSY"
        if operation.path == operation.target:
            return None
        if state != "ready":
            return "INVALID_TRANSITION"
        refused = self._put(operation.target, "ready")
        if refused is None:
            del self.states[operation.path]
        return refused

    def _delete(self, operation: Operation) -> str | None:
        state = self.states.get(operation.path)
        if state is not None and self._is_busy(operation.path, state == "directory"):
            return "TREE_BUSY"
        if any(split_path(path)[0] == operation.path for path in self.states):
            return "DIRECTORY_NOT_EMPTY"
        self.states.pop(operation.path, None)
        return None

    def _expire(self, _: Operation) -> str | None:
        self.states = {path: state for path, state in self.states.items() if state in ("ready", "directory")}
        return None

    def _move_tree(self, operation: Operation) -> str | None:
        state, target = self.states.get(operation.path), operation.target
        if state is None:
            return None
        if state != "directory":
            return "INVALID_TRANSITION"
        if is_within(target, operation.path):
            return "VALIDATION_ERROR"
        if self._is_busy(target):
            return "TREE_BUSY"
        above = self._above(target)
        if any(self.states.get(each, "directory") != "directory" for each in above):
            return "NOT_A_DIRECTORY"
        if self._is_busy(operation.path, True):
            return "TREE_BUSY"
        if len(self.open_works) == MAX_MARKS:
            return "RATE_LIMITED"
        refused = self._put(target, "directory")
        if refused is None:
            del self.states[target]  # the name is taken, and nothing shows it
            self.works.append(TreeWork(operation.path, target))
        return refused

    def _delete_tree(self, operation: Operation) -> str | None:
        if (state := self.states.get(operation.path)) is None:
            return None
        if self._is_busy(operation.path, state == "directory"):
            return "TREE_BUSY"
        if state == "directory" and len(self.open_works) == MAX_MARKS:
            return "RATE_LIMITED"
        self.states = {path: state for path, state in self.states.items() if not is_within(path, operation.path)}
        if state == "directory":
            self.works.append(TreeWork(operation.path, is_begun=True))
        return None

    def _work(self, _: Operation) -> str | None:
        return None

    def _cancel(self, _: Operation) -> str | None:
        return "INVALID_TRANSITION" if any(work.is_begun for work in self.open_works[-1:]) else None

    def _put(self, path: str, state: str) -> str | None:
        if self._is_busy(path):
            return "TREE_BUSY"
        above = self._above(path)
        if any(self.states.get(each, "directory") != "directory" for each in above):
            return "NOT_A_DIRECTORY"
        if path in self.states:
            return "ALREADY_EXISTS"
        self.states |= dict.fromkeys(above, "directory") | {path: state}
        return None

    def _above(self, path: str) -> list[str]:
        return [path[:at] for at, char in enumerate(path) if char == "/" and at]

    def _is_busy(self, path: str, with_what_is_in_it: bool = False) -> bool:
        places = [place for work in self.open_works for place in (work.source, work.target) if place]
        return any(is_within(path, place) or (with_what_is_in_it and is_within(place, path)) for place in places)
