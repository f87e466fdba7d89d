"""What an error means to a call: found by code along orig, __cause__ and __context__, and nothing else."""

from __future__ import annotations

import sqlite3
from itertools import pairwise
from typing import Any

import pytest
import tenacity
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError

from idemtable import InProgressError, LostClaimError, RetryTransactionError
from idemtable.claim.retry import Patience
from idemtable.claim.verdict import Verdict, chain
from idemtable.dialects import Fault, find

pymysql = pytest.importorskip("pymysql")
psycopg = pytest.importorskip("psycopg")

DIALECTS = {
    "postgresql": find(postgresql.dialect(), "idemtable", None),
    "mysql": find(mysql.dialect(), "idemtable", None),
    "sqlite": find(sqlite.dialect(), "idemtable", None),
}


def restarts(error: BaseException, dialect: Any) -> bool:
    return Verdict(error, dialect).restarts


def raw(kind: str, code: Any) -> Exception:
    if kind == "postgresql":
        error: Exception = type("DriverError", (Exception,), {"sqlstate": code})()
    elif kind == "sqlite":
        error = sqlite3.OperationalError("busy")
        error.sqlite_errorcode = code  # type: ignore[attr-defined]
    else:
        error = pymysql.err.OperationalError(code, "message")
    return error


def wrapped(kind: str, code: Any) -> DBAPIError:
    return OperationalError("SELECT 1", {}, raw(kind, code))


RESTARTING = [
    *(("postgresql", code) for code in ("40001", "40P01", "57P01", "57P03", "25P03", "08006", "53300")),
    *(("mysql", code) for code in (1213, 1020, 2006, 2013, 1053, 1927, 1047, 1180, 4031, 1040, 1203, 1226)),
    ("sqlite", sqlite3.SQLITE_BUSY_SNAPSHOT),
]
FINAL = [
    # A lock that was waited for in vain is not waited for again.
    *(("postgresql", code) for code in ("55P03", "57014")),
    *(("mysql", code) for code in (1205, 3572, 1969, 3024)),
    *(("sqlite", code) for code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_BUSY_RECOVERY, sqlite3.SQLITE_LOCKED)),
    *(("postgresql", code) for code in ("23505", "23503", "42P01", "25006", "22001", "42601", None)),
    *(("mysql", code) for code in (1062, 1146, 1792, 1452, 1406, 1064)),
    *(("sqlite", code) for code in (sqlite3.SQLITE_CONSTRAINT_UNIQUE, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_ERROR)),
]


@pytest.mark.parametrize(("kind", "code"), RESTARTING, ids=str)
def test_a_transaction_that_the_database_asks_to_begin_again_restarts(kind: str, code: Any) -> None:
    assert restarts(wrapped(kind, code), DIALECTS[kind])


@pytest.mark.parametrize(("kind", "code"), FINAL, ids=str)
def test_an_error_that_another_attempt_would_only_repeat_does_not_restart(kind: str, code: Any) -> None:
    assert not restarts(wrapped(kind, code), DIALECTS[kind])


@pytest.mark.parametrize("kind", DIALECTS)
def test_errors_of_the_application_do_not_restart_whatever_they_look_like(kind: str) -> None:
    error = LookupError(1213, "looks like a deadlock")
    error.sqlstate = "40001"  # type: ignore[attr-defined]
    assert not restarts(error, DIALECTS[kind])
    assert Verdict(error, DIALECTS[kind]).faults == set()


def test_an_invalidated_connection_is_lost_whatever_its_code() -> None:
    for kind, dialect in DIALECTS.items():
        error = DBAPIError("SELECT 1", {}, raw(kind, None), connection_invalidated=True)
        assert Verdict(error, dialect).is_lost
        assert restarts(error, dialect)


def test_the_cause_is_found_along_orig_cause_and_context() -> None:
    dialect = DIALECTS["mysql"]

    def chained() -> Exception:
        """As after a deadlock whose savepoint is gone: what reaches the caller is 1305."""
        try:
            try:
                raise wrapped("mysql", 1213)
            except DBAPIError:
                raise wrapped("mysql", 1305)  # noqa: B904 - __context__ is the subject
        except DBAPIError as error:
            return error

    assert restarts(chained(), dialect)
    assert Verdict(chained(), dialect).faults == {Fault.RESTART, Fault.DEAD}

    translated = LookupError("business")
    translated.__cause__ = wrapped("mysql", 1213)
    assert restarts(translated, dialect)
    translated.__suppress_context__ = True
    assert restarts(translated, dialect)


def test_a_chain_that_bites_its_tail_ends() -> None:
    error, other = LookupError(), LookupError()
    error.__context__, other.__context__ = other, error
    assert not restarts(error, DIALECTS["mysql"])
    assert len(list(chain(error))) == 2


def test_the_drivers_own_error_counts_without_sqlalchemys_round_it() -> None:
    """PyMySQL's 2013 comes unwrapped when an isolation level is set on a dead pooled connection."""
    from sqlalchemy import create_engine

    engine = create_engine("mysql+pymysql://nobody@127.0.0.1:1/none")
    dialect = find(engine.dialect, "idemtable", None)
    assert restarts(pymysql.err.OperationalError(2013, "Lost connection"), dialect)
    assert not restarts(pymysql.err.IntegrityError(1062, "Duplicate entry"), dialect)
    assert dialect.is_driver_error(pymysql.err.InterfaceError(0, ""))
    assert not dialect.is_driver_error(LookupError())


def test_psycopgs_broken_connection_without_a_code_is_lost() -> None:
    from sqlalchemy import create_engine

    dialect = find(create_engine("postgresql+psycopg://nobody@127.0.0.1:1/none").dialect, "idemtable", None)
    error = OperationalError("SELECT 1", {}, psycopg.OperationalError("the connection is lost"))
    assert Verdict(error, dialect).is_lost
    assert not Verdict(IntegrityError("", {}, psycopg.errors.UniqueViolation()), dialect).is_lost


def test_a_group_of_errors_means_what_any_of_them_means() -> None:
    dialect = DIALECTS["mysql"]
    assert not restarts(ExceptionGroup("tasks", [LookupError(), ValueError()]), dialect)
    assert restarts(ExceptionGroup("tasks", [LookupError(), wrapped("mysql", 1213)]), dialect)
    assert restarts(ExceptionGroup("tasks", [ExceptionGroup("", [RetryTransactionError("begin again")])]), dialect)
    assert not restarts(ExceptionGroup("tasks", [RetryTransactionError("by hand", final=True)]), dialect)
    assert not restarts(ExceptionGroup("tasks", [InProgressError("busy")]), dialect)


def test_an_answer_of_the_library_never_restarts_but_a_joined_calls_request_does() -> None:
    dialect = DIALECTS["postgresql"]
    busy = InProgressError("busy")
    busy.__cause__ = wrapped("postgresql", "40001")
    lost = LostClaimError("lost")
    lost.__context__ = wrapped("postgresql", "40001")
    assert not restarts(busy, dialect)
    assert not restarts(lost, dialect)
    assert restarts(RetryTransactionError("again"), dialect)


def run(kind: str, errors: list[Exception], attempts: int) -> tuple[int, list[float]]:
    sleeps: list[float] = []
    calls = 0

    def call() -> str:
        nonlocal calls
        calls += 1
        if errors:
            raise errors.pop(0)
        return "done"

    patience = Patience(attempts, 60, lambda error: Verdict(error, DIALECTS[kind]))
    tenacity.Retrying(**patience.policy(), sleep=sleeps.append)(call)
    return calls, sleeps


def test_attempts_are_counted_and_the_last_error_is_the_databases_own() -> None:
    assert run("mysql", [wrapped("mysql", 1213)] * 2, 3)[0] == 3
    last = wrapped("mysql", 1213)
    with pytest.raises(OperationalError) as caught:
        run("mysql", [wrapped("mysql", 1213), last], 2)
    assert caught.value is last
    with pytest.raises(LookupError):
        run("mysql", [LookupError()], 8)


def test_a_deadlock_is_tried_again_at_once_and_a_lost_server_is_given_time() -> None:
    _, near = run("postgresql", [wrapped("postgresql", "40P01")] * 7, 8)
    _, far = run("postgresql", [wrapped("postgresql", "57P01")] * 7, 8)
    assert all(0 <= sleep <= 1 for sleep in near)
    assert near[0] <= 0.02
    assert 4 <= sum(far) <= 8  # a server that was killed is back by then, a client has not given up yet
    assert all(later >= sooner - 0.1 for sooner, later in pairwise(far))  # they grow, but for a tenth of jitter


def test_what_the_caller_was_handling_is_not_this_calls() -> None:
    dialect = DIALECTS["mysql"]
    handled = wrapped("mysql", 1213)
    error = LookupError("business")
    error.__context__ = handled
    assert restarts(error, dialect)
    assert not Verdict(error, dialect, handled).restarts
    assert Verdict(error, dialect, handled).is_the_functions


@pytest.mark.parametrize(
    ("code", "asked"),
    [
        (1205, "is_busy"),
        (1213, "is_gone"),
        (2013, "is_lost"),
        (1305, "is_dead"),
        (1290, "is_elsewhere"),
    ],
)
def test_each_question_has_its_errors(code: int, asked: str) -> None:
    questions = ("is_busy", "is_gone", "is_lost", "is_dead", "is_elsewhere")
    verdict = Verdict(wrapped("mysql", code), DIALECTS["mysql"])
    yes = {question for question in questions if getattr(verdict, question)}
    assert yes == ({asked, "is_gone"} if asked in ("is_lost", "is_elsewhere") else {asked})
    assert not verdict.is_the_functions


def test_what_an_applications_error_calls_its_orig_may_be_no_error() -> None:
    error = LookupError("no such order")
    error.orig = "order 7"  # type: ignore[attr-defined]
    assert list(chain(error)) == [error]
    assert not restarts(error, DIALECTS["postgresql"])
