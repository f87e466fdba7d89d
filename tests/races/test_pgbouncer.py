"""Behind a pooler that gives each transaction another connection, every promise is the same."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
import sqlalchemy as sa

from idemtable import InProgressError
from tests.servers import pgbouncer
from tests.support.backends import needed, server
from tests.support.crowd import Beside, crowd
from tests.support.database import Database, effect

CLIENTS = 32
CONNECTIONS = 2
KEYS = 20


# Prepared statements belong to a connection, which the next transaction does not get back.
UNPREPARED: dict[str, dict[str, Any]] = {
    "psycopg": {"prepare_threshold": None},
    "psycopg_async": {"prepare_threshold": None},
    "asyncpg": {
        "statement_cache_size": 0,
        "prepared_statement_cache_size": 0,
        "prepared_statement_name_func": lambda: f"of_{uuid4().hex}",  # else two clients give theirs one name
    },
}


@pytest.fixture(scope="module", params=UNPREPARED)
def pooled(request: pytest.FixtureRequest) -> Iterator[Database]:
    postgresql = server("postgresql18")
    with needed():
        pooler = pgbouncer(postgresql, connections=CONNECTIONS)
    name = f"pooled_{request.param}"
    postgresql.create_database(name)
    backend = "pgbouncer" if request.param == "psycopg" else "pgbouncer-async"
    url = sa.make_url(pooler.url(name))
    db = Database(backend, url, f"postgresql+{request.param}", connect_args=UNPREPARED[request.param])
    db.admin.dispose()
    db.admin = sa.create_engine(postgresql.url(name), poolclass=sa.NullPool)
    yield db
    db.close()
    postgresql.drop_database(name)
    pooler.stop()


@pytest.fixture
def db(pooled: Database) -> Database:
    pooled.sweep()
    return pooled


def test_of_many_clients_through_two_connections_one_runs_and_all_get_its_reply(db: Database) -> None:
    @db.idem.transactional("order", key="key", wait=timedelta(seconds=50))
    def order(session: Any, key: str) -> int:
        return effect(session, key)

    answers = crowd(CLIENTS, lambda _: order("k"))
    assert len(set(answers)) == 1, answers
    assert db.effects() == ["k"]


def test_no_setting_is_left_on_a_connection_that_others_get(db: Database) -> None:
    @db.idem.transactional("order", key="key", wait=timedelta(milliseconds=123))
    def order(session: Any, key: str) -> str:
        return str(session.execute(sa.text("SHOW lock_timeout")).scalar())

    assert [order(f"k{n}") for n in range(10)] == ["0"] * 10
    assert order("k0") == "0"

    def look(_: int) -> str:
        with db.session() as held:
            return str(held.run(lambda session: session.execute(sa.text("SHOW lock_timeout")).scalar()))

    assert crowd(CLIENTS, look) == ["0"] * CLIENTS


def test_a_held_key_is_refused_at_once_and_replayed_later(db: Database) -> None:
    @db.idem.transactional("order", key="key", wait=timedelta(0))
    def impatient(session: Any, key: str) -> int:
        return effect(session, key)

    with db.idem.transaction("order", "k") as claim:
        db.on(claim.session, lambda session: effect(session, "k"))
        refused = Beside(lambda: impatient("k"))
        with pytest.raises(InProgressError):
            refused.result()
        claim.result = 7
    assert impatient("k") == 7
    assert db.effects() == ["k"]


def test_a_purge_and_a_lock_by_name_need_no_session_state(db: Database) -> None:
    @db.idem.transactional("order", key="key")
    def order(session: Any, key: str) -> int:
        return effect(session, key)

    crowd(8, lambda n: order(f"k{n}"))
    db.expire()
    assert db.idem.purge(batch=3).deleted == 8
    assert not db.idem.purge().busy
    assert db.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")[0][0] == 0


def test_of_many_clients_and_many_keys_each_key_counts_once(db: Database) -> None:
    @db.idem.transactional("order", key="key", wait=timedelta(seconds=50))
    def order(session: Any, key: str) -> int:
        return effect(session, key)

    def all_keys(_: int) -> list[int]:
        return [order(f"k{number}") for number in range(KEYS)]

    answers = crowd(CLIENTS, all_keys)
    assert all(answer == answers[0] for answer in answers), answers
    assert sorted(db.effects()) == sorted(f"k{number}" for number in range(KEYS))
