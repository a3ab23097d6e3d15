"""Each change reads the caller's session or API key anew: what it may do ends with it, in every process.

Each way to end one is written beside the process that is asked, which believes the caller for another minute. Then
every operation of both OpenAPI documents that takes a caller and changes something is asked for: after a log-out all of
them, after the other ends some, others for another number of the run, or all with ENDED=all.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from random import Random
from typing import NamedTuple

import pytest

from karma.audit.domain import AuditEntry, AuditEvent
from karma.core.ids import ApiKeyId, UserId, new_id
from karma.identity.api_keys.repository import ApiKeyRepository
from karma.identity.domain import ApiKey, RefreshToken
from karma.identity.sessions import tokens
from karma.identity.sessions.authentication import API_KEY_PREFIX, READING, hash_api_key
from karma.identity.sessions.logins import LoginPlace
from karma.identity.sessions.repository import SessionRepository
from karma.identity.sessions.signing_keys import KeyRing
from tests.integration.permissions.world import EVERY_SCOPE, Target, World, bearer, targets
from tests.support import contexts, contract, endings
from tests.support.model_server import ModelServer

SAMPLE = 6
GO_ON = {"api POST /api/v1/auth/logout": "a log-out that is repeated is answered as it was, and ends what is over"}
"""Requests that an ended session may still make."""
READS = {
    "api": Target("api", "GET", "/api/v1/users/me", ""),
    "agent_stream": Target("agent_stream", "GET", "/api/v1/runs/{run_id}/events", "run:read"),
}
"""A route of each function by which it comes to know a caller for a minute."""
OWNER = "admin"
"""Has every permission, and everything that is changed."""


def revoke(user_id: UserId, key_id: str, at: datetime) -> None:
    key = ApiKeyRepository().get_api_key(user_id, ApiKeyId(key_id))
    assert key is not None
    entry = AuditEntry(user_id=user_id, event=AuditEvent.API_KEY_REVOKED, at=at, actor_id=None)
    assert ApiKeyRepository().revoke_api_key(key, now=at, entry=entry)


class Way(NamedTuple):
    """A way in which sessions and keys end."""

    end: endings.End | None
    """Ends a session; None: a key that expires by itself."""
    shown: tuple[str, ...]
    """Kinds of credentials that end by it: `session`, `key`."""
    whole: bool = False
    """It is tried on every operation each time."""
    answer: tuple[int, str] = (401, "UNAUTHORIZED")


WAYS = {
    "logged out": Way(endings.log_out, ("session",), whole=True),
    "revoked": Way(revoke, ("key",)),
    "expired": Way(None, ("key",)),
    "logged out everywhere": Way(endings.log_out_everywhere, ("session",)),
    "logged out with keys": Way(endings.log_out_with_keys, ("session", "key")),
    "reset": Way(endings.reset, ("session", "key")),
    "disabled": Way(endings.disable, ("session", "key"), answer=(403, "ACCOUNT_DISABLED")),
}
"""One after the other: an account that is disabled begins nothing any more."""


def changing(function: str) -> list[Target]:
    """List what takes a caller and changes something."""
    return [
        target
        for target in targets()
        if target.function == function and target.permission is not None and target.method not in READING
    ]


def test_no_operation_of_the_documents_is_left_out() -> None:
    documented = {
        f"{function} {method.upper()} {path}"
        for function, document in {"api": "api", "agent_stream": "stream"}.items()
        for path, operations in contract.served(document)["paths"].items()
        for method, operation in operations.items()
        if operation.get("security") and method.upper() not in READING
    }
    assert {target.name for function in READS for target in changing(function)} == documented
    assert GO_ON.keys() < documented


class Ends:
    """One person's sessions and keys: each begins after the one before has ended."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.user_id = world.person(OWNER).id
        self.at = datetime.now(UTC) - timedelta(minutes=2)

    def begin(self, shown: str, *, expired: bool = False) -> tuple[str, Mapping[str, str]]:
        """Return the id of a session or key, and the headers that show it."""
        self.at += timedelta(seconds=1)
        return self._session() if shown == "session" else self._key(self.at if expired else None)

    def end(self, end: endings.End, shown_id: str) -> None:
        self.at += timedelta(seconds=1)
        end(self.user_id, shown_id, self.at)

    def _session(self) -> tuple[str, Mapping[str, str]]:
        session_id, until = new_id(), self.at + timedelta(days=30)
        token = RefreshToken(
            hash=new_id(), user_id=self.user_id, session_id=session_id, session_started_at=self.at, expires_at=until
        )
        place = LoginPlace.of("ada@example.com", None)
        entry = AuditEntry(user_id=self.user_id, event=AuditEvent.LOGGED_IN, at=self.at, actor_id=self.user_id)
        assert SessionRepository().start_session(token, place=place, now=self.at, entry=entry)
        ring = KeyRing.parse(self.world.stack.secret_values["auth"])
        # Issued by a refresh just now, which does not make the session any newer.
        now = datetime.now(UTC)
        issued = tokens.issue(self.user_id, ring=ring, now=now, session_id=session_id, authenticated_at=self.at)
        return session_id, bearer(issued)

    def _key(self, expires_at: datetime | None) -> tuple[str, Mapping[str, str]]:
        secret = API_KEY_PREFIX + new_id()
        key = ApiKey(
            id=ApiKeyId(new_id()),
            user_id=self.user_id,
            name="program",
            prefix=secret[:12],
            hash=hash_api_key(secret),
            scopes=EVERY_SCOPE,
            created_at=self.at,
            expires_at=expires_at,
            revoked_at=None,
        )
        entry = AuditEntry(user_id=self.user_id, event=AuditEvent.API_KEY_CREATED, at=self.at, actor_id=None)
        ApiKeyRepository().create_api_key(key, request=None, entry=entry)
        return key.id, {"x-api-key": secret}


Request = Callable[[Mapping[str, str]], tuple[int, str]]


def prepared(world: World, function: str) -> dict[str, Request]:
    """Make whatever the requests name, while everybody may."""

    def of(target: Target) -> Request:
        path, make = world.path_of(target, owner=OWNER), contexts.bodies().get(f"{target.method} {target.path}")
        body = make(world, OWNER) if make else None

        def send(headers: Mapping[str, str]) -> tuple[int, str]:
            answer = world.send(target, path, body, headers)
            told = json.loads(answer.text)["error"] if answer.status >= 400 else {}
            return answer.status, told.get("code", "")  # under /api a failure has none

        return send

    return {target.name: of(target) for target in changing(function) if target.name not in GO_ON}


def tried(way: Way, names: list[str], random: Random) -> Iterator[str]:
    whole = way.whole or os.environ.get("ENDED") == "all" or len(names) < SAMPLE
    return iter(names if whole else random.sample(names, SAMPLE))


@pytest.mark.fault("F-21j")
@pytest.mark.parametrize("function", list(READS))
def test_a_caller_whose_session_or_key_has_ended_changes_nothing(
    world: World, model: ModelServer, function: str, seed: int
) -> None:
    model.fail(401, "authentication_error", times=100)
    world.become(function, **({"MODEL_BASE_URL": model.url} if function == "agent_stream" else {}))
    requests, ends, random, wrong = prepared(world, function), Ends(world), Random(seed), []

    def believed(headers: Mapping[str, str]) -> bool:
        return world.ask(READS[function], query="", headers=headers).status in {200, 404}

    for name, way in WAYS.items():
        begun = [ends.begin(kind, expired=way.end is None) for kind in way.shown]
        if way.end is not None:
            assert all(believed(shown) for _, shown in begun), name
            ends.end(way.end, begun[0][0])
            assert all(believed(shown) for _, shown in begun), f"{name}: for a minute, by those who know no better"
        before = world.stored()
        for (_, shown), kind in zip(begun, way.shown, strict=True):
            for request in tried(way, list(requests), random):
                answer = requests[request](shown)
                if answer not in {way.answer, (way.answer[0], "")}:
                    wrong.append(f"{name}, {kind}: {request}: {answer}")
        if world.stored() != before:
            wrong.append(f"{name}: something was changed")
    assert wrong == []
