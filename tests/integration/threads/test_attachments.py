"""Attachments of a deleted thread: what no other thread names goes, with the storage that it took."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta

import pytest

from karma.billing.allowances import Metric
from karma.billing.repository.usage import UsageRepository
from karma.conversations.attachments import cut
from karma.conversations.domain import History, Message, ThreadChanged, ThreadKey
from karma.conversations.items import PART_BYTES
from karma.conversations.stored import dump_messages
from karma.core.ids import RunId, ThreadId
from karma.identity.accounts.deletion import SETTLES_AFTER
from karma.runs.attachment_repository import Attached, AttachmentRepository
from karma.runs.domain import Run, RunEnd, RunStatus
from karma.runs.removal import GRACE
from tests.integration.threads.test_deletion import Scene
from tests.support.plans import allowance, limited
from tests.support.stack import Stack

BYTES = b"an image"
NAME = hashlib.sha256(BYTES).hexdigest()


@pytest.fixture(autouse=True)
def tables(stack: Stack) -> None:
    del stack


@pytest.fixture
def scene() -> Scene:
    return Scene()


def shown(name: str = NAME) -> Message:
    image = {"type": "image", "source": {"type": "file", "value": f"attachments/{name}", "mimeType": "image/png"}}
    return Message(id="m1", role="user", content=(image,))


def behind(text: str) -> Message:
    """Return a message with the image behind a text."""
    image = shown()
    return replace(image, content=({"type": "text", "text": text}, *image.content))


def show(scene: Scene, thread_id: str, *, new: Mapping[str, int], message: Message | None = None) -> Run:
    """Run once in a thread whose user shows the image, new in the account or not."""
    run = scene.run(f"run-of-{thread_id}", thread_id)
    key = ThreadKey(scene.user_id, ThreadId(thread_id))
    takes = [limited(scene.user_id, Metric.STORAGE, sum(new.values()))] if new else []
    scene.runs.start(
        run,
        thread=scene.runs.thread(key),
        segment=scene.segment(run, 1),
        messages=(message or shown(),),
        attachments=new,
        reservations=takes,
    )
    scene.attachments.keep(scene.user_id, BYTES)
    how = RunEnd(status=RunStatus.FINISHED, at=scene.clock.now())
    scene.runs.finish(scene.segment(run, 2, terminal=True), how, thread=key)
    return run


def delete(scene: Scene, thread_id: str, *, settled: bool = True) -> None:
    key = ThreadKey(scene.user_id, ThreadId(thread_id))
    scene.remover.delete(key)
    scene.clock.pass_by(GRACE)
    scene.cascade.advance(key)
    if settled:
        settle(scene, thread_id)


def settle(scene: Scene, thread_id: str) -> None:
    scene.clock.pass_by(SETTLES_AFTER + timedelta(minutes=1))
    assert scene.cascade.advance(ThreadKey(scene.user_id, ThreadId(thread_id)))


def stored(scene: Scene) -> tuple[int, int]:
    """Return the number of stored attachments, and the bytes that they take of the plan."""
    used = UsageRepository().read(allowance(scene.user_id))
    return len(scene.attachments.kept), next(each.used for each in used if each.metric is Metric.STORAGE)


def test_one_whose_name_two_items_have_between_them_goes(scene: Scene) -> None:
    """A list of messages is cut into items anywhere, within a name too."""
    before = dump_messages([behind("")]).index(NAME.encode())
    message = behind("x" * (PART_BYTES - before - 10))
    show(scene, "t1", new={NAME: 8}, message=message)
    cut_at = dump_messages([message]).index(NAME.encode())
    assert cut_at < PART_BYTES < cut_at + len(NAME)
    delete(scene, "t1")
    assert stored(scene) == (0, 0)


def test_one_that_another_thread_names_stays_until_that_goes_too(scene: Scene) -> None:
    show(scene, "t1", new={NAME: 8})
    show(scene, "t2", new={})
    delete(scene, "t1")
    assert stored(scene) == (1, 8)
    delete(scene, "t2")
    assert stored(scene) == (0, 0)
    assert scene.runs.unkept(scene.user_id, [NAME]) == [NAME]
    show(scene, "t3", new={NAME: 8})
    assert stored(scene) == (1, 8)


def test_one_that_a_thread_names_again_before_it_went_stays(scene: Scene) -> None:
    show(scene, "t1", new={NAME: 8})
    delete(scene, "t1", settled=False)
    show(scene, "t2", new={})
    settle(scene, "t1")
    assert stored(scene) == (1, 8)
    delete(scene, "t2")
    assert stored(scene) == (0, 0)


def test_while_it_is_removed_nothing_can_name_it(scene: Scene) -> None:
    show(scene, "t1", new={NAME: 8})
    delete(scene, "t1", settled=False)
    items, of = AttachmentRepository(), Attached(scene.user_id, NAME)
    assert items.begin_removal(of)
    with pytest.raises(ThreadChanged):
        show(scene, "t2", new={})
    for _ in range(2):  # a process that died in between is followed by another
        items.finish_removal(of)
    assert stored(scene)[1] == 0
    assert not items.begin_removal(of)
    show(scene, "t2", new={NAME: 8})
    assert stored(scene) == (1, 8)


def test_a_long_result_goes_with_its_thread(scene: Scene) -> None:
    run = scene.start("r1")
    text, kept = cut("words " * 20_000, whole_to_bytes=1_000)
    for data in kept.values():
        scene.attachments.keep(scene.user_id, data)
    result = Message(id="t", role="tool", content=text, tool_call_id="c")
    scene.runs.append(scene.segment(run, 2), history=History(scene.key, 1, (result,)))
    how = RunEnd(status=RunStatus.FINISHED, at=scene.clock.now(), last_message=1)
    scene.runs.finish(scene.segment(run, 3, terminal=True), how, thread=scene.key)
    delete(scene, "t1")
    assert stored(scene) == (0, 0)


def test_one_from_before_it_was_known_who_names_it_stays(scene: Scene, stack: Stack) -> None:
    show(scene, "t1", new={NAME: 8})
    stack.aws("dynamodb").update_item(
        TableName=stack.tables["agents"],
        Key={"pk": {"S": f"USER#{scene.user_id}"}, "sk": {"S": f"ATTACHMENT#{NAME}"}},
        UpdateExpression="REMOVE threads, is_tracked",
    )
    show(scene, "t2", new={})
    delete(scene, "t2")
    delete(scene, "t1")
    assert stored(scene) == (1, 8)


def test_a_name_that_a_user_only_writes_removes_nothing(scene: Scene) -> None:
    show(scene, "t1", new={NAME: 8})
    run = replace(scene.run("r9", "t9"), key=scene.run("r9").key._replace(run_id=RunId("r9")))
    said = Message(id="m", role="user", content=f"See attachments/{NAME}")
    key = ThreadKey(scene.user_id, ThreadId("t9"))
    scene.runs.start(run, thread=scene.runs.thread(key), segment=scene.segment(run, 1), messages=(said,))
    delete(scene, "t9")
    assert stored(scene) == (1, 8)
