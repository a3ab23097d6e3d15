"""Changes are told as server-sent events too, to a stock EventSource and to whoever comes back with the last id."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from karma.core.dynamo.access import update
from karma.core.ids import UserId
from karma.identity.items import UserItem, user_key
from local.api_client import ApiClient
from local.deployment import Deployment
from local.waiting import until
from tests.support.plans import subscribe

from .conftest import DEADLINE_S, User

pytestmark = [pytest.mark.needs("websocket"), pytest.mark.req("R-K-21")]
PROGRAM = Path(__file__).with_name("karma_event_source.mjs")
REVOKED_S = 2.0
"""Seconds behind which nobody hears what they may not hear any more."""
Json = dict[str, Any]


class Heard:
    """The messages that somebody is told, each with its moment, until they end."""

    def __init__(self) -> None:
        self.messages: list[tuple[float, Json]] = []
        self.last_id = ""
        self.is_over = False

    def hear(self, said: Json) -> None:
        self.messages.append((time.monotonic(), said))

    def events(self, since: float = 0.0) -> list[Json]:
        return [said for at, said in self.messages if said["type"] == "event" and at >= since]

    def is_begun(self) -> bool:
        return any(said["type"] == "ack" for _, said in self.messages)


@contextmanager
def streaming(deployment: Deployment, channel: str, *, after: str = "", **access: str) -> Iterator[Heard]:
    """Open a stream, and read it in a thread; it is cut at the end."""
    heard = Heard()
    headers = {**access, **({"Last-Event-ID": after} if after else {})}
    url = f"{deployment.addresses.stream_url}/api/v1/realtime/stream"
    with (
        httpx.Client(timeout=DEADLINE_S, trust_env=False) as client,
        client.stream("GET", url, params={"channels": channel}, headers=headers) as response,
    ):
        assert response.status_code == 200, response.read()

        def read() -> None:
            with suppress(httpx.HTTPError, httpx.StreamError):
                for line in response.iter_lines():
                    name, _, value = line.partition(": ")
                    if name == "data":
                        heard.hear(json.loads(value))
                    elif name == "id":
                        heard.last_id = value
            heard.is_over = True

        thread = threading.Thread(target=read)
        thread.start()
        try:
            until(lambda: heard.is_begun() or bool(after) or None, deadline_s=DEADLINE_S, what="the first message")
            yield heard
        finally:
            _cut(response)
            thread.join(timeout=DEADLINE_S)


def _cut(response: httpx.Response) -> None:
    import socket

    given = response.extensions["network_stream"].get_extra_info("socket")
    with suppress(OSError):
        given.shutdown(socket.SHUT_RDWR)


@contextmanager
def listening(api: ApiClient, channel: str) -> Iterator[Heard]:
    """Open a WebSocket, and read it in a thread."""
    heard, issued = Heard(), api.call("POST", "/realtime/ticket")
    with connect(f"{issued['url']}?ticket={issued['ticket']}", open_timeout=DEADLINE_S, proxy=None) as socket:
        socket.send(json.dumps({"action": "subscribe", "channel": channel}))

        def read() -> None:
            with suppress(ConnectionClosed, OSError):
                for text in socket:
                    heard.hear(json.loads(text))
            heard.is_over = True

        thread = threading.Thread(target=read)
        thread.start()
        try:
            until(lambda: heard.is_begun() or None, deadline_s=DEADLINE_S, what="the acknowledgement")
            yield heard
        finally:
            socket.close()
            thread.join(timeout=DEADLINE_S)


def wait_for(heard: Heard, true: Callable[[Heard], bool], what: str) -> None:
    until(lambda: true(heard), deadline_s=DEADLINE_S, what=what)


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def new_task(api: ApiClient) -> Json:
    task: Json = api.call("POST", "/tasks", {"title": "Look", "description": "at it"})["task"]
    return task


def change(api: ApiClient, task: Json, title: str) -> Json:
    changed: Json = api.call("PATCH", f"/tasks/{task['id']}", {"title": title, "version": task["version"]})["task"]
    return changed


def titles(heard: Heard) -> list[str]:
    return [each["data"]["title"] for each in heard.events()]


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_a_stock_event_source_is_told(user: User, deployment: Deployment) -> None:
    task = new_task(user.api)
    command: list[str | Path] = [str(shutil.which("node")), PROGRAM, deployment.addresses.stream_url, user.token]
    with subprocess.Popen(
        [*command, f"task:{task['id']}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        try:
            first = json.loads(process.stdout.readline())
            assert (first["type"], first["objects"]) == ("ack", {f"task:{task['id']}": task["version"]})
            changed = change(user.api, task, "Found")
            seen = first
            while seen.get("version", 0) < changed["version"]:
                seen = json.loads(process.stdout.readline())
            assert (seen["object"], seen["data"]["title"]) == (f"task:{task['id']}", "Found")
            assert seen["lastEventId"].partition(":")[0] == first["lastEventId"].partition(":")[0]
        finally:
            process.stdin.close()
            process.wait(timeout=10)


def test_who_comes_back_gets_exactly_what_is_missing(user: User, deployment: Deployment) -> None:
    task = new_task(user.api)
    channel, access = f"task:{task['id']}", bearer(user.token)
    with streaming(deployment, channel, **access) as first:
        task = change(user.api, task, "One")
        until(lambda: "One" in titles(first) or None, deadline_s=DEADLINE_S, what="a change")
    for title in ("Two", "Three"):
        task = change(user.api, task, title)
    with listening(user.api, channel) as socket, streaming(deployment, channel, after=first.last_id, **access) as again:
        change(user.api, task, "Four")
        for heard in (socket, again):
            wait_for(heard, lambda each: "Four" in titles(each), "a change")
    assert list(dict.fromkeys(titles(again))) == ["Two", "Three", "Four"], "neither less nor what it had"
    assert not again.is_begun(), "nothing had to be told anew"
    with streaming(deployment, channel, after=f"{first.last_id.partition(':')[0][:-4]}0000:1", **access) as other:
        assert other.is_begun()


class Member:
    """Somebody in a project, who listens to it over a socket and a stream, and is about to lose a right to it."""

    def __init__(self, user: User, project: str, lose: Callable[[], object], *, key: str = "") -> None:
        self.user, self.project, self.lose = user, project, lose
        self.access = {"X-API-Key": key} if key else bearer(user.token)
        self.key = key
        self.heard: list[Heard] = []

    def listen(self, deployment: Deployment, stack: ExitStack) -> None:
        channel = f"project:{self.project}"
        api = stack.enter_context(ApiClient(deployment.addresses.api_url, api_key=self.key)) if self.key else None
        self.heard = [
            stack.enter_context(listening(api or self.user.api, channel)),
            stack.enter_context(streaming(deployment, channel, **self.access)),
        ]


def _members(
    make_user: Callable[[], User], owner: User, project: str, api_url: str, stack: ExitStack
) -> dict[str, Member]:
    admin = make_user()
    update(UserItem(*user_key(UserId(admin.id))), [UserItem.role.set("admin")])

    def joined() -> User:
        user = make_user()
        owner.api.call("POST", f"/projects/{project}/invitations", {"user_id": user.id})
        user.api.call("POST", f"/projects/{project}/invitations/accept")
        return user

    def member(lose: Callable[[User], object]) -> Member:
        user = joined()
        return Member(user, project, lambda: lose(user))

    def calls(method: str, path: str) -> Member:
        return member(lambda user: user.api.call(method, path))

    def changed(**fields: object) -> Member:
        return member(lambda user: admin.api.call("PATCH", f"/users/{user.id}", fields))

    def password(user: User) -> None:
        given = {"current_password": user.password, "password": f"{user.password}-other"}
        user.api.call("POST", "/auth/change-password", given)

    once = joined()
    session = once.api.call("POST", "/auth/login", {"email": once.email, "password": once.password})
    other = stack.enter_context(ApiClient(api_url, token=session["access_token"]))
    there = replace(once, token=session["access_token"], api=other)
    left = {"refresh_token": session["refresh_token"]}
    by_key = joined()
    made = by_key.api.call("POST", "/api-keys", {"name": "k", "scopes": ["*"], "current_password": by_key.password})
    key = made["api_key"]["id"]
    return {
        "logged out": Member(there, project, lambda: other.call("POST", "/auth/logout", left)),
        "logged out everywhere": calls("POST", "/auth/logout-all"),
        "password changed": member(password),
        "another role": changed(role="viewer"),
        "disabled": changed(disabled=True),
        "deleted": member(lambda user: user.api.call("DELETE", "/users/me", {"current_password": user.password})),
        "removed": member(lambda user: owner.api.call("DELETE", f"/projects/{project}/members/{user.id}")),
        "left": member(lambda user: user.api.call("DELETE", f"/projects/{project}/members/{user.id}")),
        "key revoked": Member(by_key, project, lambda: by_key.api.call("DELETE", f"/api-keys/{key}"), key=made["key"]),
    }


@pytest.mark.fault("F-21c")
def test_nobody_hears_anything_two_seconds_after_a_right_is_lost(
    make_user: Callable[[], User], user: User, storage: Deployment
) -> None:
    subscribe(user.id)
    project = user.api.call("POST", "/projects", {"name": "Shared"})["project"]
    with ExitStack() as stack:
        members = _members(make_user, user, project["id"], storage.addresses.api_url, stack)
        owner = stack.enter_context(listening(user.api, f"project:{project['id']}"))
        for each in members.values():
            each.listen(storage, stack)
        project = _renamed(user, project["id"], "Heard by all")
        for how, each in members.items():
            for heard in each.heard:
                wait_for(heard, lambda each: bool(_names(each)), f"a message to who is about to lose it: {how}")
        for each in members.values():
            each.lose()
        time.sleep(REVOKED_S)
        _renamed(user, project["id"], "Heard by the owner")
        until(lambda: "Heard by the owner" in _names(owner) or None, deadline_s=DEADLINE_S, what="what the owner hears")
        time.sleep(1.5)  # a stream looks once a second
        told = {how: [_names(heard) for heard in each.heard] for how, each in members.items()}
    assert {how: ["Heard by the owner" in names for names in of_one] for how, of_one in told.items()} == {
        how: [False, False] for how in members
    }


def _renamed(user: User, project: str, name: str) -> Json:
    found = user.api.call("GET", f"/projects/{project}")["project"]
    changed: Json = user.api.call("PATCH", f"/projects/{project}", {"name": name, "version": found["version"]})
    return dict(changed["project"])


def _names(heard: Heard) -> list[str]:
    return [each["data"]["name"] for each in heard.events() if each["object"].startswith("project:")]
