"""Every exception class of botocore, raised by every call that our adapters make of AWS."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from types import ModuleType
from typing import Any

import botocore.exceptions
import pytest
from botocore.client import BaseClient
from botocore.signers import RequestSigner

from karma.billing.arrival import Arrival
from karma.billing.repository.arrivals import ArrivalRepository
from karma.core import aws, secrets
from karma.core.dynamo import access
from karma.core.dynamo.buckets import DynamoBuckets
from karma.core.dynamo.items import Item, Key, TableMeta
from karma.core.dynamo.tables import bind_names
from karma.core.dynamo.transaction import Transaction
from karma.core.errors import AppError, StorageUnavailable, Upstream
from karma.core.ids import DeviceId, FileId
from karma.core.ratelimit import Limit
from karma.devices.credentials import Certificate
from karma.files.ports import StoredPart
from karma.integrations import iot
from karma.integrations.iot import IotPublisher, IotRegistry
from karma.integrations.s3 import S3Files
from karma.integrations.ses import SesSender
from karma.integrations.sockets import Sockets
from karma.integrations.sqs import SqsQueue
from karma.mail.domain import Letter
from tests.support.aws_faults import RAISED, made, passes

pytestmark = pytest.mark.fault("F-09a")

NOW = datetime(2026, 3, 1, tzinfo=UTC)
DEVICE, FILE = DeviceId("d"), FileId("f")
CERTIFICATE = Certificate("c", "arn:aws:iot:eu-central-1:1:cert/c", "pem", None)


class FaultsItem(Item):
    class Meta(TableMeta):
        logical = "faults"


class FaultItem(FaultsItem, discriminator="fault-of-tests"):
    pass


def item() -> FaultItem:
    return FaultItem("P", "S")


def committed() -> None:
    tx = Transaction(token="t")
    tx.put(item())
    tx.update(item(), [FaultItem.created_at.set("x")])
    tx.check(FaultItem, Key("P", "T"), FaultItem.pk.exists())
    tx.commit()


LIMIT = Limit("test", 60, timedelta(minutes=1))
LETTER = Letter(subject="s", text="t", html="h")

CALLS: dict[str, Callable[[], object]] = {
    "access.get": lambda: access.get(FaultItem, Key("P", "S")),
    "access.batch_get": lambda: access.batch_get(FaultItem, [Key("P", "S")]),
    "access.put": lambda: access.put(item()),
    "access.update": lambda: access.update(item(), [FaultItem.created_at.set("x")]),
    "access.upsert": lambda: access.upsert(item(), [FaultItem.created_at.set("x")]),
    "access.delete": lambda: access.delete(item()),
    "access.count": lambda: access.count(FaultItem, "P", most=10),
    "access.query": lambda: access.query(FaultItem, "P", limit=10),
    "access.query_up_to": lambda: access.query_up_to(
        10, FaultItem, "P", FaultItem.sk.startswith("S"), wanted=FaultItem, read=str, forward=True, start=None
    ),
    "access.query_by_id": lambda: access.query_by_id(FaultItem, Key("P", "S#"), "", str, limit=10),
    "Transaction.commit": committed,
    "DynamoBuckets.take": lambda: DynamoBuckets().take(LIMIT, "k", now=NOW),
    "DynamoBuckets.give_back": lambda: DynamoBuckets().give_back(LIMIT, "k", now=NOW),
    "ArrivalRepository.store": lambda: ArrivalRepository().store(
        Arrival("evt_1", "invoice.paid", "{}"), received_at=NOW, due_at=NOW
    ),
    "secrets.get": lambda: secrets.get("arn"),
    "secrets.read": lambda: secrets.read("arn"),
    "secrets.write": lambda: secrets.write("arn", {"a": "b"}, seen="1"),
    "secrets.string": lambda: secrets.string("arn", "a"),
    "secrets.strings": lambda: secrets.strings("arn", "a"),
    "SqsQueue.send": lambda: SqsQueue("q").send("x"),
    "SqsQueue.send_many": lambda: SqsQueue("q").send_many(["x"]),
    "SesSender.send": lambda: SesSender(sender="a@example.com", configuration_set="c").send(
        LETTER, to="ada@example.com"
    ),
    "S3Files.begin_upload": lambda: S3Files("b").begin_upload(DEVICE, FILE, checksums=True),
    "S3Files.abort_upload": lambda: S3Files("b").abort_upload(DEVICE, FILE, "u"),
    "S3Files.part_url": lambda: S3Files("b").part_url(DEVICE, FILE, "u", 1, size=1, sha256=None),
    "S3Files.parts": lambda: S3Files("b").parts(DEVICE, FILE, "u"),
    "S3Files.complete_upload": lambda: S3Files("b").complete_upload(DEVICE, FILE, "u", [StoredPart(1, 1, "e", None)]),
    "S3Files.exists": lambda: S3Files("b").exists(DEVICE, FILE),
    "S3Files.read": lambda: list(S3Files("b").read(DEVICE, FILE)),
    "S3Files.download_url": lambda: S3Files("b").download_url(DEVICE, FILE, filename="f", mime_type="text/plain"),
    "S3Files.remove": lambda: S3Files("b").remove(DEVICE, FILE),
    "S3Files.remove_all": lambda: S3Files("b").remove_all(DEVICE, limit=10),
    "IotPublisher.publish_file_answer": lambda: IotPublisher(endpoint_url="https://127.0.0.1").publish_file_answer(
        "t", {}, expires_in_s=1
    ),
    "IotPublisher.publish_command": lambda: IotPublisher(endpoint_url="https://127.0.0.1").publish_command(
        "t", {}, command_id="c", expires_in_s=1
    ),
    "IotRegistry.endpoint": lambda: IotRegistry(policy_name="p", ca_pem="pem").endpoint(),
    "IotRegistry.create_thing": lambda: IotRegistry(policy_name="p").create_thing("t", device_id="d"),
    "IotRegistry.create_certificate": lambda: IotRegistry(policy_name="p").create_certificate(csr="pem"),
    "IotRegistry.attach_certificate": lambda: IotRegistry(policy_name="p").attach_certificate("t", CERTIFICATE),
    "IotRegistry.permit_certificate": lambda: IotRegistry(policy_name="p").permit_certificate(CERTIFICATE),
    "IotRegistry.discard_thing": lambda: IotRegistry(policy_name="p").discard_thing("t", device_id="d"),
    "IotRegistry.remove_certificate": lambda: IotRegistry(policy_name="p").remove_certificate(CERTIFICATE.arn),
    "IotRegistry.remove_certificates": lambda: IotRegistry(policy_name="p").remove_certificates("t"),
    "IotRegistry.remove_thing": lambda: IotRegistry(
        policy_name="p", data_endpoint_url="https://127.0.0.1"
    ).remove_thing("t"),
    "IotRegistry.unused_certificates": lambda: IotRegistry(policy_name="p").unused_certificates(
        older_than_s=1, now_s=1, limit=1
    ),
    "Sockets.close": lambda: Sockets("wss://127.0.0.1/live").close("c1="),
    "iot.data_host": iot.data_host,
}
"""Every call of AWS: `<adapter>.<function>`."""
ASK_NOTHING = {"S3Files.address", "S3Files.probe", "iot.read_topic", "iot.request_topic", "iot.response_topic"} | {
    "iot.amazon_root_ca",
    "iot.device_service_errors",
}
"""Functions that call nothing, and the probe, whose caller reports whatever it raises."""
ADAPTERS: tuple[type | ModuleType, ...] = (
    access,
    secrets,
    iot,
    ArrivalRepository,
    DynamoBuckets,
    IotPublisher,
    IotRegistry,
    S3Files,
    SesSender,
    Sockets,
    SqsQueue,
)


def functions_of(adapter: type | ModuleType) -> Iterator[str]:
    name = adapter.__name__.rpartition(".")[2]
    for each, found in vars(adapter).items():
        own = not isinstance(adapter, ModuleType) or getattr(found, "__module__", "") == adapter.__name__
        if own and inspect.isfunction(found) and not each.startswith("_"):
            yield f"{name}.{each}"


def test_every_call_of_every_adapter_is_tried() -> None:
    found = {name for adapter in ADAPTERS for name in functions_of(adapter)}
    assert found - ASK_NOTHING - CALLS.keys() == set()


@pytest.fixture(autouse=True, scope="module")
def clients() -> Iterator[None]:
    """Build the clients once: eighty times would take a minute."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "test")
        patch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
        bind_names({name: name for name in ("faults", "identity", "billing")})
        aws.reset()
        yield
    aws.reset()


def raised_by(call: Callable[[], object]) -> Exception | None:
    try:
        call()
    except Exception as exc:  # noqa: BLE001  whatever it is, the test looks at it
        return exc
    return None


def test_every_class_at_every_call_is_a_503_with_the_right_retry_meaning(monkeypatch: pytest.MonkeyPatch) -> None:
    fault: Exception = Exception()
    logging.disable()

    def fail(*_: Any, **__: Any) -> Any:
        raise fault

    monkeypatch.setattr(BaseClient, "_make_api_call", fail)
    monkeypatch.setattr(RequestSigner, "generate_presigned_url", fail)
    wrong: list[str] = []
    try:
        for kind in RAISED:
            for fault in made(kind):
                for name, call in CALLS.items():
                    error = raised_by(call)
                    if not (
                        isinstance(error, Upstream)
                        and error.status == 503
                        and error.code.endswith(("_UNAVAILABLE", "_THROTTLED"))
                        and (error.retryable, "Retry-After" in error.headers) == (passes(kind), passes(kind))
                    ):
                        wrong.append(f"{name}: {fault!r} became {error!r}")
    finally:
        logging.disable(logging.NOTSET)
    assert len(RAISED) > 70
    assert wrong == []


def test_a_request_that_aws_refuses_is_no_app_error(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = botocore.exceptions.ClientError({"Error": {"Code": "AccessDeniedException"}}, "Op")

    def fail(*_: Any, **__: Any) -> Any:
        raise refused

    monkeypatch.setattr(BaseClient, "_make_api_call", fail)
    with pytest.raises(Exception) as caught:  # noqa: PT011  of PynamoDB
        access.get(FaultItem, Key("P", "S"))
    assert not isinstance(caught.value, AppError)


@pytest.mark.parametrize("kind", ["ReadTimeoutError", "ResponseStreamingError", "IncompleteReadError"])
def test_a_body_that_breaks_off_is_a_503(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (fault,) = made(getattr(botocore.exceptions, kind))

    class Body:
        def iter_chunks(self, _size: int) -> Iterator[bytes]:
            yield b"half"
            raise fault

        def close(self) -> None:
            return

    monkeypatch.setattr(BaseClient, "_make_api_call", lambda *_: {"Body": Body()})
    chunks = S3Files("b").read(DEVICE, FILE)
    assert next(chunks) == b"half"
    with pytest.raises(Upstream) as caught:
        next(chunks)
    assert caught.value.status == 503


def test_a_write_of_unknown_outcome_says_how_to_repeat_it(monkeypatch: pytest.MonkeyPatch) -> None:
    (fault,) = made(botocore.exceptions.ReadTimeoutError)

    def fail(*_: Any, **__: Any) -> Any:
        raise fault

    monkeypatch.setattr(BaseClient, "_make_api_call", fail)
    with pytest.raises(StorageUnavailable, match="with the same Idempotency-Key"):
        committed()
