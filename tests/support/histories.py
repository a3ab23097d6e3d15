"""Random stored conversations as careless clients, broken models and edits leave them.

A history grows by steps that are each possible: a user's message (text, blank, media whole or broken), a client's
imported greeting, an answer with or without blocks, with calls that are answered, left open, answered late, twice or
before they were asked, ids that are reused or that no API takes. Then it is edited: messages are dropped, doubled and
moved.
"""

from random import Random
from typing import Any

import orjson

from karma.conversations.domain import Message, ToolCall
from tests.support.media import IMAGES, b64, gif, jpeg, pdf, png, webp

_TEXTS = ("hi", "", " ", "\n\n", "\t", "\u00a0", "\u200b", "é", "what now?", "a\x00b", "🤖", "x" * 300)
_IDS = ("toolu_1", "toolu_2", "call_0", "call_1", "functions.find:0", "", "a b", "é", "x" * 200)
_NAMES = ("find", "move", "find", "", "find it", "x" * 65, "é")
_ARGUMENTS = ("", "{}", '{"a":1}', '{"a":', "[]", "null", " ", '{"a":"\\ud800"}')
_MODELS = ("claude-haiku-5-5", "claude-sonnet-5-5", "")
_WHOLE = [make() for make in IMAGES.values()] + [pdf(), b"a,b\n1,2\n", b"hello"]
_BROKEN = (
    b"", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"\0\0\0\x18ftypheic", png()[:-8], jpeg()[:30], gif()[:-1],
    webp()[:-3], b"%PDF-1.4\n", png(9000, 1), b"\xff\xfe\0", b" ",
)  # fmt: skip
_MEDIA_TYPES = (
    *IMAGES, "image/jpg", "image/heic", "image/svg+xml", "application/pdf", "text/plain", "text/csv", "text/html",
    "application/octet-stream", "", "Image/PNG; q=1", None,
)  # fmt: skip


def random_history(rnd: Random) -> list[Message]:
    """Return a conversation that a store may hold; the same for the same state of `rnd`."""
    history = _Grown(rnd)
    if rnd.random() < 0.2:
        history.say()
    for _ in range(rnd.randint(1, 8)):
        rnd.choice((history.ask, history.ask, history.say, history.call, history.call, history.answer))()
    if rnd.random() < 0.9:
        history.ask()
    messages = history.messages
    for _ in range(rnd.choice((0, 0, 1, 2, 4))):
        if not messages:
            break
        at = rnd.randrange(len(messages))
        edit = rnd.randrange(3)
        if edit == 0:
            messages.pop(at)
        elif edit == 1:
            messages.insert(rnd.randrange(len(messages) + 1), messages[at])
        else:
            messages.insert(rnd.randrange(len(messages)), messages.pop(at))
    return messages


class _Grown:
    def __init__(self, rnd: Random) -> None:
        self.rnd = rnd
        self.messages: list[Message] = []
        self.asked: list[str] = []

    def add(self, **more: Any) -> None:
        message_id = f"m{len(self.messages) if self.rnd.random() < 0.9 else self.rnd.randrange(3)}"
        self.messages.append(Message(id=message_id, **more))

    def ask(self) -> None:
        self.add(role="user", content=self.content())

    def content(self) -> Any:
        if self.rnd.random() < 0.6:
            return self.rnd.choice(_TEXTS)
        most = 24 if self.rnd.random() < 0.03 else 3
        return tuple(self.part() for _ in range(self.rnd.randint(0, most)))

    def part(self) -> dict[str, Any]:
        rnd = self.rnd
        kind = rnd.choice(("text", "image", "image", "document", "audio", "video"))
        if kind == "text":
            return {"type": "text", "text": rnd.choice(_TEXTS)}
        if rnd.random() < 0.1:
            source = {
                "type": rnd.choice(("url", "file", "novelty")),
                "value": rnd.choice(("http://a", "https://a", "")),
            }
            return {"type": kind, **({"source": source} if rnd.random() < 0.8 else {})}
        raw = rnd.choice(_WHOLE if rnd.random() < 0.6 else _BROKEN)
        data = b64(raw)
        fault = rnd.randrange(8)
        if fault == 0:
            data = data[: rnd.randint(0, len(data))]
        elif fault == 1:
            data = f"data:{rnd.choice(_MEDIA_TYPES)};base64,{data}"
        elif fault == 2:
            data = data.replace("A", "%", 1)
        return {"type": kind, "source": {"type": "data", "mimeType": rnd.choice(_MEDIA_TYPES), "value": data}}

    def say(self) -> None:
        text = self.rnd.choice(_TEXTS)
        blocks = self.blocks(text) if self.rnd.random() < 0.5 else ()
        self.add(role="assistant", content=text, blocks=blocks, model=self.rnd.choice(_MODELS))

    def blocks(self, text: str, *calls: ToolCall) -> tuple[dict[str, Any], ...]:
        rnd = self.rnd
        blocks: list[dict[str, Any]] = []
        if rnd.random() < 0.4:
            blocks.append({"type": "thinking", "thinking": rnd.choice(_TEXTS), "signature": rnd.choice(("sig", ""))})
        if rnd.random() < 0.1:
            blocks.append(
                rnd.choice(({"type": "redacted_thinking", "data": "x"}, {"type": "novelty"}, {"type": "text"}))
            )
        blocks.append({"type": "text", "text": text})
        for call in calls:
            whole = {"type": "tool_use", "id": call.id, "name": call.name, "input": _object(call.arguments)}
            blocks.append(whole if rnd.random() < 0.9 else {**whole, "input": ""})
        if rnd.random() < 0.1:  # one that never ended
            blocks.append({"type": "tool_use", "id": rnd.choice(_IDS), "name": "find", "input": {}})
        if rnd.random() < 0.1:
            rnd.shuffle(blocks)
        return tuple(blocks)

    def call(self) -> None:
        rnd = self.rnd
        calls = tuple(
            ToolCall(self.call_id(), rnd.choice(_NAMES), rnd.choice(_ARGUMENTS)) for _ in range(rnd.randint(1, 3))
        )
        text = rnd.choice(_TEXTS)
        kind = rnd.randrange(4)
        blocks = () if kind == 0 else self.blocks(text, *calls)
        self.add(
            role="assistant",
            content=text,
            tool_calls=() if kind == 1 else calls,
            blocks=blocks,
            model=rnd.choice(_MODELS),
        )
        self.asked += [call.id for call in calls]
        for call in calls:
            if rnd.random() < 0.7:
                self.answer(call.id)

    def call_id(self) -> str:
        return self.rnd.choice(_IDS) if self.rnd.random() < 0.5 else f"toolu_{self.rnd.randrange(10**6)}"

    def answer(self, call_id: str | None = None) -> None:
        if call_id is None:
            call_id = self.rnd.choice(self.asked or _IDS)
        content = self.content() if self.rnd.random() < 0.3 else self.rnd.choice(_TEXTS)
        self.add(role="tool", content=content, tool_call_id=call_id, failed=self.rnd.random() < 0.2)


def _object(text: str) -> Any:
    try:
        return orjson.loads(text or "{}")
    except ValueError:
        return {}
