"""Failures at steps: they happen where and as often as was asked for, and are seen not to have happened."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any

import pytest

from idemtable import RetryTransactionError
from idemtable.claim import steps
from idemtable.testing import InjectedCrash, InjectedError, Step, fail_at, outside, restart_at
from tests.support import PATIENCE
from tests.support.database import Database, effect
from tests.support.kit import databases

CALLERS = 8
FIRST = ("entered", "claimed", "running", "ran", "stored", "committed")

db = databases("sqlite", "postgresql18", "mariadb-async", "mysql")


@pytest.fixture
def order(db: Database) -> Any:
    @db.idem.transactional("testing.faults", key="key", share_scope=True)
    def order(session: Any, key: str) -> str:
        effect(session, key)
        return key

    return order


@pytest.mark.parametrize("step", FIRST)
def test_a_failure_happens_at_its_step_and_once(db: Database, order: Any, step: str) -> None:
    with fail_at(step) as failure, pytest.raises(InjectedError, match=step):
        order("k")
    assert db.effects() == (["k"] if step == "committed" else [])
    assert order.outcome("k").replayed is (step == "committed")
    assert failure.hits == 1
    assert steps.listeners == ()


@pytest.mark.parametrize("step", FIRST)
def test_a_restart_runs_the_function_again_in_another_transaction(db: Database, order: Any, step: str) -> None:
    with restart_at(step, times=2) as failure:
        outcome = order.outcome("k")
    assert (outcome.value, outcome.replayed) == ("k", False)
    assert outcome.attempts == (2 if step == "committed" else 3)
    assert failure.hits == outcome.attempts - 1
    assert db.effects() == ["k"]


@pytest.mark.parametrize("step", ["entered", "found", "replayed"])
def test_a_replay_is_restarted_too(db: Database, order: Any, step: str) -> None:
    order("k")
    with restart_at(step):
        assert order.outcome("k").replayed
    assert db.effects() == ["k"]


def test_what_cannot_be_begun_again_from_inside_says_so(db: Database, order: Any) -> None:
    with db.session() as mine:
        with restart_at("ran"), pytest.raises(RetryTransactionError):
            order.join(mine.session, "k")
        mine.rollback()
    with restart_at("stored"), pytest.raises(RetryTransactionError), db.idem.transaction("testing.block", "k"):
        pass
    assert db.rows() == []


def test_a_call_is_begun_again_no_more_often_than_its_table_says(db: Database) -> None:
    idem = db.table(attempts=3)
    runs: list[str] = []

    @idem.transactional("testing.thrice", key="key", share_scope=True)
    def order(session: Any, key: str) -> None:
        runs.append(key)

    with restart_at("ran", times=10) as failure, pytest.raises(RetryTransactionError):
        order("k")
    assert (len(runs), failure.hits) == (3, 3)


def test_only_calls_of_the_scope_fail(db: Database) -> None:
    made = {
        name: db.idem.transactional(f"testing.{name}", key="key", share_scope=True)(lambda session, key: None)
        for name in ("one", "two")
    }
    with fail_at(Step.STORED, scope="testing.two"):
        made["one"]("k")
        with pytest.raises(InjectedError):
            made["two"]("k")


@pytest.mark.parametrize("error", [OSError("the disk is full"), InjectedCrash])
def test_any_error_can_be_wanted(order: Any, error: Any) -> None:
    kind = error if isinstance(error, type) else type(error)
    with fail_at("stored", error), pytest.raises(kind):
        order("k")


def test_a_failure_that_did_not_happen_is_told(order: Any) -> None:
    with (
        pytest.raises(AssertionError, match="no call has come to the step 'found' of orders"),
        fail_at("found", scope="orders"),
    ):
        order("k")
    with pytest.raises(LookupError, match="what the test is about"), fail_at("found"):
        raise LookupError("what the test is about")


@pytest.mark.parametrize("begin", [lambda: steps.listening(lambda moment: None), outside.watching])
def test_threads_that_begin_and_end_to_listen_leave_one_another_alone(
    monkeypatch: pytest.MonkeyPatch, begin: Callable[[], AbstractContextManager[Any]]
) -> None:
    monkeypatch.setattr(steps, "listeners", ())  # whatever a failure leaves is no matter of other tests
    monkeypatch.setattr(outside, "_heard", ())
    barrier = threading.Barrier(CALLERS)

    def listen(_: int) -> None:
        barrier.wait(PATIENCE)
        for _ in range(1500):
            with begin():
                pass

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(CALLERS) as pool:
            list(pool.map(listen, range(CALLERS)))
    finally:
        sys.setswitchinterval(before)
    assert (steps.listeners, outside._heard) == ((), ())


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match=r"has the steps entered, found, .* and not 'stord'"):
        fail_at("stord")
    with pytest.raises(TypeError, match="error= takes an exception or its class, not 'boom'"):
        fail_at("stored", "boom")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="times"):
        fail_at("stored", times=0)
    for fault in (fail_at, restart_at):
        with pytest.raises(TypeError, match="a scope is a name"):
            fault("stored", scope=7)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="a call that has given back is over"):
        restart_at("gave_back")
