"""MySQL bounds a wait by a setting of the session alone: it is left alone where it says already what a call would set."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from itertools import count
from typing import Any, NamedTuple

import pytest
import sqlalchemy as sa
from sqlalchemy import NullPool

from idemtable import InProgressError
from tests.support.backends import db_of
from tests.support.crowd import held
from tests.support.database import Database, effect
from tests.support.lines import through_a_proxy

_scopes = count()

USUAL = 2
"""Seconds that the sessions here wait by themselves."""


class Place(NamedTuple):
    """A database, and an engine for it whose sessions wait as long as they are told when they are connected."""

    db: Database
    engine: Any

    def order(self, scope: str | None = None, *, wait: int = USUAL) -> Any:
        """A protected function that has an effect."""

        @self.db.table(self.engine).transactional(
            scope or f"lock_wait.{next(_scopes)}", key="key", wait=timedelta(seconds=wait), share_scope=True
        )
        def order(session: Any, key: str) -> Any:
            return effect(session, key)

        return order

    def told(self, sql: str) -> Any:
        """The second column of what a statement gives on one of its connections."""
        with self.db.session(self.engine) as held:
            return held.run(lambda session: session.execute(sa.text(sql)).one()[1])

    def run(self, sql: str) -> None:
        """Run a statement on one of its connections."""
        with self.db.session(self.engine) as held:
            held.run(lambda session: session.execute(sa.text(sql)))

    @property
    def settings(self) -> int:
        """How often the session was told anything."""
        return int(self.told("SHOW SESSION STATUS LIKE 'Com_set_option'"))

    @property
    def checks(self) -> int:
        """How many variables a first run sets to have its result fail by itself."""
        return int(self.db.backend == "mysql-several")


def wait_as_usual(engine: Any) -> None:
    """Have each new session wait so long by itself, as ``init_command`` does."""

    @sa.event.listens_for(getattr(engine, "sync_engine", engine), "connect")
    def connected(driver: Any, record: Any) -> None:
        cursor = driver.cursor()
        cursor.execute(f"SET SESSION innodb_lock_wait_timeout = {USUAL}")
        cursor.close()


@pytest.fixture(params=["mysql", "mysql-several", "mysql-async", "mysql-connector"])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    db = db_of(request.param)
    with db.other_engine(pool_size=1, max_overflow=0) as engine:
        wait_as_usual(engine)
        yield Place(db, engine)


def test_a_session_that_waits_as_long_as_the_call_is_told_nothing(place: Place) -> None:
    order = place.order()
    order("first")  # which does not look yet
    before = place.settings
    for key in ("k", "l", "k"):
        order(key)
    assert place.settings == before + 2 * place.checks
    assert place.db.effects() == ["first", "k", "l"]
    assert order.outcome("k").replayed


def test_a_session_that_waits_longer_is_told_and_told_back_by_each_call(place: Place) -> None:
    order = place.order(wait=1)
    for key in ("k", "l"):
        before = place.settings
        order(key)
        assert place.settings == before + 2 + place.checks
        assert place.told("SELECT 0, @@SESSION.innodb_lock_wait_timeout") == USUAL


def test_a_call_behind_a_held_key_waits_no_longer_than_it_may_in_a_session_that_is_told_nothing(place: Place) -> None:
    order = place.order("lock_wait.held")
    order("first")
    order("second")
    before = place.settings
    with held(place.db, scope="lock_wait.held"), pytest.raises(InProgressError):
        order("k")
    assert place.settings == before
    assert place.db.effects("k") == ["k"]


def test_what_an_application_sets_later_is_noticed_when_a_wait_was_in_vain(place: Place) -> None:
    order = place.order("lock_wait.changed")
    order("first")
    order("second")
    place.run("SET SESSION innodb_lock_wait_timeout = 1")
    with held(place.db, scope="lock_wait.changed"):
        for changes in (0, 2):
            before = place.settings
            with pytest.raises(InProgressError):
                order("k")
            assert place.settings == before + changes
    assert place.told("SELECT 0, @@SESSION.innodb_lock_wait_timeout") == 1


def test_what_may_not_wait_to_forget_a_key_that_is_held_tells_the_session_no_second(place: Place) -> None:
    idem = place.db.table(place.engine, wait=timedelta())
    assert not idem.forget("lock_wait.forgotten", "k")
    before = place.settings
    with held(place.db, scope="lock_wait.forgotten"), pytest.raises(InProgressError):
        idem.forget("lock_wait.forgotten", "k")
    assert place.settings == before
    assert place.db.effects("k") == ["k"]


def test_a_connection_that_carries_one_call_is_not_asked_how_long_it_waits() -> None:
    db, seen = db_of("mysql"), list[str]()
    with db.other_engine(poolclass=NullPool) as engine:
        sa.event.listen(engine, "before_cursor_execute", lambda *said: seen.append(said[2]))
        order = Place(db, engine).order()
        order("k")
        order("l")
    assert seen
    assert not [text for text in seen if text.startswith("SELECT @@SESSION.innodb_lock_wait_timeout")]


@pytest.mark.parametrize("backend", ["mysql", "mysql-several"])
def test_where_nothing_is_to_be_told_a_call_costs_one_round_trip_more_than_the_bare_transaction_or_none(
    backend: str,
) -> None:
    with through_a_proxy(db_of(backend), pool_size=1, max_overflow=0) as line:
        wait_as_usual(line.engine)
        db, order = line.db, Place(line.db, line.engine).order()

        def bare(key: str) -> None:
            with db.session(line.engine) as held:
                held.run(lambda session: effect(session, key))
                held.commit()

        def trips(call: Any, *keys: str) -> float:
            before = line.proxy.round_trips
            for key in keys:
                call(key)
            return (line.proxy.round_trips - before) / len(keys)

        order("first")
        order("second")
        bare("third")
        added = trips(order, "k", "l", "m") - trips(bare, "n", "o", "p")
        assert added == {"mysql": 1, "mysql-several": 0}[backend]
        assert trips(order, "k", "l", "m") == 3
