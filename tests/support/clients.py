"""AWS clients that are shared by tests: building a session and its clients takes more CPU than most tests.

`karma.core.aws` and the fixture `aws` make their sessions here. A client is kept under everything that made it what it
is — environment, options, botocore's hooks — but the account: it signs for the account of now. What a test registers
on a client it takes off again: `hooked`.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import botocore.handlers
import botocore.session
import pytest
from botocore.config import Config
from botocore.credentials import Credentials, ReadOnlyCredentials

from karma.core import aws
from tests.support import on_demand, writes

_ACCOUNT = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
_KEPT = 64


@contextmanager
def kept() -> Iterator[None]:
    """Let `karma.core.aws` use shared clients."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(aws, "botocore", SimpleNamespace(session=SimpleNamespace(Session=_Session)))
        yield
        aws.reset()


def client(service: str, config: Config, endpoint_url: str | None = None) -> Any:
    """Return a client for the current account and environment."""
    environment = frozenset(
        item for item in os.environ.items() if item[0].startswith("AWS_") and item[0] not in _ACCOUNT
    )
    hooks = tuple(hook for _, hook, *_ in botocore.handlers.BUILTIN_HANDLERS)
    return _client(service, config, endpoint_url, environment, hooks)


@functools.lru_cache(maxsize=_KEPT)
def _client(
    service: str,
    config: Config,
    endpoint_url: str | None,
    environment: frozenset[tuple[str, str]],
    hooks: tuple[Any, ...],
) -> Any:
    return _session(environment, hooks).create_client(service, config=config, endpoint_url=endpoint_url)


@functools.lru_cache(maxsize=_KEPT)
def _session(environment: frozenset[tuple[str, str]], hooks: tuple[Any, ...]) -> botocore.session.Session:
    session = botocore.session.Session()
    session.register_component("credential_provider", _AccountOfNow())
    session.register_component("data_loader", _loader())
    session.register("before-parameter-build", on_demand.before_call)
    session.register("before-call", writes.before_call)
    return session


@functools.cache
def _loader() -> Any:
    return botocore.session.Session().get_component("data_loader")


class _Session:
    """Replacement of botocore's session in `karma.core.aws`."""

    def get_credentials(self) -> Credentials:
        return _AccountOfNow()

    def get_config_variable(self, name: str) -> str:
        assert name == "region"
        return os.environ["AWS_DEFAULT_REGION"]

    def create_client(self, service: str, *, config: Config, endpoint_url: str | None) -> Any:
        return client(service, config, endpoint_url)


class _AccountOfNow(Credentials):
    """Credentials that read the keys from the environment whenever a request is signed."""

    def __init__(self) -> None:
        super().__init__("", "")

    def load_credentials(self) -> Credentials:
        return self

    def get_frozen_credentials(self) -> ReadOnlyCredentials:
        access_key, secret_key = (os.environ[name] for name in _ACCOUNT)
        return ReadOnlyCredentials(access_key, secret_key, None)


@contextmanager
def hooked(service: Any, event: str, hook: Callable[..., Any]) -> Iterator[None]:
    """Register on the process's client of a service, for as long as this is entered."""
    events: Any = aws.client(service).meta.events  # its stubs do not know that a handler may answer
    events.register(event, hook)
    try:
        yield
    finally:
        events.unregister(event, hook)
