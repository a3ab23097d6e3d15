"""Every body of every route, wrong in every way that its schema knows, and full of unusual text."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any, cast
from unicodedata import normalize

import pytest

from karma.core.ids import new_id
from karma.core.ratelimit import Limit
from karma.identity.limits import RULES, Rule
from karma.identity.permissions import ROLES_OF
from tests.integration.permissions.world import Answered, Target, World, bearer, targets
from tests.support import contexts, contract, writes
from tests.support.bad_bodies import TEXTS, Shapes, Text
from tests.support.model_server import ModelServer
from tests.support.seeds import dice

_AGENTS = ("create_agent", "replace_agent", "agio_create_agent", "agio_replace_agent")

NARROWER = {
    "register.email",
    "forgot_password.email",
    "change_me.email",
    "create_api_key.scopes.0",
    "create_device.ip",
    "create_device.csr",
    "import_devices.csv",
    "create_provisioning_claim.csv",
    "send_bulk_command.tag",
    "send_bulk_command.device_ids.0",
    "sign_parts.checksums.1",
    "add_member.email",
    "invite.email",
    "offer_device.email",
    "link_customer.user_id",
    "begin_link.redirect",
    "create_webhook.events.0",
    "change_webhook.events.0",
    *(
        f"{operation}_mcp_server.{field}"
        for operation in ("create", "change")
        for field in (
            "headers.1",
            "agents.0.agent",
            "agents.0.tools.0",
            "agents.0.approvals.0.tool",
        )
    ),
    *(
        f"{operation}.{field}"
        for operation in ("create_schedule", "change_schedule")
        for field in ("cron", "time_zone")
    ),
    *(f"create_firmware_release.{field}" for field in ("manifest", "signature", "public_key")),
    *(f"create_firmware_rollout.{field}" for field in ("release_id", "device_ids.0", "tag")),
    *("retry_firmware_rollout.device_ids.0", "roll_back_firmware_rollout.release_id", "change_settings.desired"),
    *(
        f"{operation}.{field}"
        for operation in ("create_alarm_rule", "change_alarm_rule", "test_alarm_rule")
        for field in ("device_id", "time_zone")
    ),
    *(
        f"{operation}.{field}"
        for operation in _AGENTS
        for field in (
            "model",
            "config.compaction.model",
            "tools.0",
            "subagents.0.agent_id",
            "approvals.0.tool",
            "approvals.0.when",
        )
    ),
}
"""Fields that take less than their schema can say; 422 names them whatever the text."""

INSTEAD = {"send_bulk_command.tag": "device_ids", "create_firmware_rollout.tag": "device_ids"}
"""Fields of NARROWER that stand instead of another of these bodies: 422 names that one."""

NOT_SHOWN = {
    # Another text of the same object is sent with one of its own in this one's place.
    "create_alarm_rule.run.agent_id": 201,
    "change_alarm_rule.run.agent_id": 200,
    "query_telemetry.devices.0": 404,
    "query_telemetry.metrics.0": 200,
    "query_telemetry.cursor": 400,
    "create_telemetry_export.devices.0": 404,
    "create_telemetry_export.metrics.0": 202,
    "register.password": 201,
    "log_in.email": 401,
    "log_in.password": 401,
    "refresh.refresh_token": 401,
    "log_out.refresh_token": 204,
    "exchange_login_code.code": 400,
    "verify_email.token": 410,
    "reset_password.token": 410,
    "reset_password.password": 204,
    "change_password.current_password": 403,
    "change_password.password": 200,
    "delete_me.current_password": 403,
    "begin_link.current_password": 403,
    "add_member.user_id": 404,
    "invite.user_id": 404,
    "offer_device.user_id": 404,
    "show_device.device_id": 404,
    "offer_device.current_password": 403,
    "link_customer.from_user_id": 200,
    "create_api_key.current_password": 403,
    "run_agent_v1.forwardedProps.agent_id": 404,
    "call_model.model": 409,
    "put_config.config": 400,
    "agio_put_config.config": 400,
}
"""Fields whose text is compared or chosen, not shown: what one that is nobody's is answered."""

NORMALISED = {
    f"{operation}.{field}"
    for operation in ("create_file", "change_file", "create_directory")
    for field in ("name", "path")
}
"""Names that are the same however they are composed come back as NFC (docs/adr/0009-files.md), as all tags do."""

SAME = {"POST /api/agent", "PUT /api/agents/{agent_id}"}
"""Served by the same lines as those under `/api/v1`; `POST /api/agents` shows Agio's way of refusing."""

BEGINS_RUNS = {
    "start_run",
    "restore_checkpoint",
    "agio_restore_checkpoint",
    "fork_checkpoint",
    "agio_fork_checkpoint",
    "create_schedule",
    "change_schedule",
}
"""Operations of which each begins a run that keeps its thread, or schedules some, with texts that are a conversation's,
as those of the stream are: here only what they refuse is tried."""

BESIDE_OTHERS = {
    *(f"{operation}.subagents.0.{field}" for operation in _AGENTS for field in ("name", "description")),
    *(f"{operation}_mcp_server.agents.0.approvals.0.when" for operation in ("create", "change")),
}
"""Fields beside the id of an agent or the name of a tool, of which these bodies name none that is there."""

OF_FILES = {"change_file.name", "change_file.path", "move_directory.name", "move_directory.path"}
"""The world's file is a directory, which keeps its name: 409; also while it is moved, by its first request."""


ONLY = os.environ.get("ROUTES", "")
"""Routes whose path holds this are called, with all bodies: `ROUTES=/avatars`."""
WHOLE = bool(ONLY) or os.environ.get("BODIES") == "all"
"""Every operation is sent all bodies; else half of them half of theirs, others for another number of the run."""

_OLD_PART = r"\.(data|id|url|mimeType)$"
"""Fields of a part in which clients before protocol 1.0 send a medium."""


def _is_of_medium(field: str) -> bool:
    return ".source." in field or re.search(r"content\.0" + _OLD_PART, field) is not None


class Sent:
    """Sends the bodies of one operation, and collects what was answered wrongly."""

    def __init__(self, world: World, target: Target, operation: Mapping[str, Any], document: Mapping[str, Any]) -> None:
        self.wrong: list[str] = []
        self.requests = 0
        self.read_back = 0
        self._world = world
        self._target = target
        self._name = operation["operationId"]
        self._schema = operation["requestBody"]["content"]["application/json"]["schema"]
        self._document = document
        self._shapes = Shapes(document)
        self._owner = "user" if not target.permission or "user" in ROLES_OF[target.permission] else "admin"
        self._path = ""
        self._random = dice("bodies of", target.name)

    def is_chosen(self) -> bool:
        """Tell by chance, unless all are asked for, whether the operation or its next body is tried."""
        return WHOLE or self._random.random() < 0.5

    def everything(self) -> None:
        """Send all that can be wrong, then all that is unusual."""
        self._anew()
        seed = self._seed()
        fields = list(self._shapes.texts(self._schema, seed))
        texts = {name: f"{text}-{new_id()[-12:]}" for name, text in TEXTS.items()}
        for case in self._shapes.cases(self._schema, seed):
            if self.is_chosen():
                self._refused(case.what, case.field, case.body)
        for each in fields:
            self._unreadable(each)
            for name, text in texts.items():
                if self.is_chosen() and not self._is_taken(each, text):
                    self._refused(name, each.field, each.build(text))
        for field, body in self._shapes.nulls(self._schema, seed):
            self._nulled(field, body)
        self._world.start_over()
        if self._name in BEGINS_RUNS:
            return
        for name, text in texts.items():
            if self.is_chosen():
                self._taken(name, text)
        everything = "".join(TEXTS.values())
        self._inside_lists(everything)
        self._not_shown(everything)

    def _refused(self, what: str, field: str, body: object) -> None:
        answer = self._ask(what, field, body)
        inside = re.match(r"messages\.0\.(content|toolCalls)\b", field)
        if what == "too long" and inside:
            field = inside[0]  # it is measured as a whole
        source = re.match(r"(.*\.source)\.", field) or re.match(r"(messages\.0\.content\.0)" + _OLD_PART, field)
        if source:  # a medium is judged as a whole, one of an older client as what it is read as
            field = source[1] if source[1].endswith(".source") else f"{source[1]}.source"
        instead = INSTEAD.get(f"{self._name}.{field}")
        if answer.status == 422 and instead and _names(answer, instead):
            return
        if answer.status != 422 or not (_names(answer, field) or (source and _names(answer, field.rpartition(".")[0]))):
            self._complain(what, field, answer)

    def _nulled(self, field: str, body: object) -> None:
        """Send a null that the description allows: whatever is answered, it is not that this must not be null."""
        answer = self._send(json.dumps(body))
        if answer.status == 422 and _names(answer, field) and "null" in answer.text:
            self._complain("null", field, answer)

    def _unreadable(self, text: Text) -> None:
        if self._target.function == "agent_stream":
            return  # a client cannot change its history: half a character is replaced there
        answer = self._ask("lone surrogate", text.field, text.build("a\ud800b"))
        if answer.status != 400 or "not valid JSON" not in answer.text:
            self._complain("lone surrogate", text.field, answer)

    def _is_taken(self, each: Text, text: str) -> bool:
        return each.admits(text) and self._known(each) not in NARROWER and not _is_of_medium(each.field)

    def _taken(self, name: str, text: str) -> None:
        """Send a text in all fields that take it, but those of objects in lists."""
        if not self._target.parameters:
            self._world.start_over()
        seed = self._seed()
        together = [
            each
            for each in self._shapes.texts(self._schema, seed)
            if self._is_taken(each, text)
            and ".0." not in each.field
            and self._known(each) not in {*NOT_SHOWN, *OF_FILES}
        ]
        if together:
            body = seed
            for each in together:
                body = _merged(seed, body, each.build(text))
            answer = self._fresh(body)
            if answer.status >= 300:
                self._complain(name, " ".join(each.field for each in together), answer)
            elif answer.status != 204 and self._target.function == "api":
                self._look(name, text, answer, together)

    def _inside_lists(self, text: str) -> None:
        for each in self._shapes.texts(self._schema, self._seed()):
            if ".0." in each.field and self._is_taken(each, text) and self._known(each) not in BESIDE_OTHERS:
                body = each.build(text)
                if not _asks(body):
                    continue
                answer = self._fresh(body)
                if answer.status >= 300:
                    self._complain("everything unusual", each.field, answer)

    def _not_shown(self, text: str) -> None:
        for field in [each.field for each in self._shapes.texts(self._schema, self._seed())]:
            expected = NOT_SHOWN.get(f"{self._name}.{field}")
            if expected is not None:
                self._world.start_over()
                each = next(x for x in self._shapes.texts(self._schema, self._seed()) if x.field == field)
                fitting = next(some for some in (text, *TEXTS.values()) if each.admits(some))
                answer = self._fresh(each.build(fitting))
                if answer.status != expected:
                    self._complain("everything unusual", field, answer)

    def _known(self, each: Text) -> str:
        return f"{self._name}.{each.field}"

    def _look(self, name: str, text: str, answer: Answered, taken: list[Text]) -> None:
        """Compare what is shown, at once and when it is read again."""
        shown = json.loads(answer.text)
        for each in taken:
            self._compare_text(name, each, text, shown)
        again = self._again(shown.get("data", shown))
        if again is not None:
            self.read_back += 1
            for each in taken:
                self._compare_text(f"{name}, read again", each, text, again)

    def _compare_text(self, name: str, each: Text, text: str, shown: object) -> None:
        member = each.field.removesuffix(".0").rpartition(".")[2]
        wanted = normalize("NFC", text) if member in {"tag", "tags"} or self._known(each) in NORMALISED else text
        for found in _under(shown, member):
            if found not in (wanted, f"/{wanted}", [wanted], {wanted: wanted}):
                self.wrong.append(f"{self._target.name}: {each.field}: {name}: shown as {found!r}")

    def _again(self, data: Mapping[str, Any]) -> Any:
        made = next((each for each in [*data.values(), data] if isinstance(each, dict) and "id" in each), None)
        if made is None:
            return None
        template, path = self._target.path, self._path
        if self._target.method == "POST":
            path = f"{path}/{made['id']}"
            template = next((each for each in self._document["paths"] if _is_below(each, template)), "")
        if "get" not in self._document["paths"].get(template, {}):
            return None
        answer = self._world.api("GET", path, headers=self._headers())
        return json.loads(answer.text) if answer.status == 200 else None

    def _seed(self) -> Any:
        return contexts.bodies()[f"{self._target.method} {self._target.path}"](self._world, self._owner)

    def _fresh(self, body: object) -> Answered:
        """Send what may be taken."""
        self._path = self._world.path_of(self._target, owner=self._owner)
        return self._send(json.dumps(body, ensure_ascii=False))

    def _ask(self, what: str, field: str, body: object) -> Answered:
        """Send what must be refused, and make all anew if something was written for it."""
        with writes.watched() as sent:
            answer = self._send(json.dumps(body))
        if sent:
            self._complain(what, field, answer, f"written for a body that was refused: {'; '.join(sent)}: ")
            self._anew()
        return answer

    def _anew(self) -> None:
        self._world.start_over()
        self._path = self._world.path_of(self._target, owner=self._owner)
        self._headers()

    def _send(self, body: str) -> Answered:
        self.requests += 1
        return self._world.send(self._target, self._path, body, self._headers())

    def _headers(self) -> dict[str, str]:
        known = {} if self._target.permission is None else bearer(self._world.person(self._owner).token)
        return {"content-type": "application/json", **known}

    def _complain(self, what: str, field: str, answer: Answered, done: str = "") -> None:
        place = f"{self._target.name}: {field or 'the body'}"
        self.wrong.append(f"{place}: {what}: {done}{answer.status} {answer.text[:300]}")


def _asks(body: Any) -> bool:
    """Tell whether a conversation, if the body is one, has a message of the user: a new thread needs one."""
    messages = body.get("messages") if isinstance(body, dict) else None
    return messages is None or any(message.get("role") == "user" for message in messages)


OWN_CODES = {"INVALID_CRON", "SUBAGENT_NOT_FOUND", "UNKNOWN_TIME_ZONE"}
"""Codes, besides the usual one, whose details name fields."""


def _names(answer: Answered, field: str) -> bool:
    """Tell whether a refusal names a field, a part of it, or the list that it is in."""
    error = json.loads(answer.text)["error"]
    if error.get("code", "VALIDATION_ERROR") not in {"VALIDATION_ERROR", *OWN_CODES}:
        return False
    named = [str(each["field"]) for each in error["details"]]
    wanted = {field or "body", field.removesuffix(".0"), field.removesuffix(".1")}  # .1: a member that its sender named
    return any(each in wanted or each.startswith(f"{field}.") for each in named)


def _merged(seed: Any, one: Any, other: Any) -> Any:
    if not isinstance(other, dict) or not isinstance(one, dict):
        return other
    known = seed if isinstance(seed, dict) else {}
    changed = {key: value for key, value in other.items() if key not in known or known[key] != value}
    return {**one, **{key: _merged(known.get(key), one.get(key), value) for key, value in changed.items()}}


def _under(value: object, name: str) -> Iterator[object]:
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == name:
                yield inner
            elif not isinstance(inner, str):
                yield from _under(inner, name)


def _is_below(path: str, template: str) -> bool:
    return re.fullmatch(re.escape(template) + r"/\{\w+\}", path) is not None


def every_body(world: World, function: str, document: Mapping[str, Any]) -> tuple[list[str], int, int]:
    """Send all bodies of a function's operations; return complaints, and how many requests and readings there were."""
    wrong: list[str] = []
    requests = read_back = 0
    for target in targets():
        operation = document["paths"].get(target.path, {}).get(target.method.lower(), {})
        if target.function != function or "requestBody" not in operation or f"{target.method} {target.path}" in SAME:
            continue
        if ONLY not in target.path:
            continue
        if f"{target.method} {target.path}" not in contexts.bodies():
            wrong.append(f"{target.name}: BODIES in tests/contexts lacks it")
            continue
        sent = Sent(world, target, operation, document)
        if not sent.is_chosen():
            continue
        sent.everything()
        wrong += sent.wrong
        requests += sent.requests
        read_back += sent.read_back
    return wrong, requests, read_back


@pytest.fixture(autouse=True)
def without_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let one person send more wrong bodies in a minute than people may."""
    plenty = Limit("default", 10**6, timedelta(hours=1))
    for name, rule in RULES.items():
        limitless = Rule(counted=rule.counted, stored=False, limits={"": plenty})
        monkeypatch.setitem(cast("dict[str, Rule]", RULES), name, limitless)


@pytest.mark.fault("F-24f")
@pytest.mark.req("R-M-41", "R-A-42")
def test_the_api_refuses_what_is_wrong_by_name_and_keeps_text_as_it_is(world: World) -> None:
    world.become("api")
    wrong, requests, read_back = every_body(world, "api", contract.committed())
    assert not wrong, "\n".join(wrong)
    assert ONLY or requests > (1000 if WHOLE else 100)
    assert ONLY or read_back > (50 if WHOLE else 5)


@pytest.mark.req("R-M-41", "R-K-37")
def test_the_stream_url_refuses_what_is_wrong_by_name(
    world: World, model: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    model.fail(401, "authentication_error", times=1000)
    world.become("agent_stream", MODEL_BASE_URL=model.url)
    monkeypatch.setattr("agent_stream.app.relieve", lambda: None)  # a collection of garbage a request
    wrong, requests, _ = every_body(world, "agent_stream", contract.committed("stream"))
    assert not wrong, "\n".join(wrong)
    assert requests > 200 or ONLY or not WHOLE
