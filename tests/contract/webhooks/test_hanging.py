"""Receivers that hang, on a real server: they hold few of the workers, so what others are told is not late."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from karma.core.clock import SystemClock, monotonic
from karma.core.happenings import Happening
from karma.core.ids import UserId, new_id
from karma.integrations.guard import is_public_or_loopback
from karma.integrations.webhooks import WebhookPosts
from karma.webhooks.domain import MAX_WEBHOOKS
from karma.webhooks.fanout import Fanout
from karma.webhooks.looks import read_look
from karma.webhooks.secrets import SigningSecrets
from karma.webhooks.worker import MAX_WORKERS, DeliveryWorker
from tests.contexts.webhooks import a_webhook, an_entry
from tests.fakes.webhooks import MemoryDeliveries, MemoryWebhooks, PlainSeal
from tests.support.webhook_receiver import Receiver, receiver

TIMEOUT_S = 3.0
WORKERS = 5
HANGS, TOLD = UserId(new_id()), UserId(new_id())


class OneAtATime:
    """Calls another object's methods one at a time, as a table does with writes of one item."""

    def __init__(self, inner: Any, lock: threading.Lock) -> None:
        self._inner, self._lock = inner, lock

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            with self._lock:
                return getattr(self._inner, name)(*args, **more)

        return call


class LookQueue:
    """A queue whose messages come when they are due."""

    def __init__(self) -> None:
        self.ready: queue.Queue[str | None] = queue.Queue()
        self.later: list[threading.Timer] = []

    def send(self, body: str, *, delay_s: int = 0) -> None:
        if not delay_s:
            self.ready.put(body)
            return
        timer = threading.Timer(delay_s, self.ready.put, (body,))
        timer.daemon = True
        self.later.append(timer)
        timer.start()

    def send_many(self, bodies: list[str]) -> None:
        for body in bodies:
            self.send(body)


class Pool:
    """As many workers as there are at a time, each a thread, and how many of them were busy at most."""

    def __init__(self, worker: DeliveryWorker, looks: LookQueue) -> None:
        self.worker, self.looks = worker, looks
        self.said: list[str] = []

    @contextmanager
    def at_work(self) -> Iterator[None]:
        threads = [threading.Thread(target=self._work, daemon=True) for _ in range(WORKERS)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            for timer in self.looks.later:
                timer.cancel()
            for _ in threads:
                self.looks.ready.put(None)
            for thread in threads:
                thread.join(timeout=3 * TIMEOUT_S)

    def _work(self) -> None:
        while (body := self.looks.ready.get()) is not None:
            self.said.append(self.worker.look(*read_look(body), seconds=0.5))


def test_ten_receivers_of_one_account_that_hang_hold_three_workers_and_keep_nobody_else_waiting() -> None:
    store, lock, looks, clock = MemoryWebhooks(), threading.Lock(), LookQueue(), SystemClock()
    webhooks: Any = OneAtATime(store, lock)
    deliveries: Any = OneAtATime(MemoryDeliveries(store), lock)
    with receiver() as server:
        seal = PlainSeal()
        for user, path, number in ((HANGS, "hang", MAX_WEBHOOKS), (TOLD, "ok", 1)):
            for _ in range(number):
                webhook = a_webhook(user, url=f"{server.url}/{path}")
                context = {"purpose": "webhook-secret", "user_id": user, "webhook_id": webhook.id}
                sealed = replace(webhook, sealed=seal.seal(b"s", context=context))
                store.create(sealed, seen=store.listed(user), request=None, entry=an_entry(user))
        worker = DeliveryWorker(
            is_disabled=store.disabled_accounts.__contains__,
            webhooks=webhooks,
            deliveries=deliveries,
            secrets=SigningSecrets(seal),
            posts=WebhookPosts(is_allowed=is_public_or_loopback, time_s=TIMEOUT_S),
            queue=looks,
            clock=clock,
        )
        fanout = Fanout(webhooks, deliveries, looks, clock)
        fanout.tell([_event(HANGS)])
        began = monotonic()
        with Pool(worker, looks).at_work():
            _came(server, "/hang", MAX_WORKERS)
            fanout.tell([_event(TOLD)])
            _came(server, "/ok", 1)
            assert monotonic() - began < TIMEOUT_S, "it has waited for one that hangs"
            assert sum(got.path == "/hang" for got in server.got) == MAX_WORKERS


def _event(user: UserId) -> Happening:
    return Happening(id=new_id(), user_id=user, type="run.finished", at=SystemClock().now(), data={})


def _came(server: Receiver, path: str, number: int) -> None:
    """Wait until so many requests came to a path."""
    while sum(got.path == path for got in server.got) < number:
        server.wait_for(len(server.got) + 1)
