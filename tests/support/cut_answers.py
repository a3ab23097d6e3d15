"""Answers about one run, in each form that they have, and a client whose connections are cut in them.

A request that starts the run is answered as it is written; a repeat by the log from its beginning, or, once the run has
ended, by one snapshot; who joins by the conversation as it is; who has a position by what is behind it.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace
from itertools import product
from typing import Any, NamedTuple

import httpx

from karma.core.ids import RunId
from karma.models.domain import ModelErrorCode
from karma.models.ports import ModelFailed, StopReason
from karma.runs import opening
from karma.runs.domain import Run, RunKey, RunStatus, Segment
from karma.runs.events import CURRENT, frames
from karma.runs.joining import join
from karma.runs.repeats import redeliver
from karma.runs.replay import read
from karma.runs.requests import RunInput
from karma_agent.client import AgentClient
from tests.fakes.runs import KeptFrames, MemoryRuns, caller, ended, text, tool
from tests.support.agui_client import HeldMessages
from tests.support.run_world import asked, user
from tests.unit.runs.test_joining import Until
from tests.unit.runs.test_shared_state import Sharing, add, change

WORLDS = ("alone", "behind more", "failed")
"""A run of a thread's first words, one whose client sends only its new words, and one that fails within an answer."""
_KEY = RunKey(caller().user_id, RunId("r1"))
_AGENT = {"agent_id": "brief"}


NEVER = -1


class Connection(NamedTuple):
    """Fate of one connection."""

    segments: int
    """Segments that the log has when it begins, as far as its answer shows that."""
    cut: int | None
    """Number of the place where it is cut; None: nowhere; NEVER: before there is an answer."""


class Answers(NamedTuple):
    """All forms of answers about a run."""

    sent: list[dict[str, Any]]
    """Messages of the request."""
    first: bytes
    again: bytes
    over: bytes
    joined: list[bytes]
    """By the segments that the log had."""
    behind: list[bytes]
    """By the position."""
    conversation: list[dict[str, Any]]
    """Messages that a client holds at the end."""
    state: Any

    @property
    def whole(self) -> int:
        """Return the number of segments."""
        return len(self.behind) - 1

    def histories(self, dice: random.Random, most: int) -> list[tuple[Connection, ...]]:
        """Return some of all histories."""
        every = list(self._histories(dice))
        return dice.sample(every, min(most, len(every)))

    def _histories(self, dice: random.Random) -> Iterator[tuple[Connection, ...]]:
        """Yield connections: the first cut anywhere before its position, the second anywhere; and some at random."""
        early = len(places(self.first[: self.first.index(b"id: 1\n")]))
        for cut, segments in product((NEVER, *range(0, early, 2)), (1, self.whole // 2, self.whole)):
            second = self.over if segments == self.whole else self.joined[segments]
            for again in range(len(places(second))):
                yield Connection(1, cut), Connection(segments, again)
        for _ in range(150):
            count = dice.randint(1, 5)
            times = sorted(dice.choice((1, self.whole, dice.randint(1, self.whole))) for _ in range(count))
            yield tuple(
                Connection(each, dice.choice((NEVER, dice.randint(0, 12), dice.randrange(999)))) for each in times
            )

    def differs(self, held: HeldMessages) -> str:
        """Tell in what a client does not hold what the server has; "": in nothing."""
        if held.said != self.conversation:
            return f"{held.said} instead of {self.conversation}"
        own = {name: value for name, value in held.state.items() if name != "user"}
        return "" if own == self.state else f"{own} instead of {self.state}"


def places(data: bytes) -> list[int]:
    """Return where a connection is cut: between frames, beside that, and within each."""
    found, start = {0}, 0
    while (end := data.find(b"\n\n", start) + 2) > 1:
        found |= {end, end - 1, end - 2, min(end + 1, len(data)), (start + end) // 2}
        start = end
    return sorted(found)


def answers(kind: str) -> Answers:
    """Play a run, and return all that the server answers about it."""
    calls = change(add("/page", 7))
    last = (
        [*text("Half "), ModelFailed(ModelErrorCode.MODEL_REJECTED)]
        if kind == "failed"
        else [*text("It ", "is."), *ended()]
    )
    earlier = [[*text("Hello."), *ended()]] if kind == "behind more" else []
    called = [*text("I ", "look."), *tool("e1", "echo", '{"word":', '"x"}'), *calls, *ended(StopReason.TOOL_USE)]
    world = Sharing(*earlier, called, last)
    if earlier:
        world.run(asked(user("Good morning", "u0"), run="r0", forwardedProps=_AGENT))
    sent = [user("What is it?", "u1")]
    request = asked(*sent, run="r1", forwardedProps=_AGENT)
    store = world.store
    sink = asyncio.run(world.go(request))
    run, log = store.run(_KEY), world.log(request)
    assert run is not None
    assert run.status is (RunStatus.FAILED if kind == "failed" else RunStatus.FINISHED)

    thread = world.thread()
    stored = [opening.shown(thread.messages[at], CURRENT) for at in thread.path_to(thread.latest)]
    return Answers(
        sent=sent,
        first=sink.data,
        again=_repeated(world, request, replace(run, status=RunStatus.RUNNING)),
        over=_repeated(world, request, run),
        joined=[_joined(store, log, max(1, each)) for each in range(len(log) + 1)],
        behind=[_behind(store, log, each) for each in range(len(log) + 1)],
        conversation=HeldMessages(stored).said,
        state=thread.state.value if thread.state else None,
    )


def _repeated(world: Sharing, request: RunInput, run: Run) -> bytes:
    kept = KeptFrames()

    async def deliver() -> None:
        begin = redeliver(
            run,
            request,
            store=world.store,
            inspector=world.inspector(),
            link=list,
            clock=world.clock,
            until=world.clock.now().replace(year=9000),
            own={each.name for each in world.tools},
        )
        await begin(kept)

    asyncio.run(deliver())
    return kept.data


def _joined(store: MemoryRuns, log: list[Segment], segments: int) -> bytes:
    first = join(Until(store, segments), _KEY, link=list)
    assert first is not None
    data = frames(first.events, n=first.n) if first.events else b""
    return data if first.is_over else data + _behind(store, log, first.n)


def _behind(store: MemoryRuns, log: list[Segment], position: int) -> bytes:
    found = read(store, _KEY, after=position, limit=10**6, link=list)
    if position and not found:
        found = [replace(log[-1], events=log[-1].events[-1:])]
    return b"".join(frames(each.events, n=each.n) for each in found)


class Server(httpx.AsyncBaseTransport):
    """Answers a client's requests, each over the next connection, and behind those over whole ones."""

    def __init__(self, answers: Answers, history: Sequence[Connection]) -> None:
        self._answers = answers
        self._left = list(history)
        self._posts = 0
        self.asked: list[str] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Answer a request as far as its connection lasts."""
        last = Connection(self._answers.whole, None)
        now, cut = self._left.pop(0) if self._left else last
        data = self._data(request, now)
        self.asked.append(f"{request.method} {request.url.query.decode()}")
        if cut == NEVER:
            raise httpx.ReadError("cut")
        found = places(data)
        end = len(data) if cut is None else found[cut % len(found)]
        return httpx.Response(200, stream=_Cut(data[:end]))

    def _data(self, request: httpx.Request, now: int) -> bytes:
        if request.method == "POST":
            self._posts += 1
            if self._posts == 1:
                return self._answers.first
            return self._answers.over if now == self._answers.whole else self._answers.again
        after = request.url.params.get("after")
        return self._answers.joined[now] if after is None else self._answers.behind[int(after)]


class _Cut(httpx.AsyncByteStream):
    def __init__(self, data: bytes) -> None:
        self._data = data

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._data
        raise httpx.ReadError("cut")


def held_over(answers: Answers, history: Sequence[Connection], *, joins: bool) -> tuple[HeldMessages, list[str]]:
    """Return what the Python client's caller holds behind a run over these connections, and what it asked."""
    server, held = Server(answers, history), HeldMessages([] if joins else answers.sent)

    async def follow() -> None:
        async with AgentClient("http://x", api_key="k", transport=server) as client:
            stream = client.join("r1") if joins else client.run(answers.sent, run_id="r1", thread_id="t1")
            async for event in stream:
                held.take(event)

    asyncio.run(follow())
    return held, server.asked


def told(answers: Answers, histories: Sequence[Sequence[Connection]], *, joins: bool) -> str:
    """Return the same as JSON, for a client in another language."""
    texts = {name: getattr(answers, name).decode() for name in ("first", "again", "over")}
    lists = {name: [each.decode() for each in getattr(answers, name)] for name in ("joined", "behind")}
    every = dict.fromkeys((*texts.values(), *lists["joined"], *lists["behind"]))
    return json.dumps(
        {
            **texts,
            **lists,
            "joins": joins,
            "sent": answers.sent,
            "places": {each: places(each.encode()) for each in every},
            "histories": histories,
        }
    )
