"""The clock that stands still: on every database, in both colours, wherever the library asks for the time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from idemtable import ExpiredTokenError, Status
from idemtable.dialects import known
from idemtable.testing import frozen_clock
from tests.support.database import Database, effect
from tests.support.kit import databases

HOUR = timedelta(hours=1)


db = databases("sqlite", "sqlite-async", "postgresql18", "postgresql18-asyncpg", "mariadb", "mysql-async")
plain = databases("sqlite", "postgresql18", "mariadb", "mysql")


@pytest.fixture
def order(db: Database) -> Any:
    @db.idem.transactional("testing.clock", key="key", ttl=HOUR, share_scope=True)
    def order(session: Any, key: str) -> int:
        return effect(session, key)

    return order


def test_a_key_expires_when_the_clock_says_so_and_not_before(db: Database, order: Any) -> None:
    with frozen_clock() as clock:
        order("k")
        clock.advance(HOUR - timedelta(microseconds=1000))  # SQLite's clock has milliseconds
        assert order.outcome("k").replayed
        clock.advance(timedelta(microseconds=1000))
        assert not order.outcome("k").replayed
        assert order.outcome("k").replayed
    assert db.effects() == ["k", "k"]


def test_what_is_written_bears_its_time(db: Database, order: Any) -> None:
    with frozen_clock() as clock:
        clock.advance(timedelta(days=400))
        order("k")
        record = db.idem.get("testing.clock", "k")
        near = timedelta(milliseconds=1)
        assert abs(record.created_at - clock.now) < near
        assert record.completed_at == record.created_at
        assert abs(record.expires_at - clock.now - HOUR) < near
        assert (record.status, clock.now.tzinfo) == (Status.COMPLETED, UTC)


def test_purge_stats_and_listings_go_by_it(db: Database, order: Any) -> None:
    with frozen_clock() as clock:
        order("old")
        clock.advance(HOUR)
        order("new")
        assert (db.idem.stats().expired, [one.key for one in db.idem.records(expired=True)]) == (1, ["old"])
        assert db.idem.purge().deleted == 0, "a row stays for a minute past its time"
        clock.advance(timedelta(minutes=1))
        assert db.idem.purge().deleted == 1
        assert [one.key for one in db.idem.records()] == ["new"]


def test_tokens_expire_by_it(plain: Database) -> None:
    tokens = plain.idem.tokens("testing.clock.tokens", ttl=HOUR)
    with frozen_clock() as clock:
        token = tokens.issue()
        clock.advance(HOUR)
        with pytest.raises(ExpiredTokenError), plain.session() as mine, tokens.redeem(mine.session, token):
            pass


def test_the_keys_of_a_batch_expire_by_it(db: Database) -> None:
    idem = db.table(ttl=HOUR)

    def flags(*keys: str) -> list[str]:
        with db.session() as mine:
            found = [flag.value for flag in idem.claim_many(mine.session, "testing.clock.batch", keys)]
            mine.commit()
        return found

    with frozen_clock() as clock:
        assert flags("a", "b") == ["new", "new"]
        clock.advance(HOUR - timedelta(milliseconds=1))
        assert flags("a", "c") == ["seen", "new"]
        clock.advance(timedelta(milliseconds=1))
        assert flags("a", "b", "c") == ["new", "new", "seen"]


def test_the_program_keeps_its_own_time(db: Database) -> None:
    """What a program asks the database itself, and the time of the process, go on."""
    with frozen_clock() as clock:
        clock.advance(timedelta(days=4000))
        with db.session() as mine:
            year = mine.run(lambda session: session.execute(sa.select(sa.func.current_timestamp())).scalar())
            its_clock = known[db.admin.dialect.name].now.replace("\\:", ":")
            same = mine.run(lambda session: session.connection().exec_driver_sql(f"SELECT {its_clock}").scalar())
        assert str(year)[:4] == str(same)[:4] == str(datetime.now(UTC).year)


def test_it_goes_on_again_where_it_would_be_without(db: Database, order: Any) -> None:
    with frozen_clock():
        order("k")
    assert order.outcome("k").replayed
    record = db.idem.get("testing.clock", "k")
    order("later")
    assert db.idem.get("testing.clock", "later").created_at > record.created_at - timedelta(seconds=1)


def test_of_two_clocks_the_inner_one_counts(db: Database, order: Any) -> None:
    with frozen_clock():
        order("k")
        with frozen_clock() as inner:
            inner.advance(HOUR * 2)
            assert not order.outcome("k").replayed
            assert db.idem.get("testing.clock", "k").created_at > datetime.now(UTC) + HOUR
        order("later")
        assert db.idem.get("testing.clock", "later").created_at < datetime.now(UTC) + HOUR


def test_a_clock_goes_on_by_a_timedelta() -> None:
    with frozen_clock() as clock:
        before = clock.now
        assert clock.advance(HOUR) == clock.now == before + HOUR
        with pytest.raises(TypeError, match="advance takes a timedelta, not 3600"):
            clock.advance(3600)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="a clock only goes on"):
            clock.advance(-HOUR)
        with pytest.raises(ValueError, match="no time after the year 9999"):
            clock.advance(timedelta.max)
