"""New messages of a client are checked before they are stored; messages that the server holds are accepted again.

One file of more than 450 lines: every kind of content is tried new, known and wrong over one library of media.
"""

import struct
import zlib
from dataclasses import dataclass, field
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from karma.conversations.arrival import MAX_NEW_MEDIA, MAX_TAKING_S, Admitted, MessageAdmission
from karma.conversations.attachments import INLINE_CHARS, MAX_BYTES, MAX_RESULT_BYTES, TOO_MANY_PIXELS, Library
from karma.conversations.domain import Message
from karma.conversations.media import UnreadableMedia, _Checked, of_stored
from karma.conversations.messages import MAX_MESSAGE_BYTES, Sent
from karma.conversations.ports import Fetched
from karma.core.errors import ValidationFailed
from karma.core.ids import UserId
from karma.runs.opening import shown
from karma.runs.requests import MAX_BODY_BYTES, parse_run_input
from tests.fakes.attachments import MemoryAttachments, MemoryDeviceFiles, ScriptedFetch
from tests.support.media import IMAGES, b64, pdf, png

USER, OTHER = UserId("01890000-0000-7000-8000-000000000001"), UserId("01890000-0000-7000-8000-000000000002")
LARGE = png() + b"\0" * INLINE_CHARS
"""An image with other bytes behind its end, which are ignored."""


@dataclass
class World:
    store: MemoryAttachments = field(default_factory=MemoryAttachments)
    files: MemoryDeviceFiles = field(default_factory=MemoryDeviceFiles)
    web: ScriptedFetch = field(default_factory=ScriptedFetch)
    thread: list[Message] = field(default_factory=list)
    answer: Admitted | None = None

    @property
    def library(self) -> Library:
        return Library(self.store, self.files, self.web)

    def send(self, *messages: dict[str, Any], user_id: UserId = USER) -> list[Any]:
        """Admit a request's messages, and store those that are new."""
        asked = parse_run_input(orjson.dumps({"messages": list(messages)}))
        self.answer = MessageAdmission(self.library).admit(user_id, self.thread, asked.sent, asked.unread)
        self.library.keep(user_id, self.answer.kept)
        admitted = self.answer.sent
        known = [message.id for message in self.thread]
        self.thread += [each.message for each in admitted if each.message.id not in known]
        return [each.message for each in admitted]

    def refusals(self, *messages: dict[str, Any]) -> dict[str, str]:
        before = len(self.thread), len(self.store.kept)
        with pytest.raises(ValidationFailed) as caught:
            self.send(*messages)
        assert (len(self.thread), len(self.store.kept)) == before
        details: Any = caught.value.details
        return {each["field"]: each["message"] for each in details}


def user(*parts: dict[str, Any], message_id: str = "u1") -> dict[str, Any]:
    return {"id": message_id, "role": "user", "content": list(parts)}


def media(value: str, kind: str = "image", how: str = "data", media_type: str | None = "image/png") -> dict[str, Any]:
    return {"type": kind, "source": {"type": how, "value": value, **({"mimeType": media_type} if media_type else {})}}


@pytest.mark.fault("F-01a")
@pytest.mark.parametrize("media_type", IMAGES)
def test_a_medium_is_stored_as_what_it_is(media_type: str) -> None:
    world, raw = World(), IMAGES[media_type]()

    (message,) = world.send(user(media(f"data:image/jpg;base64,{b64(raw)}", media_type="image/jpg")))

    (part,) = message.content
    assert part == {"type": "image", "source": {"type": "data", "mimeType": media_type, "value": b64(raw)}}


@pytest.mark.fault("F-01a")
def test_each_part_that_the_model_would_not_take_is_named_with_what_is_taken() -> None:
    world = World()
    system = {"id": "s", "role": "system", "content": "Be brief."}

    refusals = world.refusals(system, user({"type": "text", "text": "see"}, media(b64(png()[:-9]))))

    assert list(refusals) == ["messages.1.content.1.source"]
    assert refusals["messages.1.content.1.source"].startswith("is a broken image/png")
    other = world.refusals(user(media(b64(b"BM" + bytes(60)), media_type="image/bmp")))
    told = [*refusals.values(), *other.values()]
    assert [each.count("PNG, JPEG, GIF and WebP images") for each in told] == [1, 1]
    assert "PNG, JPEG, GIF and WebP images, PDF and plain text documents" in refusals["messages.1.content.1.source"]


@pytest.mark.fault("F-01a")
def test_one_bad_message_does_not_block_the_next() -> None:
    world = World()
    world.refusals(user(media(b64(b"<svg/>"))))

    assert [message.id for message in world.send(user(media(b64(png())), message_id="u2"))] == ["u2"]


@pytest.mark.fault("F-03a")
def test_media_that_the_server_holds_are_not_needed_again() -> None:
    world = World()
    (first,) = world.send(user(media(b64(LARGE))))
    (again,) = world.send({"id": "u1", "role": "user"})
    (whole,) = world.send(user(media(f"data:image/png;base64,{b64(LARGE)}")))
    reference = dict(first.content[0]["source"])
    (named,) = world.send(user({"type": "image", "source": reference}))

    assert reference["value"] == f"attachments/{next(iter(world.store.kept))[1]}"
    assert again.content == whole.content == named.content == first.content


@pytest.mark.fault("F-03a")
def test_five_megabytes_of_images_that_a_client_sends_again_are_accepted() -> None:
    world = World()
    photos = [media(b64(png() + b"\0" * 175_000 + bytes([n]))) for n in range(MAX_NEW_MEDIA + 4)]
    history = [user(*photos[n : n + 4], message_id=f"u{n}") for n in range(0, len(photos), 4)]
    for message in history:
        world.send(message)

    body = orjson.dumps({"messages": history})
    assert 5_000_000 < len(body) <= MAX_BODY_BYTES
    world.web.pages.clear()
    assert [message.content for message in world.send(*history)] == [message.content for message in world.thread]


@pytest.mark.fault("F-03a")
def test_limits_hold_for_what_is_new_alone() -> None:
    long = "x" * (MAX_MESSAGE_BYTES + 1)
    held = [Message(id="u0", role="user", content=long), Message(id="a0", role="assistant", content=long * 2)]
    held.append(Message(id="u9", role="user", content=[media(b64(b"<svg/>"))]))
    sent = [Sent(i, message) for i, message in enumerate(held)]

    assert MessageAdmission(World().library).admit(USER, held, sent).sent == tuple(sent)
    refusals = World(thread=held).refusals({"id": "u0", "role": "user", "content": long + "edited"})
    assert list(refusals) == ["messages.0.content"]
    (imported,) = World().send({"id": "a1", "role": "assistant", "content": "y" * 300_000})
    assert len(imported.content) == 300_000


@pytest.mark.fault("F-01a")
def test_a_message_edited_under_its_id_is_new() -> None:
    world = World()
    world.send(user(media(b64(png())), message_id="u1"))

    assert "messages.0.content.0.source" in world.refusals(user(media(b64(b"<svg/>"))))
    (edited,) = world.send(user(media(b64(png(3, 3)))))
    assert of_stored(edited.content[0]).data == b64(png(3, 3))


@pytest.mark.fault("F-03b")
def test_a_long_result_of_a_frontend_tool_is_kept_whole_and_its_beginning_shown() -> None:
    world, long = World(), '{"rows":["é"' + ',"é"' * 100_000 + "]}"
    result = {"id": "r1", "role": "tool", "toolCallId": "c1", "content": long}

    (message,) = world.send(result)
    (again,) = world.send(result)

    assert len(str(message.content).encode()) <= MAX_RESULT_BYTES, "the model is shown more than the beginning"
    shown = orjson.loads(str(message.content))
    assert long.startswith(shown["beginning"])
    assert f"The result has {len(long.encode())} bytes" in shown["note"]
    assert len(world.store.kept) == 1, "the whole result is not kept once"
    ((owner, kept),) = world.store.kept
    assert owner == USER
    assert world.store.kept[owner, kept].decode() == long, "something else than the whole result is kept"
    assert f"attachments/{kept}" in shown["note"]
    assert again.content == message.content


@pytest.mark.fault("F-04a")
def test_a_url_is_fetched_when_it_is_new_and_then_never_again() -> None:
    world = World()
    world.web.pages["https://example.com/a"] = Fetched(png(), "application/octet-stream")
    message = user(media("https://example.com/a", how="url", media_type=None))

    (stored,) = world.send(message)
    world.web.pages.clear()
    (again,) = world.send(message)

    assert again.content == stored.content
    assert of_stored(stored.content[0]).data == b64(png())
    assert world.web.asked == ["https://example.com/a"]


@pytest.mark.fault("F-04a")
def test_a_file_is_named_by_its_id_and_only_its_owner_s() -> None:
    world = World()
    world.files.files = {
        (USER, "d1", "f1"): pdf(),
        (USER, "d1", "big"): b"\0" * (MAX_BYTES + 1),
        (USER, "d1", "x"): b"?",
    }
    world.files.files[OTHER, "d2", "f2"] = png()
    part = media("devices/d1/files/f1", "document", "file", None)

    (message,) = world.send(user(part))
    shown: Any
    gone: Any
    (shown,) = world.library.show(USER, [message])
    del world.files.files[USER, "d1", "f1"]
    (gone,) = world.library.show(USER, [message])

    source = {"type": "file", "value": "devices/d1/files/f1", "mimeType": "application/pdf"}
    assert message.content == ({"type": "document", "source": source},)
    assert of_stored(shown.content[0]).data == b64(pdf())
    assert gone.content == (
        {"type": "text", "text": "[The attachment devices/d1/files/f1 cannot be shown: it is not there.]"},
    )
    for name, why in {
        "devices/d2/files/f2": "is not there",
        "devices/d1/files/big": "has more than",
        "devices/d1/files/x": "is none of",
        "f1": "must name a file as devices/<device id>/files/<file id>",
        "attachments/" + "0" * 64: "is not there",
        "attachments/../" + "0" * 61: "must name a file",
    }.items():
        refusals = world.refusals(user(media(name, how="file"), message_id="u9"))
        assert refusals["messages.0.content.0.source"].startswith(why)


@pytest.mark.fault("F-04a")
def test_nobody_names_another_s_attachment() -> None:
    world = World()
    world.send(user(media(b64(LARGE))), user_id=OTHER)
    ((_, kept),) = world.store.kept
    world.thread.clear()

    assert "messages.0.content.0.source" in world.refusals(user(media(f"attachments/{kept}", how="file")))


@pytest.mark.fault("F-04a")
@pytest.mark.parametrize("kind", ["image", "document", "audio", "video"])
@pytest.mark.parametrize(
    "value", ["http://example.com/a.png", "ftp://example.com/a", "", "a.png", "https://gone.example.com"]
)
def test_whatever_is_not_loaded_is_a_clear_error(kind: str, value: str) -> None:
    world = World()

    for how in ("url", "file"):
        assert list(world.refusals(user(media(value, kind, how)))) == ["messages.0.content.0.source"]


def test_a_request_brings_a_bounded_number_of_new_media() -> None:
    parts = [media(b64(png(1, 1 + n))) for n in range(MAX_NEW_MEDIA + 1)]

    assert "messages.0.content.20.source" in World().refusals(user(*parts))


def test_media_are_loaded_from_the_newest_on_as_far_as_a_request_holds_them() -> None:
    world = World()
    large = [png() + bytes([n]) * (MAX_BYTES - len(png())) for n in range(6)]
    messages = [m for n, raw in enumerate(large) for m in world.send(user(media(b64(raw)), message_id=f"u{n}"))]

    shown = world.library.show(USER, messages)

    kinds = [part["type"] for message in shown for part in message.content if isinstance(part, dict)]
    assert kinds == ["text"] * 2 + ["image"] * 4
    with pytest.raises(UnreadableMedia):
        of_stored({"type": "image", "source": {"type": "file", "value": "attachments/x"}})


@pytest.mark.fault("F-02e")
@pytest.mark.parametrize("first", ["data", "url", "large"])
def test_another_medium_under_the_same_id_is_another_message(first: str) -> None:
    world, other = World(), "https://example.com/other"
    world.web.pages = {"https://example.com/a": Fetched(png(), ""), other: Fetched(png(3, 3), "")}
    sent = {
        "data": media(b64(png())),
        "url": media("https://example.com/a", how="url"),
        "large": media(b64(LARGE)),
    }[first]
    (held,) = world.send(user(sent))

    (again,) = world.send(user(sent))
    (edited,) = world.send(user(media(other, how="url")))

    assert again.content == held.content
    assert of_stored(edited.content[0]).data == b64(png(3, 3))
    assert world.web.asked.count(other) == 1


@pytest.mark.fault("F-02e")
def test_the_same_media_without_an_id_or_under_a_new_one_are_not_fetched_again() -> None:
    world = World()
    world.web.pages["https://example.com/a"] = Fetched(png(), "")
    part = media("https://example.com/a", how="url")
    (held,) = world.send(user(part))
    world.web.pages.clear()

    (nameless,) = world.send({"role": "user", "content": [part]})
    (renamed,) = world.send(user(part, message_id="u9"))

    assert nameless.content == renamed.content == held.content


@pytest.mark.fault("F-04b")
@pytest.mark.parametrize("member", ["data", "url", "id"])
def test_a_binary_part_of_older_protocols_is_read_as_the_one_that_came_after_it(member: str) -> None:
    world = World()
    world.web.pages["https://example.com/a"] = Fetched(png(), "")
    world.files.files[USER, "d1", "f1"] = png()
    value = {"data": b64(png()), "url": "https://example.com/a", "id": "devices/d1/files/f1"}[member]

    (message,) = world.send(user({"type": "binary", "mimeType": "image/png", "filename": "a.png", member: value}))

    (shown,) = world.library.show(USER, [message])
    part: Any = shown.content[0]
    assert (part["type"], of_stored(part).data) == ("image", b64(png()))
    refusals = world.refusals(user({"type": "binary", "mimeType": "audio/wav", "data": b64(b"RIFF")}, message_id="u2"))
    assert refusals["messages.0.content.0.source"].startswith("is audio")
    assert list(world.refusals(user({"type": "binary", "mimeType": "image/png"}, message_id="u3"))) == [
        "messages.0.content.0.source"
    ]


@pytest.mark.fault("F-03c")
@pytest.mark.parametrize("speaks", [(0, 0), (1, 0)])
def test_a_link_to_an_attachment_is_the_attachment_for_its_owner_alone(speaks: tuple[int, int]) -> None:
    world = World()
    (held,) = world.send(user(media(b64(LARGE))))
    assert world.answer is not None
    assert world.answer.is_lighter
    (linked,) = world.library.linked(USER, [held])
    part: Any = shown(linked, speaks)["content"]
    link = part[0]["source"]["value"]
    assert part[0]["source"] == {"type": "url", "mimeType": "image/png", "value": link}

    for url in (link, link.partition("?")[0], link + "&X-Amz-Date=20200101T000000Z"):
        (again,) = world.send(user(media(url, how="url")))
        assert again.content == held.content
        assert world.answer is not None
        assert not world.answer.is_lighter
    (copied,) = world.send(user(media(link, how="url"), message_id="u2"))
    assert copied.content == held.content
    assert world.web.asked == []
    world.thread.clear()
    with pytest.raises(ValidationFailed):
        world.send(user(media(link, how="url")), user_id=OTHER)
    assert world.web.asked == [link]


@pytest.mark.fault("F-03c")
def test_a_file_that_an_older_client_holds_in_words_is_the_file() -> None:
    world = World()
    world.files.files[USER, "d1", "f1"] = pdf()
    (held,) = world.send(user(media("devices/d1/files/f1", "document", "file", None)))

    (again,) = world.send({"id": "u1", "role": "user", "content": shown(held, (0, 0))["content"]})

    assert again.content == held.content


@pytest.mark.fault("F-25e")
def test_slow_media_of_one_request_have_one_time() -> None:
    now = 0.0

    class Slow(ScriptedFetch):
        def fetch(self, url: str, *, max_bytes: int) -> Fetched:
            nonlocal now
            now += 9.0
            return super().fetch(url, max_bytes=max_bytes)

    urls = [f"https://x.example/{i}" for i in range(20)]
    web = Slow({url: Fetched(png(), "image/png") for url in urls})
    parts = [{"type": "image", "source": {"type": "url", "value": url}} for url in urls]
    asked = parse_run_input(orjson.dumps({"messages": [user(*parts)]}))
    arrivals = MessageAdmission(Library(MemoryAttachments(), MemoryDeviceFiles(), web), now_s=lambda: now)

    with pytest.raises(ValidationFailed) as refused:
        arrivals.admit(USER, (), asked.sent)

    details: Any = refused.value.details
    asked_for = int(MAX_TAKING_S // 9) + 1
    assert [each["field"] for each in details] == [f"messages.0.content.{asked_for}.source"]
    assert len(web.asked) == asked_for


def announced(side: int, seed: int, *, is_whole: bool = True) -> bytes:
    """Return a PNG that declares `side` x `side` pixels of 64 bits, and has one row of them or a broken end."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header, row = struct.pack(">IIBBBBB", side, side, 16, 6, 0, 0, 0), bytes([0, seed]) + bytes(8 * side - 1)
    pixels = chunk(b"IDAT", zlib.compress(row * side if is_whole else row))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")


@dataclass
class Inflated:
    """Counts the bytes that are inflated."""

    size: int = 0

    def watch(self, patch: pytest.MonkeyPatch) -> None:
        decompressobj = zlib.decompressobj

        class Counting:
            def __init__(self) -> None:
                self._stream = decompressobj()

            def decompress(counting, data: bytes, most: int = 0) -> bytes:  # noqa: N805
                out = counting._stream.decompress(data, most)
                self.size += len(out)
                return out

            def __getattr__(self, name: str) -> object:
                return getattr(self._stream, name)

        patch.setattr(zlib, "decompressobj", Counting)


SIDE = 40
EACH = SIDE * (1 + 8 * SIDE)


@pytest.mark.fault("F-25b")
@given(
    kinds=st.lists(st.sampled_from(["data", "url", "file", "named"]), min_size=1, max_size=8),
    most=st.integers(0, 8),
    broken=st.sampled_from(["none", "text", "image", "pixels"]),
)
def test_the_pixels_of_one_request_have_a_sum_and_a_broken_part_costs_nothing(
    kinds: list[str], most: int, broken: str
) -> None:
    world, inflated, parts = World(), Inflated(), []
    for n, kind in enumerate(kinds):
        raw = announced(SIDE, n, is_whole=broken != "pixels" or n < len(kinds) - 1)
        if kind == "url":
            world.web.pages[f"https://example.com/{n}"] = Fetched(raw, "image/png")
        elif kind == "file":
            world.files.files[USER, "d1", str(n)] = raw
        value = {"url": f"https://example.com/{n}", "file": f"devices/d1/files/{n}"}.get(kind, b64(raw))
        value = f"data:image/png;base64,{value}" if kind == "named" else value
        parts.append(media(value, how={"named": "url"}.get(kind, kind)))
    if broken in {"text", "image"}:
        parts.append(media({"text": "AAAA", "image": b64(png()[:-8])}[broken]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("karma.conversations.arrival.MAX_INFLATED_BYTES", most * EACH)
        patch.setattr("karma.conversations.media._CHECKED", _Checked())
        inflated.watch(patch)
        if broken == "none" and len(kinds) <= most:
            world.send(user(*parts))
            assert inflated.size == len(kinds) * EACH
            return
        refusals = world.refusals(user(*parts))
    if len(kinds) > most or broken in {"text", "image"}:
        assert inflated.size == 0
        assert world.web.asked == [] or broken not in {"text", "image"}
    if broken in {"none", "pixels"} and len(kinds) > most:
        assert TOO_MANY_PIXELS in next(iter(refusals.values()))


@pytest.mark.fault("F-25b")
def test_the_files_of_devices_that_a_run_shows_have_a_sum_of_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    names = [f"devices/d1/files/{n}" for n in range(5)]
    for n in range(5):
        world.files.files[USER, "d1", str(n)] = announced(SIDE, n)
    (message,) = world.send(user(*(media(name, how="file") for name in names)))
    monkeypatch.setattr("karma.conversations.attachments.MAX_INFLATED_BYTES", 3 * EACH)
    monkeypatch.setattr("karma.conversations.media._CHECKED", _Checked())

    (shown,) = world.library.show(USER, [message])

    assert [part["type"] for part in shown.content if isinstance(part, dict)] == ["text"] * 2 + ["image"] * 3
