"""Attachments of a refused request are not stored; stored ones count once for each content in their owner's storage."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from karma.billing.allowances import BYTES_A_GB, Metric
from karma.billing.plans import PlanName
from karma.conversations.arrival import MAX_NEW_BYTES
from karma.conversations.attachments import INLINE_CHARS, MAX_BYTES
from karma.conversations.messages import MAX_MESSAGE_BYTES
from karma.conversations.ports import Fetched
from karma.core.errors import AppError, QuotaExceeded, ValidationFailed
from karma.integrations.s3 import FileStorageUnavailable
from karma.runs.domain import RunErrorCode, RunExists, ThreadBusy
from tests.fakes.runs import KeptFrames, caller, ended, text
from tests.support.media import b64, png
from tests.support.plans import allowance, limited
from tests.support.run_world import World, asked, user

pytestmark = pytest.mark.fault("F-25g")

PHOTO = png() + b"\0" * INLINE_CHARS


def photo(raw: bytes, message_id: str = "p1") -> dict[str, Any]:
    source = {"type": "data", "value": b64(raw), "mimeType": "image/png"}
    return {"id": message_id, "role": "user", "content": [{"type": "image", "source": source}]}


def used(world: World) -> int:
    read = world.store.usage.read(allowance(caller().user_id, PlanName.FREE, at=world.clock.now()))
    return next(each.used for each in read if each.metric is Metric.STORAGE)


def free(world: World) -> None:
    world.plan = PlanName.FREE


def fill(metric: Metric, amount: int) -> Callable[[World], None]:
    def refuse(world: World) -> None:
        free(world)
        world.store.usage.extend(limited(caller().user_id, metric, amount))

    return refuse


REFUSALS: dict[str, tuple[Callable[[World], None], dict[str, Any], type[AppError]]] = {
    "a used run id": (lambda _: None, {"run": "r1"}, RunExists),
    "no runs left": (fill(Metric.RUNS, 199), {}, QuotaExceeded),
    "no room left": (fill(Metric.STORAGE, BYTES_A_GB - len(PHOTO) + 1), {}, QuotaExceeded),
    "another part": (lambda _: None, {"broken": True}, ValidationFailed),
}


@pytest.mark.parametrize("why", REFUSALS)
def test_a_refused_request_keeps_nothing(why: str) -> None:
    refuse, how, error = REFUSALS[why]
    world = World([*text("Hi."), *ended()])
    free(world)
    world.run(asked(user("hello", "u1"), run="r1"))
    refuse(world)
    before, armed = used(world), list(world.watchdog.armed)
    message = photo(PHOTO)
    if how.get("broken"):
        source = {"type": "data", "value": "AAAA", "mimeType": "image/png"}
        message["content"].append({"type": "image", "source": source})

    with pytest.raises(error):
        asyncio.run(world.go(asked(message, run=how.get("run", "r2"))))

    assert world.attachments.kept == {}
    assert used(world) == before
    assert (world.watchdog.armed == armed) or error is QuotaExceeded


def test_a_request_to_a_busy_thread_keeps_nothing_and_arms_nobody() -> None:
    world, go_on = World([*text("Hi."), asyncio.Event().wait]), KeptFrames()

    async def go() -> None:
        running = (await world.service.start(caller(), asked(user("hello", "u1")))).execute(go_on)
        armed = list(world.watchdog.armed)
        with pytest.raises(ThreadBusy):
            await world.service.start(caller(), asked(photo(PHOTO)))
        assert world.watchdog.armed == armed
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(go())
    assert world.attachments.kept == {}


def test_what_is_kept_takes_room_once() -> None:
    turns = [[*text("Seen."), *ended()] for _ in range(4)]
    world = World(*turns)
    rows = orjson.dumps(["x" * MAX_MESSAGE_BYTES]).decode()
    call = {"id": "c1", "type": "function", "function": {"name": "ask", "arguments": "{}"}}

    world.run(asked(photo(PHOTO, "p1")))
    world.run(asked(photo(PHOTO, "p2")))
    world.run(asked(photo(PHOTO, "p1"), thread="t2"))
    assert used(world) == len(PHOTO)
    result = {"id": "t1", "role": "tool", "toolCallId": "c1", "content": rows}
    world.run(asked(user("go", "u1"), {"id": "a1", "role": "assistant", "toolCalls": [call]}, result, thread="t3"))

    assert used(world) == sum(map(len, world.attachments.kept.values())) == len(PHOTO) + len(rows)


def test_what_could_not_be_kept_ends_its_run_and_is_kept_with_the_next_try(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World([*text("Seen."), *ended()])

    def away(*_: object) -> str:
        raise FileStorageUnavailable("The file storage is away")

    with monkeypatch.context() as patch:
        patch.setattr(world.attachments, "keep", away)
        assert world.run(asked(photo(PHOTO)))[-1]["code"] == RunErrorCode.STORAGE_UNAVAILABLE
    world.run(asked(photo(PHOTO)))

    (shown,) = world.model.requests[-1].messages
    assert shown.content[0]["source"]["value"] == b64(PHOTO)  # type: ignore[index]
    assert used(world) == len(PHOTO)


def test_the_attachments_of_one_request_have_a_sum() -> None:
    world = World()
    parts = []
    for n in range(MAX_NEW_BYTES // MAX_BYTES + 1):
        url = f"https://example.com/{n}"
        world.web.pages[url] = Fetched(png() + bytes([n]) * (MAX_BYTES - len(png())), "image/png")
        parts.append({"type": "image", "source": {"type": "url", "value": url}})

    with pytest.raises(ValidationFailed) as caught:
        world.run(asked({"id": "u1", "role": "user", "content": parts}))

    details: Any = caught.value.details
    assert [each["field"] for each in details] == [f"messages.0.content.{len(parts) - 1}.source"]
    assert str(MAX_NEW_BYTES) in details[0]["message"]
