"""The rules of configuration over a store in memory."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from karma.configuration.answers import ConfigView, config_view
from karma.configuration.domain import (
    MAX_STORED,
    Change,
    ChangeType,
    ComponentType,
    InvalidConfiguration,
    is_name,
)
from karma.configuration.service import ConfigurationService
from karma.core.errors import NotFound, StaleVersion
from karma.core.ids import UserId
from tests.fakes.configuration import MemoryComponents, built_in
from tests.fakes.runs import SetClock

ADMIN = UserId("admin")
MODEL = {"type": "model", "model": "claude-test"}
OWN: dict[str, Any] = {"type": "model", "provider": "openai", "model": "llama", "base_url": "http://10.0.0.7:8000/v1"}
PRICE = {"since": "2026-01-01T00:00:00Z", "input": 2.5, "output": 10}


class World:
    def __init__(self) -> None:
        self.store = MemoryComponents()
        self.clock = SetClock()
        self.changes = 0
        self.agents = {"scout"}
        self.service = ConfigurationService(
            self.store,
            self.clock,
            built_in=built_in(),
            models=("claude-test", "claude-other"),
            has_agent=self.agents.__contains__,
            on_change=self._count,
        )

    def _count(self) -> None:
        self.changes += 1

    def put(self, name: str, config: dict[str, Any], **more: Any) -> ConfigView:
        return config_view(self.service.put(name, config, by=ADMIN, **more))

    def refused(self, name: str, config: dict[str, Any]) -> str:
        with pytest.raises(InvalidConfiguration) as refused:
            self.service.put(name, config, by=ADMIN)
        assert not self.store.histories.get(name)
        assert self.changes == 0
        return refused.value.message

    def types(self, name: str) -> list[ChangeType]:
        return [change.type for change in self.store.histories[name]]


@pytest.fixture
def world() -> World:
    return World()


def test_the_list_holds_what_code_brings_and_what_was_written(world: World) -> None:
    world.put("gpt4", {**MODEL, "tags": ["production"]})
    world.put("claude-other", {"enabled": False})

    found = [(each.component.name, each.component.enabled, each.version) for each in world.service.components()]

    assert found == [
        ("karma", True, 0),
        ("claude-other", False, 1),
        ("claude-test", True, 0),
        ("gpt4", True, 1),
        ("echo", True, 0),
    ]
    assert [each.component.name for each in world.service.components(ComponentType.TOOL)] == ["echo"]
    assert world.service.model_names() == ["gpt4"]


def test_what_is_left_out_stays_as_it_is(world: World) -> None:
    world.put("gpt4", {**MODEL, "temperature": 0.2, "tags": ["a", "a", "b"], "description": "Four"})

    new = world.put("gpt4", {"temperature": 1, "max_tokens": 7})

    assert new == {
        "name": "gpt4",
        "type": "model",
        "description": "Four",
        "enabled": True,
        "tags": ["a", "b"],
        "provider": "anthropic",
        "model": "claude-test",
        "temperature": 1.0,
        "max_tokens": 7,
        "built_in": False,
        "version": 2,
        "updated_at": "2026-11-21T12:00:00.000Z",
    }


def test_the_same_again_changes_nothing(world: World) -> None:
    first = world.put("gpt4", MODEL)
    assert world.put("gpt4", {**MODEL, "name": "gpt4"}) == first
    assert world.changes == 1


@pytest.mark.req("R-A-26")
def test_validation_alone_changes_nothing(world: World) -> None:
    assert world.put("claude-test", {"enabled": False}, validate_only=True)["enabled"] is False
    assert world.put("gpt4", MODEL, validate_only=True)["model"] == MODEL["model"]
    assert world.changes == 0
    assert not world.store.histories
    with pytest.raises(InvalidConfiguration):
        world.put("claude-test", {"enabled": "no"}, validate_only=True)


@pytest.mark.req("R-A-27")
def test_each_change_is_an_entry(world: World) -> None:
    world.put("claude-test", {"enabled": False})
    world.clock.pass_by(timedelta(hours=1))
    world.put("gpt4", MODEL)
    world.put("gpt4", {"enabled": False})
    world.service.delete("gpt4", by=ADMIN)

    assert world.types("claude-test") == [ChangeType.UPDATED]
    built = world.store.histories["claude-test"][0]
    assert (built.by, built.old, built.new and built.new.enabled) == (ADMIN, built_in()["claude-test"], False)
    assert world.types("gpt4") == [ChangeType.CREATED, ChangeType.UPDATED, ChangeType.DELETED]
    created, updated, deleted = world.store.histories["gpt4"]
    assert created.old is None
    assert created.new == updated.old
    assert updated.new == deleted.old
    assert deleted.new is None
    assert world.changes == 4


def test_deleting_brings_back_what_code_has(world: World) -> None:
    world.put("claude-test", {"enabled": False})

    world.service.delete("claude-test", by=ADMIN)
    world.service.delete("claude-test", by=ADMIN)

    found = world.service.get("claude-test")
    assert (found.component, found.version) == (built_in()["claude-test"], 2)


def test_versions_go_on_through_a_deletion(world: World) -> None:
    world.put("gpt4", MODEL)
    world.service.delete("gpt4", by=ADMIN)

    with pytest.raises(NotFound, match="Configuration 'gpt4' not found"):
        world.service.get("gpt4")
    with pytest.raises(NotFound):
        world.service.delete("gpt4", by=ADMIN)
    assert world.service.history("gpt4", limit=5).total == 2
    assert world.put("gpt4", MODEL)["version"] == 3


def test_a_rollback_is_a_change_and_its_repeat_is_none(world: World) -> None:
    first = world.put("gpt4", MODEL)
    world.put("gpt4", {"enabled": False})

    back = config_view(world.service.rollback("gpt4", to=1, by=ADMIN))
    again = config_view(world.service.rollback("gpt4", to=1, by=ADMIN))

    assert back == again == {**first, "version": 3}
    last = world.store.histories["gpt4"][-1]
    assert (last.type, last.rolled_back_to) == (ChangeType.ROLLED_BACK, 1)


def test_a_rollback_brings_back_what_was_deleted(world: World) -> None:
    world.put("gpt4", MODEL)
    world.service.delete("gpt4", by=ADMIN)

    assert world.service.rollback("gpt4", to=1, by=ADMIN).version == 3
    with pytest.raises(InvalidConfiguration, match="2 is a deletion"):
        world.service.rollback("gpt4", to=2, by=ADMIN)


@pytest.mark.parametrize(("name", "to"), [("gpt4", 2), ("gpt4", 10**30), ("other", 1), ("claude-test", 1), ("a/b", 1)])
def test_a_rollback_to_what_never_was_is_refused(world: World, name: str, to: int) -> None:
    world.put("gpt4", MODEL)
    with pytest.raises(NotFound, match=f"Configuration '{name}' has no version {to}"):
        world.service.rollback(name, to=to, by=ADMIN)


def test_a_rollback_to_what_breaks_today_s_rules_is_refused(world: World) -> None:
    world.put("gpt4", {"type": "model", "model": "claude-other"})
    world.put("gpt4", {"model": "claude-test"})
    today = ConfigurationService(
        world.store, world.clock, built_in=built_in(), models=("claude-test",), has_agent=lambda _: True
    )

    with pytest.raises(InvalidConfiguration, match="model: must be one of claude-test"):
        today.rollback("gpt4", to=1, by=ADMIN)


@pytest.mark.parametrize(
    "change",
    [
        lambda service: service.put("claude-test", {"enabled": False}, by=ADMIN, version=1),
        lambda service: service.delete("claude-test", by=ADMIN, version=1),
        lambda service: service.rollback("claude-test", to=1, by=ADMIN, version=1),
    ],
)
def test_a_stale_version_changes_nothing(world: World, change: Callable[[ConfigurationService], object]) -> None:
    with pytest.raises(StaleVersion, match="has version 0"):
        change(world.service)
    assert not world.store.histories


class Beaten(MemoryComponents):
    """Store in which another request disables the component just before the first write."""

    def append(self, change: Change) -> None:
        if not self.histories["claude-test"]:
            assert change.old is not None
            quicker = replace(change, new=replace(change.old, enabled=False, description="quicker"))
            super().append(quicker)
        super().append(change)


def test_a_change_that_met_another_one_goes_on_top_of_it(world: World) -> None:
    world.store = Beaten()
    service = ConfigurationService(
        world.store, world.clock, built_in=built_in(), models=("claude-test",), has_agent=lambda _: True
    )

    found = service.put("claude-test", {"tags": ["late"]}, by=ADMIN)

    assert found.version == 2
    assert found.component
    assert (found.component.description, found.component.enabled, found.component.tags) == ("quicker", False, ("late",))


def test_a_change_of_a_version_that_met_another_one_is_refused(world: World) -> None:
    world.store = Beaten()
    service = ConfigurationService(
        world.store, world.clock, built_in=built_in(), models=("claude-test",), has_agent=lambda _: True
    )

    with pytest.raises(StaleVersion):
        service.put("claude-test", {"tags": ["late"]}, by=ADMIN, version=0)


def test_history_is_paged_from_the_newest_on(world: World) -> None:
    world.put("gpt4", MODEL)
    for n in range(1, 6):
        world.put("gpt4", {"max_tokens": n})

    def versions(**asked: Any) -> tuple[list[int], int | None]:
        page = world.service.history("gpt4", limit=2, **asked)
        assert page.total == 6
        return [change.version for change in page.changes], page.next_below

    assert versions() == ([6, 5], 5)
    assert versions(below=5) == ([4, 3], 3)
    assert versions(below=3) == ([2, 1], None)
    assert versions(offset=3) == ([3, 2], 2)
    assert versions(offset=10**30) == ([], None)
    assert world.service.history("claude-test", limit=2).total == 0
    with pytest.raises(NotFound):
        world.service.history("nothing", limit=2)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({}, "type: must be one of model, agent, tool"),
    "unknown type": ({"type": "plugin"}, "type: must be one of"),
    "type list": ({"type": []}, "type: must be one of"),
    "another name": ({**MODEL, "name": "gpt5"}, "name: is not the one in the path"),
    "name number": ({**MODEL, "name": 4}, "name: "),
    "no model": ({"type": "model"}, "model: is required"),
    "unknown model": ({**MODEL, "model": "gpt-4"}, "model: must be one of claude-test, claude-other"),
    "model object": ({**MODEL, "model": {}}, "model: "),
    "provider": ({**MODEL, "provider": "somebody"}, "provider: "),
    "fallback that is none": ({**MODEL, "fallback": "gpt9"}, "fallback: 'gpt9' is no configured model"),
    "tool as a fallback": ({**MODEL, "fallback": "echo"}, "fallback: 'echo' is no configured model"),
    "itself as a fallback": ({**MODEL, "fallback": "gpt4"}, "fallback: comes back to 'gpt4'"),
    "address of the provider's": (
        {**MODEL, "base_url": "http://x/v1"},
        "base_url: is for models of the provider openai",
    ),
    "key of the provider's": ({**MODEL, "secret": "mine"}, "secret: is for models of the provider openai"),
    "metadata service": (
        {**OWN, "base_url": "http://169.254.169.254/v1"},
        "base_url: must not be a link-local address",
    ),
    "metadata service in IPv6": ({**OWN, "base_url": "http://[::ffff:169.254.169.254]/"}, "base_url: must not be"),
    "another scheme": ({**OWN, "base_url": "file:///etc/passwd"}, "base_url: must be an http: or https: URL"),
    "address with a user": ({**OWN, "base_url": "https://me:pw@x/v1"}, "base_url: must have no user"),
    "address with a query": ({**OWN, "base_url": "https://x/v1?key=1"}, "base_url: must have no user, query"),
    "address with a port that is none": ({**OWN, "base_url": "https://x:99999/v1"}, "base_url: must be a URL"),
    "address of nowhere": ({**OWN, "base_url": "https://[1:2:3]/v1"}, "base_url: must be a URL"),
    "address with a long label": ({**OWN, "base_url": f"https://{'a' * 64}.com/v1"}, "base_url: must have a host"),
    "long address": ({**OWN, "base_url": "https://x/" + "a" * 300}, "base_url: "),
    "name of a key": ({**OWN, "secret": "a b"}, "secret: "),
    "price below nothing": ({**OWN, "prices": [{**PRICE, "input": -1}]}, "prices.0.input: "),
    "price without its day": ({**OWN, "prices": [{"input": 1, "output": 1}]}, "prices.0.since: "),
    "price of no time zone": ({**OWN, "prices": [{**PRICE, "since": "2026-01-01T00:00:00"}]}, "prices.0.since: "),
    "two prices at once": ({**OWN, "prices": [PRICE, PRICE]}, "prices: two begin at the same moment"),
    "window of nothing": ({**OWN, "context_window": 0}, "context_window"),
    "model without a name": ({**OWN, "model": ""}, "model: "),
    "cold": ({**MODEL, "temperature": -0.1}, "temperature: "),
    "hot": ({**MODEL, "temperature": 1.1}, "temperature: "),
    "temperature text": ({**MODEL, "temperature": "0.5"}, "temperature: "),
    "temperature true": ({**MODEL, "temperature": True}, "temperature: "),
    "no tokens": ({**MODEL, "max_tokens": 0}, "max_tokens"),
    "too many tokens": ({**MODEL, "max_tokens": 10**30}, "max_tokens"),
    "half a token": ({**MODEL, "max_tokens": 1.5}, "max_tokens"),
    "enabled text": ({**MODEL, "enabled": "false"}, "enabled: "),
    "enabled number": ({**MODEL, "enabled": 1}, "enabled: "),
    "long description": ({**MODEL, "description": "x" * 501}, "description: "),
    "NUL": ({**MODEL, "description": "a\0b"}, "description: "),
    "many tags": ({**MODEL, "tags": [str(n) for n in range(11)]}, "tags: "),
    "empty tag": ({**MODEL, "tags": [" "]}, "tags.0: "),
    "unknown field": ({**MODEL, "api_key": "x"}, "api_key: is not a field of this request"),
    "unknown tool": ({"type": "tool"}, "name: must be one of echo"),
    "unknown agent": ({"type": "agent"}, "name: no agent has it"),
    "model's field of a tool": ({"type": "tool", "temperature": 1}, "temperature: is not a field"),
}


@pytest.mark.req("R-A-37")
@pytest.mark.parametrize("case", WRONG)
def test_a_broken_rule_is_named(world: World, case: str) -> None:
    config, told = WRONG[case]
    message = world.refused("gpt4", config)
    assert message.startswith("Invalid configuration: ")
    assert told in message


def test_a_model_of_another_provider_is_shown_as_it_is_asked_and_what_it_costs(world: World) -> None:
    later = {"since": "2026-12-01T01:00:00+01:00", "input": 1, "output": 2, "cache_write": 0, "cache_read": 0.1}
    config = {**OWN, "base_url": "http://10.0.0.7:8000/v1/", "prices": [later, PRICE], "context_window": 8192}

    shown = world.put("llama", {**config, "images": False, "secret": "vllm", "fallback": "claude-test"})

    first = {**PRICE, "since": "2026-01-01T00:00:00.000Z", "cache_write": 2.5, "cache_read": 2.5}
    assert shown["base_url"] == "http://10.0.0.7:8000/v1"
    assert shown["prices"] == [first, {**later, "since": "2026-12-01T00:00:00.000Z"}]
    assert (shown["images"], shown["secret"], shown["context_window"]) == (False, "vllm", 8192)
    assert shown["fallback"] == "claude-test"
    assert world.put("llama", {"description": "kept"})["prices"] == shown["prices"]
    assert "fallback" not in world.put("llama", {"fallback": None, "prices": []})


@pytest.mark.req("R-A-25")
def test_openai_s_own_models_need_neither_address_nor_key_named(world: World) -> None:
    shown = world.put("gpt4", {"type": "model", "provider": "openai", "model": "gpt-4o", "temperature": 0.7})

    assert (shown["provider"], shown["model"], shown["secret"]) == ("openai", "gpt-4o", "openai")
    assert "base_url" not in shown


def test_no_row_of_fall_backs_comes_back_or_is_long(world: World) -> None:
    for name, fallback in (("a", None), ("b", "a"), ("c", "b"), ("d", "c")):
        world.put(name, {**MODEL, "fallback": fallback})
    changes = world.changes

    for name, fallback, told in (
        ("a", "d", "fallback: comes back to 'a'"),
        ("a", "a", "fallback: comes back to 'a'"),
        ("e", "d", "fallback: leads to more than 3 models"),
    ):
        with pytest.raises(InvalidConfiguration, match=told):
            world.service.put(name, {**MODEL, "fallback": fallback}, by=ADMIN)

    assert world.changes == changes


def test_a_type_stays(world: World) -> None:
    assert "type: is model and stays so" in world.refused("claude-test", {"type": "tool"})


def test_an_agent_of_the_catalogue_can_be_disabled(world: World) -> None:
    assert world.put("scout", {"type": "agent", "enabled": False})["type"] == "agent"


@pytest.mark.parametrize("name", ["", " a", "a ", "a\nb", "a\0", "a/b", "x" * 101, "\ud800"])
def test_no_component_has_such_a_name(world: World, name: str) -> None:
    assert not is_name(name)
    assert "name: must be" in world.refused(name, MODEL)
    with pytest.raises(NotFound):
        world.service.get(name)


def test_what_is_told_of_many_mistakes_is_short(world: World) -> None:
    message = world.refused("gpt4", {**MODEL, **{f"{n}{'x' * 1000}": n for n in range(1000)}})
    assert len(message) < 600


def test_components_are_not_without_number(world: World) -> None:
    for n in range(MAX_STORED):
        world.put(f"m{n}", MODEL)
    world.changes = 0
    assert "already" in world.refused("one-more", MODEL)
    world.put("m0", {"enabled": False})
