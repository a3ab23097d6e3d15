"""A device that asks for its own files, over the engine's tables and bucket; what it is answered is kept in memory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import httpx
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from karma.billing.allowances import Allowances
from karma.core.ids import DeviceId, FileId, new_id
from karma.devices.allowance import HourlyAllowance
from karma.devices.lookup import DeviceLookup
from karma.devices.repository.hours import HourRepository
from karma.devices.service import Created
from karma.devices.speaking import Speaking
from karma.files.by_device.service import AskMessage, DeviceFileAsks
from karma.files.repository.files import FileRepository
from karma.files.service import FileService
from karma.files.uploads import UploadService
from karma.files.verification import UploadVerifier
from karma.identity.accounts.repository.users import UserRepository
from karma.integrations.iot import DeviceServiceUnavailable
from karma.integrations.s3 import S3Files
from tests.fakes.billing import MemoryQueue
from tests.support.devices import World
from tests.support.plans import allowances

Answer = Mapping[str, Any]


@dataclass
class MemoryAnswers:
    """Answers that were published; `fails` makes the broker not answer."""

    told: list[tuple[str, Answer]] = field(default_factory=list)
    fails: bool = False

    def publish_file_answer(self, thing: str, answer: Mapping[str, object], *, expires_in_s: int) -> None:
        if self.fails:
            raise DeviceServiceUnavailable("The device service did not answer; try again")
        assert expires_in_s == 60
        self.told.append((thing, json.loads(json.dumps(answer))))


class Asking:
    """One device of a world, and the function that it asks."""

    def __init__(self, world: World, *, plan: Allowances | None = None) -> None:
        self.world = world
        self.device = world.create()
        self.answers = MemoryAnswers()
        self.queue = MemoryQueue()
        self._plan = plan or allowances()
        self.restart()

    def restart(self, store: S3Files | None = None) -> None:
        """Start a fresh process, with nothing cached."""
        files, parent, clock = FileRepository(), DeviceLookup(self.world.repository), self.world.clock
        store = store or S3Files(self.world.stack.bucket)
        hours = HourlyAllowance(HourRepository())
        self.files = FileService(files, store, parent, clock)
        self.asks = DeviceFileAsks(
            speaking=Speaking(self.world.repository, self.world.dead_letters, hours),
            owners=UserRepository(),
            uploads=UploadService(files, store, parent, self.queue, clock),
            files=self.files,
            allowances=self._plan,
            answers=self.answers,
            clock=clock,
        )
        self.verifier = UploadVerifier(files, store, clock)

    @property
    def id(self) -> DeviceId:
        return self.device.current.device.id

    def message(self, body: object, **changes: Any) -> AskMessage:
        given: dict[str, Any] = {
            "topic": f"file/karma/{self.device.current.device.serial_number}/ask",
            "certificate_id": self.device.certificate.id,
            "payload": body if isinstance(body, bytes) else json.dumps(body).encode(),
            "received_ms": self.world.clock.ms,
            **changes,
        }
        return AskMessage(**given)

    def ask(self, operation: str, *, ask_id: str = "", by: Created | None = None, **members: Any) -> Answer:
        """Ask, and return the one answer."""
        self.device = by or self.device
        body = {"id": ask_id or new_id(), "op": operation, **members}
        before = len(self.answers.told)
        self.asks.take(self.message(body))
        [(thing, answer)] = self.answers.told[before:]
        assert is_in_the_schema(answer), answer
        assert (thing, answer["id"]) == (self.device.current.device.serial_number, body["id"])
        return answer

    def begin(self, data: bytes, *, ask_id: str = "", **members: Any) -> Answer:
        given = {"name": "run.log", "path": "/logs", "size": len(data), "sha256": sha256(data), **members}
        return self.ask("upload", ask_id=ask_id, **given)

    def send(self, answer: Answer, data: bytes) -> None:
        """Put the parts for which an answer has links."""
        size = answer["upload"]["part_size"]
        for part in answer["parts"]:
            at = (part["part_number"] - 1) * size
            put = httpx.put(part["url"], content=data[at : at + part["size"]], headers=part["headers"], trust_env=False)
            assert put.status_code == 200, put.text

    def verify(self, file_id: str) -> str:
        return self.verifier.verify(self.id, FileId(file_id))

    def ready(self, data: bytes, **members: Any) -> str:
        """Upload a file of one part until it is listed; return its id."""
        begun = self.begin(data, **members)
        file_id = str(begun["file"]["id"])
        self.send(begun, data)
        assert self.ask("complete", file_id=file_id)["file"]["status"] == "verifying"
        assert self.verify(file_id) == "ready"
        return file_id


@cache
def _schema() -> Any:
    said = json.loads((Path(__file__).parents[2] / "docs/mqtt.schema.json").read_text())
    return Draft202012Validator({**said, "$ref": "#/$defs/answer"})


def is_in_the_schema(answer: Answer) -> bool:
    return bool(_schema().is_valid(answer))


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def code_of(answer: Answer) -> str:
    assert answer["status"] == "refused", answer
    return str(answer["error"]["code"])
