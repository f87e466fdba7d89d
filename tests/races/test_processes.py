"""Processes on one key: what holds between threads holds between programs, and a program that dies holds nothing."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from idemtable import IdemTable
from idemtable.web import SINGLE_TENANT, IdempotencyMiddleware
from tests.support.backends import db_of
from tests.support.crowd import is_locked
from tests.support.database import Database, effect
from tests.support.forked import in_fork
from tests.support.newest import NEWEST
from tests.support.plain import Loop
from tests.support.processes import Callers, callers

COUNT = 3


@pytest.fixture(params=NEWEST)
def db(request: pytest.FixtureRequest) -> Database:
    """Every driver; processes take their time to start, and a second version of one server is no other driver."""
    return db_of(request.param)


def await_losers(db: Database, group: Callers, count: int) -> None:
    """Come back when `count` processes wait for the one inside."""
    if db.kind == "sqlite":
        # Each said so before its BEGIN IMMEDIATE; one got the lock, and nobody else can have it.
        group.hear("trying", count + 1)
        assert is_locked(db)
    else:
        db.await_waiting(count)


def test_of_many_processes_one_runs_and_all_get_its_reply(db: Database) -> None:
    with callers(db, COUNT) as group:
        for caller in group.all:
            caller.tell("go k")
        (winner,) = group.hear("inside")
        await_losers(db, group, COUNT - 1)
        assert group.hear("inside") == [winner]
        winner.tell("leave")
        answers = group.answers(COUNT)

    assert sorted(answer["replayed"] for answer in answers) == [False] + [True] * (COUNT - 1)
    assert [answer["value"] for answer in answers] == [answers[0]["value"]] * COUNT
    assert db.effects() == ["k"]


def test_a_process_killed_inside_its_function_leaves_the_key_to_the_one_that_waits(db: Database) -> None:
    with callers(db, 2) as group:
        for caller in group.all:
            caller.tell("go k")
        (victim,) = group.hear("inside")
        await_losers(db, group, 1)
        victim.kill()
        heir = group.hear("inside", 2)[1]
        assert heir is not victim
        heir.tell("leave")
        (answer,) = group.answers(1)

    assert answer["replayed"] is False
    assert db.effects() == ["k"]
    assert [row.key for row in db.rows()] == ["k"]


def test_a_key_held_by_a_process_that_was_killed_is_free_for_the_next_call(sync_db: Database) -> None:
    db = sync_db
    with callers(db, 2) as group:
        victim, heir = group.all
        victim.tell("go k")
        group.hear("inside")
        victim.kill()
        heir.tell("go k")
        assert group.hear("inside", 2)[1] is heir
        heir.tell("leave")
        (answer,) = group.answers(1)
        heir.tell("go k")
        again = group.answers(2)[1]

    assert (answer["replayed"], again["replayed"]) == (False, True)
    assert answer["value"] == again["value"]
    assert db.effects() == ["k"]


def whose(session: Session, key: str) -> int:
    """The process that has used the session's connection first."""
    return session.connection().connection.info.setdefault("whose", os.getpid())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_process_that_is_forked_calls_on_connections_of_its_own(db: Database) -> None:
    with db.other_engine(pool_size=1, max_overflow=0) as engine:
        call = db.table(engine).transactional("whose", key="key")(whose)
        assert call("parent's") == os.getpid()

        def child() -> bool:
            if db.is_async:
                call._loop = Loop()  # that of the parent was a thread, of which there is none here
            return call(f"of {os.getpid()}") == os.getpid()

        for _ in range(2):
            in_fork(child)
        assert call("parent's last") == os.getpid()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_process_that_is_forked_has_the_database_in_memory_as_it_was() -> None:
    engine = sa.create_engine("sqlite://", poolclass=sa.StaticPool)
    idem = IdemTable(engine)
    idem.create_all()
    call = idem.transactional("whose", key="key")(whose)
    call("k")
    in_fork(lambda: call.outcome("k").replayed)
    engine.dispose()


async def shop(scope: Any, receive: Any, send: Any) -> None:
    effect(scope["state"]["session"], "order")
    await send({"type": "http.response.start", "status": 201, "headers": []})
    await send({"type": "http.response.body", "body": b"ordered"})


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_process_that_is_forked_serves_requests_on_threads_of_its_own(sync_db: Database) -> None:
    app = IdempotencyMiddleware(shop, sync_db.idem, tenant=SINGLE_TENANT)

    def status(key: bytes) -> int:
        sent: list[Any] = []

        async def receive() -> Any:
            return {"type": "http.request", "body": b""}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": "/orders", "headers": [(b"idempotency-key", key)]}
        asyncio.run(app(scope, receive, send))
        return int(sent[0]["status"])

    assert status(b"parents") == 201
    in_fork(lambda: status(b"childs") == 201)
    assert status(b"parents-last") == 201
    assert len(sync_db.effects()) == 3
