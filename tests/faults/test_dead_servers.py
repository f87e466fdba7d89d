"""Connections that died while idle, and servers that are killed in the middle of a call and come back."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa
import tenacity

from idemtable import RetryTransactionError
from idemtable.claim import retry
from tests import servers
from tests.support.backends import BACKENDS, db_of, needed
from tests.support.crowd import WAIT, backend_id, crowd, kill_backend, meanwhile, one_run
from tests.support.database import Database, effect
from tests.support.lines import DRIVERS

COUNT = 4


@pytest.fixture(params=DRIVERS)
def db(request: pytest.FixtureRequest) -> Database:
    return db_of(request.param)


@pytest.mark.parametrize("level", [None, "SERIALIZABLE"])
@pytest.mark.parametrize("what", ["first run", "replay"])
def test_pooled_connections_that_died_while_idle_are_not_seen(db: Database, what: str, level: str | None) -> None:
    together = threading.Barrier(COUNT, timeout=60)
    arrived: set[str] = set()
    backends: set[int] = set()
    options = {} if level is None else {"isolation_level": level}
    with db.other_engine() as engine:
        idem = db.table(engine)

        @idem.transactional("order", key="key", wait=WAIT, **options)
        def order(session: Any, key: str) -> dict[str, int]:
            number = effect(session, key)
            backends.add(backend_id(db, session))
            if key.startswith("warm") and key not in arrived:  # so that each has a connection of its own
                arrived.add(key)
                meanwhile(db, together.wait)
            return {"id": number}

        warm = crowd(COUNT, lambda number: order(f"warm{number}"))
        killed = set(backends)
        for number in killed:
            kill_backend(db, number)
        if what == "replay":
            assert [order(f"warm{number}") for number in range(COUNT)] == warm
        else:
            for key in ("a", "b", "c", "d"):
                assert order(key) == order(key)

        assert len(killed) >= COUNT, "fewer connections were killed than the pool held"
        assert getattr(engine, "sync_engine", engine).pool.checkedout() == 0
    kept = sorted(f"warm{number}" for number in range(COUNT))
    assert sorted(db.effects()) == (kept if what == "replay" else ["a", "b", "c", "d", *kept])


def test_a_backend_killed_inside_the_function_is_replaced_unseen(db: Database) -> None:
    killed: list[int] = []
    with db.other_engine() as engine:

        @db.table(engine).transactional("order", key="key", wait=WAIT)
        def order(session: Any, key: str) -> dict[str, int]:
            number = effect(session, key)
            if not killed:
                killed.append(backend_id(db, session))
                meanwhile(db, lambda: kill_backend(db, killed[0]))
            return {"id": number}

        first = order.outcome("k")
        assert order("k") == first.value

    assert len(killed) == 1
    assert (first.replayed, first.attempts) == (False, 2)
    assert db.effects() == ["k"]


@pytest.fixture(scope="module", params=[name for name in ("postgresql18", "mariadb", "mysql") if name in BACKENDS])
def mortal(request: pytest.FixtureRequest) -> Iterator[servers.Server]:
    """A server that is the test's own to kill."""
    make = {"postgresql18": servers.postgresql, "mariadb": servers.mariadb, "mysql": servers.mysql}[request.param]
    with needed():
        server = make()
    with server:
        yield server


@pytest.mark.parametrize("moment", ["before the effect", "after the effect"])
def test_a_server_killed_in_the_middle_of_calls_leaves_one_effect_and_one_reply(
    mortal: servers.Server, moment: str
) -> None:
    for backend in (name for name in DRIVERS if name.startswith(mortal.name.rstrip("0123456789"))):
        name = f"db_{backend.replace('-', '_')}_{moment.split()[0]}"
        mortal.create_database(name)
        db = Database(backend, sa.make_url(mortal.url(name)), BACKENDS[backend][1])
        deaths: list[int] = []
        restart = threading.Thread(target=mortal.start)
        lock = threading.Lock()

        def die(deaths: list[int] = deaths, restart: threading.Thread = restart) -> None:
            mortal.kill()
            deaths.append(1)
            restart.start()

        @db.idem.transactional("order", key="key", wait=WAIT)
        def order(
            session: Any, key: str, db: Database = db, deaths: list[int] = deaths, lock: Any = lock, die: Any = die
        ) -> dict[str, int]:
            first = lock.acquire(blocking=False)
            if first and moment == "before the effect":
                meanwhile(db, die)
            number = effect(session, key)
            if first and moment == "after the effect":
                meanwhile(db, die)
            return {"id": number}

        try:
            answers = crowd(3, lambda _, order=order: order.outcome("k"))
            restart.join(60)
            assert deaths == [1]
            # A server that takes long to come back outlasts the attempts: then calling again settles it.
            values = [answer for answer in answers if not isinstance(answer, BaseException)]
            again = order.outcome("k")
            assert all(answer.value == again.value for answer in values)
            assert one_run([*values, again] if values else [again]) == again.value
            assert db.effects() == ["k"]
        finally:
            db.close()
            mortal.drop_database(name)


def test_a_commit_that_was_answered_outlives_the_server(mortal: servers.Server) -> None:
    backend = mortal.name
    name = "db_durable"
    mortal.create_database(name)
    db = Database(backend, sa.make_url(mortal.url(name)), BACKENDS[backend][1])
    try:

        @db.idem.transactional("order", key="key", wait=WAIT)
        def order(session: Any, key: str) -> dict[str, int]:
            return {"id": effect(session, key)}

        first = order.outcome("k")
        mortal.kill()
        mortal.start()
        second = order.outcome("k")
        assert (first.replayed, second.replayed) == (False, True)
        assert first.value == second.value
        assert db.effects() == ["k"]
    finally:
        db.close()
        mortal.drop_database(name)


# --- a connection that is found dead where a transaction of a call begins again -------------------------------------------


@contextmanager
def killed_at_begin(db: Database, engine: Any, number: int) -> Iterator[None]:
    """Have a listener of the application's find its connection dead, at this one of the transactions that begin."""
    begun: list[int] = []

    def begin(connection: sa.Connection) -> None:
        begun.append(backend_id(db, connection))
        if len(begun) == number:
            kill_backend(db, begun[-1])
            connection.exec_driver_sql("SELECT 1")

    heard = getattr(engine, "sync_engine", engine)
    sa.event.listen(heard, "begin", begin)
    try:
        yield
    finally:
        sa.event.remove(heard, "begin", begin)
    assert len(begun) >= number, "no connection was killed"


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin again without a pause: what is tested is not how long the pause is."""
    monkeypatch.setattr(retry, "_FAR", tenacity.wait_none())


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("why", ["expired", "lookaside"])
def test_a_connection_that_is_dead_where_a_call_begins_its_next_transaction_is_replaced_unseen(
    db: Database, why: str
) -> None:
    with db.other_engine() as engine:

        @db.table(engine).transactional("order", key="key", wait=WAIT, lookaside=why == "lookaside")
        def order(session: Any, key: str) -> int:
            return effect(session, key)

        if why == "expired":
            order("k")
            db.expire()
        before = db.effects()
        with killed_at_begin(db, engine, 2):
            outcome = order.outcome("k")
        assert order.outcome("k").replayed
    assert (outcome.replayed, outcome.attempts) == (False, 2)
    assert db.effects() == [*before, "k"]


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("why", ["expired", "replay"])
def test_a_connection_that_is_dead_where_a_block_begins_its_next_transaction_asks_to_enter_it_again(
    db: Database, why: str
) -> None:
    with db.other_engine() as engine:
        idem = db.table(engine)

        def enter() -> bool:
            with idem.transaction("pay", "k") as claim:
                db.on(claim.session, lambda session: effect(session, "k"))
                return bool(claim.replayed)

        enter()
        if why == "expired":
            db.expire()
        with killed_at_begin(db, engine, 2), pytest.raises(RetryTransactionError, match="begin again"):
            enter()
        assert db.effects() == ["k"]
        assert enter() is (why == "replay")
