"""Processes on one key: what holds between threads holds between programs, and a program that dies holds nothing."""

from __future__ import annotations

import pytest

from tests.support.backends import db_of
from tests.support.crowd import is_locked
from tests.support.database import Database
from tests.support.newest import NEWEST
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
