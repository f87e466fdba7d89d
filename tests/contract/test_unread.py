"""What a loop over `unseen` has claimed and was not given is never committed: it would be seen for ever, and lost."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy.orm import Session

from idemtable import Flag, TransactionError
from tests.support.database import Database, effect


def stop_after(db: Database, session: Any, count: int, chunk: int = 3) -> list[str]:
    """Handle so many events of six, and leave the loop."""
    done: list[str] = []
    items = [{"id": f"e{number}"} for number in range(6)]
    for event in db.idem.unseen(session, "batch", items, key="id", chunk=chunk):
        done.append(event["id"])
        db.on(session, lambda sync, name=event["id"]: effect(sync, name))
        if len(done) == count:
            break
    return done


def nothing_was_done(db: Database) -> None:
    assert (db.effects(), db.rows()) == ([], [])


def test_a_commit_after_a_loop_that_was_left_early_is_refused_and_the_items_come_again(db: Database) -> None:
    with db.session() as held:
        stop_after(db, held.session, 2)
        with pytest.raises(TransactionError, match="not given to the loop"):
            held.commit()
        held.rollback()
        nothing_was_done(db)
        assert stop_after(db, held.session, 6) == [f"e{number}" for number in range(6)]
        held.commit()
    assert len(db.effects()) == 6


def test_a_commit_in_the_middle_of_the_loop_is_refused(db: Database) -> None:
    items = [{"id": f"e{number}"} for number in range(3)]
    with db.session() as held, pytest.raises(TransactionError, match="give unseen"):
        for _ in db.idem.unseen(held.session, "batch", items, key="id"):
            held.commit()
    nothing_was_done(db)


def test_a_loop_that_an_exception_ends_is_not_committed_by_whoever_swallows_it(db: Database) -> None:
    with db.session() as held:
        with pytest.raises(LookupError):
            for _ in db.idem.unseen(held.session, "batch", [{"id": "a"}, {"id": "b"}], key="id"):
                raise LookupError
        with pytest.raises(TransactionError):
            held.commit()
    nothing_was_done(db)


def test_a_loop_left_at_the_end_of_a_chunk_may_be_committed(db: Database) -> None:
    with db.session() as held:
        assert stop_after(db, held.session, 3) == ["e0", "e1", "e2"]
        held.commit()
        assert stop_after(db, held.session, 9) == ["e3", "e4", "e5"]
        held.commit()
    assert len(db.effects()) == 6


def test_savepoints_inside_the_loop_may_be_released_and_rolled_back(db: Database) -> None:
    items = [{"id": f"e{number}"} for number in range(4)]

    def handle(name: str) -> Callable[[Session], None]:
        def work(session: Session) -> None:
            with session.begin_nested() as savepoint:
                effect(session, name)
                if name == "e2":
                    savepoint.rollback()

        return work

    with db.session() as held:
        for event in db.idem.unseen(held.session, "batch", items, key="id"):
            held.run(handle(event["id"]))
        held.commit()
    assert db.effects() == ["e0", "e1", "e3"]
    assert len(db.rows()) == 4


def test_a_savepoint_round_the_loop_takes_its_claims_with_it(db: Database) -> None:
    def begin(session: Session) -> Any:
        return session.begin_nested()

    with db.session() as held:
        held.run(lambda session: effect(session, "before"))
        savepoint = held.run(begin)
        stop_after(db, held.session, 1)
        held.run(lambda session: savepoint.rollback())
        held.commit()
    assert (db.effects(), db.rows()) == (["before"], [])

    with db.session() as held:
        savepoint = held.run(begin)
        stop_after(db, held.session, 1)
        held.run(lambda session: savepoint.commit())
        with pytest.raises(TransactionError):
            held.commit()
    assert db.rows() == []


def test_a_session_that_was_closed_in_between_is_free_again(db: Database) -> None:
    with db.session() as held:
        stop_after(db, held.session, 1)
        held.run(lambda session: session.close())
        held.run(lambda session: effect(session, "later"))
        held.commit()
    assert (db.effects(), db.rows()) == (["later"], [])


def test_a_call_that_leaves_a_loop_of_its_own_early_is_rolled_back(db: Database) -> None:
    counts = [1, 6]

    @db.idem.transactional("unread", key="key")
    def importing(session: Any, key: str) -> int:
        return len(stop_after(db, db.given(session), counts.pop(0)))

    with pytest.raises(TransactionError, match="not given"):
        importing("k")
    nothing_was_done(db)
    assert importing("k") == 6
    assert len(db.effects()) == 6


def test_a_claim_that_is_rolled_back_inside_the_callers_transaction_takes_its_loop_with_it(db: Database) -> None:
    @db.idem.transactional("unread", key="key", remember=(LookupError,))
    def importing(session: Any, key: str) -> None:
        stop_after(db, db.given(session), 1)
        raise LookupError

    for _ in range(2):
        with pytest.raises(LookupError):
            importing("k")
    assert [row.key for row in db.rows()] == ["k"], "the failure is remembered, and nothing of the loop"


@contextmanager
def unguarded(monkeypatch: pytest.MonkeyPatch) -> Any:
    from idemtable.batch import Unread

    with monkeypatch.context() as patch:
        patch.setattr(Unread, "_refuse", lambda self, session: None)
        yield


def test_without_the_refusal_items_would_be_lost(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the other tests of this page would not notice if it were not so."""
    with unguarded(monkeypatch), db.session() as held:
        done = stop_after(db, held.session, 2)
        held.commit()
    with db.session() as held:
        done += stop_after(db, held.session, 6)
        assert db.idem.claim_many(held.session, "batch", ["e2"]) == [Flag.Seen]
        held.commit()
    assert done == ["e0", "e1", "e3", "e4", "e5"]
