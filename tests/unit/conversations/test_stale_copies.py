"""A client that shows half an answer goes on with the whole one: nothing that was answered is dropped or stands twice.

Runs are paused, lost, fail or are cancelled with half an answer shown; an answer is then made anew, under another id.
A client that missed the withdrawal keeps the half, and sends it with its next message. Talks are drawn from the seed;
TALKS=3000 plays as many.
"""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from dataclasses import replace

import pytest

from karma.conversations.branches import merge
from karma.conversations.domain import Message, Thread, ThreadKey, ToolCall
from karma.conversations.messages import Sent
from karma.conversations.order import shown_in_steps
from karma.core.ids import ThreadId, UserId

pytestmark = pytest.mark.fault("F-02s")

TALKS = int(os.environ.get("TALKS") or 80)
KINDS = ["whole", "without ids", "ids anew"]
KEY = ThreadKey(UserId("u"), ThreadId("t"))


def user(name: str) -> Message:
    return Message(id=name, role="user", content=f"words {name}")


def answer(name: str, *calls: str) -> Message:
    made = tuple(ToolCall(each, "look" if each.startswith("look") else "ask", "{}") for each in calls)
    return Message(id=name, role="assistant", content=f"answer {name}.", tool_calls=made)


def result(call: str) -> Message:
    return Message(id=f"of {call}", role="tool", content=f"result {call}", tool_call_id=call)


class Talk:
    """A thread, and what its client's screen shows of it."""

    def __init__(self, kind: str, dice: random.Random) -> None:
        self.kind, self.dice = kind, dice
        self.thread = Thread(key=KEY)
        self.screen: list[Message] = []
        self.said: list[tuple[Message, list[Message]]] = []
        """Each question with the messages that are its answer."""
        self.is_connected = True
        self.names = 0

    def name(self, what: str) -> str:
        self.names += 1
        return f"{what}{self.names}"

    def store(self, messages: Sequence[Message], after: int) -> None:
        forks = dict(self.thread.forks)
        size = self.thread.next_message
        if messages and after != size - 1:
            forks[size] = after
        held = (*self.thread.messages, *messages)
        self.thread = replace(self.thread, messages=held, next_message=len(held), forks=forks)

    def send(self) -> int:
        """Send the screen, and check what the model is shown; return the end of the branch."""
        sent = self.screen
        if self.kind == "without ids":
            sent = [replace(each, id="") for each in sent]
        elif self.kind == "ids anew":
            sent = self.screen = [replace(each, id=self.name("mine")) for each in sent]
        merged = merge(self.thread, [Sent(i, each) for i, each in enumerate(sent)], own={"look"})
        expected = [each for asked, given in self.said for each in (asked, *given)]
        assert plain(merged.conversation) == plain(expected)
        stands = {(each.role, each.content) for each in expected}
        unknown = [i for i, each in enumerate(sent) if (each.role, each.content) not in stands]
        assert [int(note.field.rpartition(".")[2]) for note in merged.notes] == unknown, "each of them is named"
        self.store(merged.new, merged.after)
        self.is_connected = True
        if not merged.is_shown:
            shown = merged.conversation
            first = shown_in_steps([each.id for each in self.screen], [each.id for each in shown])
            self.snapshot(shown[:first])
            self.snapshot(shown)
        return merged.after if not merged.new else self.thread.latest

    def snapshot(self, conversation: Sequence[Message]) -> None:
        """Take a snapshot as the stock client does: what it has stays in place, what is absent goes."""
        new = {each.id: each for each in conversation}
        self.screen = [*(new.pop(each.id) for each in list(self.screen) if each.id in new), *new.values()]

    def ask(self) -> None:
        asked = user(self.name("u"))
        self.said.append((asked, []))
        self.screen.append(asked)

    def halve(self, whole: Message, *, other: bool) -> None:
        """Show half a message under its own id, or one that is withdrawn."""
        text = str(whole.content)
        half = replace(whole, content=text[: self.dice.randint(1, len(text) - 1)], tool_calls=())
        self.screen.append(replace(half, id=self.name("half"), content=f"{half.content}~") if other else half)

    def run(self, pieces: Sequence[Message], after: int) -> list[Message]:
        """Answer in some pieces; the client sees a part, and what is kept of it is returned."""
        dice, kept = self.dice, []
        asked_at = len(self.screen)
        cut_at = dice.randrange(len(pieces)) if dice.random() < 0.25 else len(pieces)
        for i, piece in enumerate(pieces):
            if piece.role == "assistant":
                while dice.random() < 0.4 and self.is_connected:
                    self.halve(piece, other=True)
                    if dice.random() < 0.5:
                        self.screen.pop()  # it was shown the withdrawal
                    else:
                        self.is_connected = False
                if i >= cut_at:
                    if self.is_connected:
                        self.halve(piece, other=True)
                    break
                if self.is_connected and dice.random() < 0.2 and "ask" not in str(piece.tool_calls):
                    self.halve(piece, other=False)
                    self.is_connected = False
            kept.append(piece)
            if self.is_connected:
                self.screen.append(piece)
        if kept and len(self.screen) == asked_at:
            self.screen.append(kept[0])  # a client that has nothing of an answer goes on without it
        self.store(kept, after)
        return kept

    def answer(self, after: int) -> list[Message]:
        pieces: list[Message] = []
        for _ in range(self.dice.randrange(3)):
            call = self.name("look")
            pieces += [answer(self.name("a"), call), result(call)]
        return self.run([*pieces, answer(self.name("a"))], after)

    def answer_with_question(self, after: int) -> list[Message]:
        """Call a tool of the client's, which gives its result; the rest of the answer is another run's."""
        call = self.name("ask")
        asks = answer(self.name("a"), call)
        while self.dice.random() < 0.4:
            self.halve(asks, other=True)
        self.screen += [asks, result(call)]
        self.store([asks], after)
        self.said[-1][1].extend([asks, result(call)])
        return self.answer(self.send())

    def regenerate(self, last: int) -> None:
        before = self.said[-1][1][:]
        del self.screen[last + 1 :]
        self.said[-1][1].clear()
        anew = self.answer(self.send())
        is_shown = len(self.screen) > last + 1
        self.said[-1][1].extend(before if is_shown and not anew else anew)

    def step(self) -> None:
        last = max((i for i, each in enumerate(self.screen) if each.role == "user"), default=-1)
        if last < len(self.screen) - 1 and self.dice.random() < 0.2:
            self.send()  # once more, without anything new
        # One message alone without an id that is known is said once more.
        may_regenerate = len(self.said) > (self.kind != "whole") and self.said[-1][1]
        if may_regenerate and self.dice.random() < 0.2:
            self.regenerate(last)
            return
        self.ask()
        after = self.send()
        with_question = self.kind == "whole" and self.dice.random() < 0.2
        self.said[-1][1].extend(self.answer_with_question(after) if with_question else self.answer(after))


def plain(messages: Sequence[Message]) -> list[tuple[str, object]]:
    return [(each.role, each.content) for each in messages]


@pytest.mark.parametrize("kind", KINDS)
def test_every_answer_stands_once_whatever_its_client_was_shown_of_it(kind: str, seed: int) -> None:
    for n in range(TALKS):
        talk = Talk(kind, random.Random(f"{seed} {n}"))
        for _ in range(5):
            talk.step()


U1, U2, U3 = user("u1"), user("u2"), user("u3")
LOOKS, LOOKED, SEES = answer("a1", "look1"), result("look1"), answer("a2")
ASKS, ASKED, THANKS = answer("a1", "ask1"), result("ask1"), answer("a2")
HALF = replace(answer("withdrawn"), content="answ~")
CUT = answer("withdrawn", "ask9")
EDITED = replace(SEES, content="what the user made of it")


@pytest.mark.parametrize(
    ("stored", "sent", "becomes", "named"),
    [
        pytest.param((U1, SEES), (U1, HALF, U2), (U1, SEES, U2), [1], id="half"),
        pytest.param((U1, SEES), (U1, HALF, CUT, U2), (U1, SEES, U2), [1, 2], id="several halves"),
        pytest.param((U1, SEES), (U1, HALF, SEES, U2), (U1, SEES, U2), [1], id="half and whole"),
        pytest.param((U1, SEES), (U1, HALF), (U1, SEES), [1], id="half alone, with nothing new"),
        pytest.param(
            (U1, SEES), (U1, CUT, result("ask9"), U2), (U1, SEES, U2), [1, 2], id="half with a call and its result"
        ),
        pytest.param((U1, ASKS), (U1, HALF, U2), (U1, ASKS, U2), [1], id="what is made anew calls the client's tool"),
        pytest.param(
            (U1, ASKS, ASKED, THANKS),
            (U1, ASKS, ASKED, HALF, U2),
            (U1, ASKS, ASKED, THANKS, U2),
            [3],
            id="half behind a result of the client's",
        ),
        pytest.param(
            (U1, ASKS, ASKED, THANKS), (U1, HALF, U2), (U1, ASKS, ASKED, THANKS, U2), [1], id="answered elsewhere"
        ),
        pytest.param(
            (U1, ASKS, ASKED, THANKS),
            (U1, ASKS, replace(ASKED, id="other", content="no"), HALF, U2),
            (U1, ASKS, replace(ASKED, id="other", content="no"), U2),
            [3],
            id="half behind another answer of the user's to the call",
        ),
        pytest.param(
            (U1, LOOKS, LOOKED, SEES), (U1, LOOKS, U2), (U1, LOOKS, LOOKED, SEES, U2), [], id="a whole part alone"
        ),
        pytest.param((U1, SEES, U2), (U1, HALF, U2, U3), (U1, SEES, U2, U3), [1], id="half of an earlier answer"),
        pytest.param((U1, SEES), (U1, EDITED, U2), (U1, SEES, U2), [1], id="edited under its id"),
        pytest.param((U1, SEES), (U1, U2), (U1, U2), [], id="without the answer"),
        pytest.param((U1, SEES), (replace(U1, content="edited"), HALF, U2), (None, U2), [1], id="edited words"),
        pytest.param((U1,), (U1, HALF, U2), (U1, U2), [1], id="no answer was kept"),
        pytest.param((U1, SEES), (HALF, U1, SEES, U2), (U1, SEES, U2), [0], id="a greeting that is not of the thread"),
        pytest.param(
            (answer("hello"), U1, SEES),
            (HALF, U1, SEES, U2),
            (answer("hello"), U1, SEES, U2),
            [0],
            id="a greeting anew",
        ),
    ],
)
def test_in_the_place_of_a_stale_copy_ours_stands_to_its_end(
    stored: tuple[Message, ...], sent: tuple[Message, ...], becomes: tuple[Message | None, ...], named: list[int]
) -> None:
    thread = Thread(key=KEY, messages=stored, next_message=len(stored))
    merged = merge(thread, [Sent(i, each) for i, each in enumerate(sent)], own={"look"})
    assert plain(merged.conversation) == plain([sent[0] if each is None else each for each in becomes])
    assert [note.field for note in merged.notes] == [f"messages.{at}" for at in named]


@pytest.mark.parametrize(
    ("restored_to", "sent"),
    [
        pytest.param(0, (U1, HALF, U2), id="behind the question"),
        pytest.param(2, (U1, LOOKS, LOOKED, U2), id="within the answer"),
    ],
)
def test_a_thread_that_was_led_back_goes_on_where_it_was_led(restored_to: int, sent: tuple[Message, ...]) -> None:
    stored = (U1, LOOKS, LOOKED, SEES)
    thread = Thread(key=KEY, messages=stored, next_message=4, restored_to=restored_to)
    merged = merge(thread, [Sent(i, each) for i, each in enumerate(sent)], own={"look"})
    assert plain(merged.conversation) == plain([*stored[: restored_to + 1], U2])


def test_of_several_answers_the_one_stands_that_the_current_branch_has() -> None:
    other = answer("a9")
    for latest in (1, 2):
        thread = Thread(key=KEY, messages=(U1, SEES, other), next_message=3, forks={2: 0}, restored_to=latest)
        merged = merge(thread, [Sent(i, each) for i, each in enumerate((U1, HALF, U2))], own=())
        assert merged.after == latest
