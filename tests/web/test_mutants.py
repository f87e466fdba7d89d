"""The checks of HTTP, seen to fail: each breaks the middleware in one place and expects a check to report it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import pytest

from idemtable.web import IdempotencyMiddleware, exchange, wsgi
from idemtable.web.stage import Line, Stage
from tests.support.backends import BACKENDS, db_of
from tests.support.web import SITES, AsgiSite
from tests.web import test_asgi, test_exchange, test_frameworks

_NAMES = [name for name in ("sqlite", "postgresql18") if name in BACKENDS]


@pytest.fixture(params=_NAMES)
def build(request: pytest.FixtureRequest) -> Iterator[Callable[..., AsgiSite]]:
    built: list[Any] = []

    def build(handler: Any, **options: Any) -> Any:
        built.append(SITES["asgi"](db_of(request.param), handler, **options))
        return built[-1]

    yield build
    for one in built:
        one.close()


def test_the_check_finds_a_response_that_is_sent_before_its_commit(build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    server: ContextVar[Any] = ContextVar("server")
    middleware, held_back = IdempotencyMiddleware.__call__, Stage._send

    async def call(self: Any, scope: Any, receive: Any, send: Any) -> None:
        async def nobody(message: Any) -> None: ...

        server.set(send)
        await middleware(self, scope, receive, nobody)

    async def at_once(self: Any, message: Any) -> None:
        await server.get()(message)
        await held_back(self, message)

    monkeypatch.setattr(IdempotencyMiddleware, "__call__", call)
    monkeypatch.setattr(Stage, "_send", at_once)
    with pytest.raises(AssertionError, match="first byte"):
        test_exchange.test_the_response_is_committed_before_its_first_byte_is_sent(build)


def test_the_check_finds_a_key_that_belongs_to_no_tenant(build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange.Rules, "_whose", lambda self, tenant: None)
    with pytest.raises(AssertionError):
        test_exchange.test_one_tenants_response_is_never_anothers(build)


def test_the_check_finds_a_fingerprint_without_the_path(build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange.Rules, "_payload", lambda self, request: request.body)
    with pytest.raises(AssertionError):
        test_exchange.test_path_and_query_belong_to_the_fingerprint_whatever_the_scope_is(build)


def test_the_check_finds_a_replay_that_repeats_every_header(build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Everything:
        def __contains__(self, name: object) -> bool:
            return True

        def __ror__(self, other: object) -> Everything:
            return self

    monkeypatch.setattr(exchange, "_NEEDED", Everything())
    with pytest.raises(AssertionError):
        test_exchange.test_a_replay_repeats_what_describes_the_body_and_nobodys_secrets(build)


def test_the_check_finds_a_large_response_that_is_forgotten_with_its_key(
    build: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "Unkept", exchange.RollBack)
    with pytest.raises(AssertionError):
        test_exchange.test_a_response_that_is_too_large_to_keep_is_sent_and_its_effect_stands(build)


def test_the_check_finds_an_order_of_a_client_that_has_gone(build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Deaf(asyncio.Event):
        def is_set(self) -> bool:
            return False

    hear = Line.__init__

    def deaf(self: Any, receive: Any) -> None:
        hear(self, receive)
        self.is_gone = Deaf()

    monkeypatch.setattr(Line, "__init__", deaf)
    with pytest.raises(AssertionError):
        test_asgi.test_a_client_that_hangs_up_before_the_commit_has_asked_for_nothing(build)


def test_the_check_finds_a_body_that_is_taken_as_far_as_it_came(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wsgi, "_body", lambda environ, rules: environ["wsgi.input"].read())
    with pytest.raises(AssertionError):
        test_frameworks.test_a_body_that_ends_before_its_end_is_never_taken_for_a_request(db_of("sqlite"))
