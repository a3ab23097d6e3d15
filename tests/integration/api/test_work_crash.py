"""A request on tasks, avatars or threads dies at any of its AWS calls; its repeat ends in the same tables."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.integration.api.conftest import Api
from tests.integration.api.test_avatars import AVATARS, FERN
from tests.integration.api.test_avatars import create as create_avatar
from tests.integration.api.test_tasks import CHAIN, TASKS, create
from tests.integration.api.test_threads import THREADS
from tests.integration.api.test_threads import create as create_thread
from tests.support.crash import CrashReport

WROTE = "after dynamodb.TransactWriteItems"


class TestATask:
    def test_that_is_made_is_made_once(self, die: Callable[..., CrashReport]) -> None:
        report = die("POST", lambda: TASKS, table="work", accept={201}, body=CHAIN)
        assert WROTE in " ".join(report.at)

    @pytest.mark.req("R-M-06")
    def test_that_is_deleted_leaves_nothing(self, ada: Api, die: Callable[..., CrashReport]) -> None:
        report = die("DELETE", lambda: f"{TASKS}/{create(ada, CHAIN)['task']['id']}", table="work", accept={204, 404})
        assert "dynamodb.DeleteItem" in report.calls


class TestAnAvatar:
    def test_that_is_made_is_made_and_held_once(self, die: Callable[..., CrashReport]) -> None:
        report = die("POST", lambda: AVATARS, table="agents", accept={201}, body=FERN)
        assert WROTE in " ".join(report.at)

    def test_that_is_deleted_holds_nothing(self, ada: Api, die: Callable[..., CrashReport]) -> None:
        report = die("DELETE", lambda: f"{AVATARS}/{create_avatar(ada)['id']}", table="agents", accept={204, 404})
        assert WROTE in " ".join(report.at)


class TestAThread:
    def test_that_is_made_is_made_once(self, die: Callable[..., CrashReport]) -> None:
        report = die("POST", lambda: THREADS, table="agents", accept={201}, body={"title": "Greenhouse"})
        assert WROTE in " ".join(report.at)

    def test_that_is_deleted_leaves_what_the_queue_s_consumer_needs(
        self, ada: Api, die: Callable[..., CrashReport]
    ) -> None:
        report = die("DELETE", lambda: f"{THREADS}/{create_thread(ada)['name']}", table="agents", accept={204})
        assert WROTE in " ".join(report.at)
