"""Every way in which people get it wrong is caught, and named."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any
from uuid import uuid4

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from idemtable.testing import OutsideEffectWarning
from tests.support import PATIENCE
from tests.support.backends import db_of
from tests.support.crowd import meanwhile
from tests.support.database import Database, Effect, effect
from tests.support.kit import Shop, buy, databases


def test_what_is_not_idempotent_at_all_is_caught_by_calling_twice(shop: Shop) -> None:
    said = shop.refuse(lambda key: shop.beside(lambda session: effect(session, "tea")))
    assert said.startswith(
        "called twice: other rows are left than by one call\ntable effect: 2 rows added, where one call leaves 1"
    )
    assert said.count("name='tea'") == 3  # two that were left, and one to compare them with


def test_what_is_done_before_the_function_is_called_is_caught(any_shop: Shop) -> None:
    order = any_shop.order(buy)

    def call(key: str) -> None:
        any_shop.beside(lambda session: effect(session, "audit"))
        order(key)

    said = any_shop.refuse(call)
    assert "table effect: 3 rows added, where one call leaves 2" in said


# On SQLite one writes at a time: the other connection would wait for the call that waits for it.
server = databases("postgresql18", "postgresql18-async", "mariadb-async", "mysql")


def test_an_effect_on_another_connection_is_caught_by_a_crash(server: Database) -> None:
    shop = Shop(server)

    def audited(session: Session, key: str) -> None:
        buy(session, key)
        with session.get_bind().engine.begin() as other:
            other.execute(sa.insert(Effect).values(name="audit", amount=1))

    said = shop.refuse(shop.order(audited))
    assert said.startswith("crashed at ran of testing.audited, then called again: other rows")
    assert "table effect: 3 rows added, where one call leaves 2" in said


def test_a_crash_is_no_exception_that_the_caller_could_handle(any_shop: Shop) -> None:
    order = any_shop.order(buy)

    def call(key: str) -> None:
        try:
            order(key)
        except Exception:
            any_shop.beside(lambda session: effect(session, "failure"))
            raise

    any_shop.prove(call)


def test_a_function_that_commits_is_caught(other_shop: Shop) -> None:
    def committing(session: Session, key: str) -> None:
        buy(session, key)
        session.commit()

    said = other_shop.refuse(other_shop.order(committing))
    assert said.startswith("one call: the call has raised LostClaimError: testing.committing: the function broke out")


def test_a_key_that_is_another_one_each_time_is_caught(shop: Shop) -> None:
    said = shop.refuse(shop.order(buy, key=lambda key: f"{key} {uuid4()}"))
    assert said.startswith("called twice: ")
    assert "table effect: 2 rows added, where one call leaves 1" in said
    assert "table idemtable: 2 rows added, where one call leaves 1" in said
    assert "scope='testing.buy'" in said
    assert "status='completed'" in said


@pytest.mark.parametrize(
    "key", [lambda key: key[:8], lambda key: key[:-1], lambda key: "the same"], ids=["8", "-1", "same"]
)
def test_a_key_that_leaves_out_what_tells_requests_apart_is_caught(any_shop: Shop, key: Any) -> None:
    said = any_shop.refuse(any_shop.order(buy, key=key))
    assert said.startswith("one call: with a key that is new it has found a row that was there")


@pytest.fixture
def post_office() -> Iterator[tuple[str, int]]:
    """Somebody who listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[:2]


def test_a_mail_is_an_error_that_names_the_line(other_shop: Shop, post_office: tuple[str, int]) -> None:
    def mailing(session: Session, key: str) -> None:
        buy(session, key)
        socket.create_connection(post_office, PATIENCE).close()

    said = other_shop.refuse(other_shop.order(mailing))
    line = mailing.__code__.co_firstlineno + 2
    assert said == (
        f"one call: {__file__}:{line}: a transactional function connects a socket to {post_office}: no rollback takes "
        f"that back"
    )
    assert other_shop.db.effects() == []


def test_a_mail_whose_errors_are_swallowed_is_one_too(any_shop: Shop, post_office: tuple[str, int]) -> None:
    def mailing(session: Session, key: str) -> None:
        try:
            socket.create_connection(post_office, PATIENCE).close()
        except Exception:
            buy(session, key)

    assert "connects a socket" in any_shop.refuse(any_shop.order(mailing))


def test_a_mail_from_a_thread_of_the_function_is_one_too(any_shop: Shop, post_office: tuple[str, int]) -> None:
    def mailing(session: Session, key: str) -> None:
        buy(session, key)
        meanwhile(any_shop.db, lambda: socket.create_connection(post_office, PATIENCE).close())

    def threaded(session: Session, key: str) -> None:
        with ThreadPoolExecutor() as pool:
            pool.submit(copy_context().run, mailing, session, key).result(PATIENCE)

    # asyncio.to_thread takes the context along, in which the call is known; for a plain thread somebody must.
    assert "connects a socket" in any_shop.refuse(any_shop.order(mailing if any_shop.db.is_async else threaded))


def test_another_engine_is_an_error(shop: Shop) -> None:
    def reporting(session: Session, key: str) -> None:
        buy(session, key)
        with shop.db.admin.connect() as other:
            other.execute(sa.text("SELECT 1"))

    said = shop.refuse(shop.order(reporting))
    assert said.startswith(f"one call: {__file__}:")
    assert "a transactional function uses another engine" in said
    assert (shop.db.sync_url.password or "no password") not in said


def test_outside_of_the_plugin_they_are_warnings(any_shop: Shop, post_office: tuple[str, int]) -> None:
    def mailing(session: Session, key: str) -> None:
        buy(session, key)
        socket.create_connection(post_office, PATIENCE).close()
        with any_shop.db.admin.connect() as other:
            other.execute(sa.text("SELECT 1"))

    with pytest.warns(OutsideEffectWarning) as caught:
        any_shop.prove(any_shop.order(mailing))
    first = mailing.__code__.co_firstlineno
    assert [(one.filename, one.lineno) for one in caught] == [(__file__, first + 2), (__file__, first + 4)]


def test_what_the_call_does_outside_of_the_function_is_its_own_business(
    any_shop: Shop, post_office: tuple[str, int]
) -> None:
    order = any_shop.order(buy)

    def call(key: str) -> None:
        order(key)
        socket.create_connection(post_office, PATIENCE).close()
        with any_shop.db.admin.connect() as other:
            other.execute(sa.text("SELECT 1"))

    any_shop.prove(call)


# Whose drivers open their sockets in Python, where it is heard.
speaking = databases("postgresql18-asyncpg", "mariadb", "mysql-async", "mysql-connector")


def test_new_connections_of_the_functions_own_engine_are_no_sockets(speaking: Database) -> None:
    shop = Shop(speaking)

    def looking(session: Session, key: str) -> None:
        buy(session, key)
        with session.get_bind().engine.connect() as other:
            other.execute(sa.text("SELECT 1"))

    with shop.db.other_engine(poolclass=sa.NullPool) as engine:
        shop.prove(shop.order(looking, shop.db.table(engine)), engine, callers=2)


def test_a_check_before_the_write_is_caught_by_many_at_once() -> None:
    shop = Shop(db_of("sqlite"))
    checked = threading.Barrier(3, timeout=PATIENCE)

    def call(key: str) -> None:
        with shop.db.admin.connect() as connection:
            there = connection.execute(sa.select(Effect).where(Effect.name == key)).first()
        if threading.current_thread() is not threading.main_thread():
            checked.wait()
        if there is None:
            shop.beside(lambda session: effect(session, key))

    said = shop.refuse(call, callers=3)
    assert said.startswith("called 3 at a time: other rows are left than by one call\ntable effect: 3 rows added")
