"""The plugin, in suites of its own: its fixtures are there, and an effect outside is an error."""

from __future__ import annotations

import tomllib
from importlib import import_module, metadata
from pathlib import Path

import pytest

from tests.support.plugin import PLUGIN

ROOT = Path(__file__).parents[2]

SHOP = """
import socket
from datetime import timedelta

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session, sessionmaker

from idemtable import IdemTable
from idemtable.testing import InjectedError, OutsideEffectWarning, assert_idempotent

metadata = sa.MetaData()
orders = sa.Table("orders", metadata, sa.Column("id", sa.Integer, primary_key=True), sa.Column("item", sa.String(20)))


@pytest.fixture(scope="session")
def post_office():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()


@pytest.fixture
def order(idem_sqlite, post_office):
    metadata.create_all(idem_sqlite.engine)

    @idem_sqlite.transactional("orders.create", key="key", ttl=timedelta(hours=1))
    def order(session: Session, key: str, mail: str = "") -> int:
        if mail == "swallow":
            try:
                socket.create_connection(post_office).close()
            except Exception:
                pass
        elif mail:
            socket.create_connection(post_office).close()
        return session.execute(orders.insert().values(item="tea")).inserted_primary_key.id

    order.count = lambda: count(idem_sqlite.engine)
    return order


def count(bind) -> int:
    with Session(bind) as session:
        return session.scalar(sa.select(sa.func.count()).select_from(orders))
"""


@pytest.fixture(autouse=True)
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    monkeypatch.setenv("COLUMNS", "1000")  # a summary has what fits into a line
    pytester.makeconftest(SHOP)
    return pytester


def run(suite: pytest.Pytester, body: str, *arguments: str) -> pytest.RunResult:
    suite.makepyfile("from conftest import *\n\n\n" + body)
    return suite.runpytest_inprocess(*PLUGIN, "-p", "no:cacheprovider", "--import-mode=importlib", *arguments)


def test_the_fixtures_are_just_there(suite: pytest.Pytester) -> None:
    body = """
def test_idem_sqlite(idem_sqlite, order):
    assert isinstance(idem_sqlite, IdemTable)
    assert order("k") == order("k") == 1

def test_another_one_for_each_test(idem_sqlite, order):
    assert idem_sqlite.stats().rows == 0

def test_assert_idempotent(idem_sqlite, order):
    assert_idempotent(order, idem_sqlite.engine)

def test_idem_clock(order, idem_clock):
    order("k")
    idem_clock.advance(timedelta(minutes=59))
    assert order.outcome("k").replayed
    idem_clock.advance(timedelta(minutes=1))
    assert not order.outcome("k").replayed

def test_fail_at(order, fail_at):
    failure = fail_at("stored")
    with pytest.raises(InjectedError):
        order("k")
    assert (order.count(), failure.hits) == (0, 1)
    assert not order.outcome("k").replayed
    with fail_at("committed", OSError("lost")), pytest.raises(OSError, match="lost"):
        order("other")
    assert order.outcome("other").replayed

def test_restart_at(order, restart_at):
    restart_at("ran")
    assert order.outcome("k").attempts == 2
    assert order.count() == 1

@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    engine = sa.create_engine(f"sqlite:///{tmp_path_factory.mktemp('db') / 'shop.db'}")
    metadata.create_all(engine)
    IdemTable(engine).create_all()
    yield engine
    engine.dispose()

@pytest.mark.parametrize("time", ["first", "second"])
def test_idem_rollback(engine, idem_rollback, time):
    Sessions = sessionmaker(engine)
    idem = IdemTable(Sessions)
    connection = idem_rollback(Sessions)
    with idem.transaction("orders.create", "k") as claim:
        assert not claim.replayed
        claim.session.execute(orders.insert().values(item="tea"))
    assert count(connection) == 1
"""
    run(suite, body).assert_outcomes(passed=8)


def test_effects_outside_are_errors_in_tests_that_use_it(suite: pytest.Pytester) -> None:
    body = """
def test_a_mail(order):
    order("k", mail="send")

def test_a_mail_under_the_assertion(idem_sqlite, order):
    assert_idempotent(lambda key: order(key, mail="send"), idem_sqlite.engine)

def test_a_mail_whose_error_is_swallowed(order):
    order("k", mail="swallow")

def test_another_engine(idem_sqlite, tmp_path):
    other = sa.create_engine(f"sqlite:///{tmp_path / 'other.db'}")
    @idem_sqlite.transactional("orders.report", key="key")
    def report(session: Session, key: str) -> None:
        with other.connect() as connection:
            connection.execute(sa.text("SELECT 1"))
    try:
        report("k")
    finally:
        other.dispose()

def test_it_is_known(order):
    with pytest.raises(OutsideEffectWarning, match="connects a socket"):
        order("k", mail="send")

def test_it_is_known_of_a_block(idem_sqlite, post_office):
    with pytest.raises(OutsideEffectWarning), idem_sqlite.transaction("orders.block", "k"):
        socket.create_connection(post_office).close()

@pytest.mark.filterwarnings("ignore::idemtable.testing.OutsideEffectWarning")
def test_it_is_allowed(idem_sqlite, order):
    order("k", mail="send")
    assert_idempotent(lambda key: order(key, mail="send"), idem_sqlite.engine)

def test_outside_of_a_function_nothing_is_an_effect(order, post_office):
    order("k")
    socket.create_connection(post_office).close()

def test_without_it(tmp_path, post_office):
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'mine.db'}")
    idem = IdemTable(engine)
    idem.create_all()
    with idem.transaction("orders.create", "k"):
        socket.create_connection(post_office).close()
    engine.dispose()
"""
    result = run(suite, body)
    # What was swallowed is told when the test is over.
    result.assert_outcomes(passed=6, failed=3, errors=1)
    result.stdout.fnmatch_lines_random(
        [
            "FAILED *::test_a_mail - *OutsideEffectWarning*",
            "FAILED *::test_a_mail_under_the_assertion - AssertionError: one call: *conftest.py:*connects a socket*",
            "FAILED *::test_another_engine - *uses another engine*",
            "ERROR *::test_a_mail_whose_error_is_swallowed - AssertionError: *conftest.py:*connects a socket*",
        ]
    )


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
def test_a_trial_that_is_never_awaited_fails_its_test_and_no_other(suite: pytest.Pytester) -> None:
    body = """
import asyncio

import anyio

async def buy(key):
    raise LookupError("never noticed")

def test_an_async_function(idem_sqlite):
    assert_idempotent(buy, idem_sqlite.engine)

def test_a_lambda(idem_sqlite):
    assert_idempotent(lambda key: buy(key), idem_sqlite.engine)

@pytest.fixture
def kept():
    trials = []
    yield trials
    trials.pop().close()

def test_it_is_kept(idem_sqlite, kept):
    kept.append(assert_idempotent(buy, idem_sqlite.engine))

def test_who_has_failed_has_said_enough(idem_sqlite, kept):
    kept.append(assert_idempotent(buy, idem_sqlite.engine))
    raise LookupError("sold out")

def test_it_is_awaited(order, idem_sqlite):
    async def create(key):
        order(key)

    def trial():
        return assert_idempotent(create, idem_sqlite.engine, callers=2)

    async def beside():
        await asyncio.create_task(trial())
        await asyncio.gather(trial())

    asyncio.run(trial())
    asyncio.run(beside())
    anyio.run(trial)
"""
    result = run(suite, body)
    result.assert_outcomes(passed=1, failed=4)
    result.stdout.fnmatch_lines_random(
        [
            "FAILED *::test_an_async_function - Failed: assert_idempotent has tested nothing: * so await it, *",
            "FAILED *::test_a_lambda - Failed: assert_idempotent has tested nothing: *",
            "FAILED *::test_it_is_kept - Failed: assert_idempotent has tested nothing: *",
            "FAILED *::test_who_has_failed_has_said_enough - LookupError: sold out",
        ]
    )


def test_a_failure_that_did_not_happen_is_an_error(suite: pytest.Pytester) -> None:
    body = """
def test_nothing_was_replayed(order, fail_at):
    fail_at("replayed")
    order("k")

def test_and_the_next_test_is_not_disturbed(order):
    assert order("k") == order("k")

def test_a_test_that_has_failed_has_said_enough(order, fail_at):
    fail_at("replayed")
    assert order("k", mail="swallow") == 2
"""
    result = run(suite, body)
    result.assert_outcomes(passed=2, failed=1, errors=1)
    result.stdout.fnmatch_lines(["*no call has come to the step 'replayed'*"])


def test_the_filters_of_a_suite_do_not_switch_it_off_by_chance(suite: pytest.Pytester) -> None:
    suite.makeini("[pytest]\nfilterwarnings =\n    error\n    default\n    ignore::UserWarning\n")
    body = """
def test_a_mail(order):
    order("k", mail="send")
"""
    run(suite, body).assert_outcomes(failed=1)
    run(suite, body, "-W", "ignore::UserWarning").assert_outcomes(passed=1)


def test_pytest_finds_it_by_itself() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["entry-points"] == {"pytest11": {"idemtable": "idemtable.testing.plugin"}}
    point = metadata.EntryPoint("idemtable", project["entry-points"]["pytest11"]["idemtable"], "pytest11")
    assert point.load() is import_module("idemtable.testing.plugin")
