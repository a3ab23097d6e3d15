"""Media and long results: checked, kept in the bucket, and shown to a model server that enforces the API's rules."""

import base64
import hashlib
import secrets
from typing import Any
from urllib.parse import urlsplit

import httpx
import orjson
import pytest

from karma.conversations.ports import Attachments
from karma.core.clock import iso
from karma.core.ids import DeviceId, FileId, UserId, new_id
from karma.files.domain import DeviceFile, FileStatus
from karma.files.repository.files import FileRepository
from karma.integrations.s3 import S3Attachments
from tests.fakes.attachments import MemoryAttachments
from tests.fakes.runs import SetClock, events_of
from tests.integration.agent_stream.conftest import Streams
from tests.support.devices import World
from tests.support.media import b64, pdf, png
from tests.support.model_server import message, text, tool_use, unmarked
from tests.support.stack import Stack

LARGE = png() + secrets.token_bytes(400_000)
FRONTEND_TOOL = {"name": "askUser", "description": "Ask", "parameters": {"type": "object"}}


def user(message_id: str, *parts: dict[str, Any]) -> dict[str, Any]:
    return {"id": message_id, "role": "user", "content": list(parts)}


def image(value: str, how: str = "data") -> dict[str, Any]:
    return {"type": "image", "source": {"type": how, "value": value, "mimeType": "image/jpg"}}


def run(streams: Streams, *messages: dict[str, Any], **more: Any) -> list[dict[str, Any]]:
    answer = streams.run(streams.agent({"threadId": "t1", "messages": list(messages), **more}))
    assert answer.status == 200, answer.data
    return events_of(answer.data)


def said_in(events: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the answer as a client stores it."""
    deltas = [event for event in events if event["type"] == "TEXT_MESSAGE_CONTENT"]
    return {"id": deltas[0]["messageId"], "role": "assistant", "content": "".join(each["delta"] for each in deltas)}


def put_file(stack: Stack, user_id: UserId, data: bytes) -> str:
    """Give a device a file that is ready; returns its name in sources."""
    device_id = DeviceId(World(stack, user=user_id).create().current.device.id)
    file_id, now = FileId(new_id()), iso(SetClock().now())
    made = DeviceFile(
        id=file_id,
        device_id=device_id,
        user_id=user_id,
        name="manual.pdf",
        path="/",
        type="document",
        category="document",
        size=len(data),
        status=FileStatus.READY,
        created_at=now,
        modified_at=now,
    )
    files = FileRepository()
    files.add(made, reservation=None, directories=(), due=None)
    stack.aws("s3").put_object(Bucket=stack.bucket, Key=f"devices/{device_id}/{file_id}", Body=data)
    return f"devices/{device_id}/files/{file_id}"


@pytest.mark.fault("F-01a")
@pytest.mark.fault("F-03a")
@pytest.mark.fault("F-04a")
def test_large_media_go_to_the_bucket_and_to_the_model_and_come_back_in(streams: Streams) -> None:
    name = put_file(streams.stack, streams.user_id, pdf())
    question = user("u1", {"type": "text", "text": "see"}, image(b64(LARGE)))
    document = {"type": "document", "source": {"type": "file", "value": name}}
    for said in ("A cat.", "A manual.", "Both."):
        streams.model.answer(message(text(said)))

    history = [question, said_in(run(streams, question)), user("u2", document)]
    history.append(said_in(run(streams, *history)))
    streams.stack.aws("s3").delete_object(Bucket=streams.stack.bucket, Key=name.replace("/files/", "/"))
    events = run(streams, *history, user("u3", {"type": "text", "text": "and?"}))

    assert streams.model.refused == []
    assert events[-1]["type"] == "RUN_FINISHED"
    first, second, third = (unmarked(request["messages"]) for request in streams.model.requests)
    assert first[0]["content"][1]["source"] == {"type": "base64", "media_type": "image/png", "data": b64(LARGE)}
    assert base64.b64decode(second[2]["content"][0]["source"]["data"]) == pdf()
    assert (third[:2], third[2]["content"][0]["type"]) == (second[:2], "text")
    keys = [each["Key"] for each in streams.stack.aws("s3").list_objects_v2(Bucket=streams.stack.bucket)["Contents"]]
    assert keys == [f"attachments/{streams.user_id}/{hashlib.sha256(LARGE).hexdigest()}"]
    assert all(len(orjson.dumps(repr(item))) < 20_000 for item in streams.items())


@pytest.mark.fault("F-01a")
@pytest.mark.fault("F-04a")
@pytest.mark.parametrize(
    "part",
    [
        image(b64(b"<svg/>")),
        image("http://example.com/a.png", "url"),
        image("https://169.254.169.254/latest/meta-data", "url"),
        image("attachments/" + "0" * 64, "file"),
    ],
)
def test_an_attachment_that_the_model_would_not_take_is_422_and_stored_nowhere(
    streams: Streams, part: dict[str, Any]
) -> None:
    answer = streams.run(streams.agent({"threadId": "t1", "messages": [user("u1", part)]}))

    assert answer.status == 422
    (wrong,) = orjson.loads(answer.data)["error"]["details"]
    assert wrong["field"] == "messages.0.content.0.source"
    assert not any(item["pk"]["S"].startswith(("THREAD#", "RUN#")) for item in streams.items())


@pytest.mark.fault("F-03b")
def test_a_long_result_is_kept_whole_and_the_next_message_works(streams: Streams) -> None:
    whole = "é" * 200_000
    streams.model.answer(message(tool_use("toolu_1", "askUser", "{}"), stop_reason="tool_use"))
    streams.model.answer(message(text("Long.")))

    run(streams, user("u1", {"type": "text", "text": "ask"}), tools=[FRONTEND_TOOL])
    result = {"id": "r1", "role": "tool", "toolCallId": "toolu_1", "content": whole}
    events = run(streams, result, tools=[FRONTEND_TOOL])

    assert events[-1]["type"] == "RUN_FINISHED"
    assert streams.model.refused == []
    (shown,) = streams.model.requests[1]["messages"][-1]["content"]
    assert "This is its beginning" in shown["content"], f"the model is not told so: {shown['content'][-300:]!r}"
    key = f"attachments/{streams.user_id}/{hashlib.sha256(whole.encode()).hexdigest()}"
    stored = streams.stack.aws("s3").get_object(Bucket=streams.stack.bucket, Key=key)["Body"].read()
    assert stored.decode() == whole, "something else than the whole result is kept"


@pytest.mark.parametrize("kind", ["memory", "s3"])
def test_the_bucket_and_its_stand_in_keep_attachments_alike(stack: Stack, kind: str) -> None:
    stack.use("agent_stream")
    store: Attachments = MemoryAttachments() if kind == "memory" else S3Attachments(stack.bucket)
    one, other = UserId(new_id()), UserId(new_id())

    kept = [store.keep(one, data) for data in (b"a", b"b", b"a", b"")]
    store.keep(other, b"a")

    assert kept == [hashlib.sha256(data).hexdigest() for data in (b"a", b"b", b"a", b"")]
    assert [store.read(one, each) for each in kept] == [b"a", b"b", b"a", b""]
    assert (store.read(other, kept[1]), store.read(one, "0" * 64)) == (None, None)
    url = store.url(one, kept[0], "text/plain")
    assert urlsplit(url).path.endswith(f"/attachments/{one}/{kept[0]}")
    if kind == "s3":
        answer = httpx.get(url, trust_env=False)
        assert (answer.content, answer.headers["content-type"]) == (b"a", "text/plain")
