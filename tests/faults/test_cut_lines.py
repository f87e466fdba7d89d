"""Connections cut at every moment of a call: one effect, one reply, and the caller sees no error."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from itertools import count
from typing import Any

import pytest
import tenacity

from idemtable import RetryTransactionError
from idemtable.claim import retry
from tests.support.backends import db_of
from tests.support.crowd import until
from tests.support.database import Database, effect
from tests.support.lines import DRIVERS, Line, through_a_proxy
from tests.support.proxy import Way

WAIT = timedelta(seconds=50)


@pytest.fixture(params=DRIVERS)
def db(request: pytest.FixtureRequest) -> Database:
    return db_of(request.param)


@pytest.fixture
def line(db: Database) -> Iterator[Line]:
    with through_a_proxy(db) as found:
        yield found


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin again without a pause: hundreds of cuts, and what is tested is not how long the pause is."""
    monkeypatch.setattr(retry, "_FAR", tenacity.wait_none())


def order_of(line: Line, runs: list[str], **options: Any) -> Any:
    @line.idem.transactional("order", key="key", wait=WAIT, **options)
    def order(session: Any, key: str) -> dict[str, int]:
        runs.append(key)
        return {"id": effect(session, key)}

    return order


def test_a_line_cut_before_commit_arrives_runs_again_unseen(line: Line) -> None:
    runs: list[str] = []
    order = order_of(line, runs)
    order("warm")
    cut = line.proxy.cut_before_commit()
    first = order.outcome("k")
    second = order.outcome("k")

    assert cut.hit.is_set()
    assert runs == ["warm", "k", "k"]
    assert (first.replayed, first.attempts, second.replayed) == (False, 2, True)
    assert first.value == second.value
    assert line.db.effects() == ["warm", "k"]


def test_a_line_cut_after_commit_was_done_answers_from_what_was_committed(line: Line) -> None:
    runs: list[str] = []
    order = order_of(line, runs)
    order("warm")
    cut = line.proxy.cut_after_commit()
    first = order.outcome("k")
    second = order.outcome("k")

    assert cut.hit.is_set()
    assert runs == ["warm", "k"], "what was committed ran again"
    assert (first.replayed, first.created_at) == (False, None), "to its caller it is the first run"
    assert first.attempts == 2
    assert second.replayed
    assert first.value == second.value
    assert line.db.effects() == ["warm", "k"]


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_block_whose_commit_is_unknown_says_so_and_entering_it_again_settles_it(line: Line, moment: str) -> None:
    db = line.db
    ran = []

    def enter() -> tuple[bool, Any]:
        with line.idem.transaction("order", "k", wait=WAIT) as claim:
            if not claim.replayed:
                ran.append(db.on(claim.session, lambda session: effect(session, "k")))
                claim.result = {"run": len(ran)}
        return claim.replayed, claim.result

    with line.idem.transaction("order", "warm"):
        pass
    cut = line.proxy.cut_before_commit() if moment == "before" else line.proxy.cut_after_commit()
    with pytest.raises(RetryTransactionError):
        enter()
    again = enter()

    assert cut.hit.is_set()
    assert again == ((False, {"run": 2}) if moment == "before" else (True, {"run": 1}))
    assert enter() == (True, again[1])
    assert db.effects() == ["k"]


def test_a_joined_call_whose_line_is_cut_asks_for_a_new_transaction(line: Line) -> None:
    db = line.db
    runs: list[str] = []
    order = order_of(line, runs)
    hits = 0
    for number in count(1):
        with db.session(line.engine) as mine:
            mine.run(lambda session: effect(session, "mine"))
            cut = line.proxy.cut_at(Way.TO_CLIENT, number)
            try:
                order.join(mine.session, "k")
            except RetryTransactionError:
                hits += 1
                assert cut.hit.is_set()
                mine.rollback()
                continue
            assert not cut.hit.is_set(), "a cut line went unnoticed"
            line.proxy.let_pass()
            mine.commit()
            break

    assert hits >= 4 - line.is_fused, "SAVEPOINT, claim, effect, result"
    assert sorted(db.effects()) == ["k", "mine"]


def cut_everywhere(line: Line, way: Way, call: Any, settled: Any) -> int:
    """Cut at the first chunk of a call, at the second of the next call, and so on until a call has fewer chunks.

    Returns:
        How many cuts hit.
    """
    for number in count(1):
        cut = line.proxy.cut_at(way, number)
        outcome = call(f"k{number}")
        line.proxy.let_pass()
        settled(f"k{number}", outcome)
        if not cut.hit.is_set():
            return number - 1
    raise AssertionError("never ends")


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("way", Way)
def test_a_first_run_cut_at_any_chunk_has_one_effect_and_one_reply(line: Line, way: Way) -> None:
    runs: list[str] = []
    order = order_of(line, runs)
    order("warm")

    def settled(key: str, outcome: Any) -> None:
        assert not outcome.replayed
        assert order.outcome(key).replayed
        assert order(key) == outcome.value
        assert line.db.effects(key) == [key]

    hits = cut_everywhere(line, way, order.outcome, settled)

    # BEGIN may travel with what follows it, and COMMIT with the result.
    assert hits >= 4 - line.is_fused
    assert line.proxy.hits == hits
    assert len(line.db.rows()) == hits + 2


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("way", Way)
def test_a_replay_cut_at_any_chunk_gives_the_same_reply_and_runs_nothing(line: Line, way: Way) -> None:
    runs: list[str] = []
    order = order_of(line, runs)
    stored = {f"k{number}": order(f"k{number}") for number in range(1, 30)}
    runs.clear()

    def settled(key: str, outcome: Any) -> None:
        assert outcome.replayed
        assert outcome.value == stored[key]

    hits = cut_everywhere(line, way, order.outcome, settled)

    assert hits >= 2, "claim and look, or both and ROLLBACK, at the least"
    assert line.proxy.hits == hits
    assert runs == []
    assert sorted(line.db.effects()) == sorted(stored)


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("way", Way)
def test_a_line_cut_while_it_is_being_made_is_made_again(db: Database, way: Way) -> None:
    """The whole of connecting, too: every chunk from the first one on, each time with an empty pool."""
    hits = 0
    with through_a_proxy(db) as line:
        runs: list[str] = []
        order = order_of(line, runs)
        for number in count(1):
            db.dispose(line.engine)
            key = f"k{number}"
            cut = line.proxy.cut_at(way, number)
            first = order(key)
            line.proxy.let_pass()
            assert order(key) == first
            assert db.effects(key) == [key]
            if not cut.hit.is_set():
                break
            hits += 1

    assert hits >= 6 - line.is_fused
    assert line.proxy.hits == hits


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("lookaside", [False, True])
@pytest.mark.parametrize("way", Way)
def test_a_run_at_a_level_of_its_own_cut_at_any_chunk_has_one_effect_and_one_reply(
    line: Line, way: Way, lookaside: bool
) -> None:
    runs: list[str] = []
    order = order_of(line, runs, isolation_level="SERIALIZABLE", lookaside=lookaside)
    order("warm")

    def settled(key: str, outcome: Any) -> None:
        assert not outcome.replayed
        assert order(key) == outcome.value
        assert line.db.effects(key) == [key]
        assert line.checked_out() == 0

    hits = cut_everywhere(line, way, order.outcome, settled)

    assert hits >= 4 - line.is_fused
    assert line.proxy.hits == hits


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("way", Way)
def test_a_purge_cut_at_any_chunk_is_done_and_loses_no_place_in_the_pool(line: Line, way: Way) -> None:
    order = order_of(line, [])
    hits = 0
    for number in count(1):
        line.db.sweep()  # the lease too, which stays for a minute where its end was cut
        for old in range(3):
            order(f"old{old}")
        line.db.expire()
        order("live")
        cut = line.proxy.cut_at(way, number)
        # Busy is what it says while the server has not noticed yet that the connection which was cut is gone.
        until(lambda: not line.idem.purge(batch=1, pause=timedelta(0)).busy, "the purge stays busy")
        line.proxy.let_pass()
        assert line.checked_out() == 0, f"at chunk {number}"
        assert [row.key for row in line.db.rows() if row.key] == ["live"], f"at chunk {number}"
        if not cut.hit.is_set():
            break
        hits += 1

    assert hits >= 10, "five transactions"


class Declined(Exception):
    pass


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("way", Way)
def test_an_exception_that_is_remembered_is_the_reply_wherever_the_line_is_cut(line: Line, way: Way) -> None:
    @line.idem.transactional("order", key="key", wait=WAIT, remember=(Declined,))
    def order(session: Any, key: str) -> None:
        effect(session, key)
        raise Declined(key, 4)

    hits = 0
    for number in count(1):
        cut = line.proxy.cut_at(way, number)
        for _ in range(2):
            with pytest.raises(Declined) as caught:
                order(f"k{number}")
            line.proxy.let_pass()
            assert caught.value.args == (f"k{number}", 4)
        if not cut.hit.is_set():
            break
        hits += 1

    assert hits >= 5
    assert line.db.effects() == []
    assert len(line.db.rows()) == hits + 1
