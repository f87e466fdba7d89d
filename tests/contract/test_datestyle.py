"""PostgreSQL's DateStyle: psycopg reads times in ISO's alone, and where it is another one nothing is stored."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from idemtable import SessionNotUsableError
from tests.support.database import Database, effect
from tests.support.kit import databases

psycopg = databases("postgresql18", "postgresql18-listened", "postgresql18-async")
other = databases("postgresql16", "postgresql18-asyncpg")  # psycopg2 sets the style itself, asyncpg reads no text

CURE = "datestyle = 'ISO'"


def german(db: Database) -> dict[str, Any]:
    """The arguments of connections whose server writes 26.11.2026."""
    asyncpg = db.url.get_driver_name() == "asyncpg"
    return {"server_settings": {"datestyle": "German"}} if asyncpg else {"options": "-c datestyle=German"}


def order_of(idem: Any) -> Any:
    @idem.transactional("order", key="key")
    def order(session: Any, key: str) -> str:
        effect(session, key)
        return key

    return order


def test_where_the_driver_cannot_read_times_a_call_is_refused_before_it_runs(psycopg: Database) -> None:
    db = psycopg
    with db.other_engine(connect_args=german(db)) as engine:
        idem = db.table(engine)
        order = order_of(idem)
        for _ in range(2):
            with pytest.raises(SessionNotUsableError, match=CURE):
                order("k")
            with pytest.raises(SessionNotUsableError, match=CURE), idem.transaction("order", "k"):
                raise AssertionError("must not be entered")
            with db.session(engine) as held, pytest.raises(SessionNotUsableError, match=CURE):
                order.join(held.session, "k")
    assert (db.effects(), db.rows()) == ([], [])


def test_a_driver_that_reads_every_style_is_not_refused(other: Database) -> None:
    db = other
    with db.other_engine(connect_args=german(db)) as engine:
        idem = db.table(engine)
        order = order_of(idem)
        assert [order.outcome("k").replayed for _ in range(2)] == [False, True]
        assert idem.get("order", "k") == db.idem.get("order", "k")


def test_a_lock_by_name_which_reads_no_time_is_to_be_had_in_every_style(psycopg: Database) -> None:
    db = psycopg
    with db.other_engine(connect_args=german(db)) as engine:
        idem = db.table(engine)
        with db.session(engine) as held:
            held.run(lambda session: idem.lock_name(db.given(session), "payout"))
            held.rollback()


@pytest.mark.parametrize("style", ["German", "Postgres, MDY"])
def test_where_the_style_was_changed_since_what_cannot_be_read_is_refused_with_the_cure(
    psycopg: Database, style: str
) -> None:
    db = psycopg
    with db.other_engine(pool_size=1, max_overflow=0) as engine:
        idem = db.table(engine)
        order = order_of(idem)
        assert [order.outcome("k").replayed for _ in range(2)] == [False, True]

        @sa.event.listens_for(getattr(engine, "sync_engine", engine), "begin")
        def change(connection: sa.Connection) -> None:
            connection.exec_driver_sql(f"SET LOCAL datestyle = '{style}'")
            connection.exec_driver_sql("SET LOCAL TIME ZONE 'Asia/Kathmandu'")  # "2026 +0545" is taken for a year

        for use in (lambda: order("k"), lambda: idem.get("order", "k"), idem.stats, idem.records):
            with pytest.raises(SessionNotUsableError, match=CURE):
                use()
    assert db.effects() == ["k"]
    assert order_of(db.table()).outcome("k").replayed
