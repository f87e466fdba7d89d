"""The protocol's points: complete and in order; and whatever fails at one of them, nothing is half done."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from idemtable import FingerprintMismatchError, InProgressError
from idemtable.claim import steps
from idemtable.claim.steps import Moment, Step
from tests.support.database import Database, effect


class Declined(Exception):
    pass


class Crash(BaseException):
    """The end of the process, as far as the call can tell."""


@contextmanager
def seen() -> Iterator[list[Moment]]:
    moments: list[Moment] = []
    with steps.listening(moments.append):
        yield moments


def names(moments: list[Moment]) -> list[str]:
    return [moment.step.value for moment in moments]


@pytest.fixture
def order(db: Database) -> Any:
    @db.idem.transactional("order", key="key", remember=(Declined,))
    def order(session: Any, key: str, what: str = "") -> str:
        effect(session, key)
        if what == "decline":
            raise Declined("no")
        if what:
            raise LookupError(what)
        return key

    return order


FIRST = ["entered", "claimed", "running", "ran", "stored", "committed"]


def test_a_first_run_and_a_replay_pass_their_points_in_order(db: Database, order: Any) -> None:
    with seen() as moments:
        order("k")
    assert names(moments) == FIRST
    assert {(m.request.scope, m.request.key, m.attempt, m.owned) for m in moments} == {("order", "k", 1, True)}
    with seen() as moments:
        order("k")
    assert names(moments) == ["entered", "found", "replayed"]


def test_a_failure_gives_back_and_a_remembered_one_is_stored(db: Database, order: Any) -> None:
    with seen() as moments, pytest.raises(LookupError):
        order("a", "broken")
    assert names(moments) == ["entered", "claimed", "running", "gave_back"]
    with seen() as moments, pytest.raises(Declined):
        order("b", "decline")
    assert names(moments) == ["entered", "claimed", "running", "stored", "committed"]
    with seen() as moments, pytest.raises(Declined):
        order("b", "decline")
    assert names(moments) == ["entered", "found", "replayed"]


def test_a_refused_call_passes_no_point_of_a_run(db: Database, order: Any) -> None:
    order("k")
    with seen() as moments, pytest.raises(FingerprintMismatchError):
        order("k", "other payload")
    assert names(moments) == ["entered", "found"]


def test_an_expired_row_is_found_before_it_is_taken_over(db: Database, order: Any) -> None:
    order("k")
    db.expire()
    with seen() as moments:
        order("k")
    assert names(moments) == ["entered", "found", *FIRST[1:]]


def test_joined_calls_and_blocks_pass_the_same_points(db: Database, order: Any) -> None:
    with seen() as moments, db.session() as mine:
        order.join(mine.session, "k")
        mine.commit()
    assert names(moments) == FIRST
    assert {moment.owned for moment in moments} == {False}
    with seen() as moments, db.idem.transaction("pay", "k") as claim:
        claim.result = 1
    assert names(moments) == FIRST
    with seen() as moments, db.idem.transaction("pay", "k"):
        pass
    assert names(moments) == ["entered", "found", "replayed"]


@pytest.mark.parametrize("step", [Step(name) for name in FIRST])
@pytest.mark.parametrize("error", [Crash, OSError])
def test_a_first_run_that_fails_at_any_point_leaves_nothing_or_everything(
    db: Database, order: Any, step: Step, error: type[BaseException]
) -> None:
    hits: list[Moment] = []

    def fail(moment: Moment) -> None:
        if moment.step is step and not hits:
            hits.append(moment)
            raise error(step.value)

    with steps.listening(fail), pytest.raises(error):
        order("k")
    assert len(hits) == 1
    done = ["k"] if step is Step.COMMITTED else []
    assert (db.effects(), len(db.rows())) == (done, len(done))

    outcome = order.outcome("k")
    assert (outcome.value, outcome.replayed) == ("k", bool(done))
    assert db.effects() == ["k"]


@pytest.mark.parametrize("step", [Step.ENTERED, Step.FOUND, Step.REPLAYED])
def test_a_replay_that_fails_at_any_point_changes_nothing(db: Database, order: Any, step: Step) -> None:
    order("k")
    rows = db.rows()

    def fail(moment: Moment) -> None:
        if moment.step is step:
            raise Crash

    with steps.listening(fail), pytest.raises(Crash):
        order("k")
    assert (db.rows(), db.effects()) == (rows, ["k"])
    assert order.outcome("k").replayed


@pytest.mark.parametrize("step", [Step(name) for name in FIRST])
def test_a_joined_call_that_fails_at_any_point_leaves_the_callers_work_alone(
    db: Database, order: Any, step: Step
) -> None:
    def fail(moment: Moment) -> None:
        if moment.step is step:
            raise OSError(step.value)

    with db.session() as mine:
        mine.run(lambda session: effect(session, "mine"))
        with steps.listening(fail), pytest.raises(OSError, match=step.value):
            order.join(mine.session, "k")
        mine.commit()
    done = ["k"] if step is Step.COMMITTED else []  # released into the caller's transaction, which went on to commit
    assert sorted(db.effects()) == sorted(["mine", *done])
    assert order.outcome("k").replayed is bool(done)


def test_who_stops_listening_hears_nothing_more(db: Database, order: Any) -> None:
    with seen() as outer, seen() as inner:
        order("a")
    assert names(outer) == names(inner) == FIRST
    order("b")
    assert len(outer) == len(FIRST)
    assert steps.listeners == ()


def test_what_a_listener_raises_is_the_calls_error(db: Database, order: Any) -> None:
    def refuse(moment: Moment) -> None:
        raise InProgressError("not now")

    with steps.listening(refuse), pytest.raises(InProgressError, match="not now"):
        order("k")
    assert db.rows() == []
