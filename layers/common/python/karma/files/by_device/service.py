"""Carries out what devices ask of their own files, and answers them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final, Protocol, assert_never

from karma.billing.allowances import Allowances
from karma.core.clock import Clock, epoch_ms
from karma.core.errors import AppError, Forbidden, RateLimited
from karma.core.ids import UserId
from karma.core.observability import count
from karma.core.records import Record
from karma.core.requests import IdempotencyKey
from karma.devices.payloads import Unreadable
from karma.devices.speaking import HeardDevice, Speaking, Unheard
from karma.devices.topics import asking_thing
from karma.files.by_device.answers import (
    DownloadAnswer,
    OwnFileAnswer,
    OwnFilesAnswer,
    UploadAnswer,
    done,
    own_file_view,
    refused,
    upload_answer,
)
from karma.files.by_device.asks import MAX_LINKS, Ask, Operation, cursor_of, read_ask, read_members
from karma.files.domain import ROOT, DeviceFile, FileStatus, parts_of
from karma.files.service import FileQuery, FileService
from karma.files.uploads import PartsLeft, UploadService, expires_at
from karma.identity import permissions
from karma.identity.domain import User
from karma.identity.transactional import AccountGone

STALE: Final = timedelta(minutes=15)
"""Age at which an ask is dropped."""
ANSWER_TIME: Final = timedelta(minutes=1)
"""Time for which the broker keeps an answer for a device that is away: with a serial number it may change hands."""
_HOUR_S: Final = 3_600
_WRITES: Final = frozenset({Operation.UPLOAD, Operation.PARTS, Operation.COMPLETE})


class AskMessage(Record, kw_only=True):
    """A message that the rule forwarded."""

    topic: str
    certificate_id: str
    payload: bytes
    received_ms: int


class AskOwners(Protocol):
    """Accounts of devices; implemented by identity.accounts.repository.users.UserRepository."""

    def read_user(self, user_id: UserId) -> User | None:
        """Read an account, strongly consistent; None: it is deleted."""
        ...


class FileAnswers(Protocol):
    """Tells devices; implemented by integrations.iot.IotPublisher."""

    def publish_file_answer(self, thing: str, answer: Mapping[str, object], *, expires_in_s: int) -> None:
        """Publish an answer with QoS 1; it may reach the device more than once."""
        ...


class DeviceFileAsks:
    """Use cases of a device with its own files."""

    def __init__(
        self,
        *,
        speaking: Speaking,
        owners: AskOwners,
        uploads: UploadService,
        files: FileService,
        allowances: Allowances,
        answers: FileAnswers,
        clock: Clock,
    ) -> None:
        self._speaking = speaking
        self._owners = owners
        self._uploads = uploads
        self._files = files
        self._allowances = allowances
        self._answers = answers
        self._clock = clock

    def take(self, message: AskMessage) -> str:
        """Carry out an ask and answer it; return what became of it, in a word for the log.

        It may be called again for the same message, and beside itself.

        Raises:
            Upstream: the answer could not be published, or the database did not answer before the device was known.
        """
        try:
            thing = asking_thing(message.topic)
            if thing is None:
                raise Unheard("TOPIC")
            if epoch_ms(self._clock.now() - STALE) > message.received_ms:
                raise Unheard("STALE")
            speaker = self._speaking.speaker(thing, message.certificate_id, received_ms=message.received_ms)
        except Unheard as exc:
            count("FileAskDropped", reason=exc.reason)
            return f"dropped {exc.reason}"
        try:
            ask_id, members, mended = read_members(message.payload)
        except Unreadable as exc:
            count("FileAskDropped", reason=exc.reason)
            at, payload = message.received_ms, message.payload
            self._speaking.keep(speaker, exc.refused, topic=message.topic, payload=payload, received_ms=at)
            return f"unreadable {exc.reason}"
        if mended:
            at, payload = message.received_ms, message.payload
            self._speaking.keep(speaker, mended, topic=message.topic, payload=payload, received_ms=at, taken=True)
        return self._answer(speaker, ask_id, members, received_ms=message.received_ms)

    def _answer(self, speaker: HeardDevice, ask_id: str, members: Mapping[str, Any], *, received_ms: int) -> str:
        try:
            ask: Ask | AppError = read_ask(ask_id, members)
        except AppError as exc:
            ask = exc
        if not self._speaking.may_ask(speaker, _units(ask), received_ms=received_ms):
            count("FileAskDropped", reason="TOO_FAST")
            if not self._speaking.may_be_told(speaker, received_ms=received_ms):
                return "dropped TOO_FAST"
            left_s = _HOUR_S - received_ms // 1_000 % _HOUR_S
            ask = RateLimited("The device has asked for its files too often this hour", retry_after_s=left_s)
        try:
            if isinstance(ask, AppError):
                raise ask
            answer = done(ask_id, self._carry_out(speaker, ask))
            outcome = ask.operation.value
        except AppError as exc:
            answer, outcome = refused(ask_id, exc), f"refused {exc.code}"
        self._answers.publish_file_answer(speaker.thing, answer, expires_in_s=int(ANSWER_TIME.total_seconds()))
        return outcome

    def _carry_out(self, speaker: HeardDevice, ask: Ask) -> Mapping[str, Any]:
        self._require_rights(speaker.user_id, "file:write" if ask.operation in _WRITES else "file:read")
        user_id, device_id = speaker.user_id, speaker.device_id
        match ask.operation:
            case Operation.UPLOAD:
                return self._begin(speaker, ask)
            case Operation.PARTS:
                return self._parts(self._files.get(user_id, device_id, ask.file_id), most=ask.limit)
            case Operation.COMPLETE:
                ended: OwnFileAnswer = {"file": own_file_view(self._uploads.complete(user_id, device_id, ask.file_id))}
                return ended
            case Operation.SHOW:
                shown: OwnFileAnswer = {"file": own_file_view(self._files.get(user_id, device_id, ask.file_id))}
                return shown
            case Operation.DOWNLOAD:
                return self._download(speaker, ask)
            case Operation.LIST:
                return self._list(speaker, ask)
            case _:
                assert_never(ask.operation)

    def _begin(self, speaker: HeardDevice, ask: Ask) -> UploadAnswer:
        assert ask.new is not None  # noqa: S101  an upload was read with it
        key = IdempotencyKey(caller=speaker.device_id, route="file/upload", value=ask.id)
        allowance = self._allowances.of(speaker.user_id)
        file = self._uploads.create(
            speaker.user_id, speaker.device_id, ask.new, allowance=allowance, idempotency_key=key, by_device=True
        )
        if file.status is FileStatus.UPLOADING:
            return self._parts(file, most=MAX_LINKS)
        # A repeat of an ask whose upload is over.
        return upload_answer(file, PartsLeft((), 0), expires_at="")

    def _parts(self, file: DeviceFile, *, most: int) -> UploadAnswer:
        left = self._uploads.parts_left(file, most=most)
        return upload_answer(file, left, expires_at=expires_at(self._clock))

    def _download(self, speaker: HeardDevice, ask: Ask) -> DownloadAnswer:
        user_id, device_id = speaker.user_id, speaker.device_id
        if ask.file_id:
            file = self._files.get(user_id, device_id, ask.file_id)
        else:
            file = self._files.at(user_id, device_id, path=ask.path or ROOT, name=ask.name)
        url = self._files.download_of(file)
        return {"file": own_file_view(file), "url": url, "expires_at": expires_at(self._clock)}

    def _list(self, speaker: HeardDevice, ask: Ask) -> OwnFilesAnswer:
        query = FileQuery(limit=ask.limit, path=ask.path, after=ask.after, is_counted=False)
        page = self._files.list(speaker.user_id, speaker.device_id, query)
        return {"files": [own_file_view(each) for each in page.files], "next_cursor": cursor_of(page.next_position)}

    def _require_rights(self, user_id: UserId, permission: str) -> None:
        """Require that the owner may do now what the device asks: one read."""
        owner = self._owners.read_user(user_id)
        if owner is None:
            raise AccountGone(user_id)
        if owner.disabled_at is not None:
            raise Forbidden("The account is disabled", code="ACCOUNT_DISABLED")
        if not permissions.allows(owner.role, permission, None):
            raise Forbidden.lacking(permission)


def _units(ask: Ask | AppError) -> int:
    """Return what an ask takes of the device's hour: one, and one for each link beyond the first."""
    if isinstance(ask, AppError):
        return 1
    if ask.new is not None:
        return min(MAX_LINKS, parts_of(ask.new.size))
    return ask.limit if ask.operation is Operation.PARTS else 1
