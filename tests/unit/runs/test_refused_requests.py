"""A request that is refused leaves the active run, the queue, the questions and the counts as they were.

Each refusal of the code, as it begins runs, is listed: what refuses a request is judged before the active run is ended
for it, under every strategy, and wherever that run is. SEED plays a failure again.
"""

from __future__ import annotations

import ast
import asyncio
import random
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Final

import pytest

from karma.agents.domain import MultitaskStrategy
from karma.agents.service import Catalogue
from karma.billing.allowances import Metric, day_of, period_of
from karma.billing.plans import PlanName
from karma.configuration.current import RunChoice
from karma.configuration.domain import ComponentType, ComponentUnavailable
from karma.conversations.domain import MAX_CONVERSATION_BYTES
from karma.core.errors import AppError
from karma.identity.domain import Caller
from karma.models.budgets import Budget
from karma.runs.domain import LEASE, Run, RunStatus
from karma.runs.setup import MAX_SETUP_BYTES
from karma.runs.wishes import Wish
from tests.fakes.agents import catalogue
from tests.fakes.configuration import as_built
from tests.fakes.runs import caller
from tests.support.kept_as_it_was import as_stored
from tests.support.lost_runs import THREAD, TOOLS, Life
from tests.support.media import b64, png
from tests.support.reach import LAYER
from tests.support.run_world import FIND_TOOL, asked, spec, user
from tests.support.talks import USER, Talk

PLACES = ("begun", "at work", "lost", "paused")


def large_image() -> str:
    """Make an image so large that it is stored apart, and counts as storage."""
    whole, text = png(), b"tEXt" + b"x" * 20_000
    chunk = len(text[4:]).to_bytes(4) + text + zlib.crc32(text).to_bytes(4)
    return b64(whole[:33] + chunk + whole[33:])


class Disabled:
    """A configuration in which no model can be asked."""

    def for_run(self, *, agent: str, model: str, summaries: str = "") -> RunChoice:
        raise ComponentUnavailable(ComponentType.MODEL, "old", "is disabled")

    def for_refusal(self) -> RunChoice:
        return as_built().for_refusal()


@dataclass
class Scene:
    """A run that is active, one that waits behind it or none, and a request that is about to be refused."""

    talk: Talk
    strategy: MultitaskStrategy
    is_agents: bool
    patch: pytest.MonkeyPatch
    messages: list[dict[str, Any]] = field(default_factory=lambda: [user("now", "u9")])
    more: dict[str, Any] = field(default_factory=dict)
    props: dict[str, Any] = field(default_factory=dict)
    caller: Caller = field(default_factory=caller)
    run_id: str = "refused"

    def use_up(self, metric: Metric, left: int = 0) -> None:
        """Let the account have taken all of its plan but a rest."""
        self.talk.plan_name = PlanName.FREE
        period = period_of(metric, self.talk.clock.now())
        limits = {Metric.STORAGE: 10**9, Metric.RUNS: 200, Metric.MODEL_SPEND: 2_000_000}
        self.talk.store.usage.taken[USER, metric, period] = limits[metric] - left

    def ask(self) -> Run:
        props = {"agent_id": "brief", **self.props}
        if not self.is_agents:
            props["multitask_strategy"] = self.strategy.value
        request = asked(*self.messages, run=self.run_id, tools=[FIND_TOOL], forwardedProps=props, **self.more)
        return asyncio.run(self.talk.background(Life(None)).begin(self.caller, request)).run


def thread_of(scene: Scene, **changes: Any) -> None:
    scene.talk.store.threads[THREAD] = replace(scene.talk.store.threads[THREAD], **changes)


def beyond_the_run(scene: Scene) -> None:
    scene.props["budget"] = {"max_tokens": 1}


def beyond_the_agent(scene: Scene) -> None:
    scene.props["agent_id"] = "poor"


def beyond_the_agents_day(scene: Scene) -> None:
    scene.props["agent_id"] = "poor a day"


def beyond_the_accounts_day(scene: Scene) -> None:
    scene.talk.day_cost_micros = 1_000
    scene.talk.store.usage.account_days[USER, day_of(scene.talk.clock.now())] = 999


def beyond_the_thread(scene: Scene) -> None:
    spending = scene.talk.store.threads[THREAD].spending
    thread_of(scene, spending=replace(spending, max_tokens=100))


def beyond_the_threads_cost(scene: Scene) -> None:
    spending = scene.talk.store.threads[THREAD].spending
    thread_of(scene, spending=replace(spending, max_cost_micros=1))


def beyond_the_months_spend(scene: Scene) -> None:
    scene.use_up(Metric.MODEL_SPEND, left=10)


def beyond_the_months_runs(scene: Scene) -> None:
    scene.use_up(Metric.RUNS)


def beyond_the_storage(scene: Scene) -> None:
    scene.use_up(Metric.STORAGE)
    source = {"type": "data", "value": large_image(), "mimeType": "image/png"}
    scene.messages = [{"id": "u9", "role": "user", "content": [{"type": "image", "source": source}]}]


def unknown_agent(scene: Scene) -> None:
    scene.props["agent_id"] = "nobody"


def model_disabled(scene: Scene) -> None:
    scene.patch.setattr("tests.support.lost_runs.as_built", Disabled)


def unverified(scene: Scene) -> None:
    scene.caller = replace(caller(), email_verified=False)


def account_gone(scene: Scene) -> None:
    scene.talk.store.gone.add(USER)


def nothing_said(scene: Scene) -> None:
    scene.messages = [user(" ", "u9")]


def unknown_call(scene: Scene) -> None:
    scene.messages = [{"id": "x1", "role": "tool", "toolCallId": "zz", "content": "r"}]


def unreadable_image(scene: Scene) -> None:
    source = {"type": "data", "value": "AAAA", "mimeType": "image/png"}
    scene.messages = [{"id": "u9", "role": "user", "content": [{"type": "image", "source": source}]}]


def too_much_said(scene: Scene) -> None:
    scene.messages = [user("x" * 100_000, f"u{n}") for n in range(32)]


def too_much_beside(scene: Scene) -> None:
    noise = random.Random(1).randbytes(MAX_SETUP_BYTES).hex()
    scene.more["context"] = [
        {"description": "d", "value": noise[at : at + 250_000]} for at in range(0, len(noise), 250_000)
    ]


def too_long(scene: Scene) -> None:
    store, length = scene.talk.store, MAX_CONVERSATION_BYTES + 1
    read = store.thread
    scene.patch.setattr(store, "thread", lambda key: replace(read(key), stored_bytes=length))


def deleted(scene: Scene) -> None:
    thread_of(scene, is_deleted=True)


def id_of_another(scene: Scene) -> None:
    scene.run_id = "r1"


def id_is_taken_meanwhile(scene: Scene) -> None:
    store, found = scene.talk.store, scene.talk.store.run
    scene.run_id = "r1"
    seen: list[object] = []

    def run(key: Any) -> Run | None:
        seen.append(key)
        return None if len(seen) == 1 else found(key)

    scene.patch.setattr(store, "run", run)


REFUSALS: Final[dict[str, tuple[Callable[[Scene], None], str]]] = {
    "run": (beyond_the_run, "BUDGET_EXCEEDED"),
    "agent": (beyond_the_agent, "BUDGET_EXCEEDED"),
    "agent's day": (beyond_the_agents_day, "BUDGET_EXCEEDED"),
    "account's day": (beyond_the_accounts_day, "BUDGET_EXCEEDED"),
    "thread": (beyond_the_thread, "BUDGET_EXCEEDED"),
    "thread's cost": (beyond_the_threads_cost, "BUDGET_EXCEEDED"),
    "month": (beyond_the_months_spend, "QUOTA_EXCEEDED"),
    "runs": (beyond_the_months_runs, "QUOTA_EXCEEDED"),
    "storage": (beyond_the_storage, "QUOTA_EXCEEDED"),
    "unknown agent": (unknown_agent, "NOT_FOUND"),
    "disabled": (model_disabled, "COMPONENT_UNAVAILABLE"),
    "unverified": (unverified, "EMAIL_NOT_VERIFIED"),
    "account gone": (account_gone, "NOT_FOUND"),
    "nothing said": (nothing_said, "VALIDATION_ERROR"),
    "unknown call": (unknown_call, "THREAD_BUSY"),
    "unreadable": (unreadable_image, "VALIDATION_ERROR"),
    "too much said": (too_much_said, "PAYLOAD_TOO_LARGE"),
    "too much beside": (too_much_beside, "PAYLOAD_TOO_LARGE"),
    "too long": (too_long, "CONVERSATION_TOO_LONG"),
    "deleted": (deleted, "THREAD_DELETED"),
    "id of another": (id_of_another, "CONFLICT"),
    "id taken meanwhile": (id_is_taken_meanwhile, "CONFLICT"),
}

ANSWERS = "only of a request with `resume`, which ends no run (test_answers_one_after_another.py)"
FIRST = "judged before anything is read of the thread"
RACE = "another request was first: the run goes on, or has ended without it"
BUSY = "the refusal for the run that goes on itself"
WAITS = "of a request that waits, which ends no run"
WHY = {ANSWERS, FIRST, RACE, BUSY, WAITS}
OF_THE_CODE: Final[dict[str, str]] = {
    "agents.service.find": "unknown agent",
    "agents.service.get": "unknown agent",
    "billing.allowances.reserve": "storage",
    "configuration.current.for_run": "disabled",
    "conversations.arrival.admit": "unreadable",
    "conversations.attachments._read": "unreadable",
    "conversations.attachments._shown": "unreadable",
    "conversations.attachments.take": "unreadable",
    "conversations.branches._with_words": "nothing said",
    "conversations.domain.conversation": RACE,
    "conversations.domain.require_room": "too long",
    "identity.domain._require_verified": "unverified",
    "identity.domain.require_outlived_by": FIRST,
    "identity.domain.require_person": FIRST,
    "mcp.offering.reach": ANSWERS,
    "models.budgets.afford": "run",
    "runs.askers.require_asker": ANSWERS,
    "runs.asking._read_questions": ANSWERS,
    "runs.asking.merge": "too much said",
    "runs.asking.share": "disabled",
    "runs.budgets._raised": ANSWERS,
    "runs.foreseeing.foreseen": RACE,
    "runs.recording._admitted": "nothing said",
    "runs.recording._again": "id of another",
    "runs.recording._needs": "unknown call",
    "runs.recording._planned": WAITS,
    "runs.recording.record": RACE,
    "runs.replacing.ask_for_turn": BUSY,
    "runs.replacing.make_way": RACE,
    "runs.replacing.require_meant": BUSY,
    "runs.reservations.note": "agent's day",
    "runs.resuming.questions_of": ANSWERS,
    "runs.resuming.resolve": ANSWERS,
    "runs.setup.dump_setup": "too much beside",
    "runs.turns.place_of": BUSY,
}
"""Places that raise while a run is begun, each with the case that is played, or why none has to be."""
OTHERS: Final = {
    "core": "no rules of runs",
    "runs.requests": "the body, which is read before",
    "runs.watchdog": "messages of its queue",
    "runs.plan": "the execution",
    "tools.toolbox": "arguments of calls",
    "mcp.offering": "calls",
    "models.ports": "the execution",
    "agents.service": "writes of the catalogue",
}
"""Names of what the same modules raise elsewhere, by their beginning."""


def raising() -> Iterator[str]:
    """Yield the functions that raise in the modules by which requests are recorded."""
    own = ("karma.runs.recording", "karma.runs.asking", "karma.runs.replacing")
    for module in sorted({*own, *(each for name in own for each in imports_of(name))}):
        path = LAYER / f"{module.replace('.', '/')}.py"
        for node in ast.walk(ast.parse(path.read_text())) if path.exists() else ():
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                raises = [each for each in ast.walk(node) if isinstance(each, ast.Raise) and each.exc is not None]
                if raises:
                    yield f"{module.removeprefix('karma.')}.{node.name}"


def imports_of(module: str) -> set[str]:
    tree = ast.parse((LAYER / f"{module.replace('.', '/')}.py").read_text())
    nodes = (node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module)
    return {str(node.module) for node in nodes if str(node.module).startswith("karma.")}


@pytest.mark.fault("F-32bb")
def test_each_refusal_of_the_code_is_played_or_said_to_end_no_run() -> None:
    found = set(raising())
    missing = {each for each in found - set(OF_THE_CODE) if not any(each.startswith(name) for name in OTHERS)}
    assert missing == set(), "play it here, or say why it ends no run"
    assert set(OF_THE_CODE) <= found
    assert {each for each in OF_THE_CODE.values() if each not in WHY} <= set(REFUSALS)


def agents(strategy: MultitaskStrategy) -> Catalogue:
    made = catalogue(tools=TOOLS)
    common: dict[str, Any] = {"tools": TOOLS, "multitask_strategy": strategy}
    made.create(spec(**common))
    made.create(spec(**common, name="poor", budget=Budget(max_tokens=1)))
    made.create(spec(**common, name="poor a day", day_cost_micros=1))
    return made


def without_wish_of_the_next(stored: dict[str, Any]) -> dict[str, Any]:
    """Leave out the wish of a request that would wait, which ends a run alone to which nobody listens."""
    wishes = {
        key: {wish: why for wish, why in each.items() if wish is not Wish.NEXT}
        for key, each in stored["wishes"].items()
    }
    return {**stored, "wishes": {key: each for key, each in wishes.items() if each}}


def restore(scene: Scene) -> None:
    """Take away what has refused the request, so that the runs that are there can go on."""
    talk = scene.talk
    talk.store.gone.clear()
    talk.day_cost_micros, talk.plan_name = None, PlanName.ENTERPRISE
    spending = replace(talk.store.threads[THREAD].spending, max_tokens=None, max_cost_micros=None)
    thread_of(scene, is_deleted=False, spending=spending)


@pytest.fixture
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("karma.runs.log._LISTEN_EVERY_S", 0.001)
    monkeypatch.setattr("karma.runs.recording._PAUSE_S", 0.0)
    monkeypatch.setattr("karma.runs.replacing._END_POLL_S", 0.0)


@pytest.mark.usefixtures("_at_once")
@pytest.mark.fault("F-32bb")
@pytest.mark.parametrize("strategy", MultitaskStrategy)
@pytest.mark.parametrize("name", REFUSALS)
def test_it_leaves_all_as_it_was(
    name: str, strategy: MultitaskStrategy, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    dice = random.Random(seed)
    refuse, code = REFUSALS[name]
    talk = Talk([("again", "go")])
    talk.given_agents = agents(strategy)
    with monkeypatch.context() as patch:
        scene = Scene(talk, strategy, is_agents=dice.random() < 0.5, patch=patch)
        active = talk.say("move it", MultitaskStrategy.INTERRUPT, agent="brief")
        waits = [talk.say("and then", agent="brief")] if dice.random() < 0.5 else []
        place = dice.choice(PLACES)
        met: list[AppError | None] = []

        def come() -> None:
            refuse(scene)
            before = as_stored(talk.store)
            try:
                scene.ask()
            except AppError as exc:
                met.append(exc)
                assert without_wish_of_the_next(as_stored(talk.store)) == before
            else:
                met.append(None)
            patch.undo()
            restore(scene)

        if place == "at work":
            talk.at_work = come
            talk.execute()
        else:
            if place == "lost":
                talk.clock.pass_by(LEASE * 3)
            elif place == "paused":
                talk.control(Life(None)).pause(USER, active.key.run_id)
            come()
    (refusal,) = met
    if strategy in {MultitaskStrategy.INTERRUPT, MultitaskStrategy.ROLLBACK}:
        assert refusal is not None, "it was not refused"
        assert refusal.code == code
    talk.settle()
    assert [talk.status(each) for each in (active, *waits)] == [RunStatus.FINISHED] * (1 + len(waits))


@pytest.mark.usefixtures("_at_once")
@pytest.mark.fault("F-32bb")
@pytest.mark.parametrize("strategy", [MultitaskStrategy.INTERRUPT, MultitaskStrategy.ROLLBACK])
@pytest.mark.parametrize(("room", "is_refused"), [(8_000, True), (400_000, False)])
def test_a_thread_s_budget_has_room_beside_what_the_active_run_may_have_used(
    strategy: MultitaskStrategy, monkeypatch: pytest.MonkeyPatch, room: int, *, is_refused: bool
) -> None:
    """A call of its model is at hand: nobody knows what that has used until it has ended."""
    talk = Talk()
    talk.given_agents = agents(strategy)
    scene = Scene(talk, strategy, is_agents=False, patch=monkeypatch)
    first = asked(user("move it"), run="r1", forwardedProps={})
    asyncio.run(talk.service(Life(None)).start(caller(), first))
    spending = talk.store.threads[THREAD].spending
    thread_of(scene, spending=replace(spending, max_tokens=room))
    before = as_stored(talk.store)
    with pytest.raises(AppError) as met:
        scene.ask()
    if is_refused:
        assert met.value.code == "BUDGET_EXCEEDED"
        assert as_stored(talk.store) == before
    else:
        assert met.value.code == "THREAD_BUSY", "it was asked to end, and its process does not hear"
        assert as_stored(talk.store) != before
