"""Many redemptions of one token at once, and processes that die in the middle of one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest

from idemtable import InProgressError, SpentTokenError, Status
from tests.support import PATIENCE, dying_process
from tests.support.database import Database, effect
from tests.support.forked import Forked
from tests.support.tokens import Gate, desk

CALLERS = 32
LONG = timedelta(seconds=40)


def losers_wait(db: Database, gate: Gate, losers: int) -> None:
    """Come back when the winner is inside and every loser waits for it, by the database's own views.

    SQLite is excused: it has no view of who waits for its one write lock.
    """
    assert gate.reached.wait(PATIENCE)
    if db.kind != "sqlite":
        db.await_waiting(losers)


@pytest.mark.parametrize("replay", [True, False])
def test_of_32_simultaneous_redemptions_one_runs(db: Database, replay: bool) -> None:
    tokens, gate = desk(db), Gate(db)

    @tokens.transactional(token="token", wait=LONG, replay=replay)
    def checkout(session: Any, token: str) -> int:
        gate.wait()
        return effect(session, "paid")

    def call() -> Any:
        try:
            return checkout.outcome(token)
        except SpentTokenError as error:
            return error

    token = tokens.issue()
    with ThreadPoolExecutor(CALLERS) as pool:
        calls = [pool.submit(call) for _ in range(CALLERS)]
        losers_wait(db, gate, CALLERS - 1)
        assert not [call for call in calls if call.done()]
        gate.open()
        results = [call.result(PATIENCE) for call in calls]

    assert db.effects() == ["paid"]
    refused = [result for result in results if isinstance(result, SpentTokenError)]
    outcomes = [result for result in results if not isinstance(result, SpentTokenError)]
    assert len([outcome for outcome in outcomes if not outcome.replayed]) == 1
    assert len({outcome.value for outcome in outcomes}) == 1
    assert len(refused) == (0 if replay else CALLERS - 1)


def test_when_the_first_redemption_fails_the_next_one_runs(server_db: Database) -> None:
    db, waiting = server_db, 8
    tokens, gate = desk(db), Gate(db)
    runs: list[int] = []

    @tokens.transactional(token="token", wait=LONG)
    def checkout(session: Any, token: str) -> int:
        runs.append(1)
        if len(runs) == 1:
            gate.wait()
            raise LookupError
        return effect(session, "paid")

    token = tokens.issue()
    with ThreadPoolExecutor(waiting + 1) as pool:
        first = pool.submit(checkout, token)
        assert gate.reached.wait(PATIENCE)
        rest = [pool.submit(checkout.outcome, token) for _ in range(waiting)]
        db.await_waiting(waiting)
        gate.open()
        with pytest.raises(LookupError):
            first.result(PATIENCE)
        outcomes = [call.result(PATIENCE) for call in rest]

    assert db.effects() == ["paid"]
    assert sorted(outcome.replayed for outcome in outcomes) == [False] + [True] * (waiting - 1)


def paying(tokens: Any, gate: Gate) -> Any:
    """Redeem a token, and hold it until the gate opens."""

    @tokens.transactional(token="token", share_scope=True)
    def slow(session: Any, token: str) -> int:
        gate.wait()
        return effect(session, "paid")

    return slow


def test_a_redemption_waits_no_longer_than_it_may(server_db: Database) -> None:
    db = server_db
    tokens, gate = desk(db), Gate(db)

    slow = paying(tokens, gate)

    @tokens.transactional(token="token", wait=timedelta(seconds=1), share_scope=True)
    def hasty(session: Any, token: str) -> int:
        raise AssertionError

    token = tokens.issue()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(slow, token)
        assert gate.reached.wait(PATIENCE)
        began = time.monotonic()
        with pytest.raises(InProgressError):
            hasty(token)
        took = time.monotonic() - began
        gate.open()
        first.result(PATIENCE)
    assert 0.9 < took < 5
    assert db.effects() == ["paid"]


@pytest.mark.parametrize("level", ["READ COMMITTED", "SERIALIZABLE"])
def test_a_joined_redemption_waits_no_longer_than_it_may_whatever_its_level(server_db: Database, level: str) -> None:
    db = server_db
    tokens, gate = desk(db), Gate(db)

    slow = paying(tokens, gate)

    @tokens.transactional(token="token", wait=timedelta(), share_scope=True)
    def hasty(session: Any, token: str) -> int:
        raise AssertionError

    token = tokens.issue()
    with ThreadPoolExecutor(2) as pool, db.other_engine(isolation_level=level) as engine, db.session(engine) as held:
        first = pool.submit(slow, token)
        assert gate.reached.wait(PATIENCE)
        second = pool.submit(lambda: hasty.join(held.session, token))
        try:
            with pytest.raises(InProgressError):
                second.result(PATIENCE / 4)
        finally:
            gate.open()
            first.result(PATIENCE)
            wait([second])
    assert db.effects() == ["paid"]


def test_the_lock_time_out_of_the_claim_does_not_outlive_it(server_db: Database) -> None:
    question = {
        "postgresql": "SELECT current_setting('lock_timeout')",
        "mariadb": "SELECT @@SESSION.innodb_lock_wait_timeout",
        "mysql": "SELECT @@SESSION.innodb_lock_wait_timeout",
    }[server_db.kind]
    tokens, seen = desk(server_db), []

    @tokens.transactional(token="token", wait=timedelta(seconds=3))
    def checkout(session: Any, token: str) -> None:
        seen.append(session.connection().exec_driver_sql(question).scalar())

    checkout(tokens.issue())
    assert seen == [server_db.execute(question)[0][0]]


# --- processes that die ------------------------------------------------------------------------------------------------


@contextmanager
def dying(db: Database, token: str) -> Iterator[Forked]:
    """A process that has redeemed the token, has written, and has not committed; killed at the end at the latest."""
    process = Forked(dying_process.run, db.sync_url.render_as_string(hide_password=False), token)
    try:
        assert process.stdout.readline() == "inside\n"
        yield process
    finally:
        process.close()


def test_a_process_killed_before_commit_gives_the_token_back(sync_db: Database) -> None:
    tokens = desk(sync_db)

    @tokens.transactional(token="token", wait=LONG)
    def checkout(session: Any, token: str) -> int:
        return effect(session, "paid")

    token = tokens.issue()
    with dying(sync_db, token) as process:
        process.kill()
    assert checkout.outcome(token).replayed is False
    assert sync_db.effects() == ["paid"]
    assert [row.status for row in sync_db.rows()] == [Status.SPENT.code]


def test_who_waits_for_a_process_that_is_killed_gets_the_token(sync_db: Database) -> None:
    tokens = desk(sync_db)

    @tokens.transactional(token="token", wait=LONG)
    def checkout(session: Any, token: str) -> int:
        return effect(session, "paid")

    token = tokens.issue()
    with dying(sync_db, token) as process, ThreadPoolExecutor(1) as pool:
        second = pool.submit(checkout.outcome, token)
        if sync_db.kind != "sqlite":
            sync_db.await_waiting(1)
        assert not second.done()
        process.kill()
        assert second.result(PATIENCE).replayed is False
    assert sync_db.effects() == ["paid"]
