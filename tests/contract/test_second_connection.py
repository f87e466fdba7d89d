"""A session on two databases: no COMMIT is of both, so none is sent, at whichever moment the second one was opened."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session, sessionmaker

from idemtable import Flag, SessionNotUsableError
from tests.support.database import Database, Effect, Unique, effect


class Other:
    """Another database, where what `Unique` maps goes to."""

    def __init__(self, db: Database, path: Path) -> None:
        self._look = sa.create_engine(f"sqlite:///{path}", poolclass=sa.NullPool)
        Unique.__table__.create(self._look)  # type: ignore[attr-defined]
        if db.is_async:
            from sqlalchemy.ext.asyncio import create_async_engine

            self.engine: Any = create_async_engine(f"sqlite+aiosqlite:///{path}")
        else:
            self.engine = sa.create_engine(f"sqlite:///{path}")
        self.binds = {Unique: self.engine}

    def names(self) -> list[str]:
        with Session(self._look) as session:
            return list(session.scalars(sa.select(Unique.name)))


@pytest.fixture
def other(db: Database, tmp_path: Path) -> Iterator[Other]:
    found = Other(db, tmp_path / "other.db")
    yield found
    db.dispose(found.engine)


def write(session: Session) -> None:
    session.add(Unique(name="there"))


def once(session: Session) -> None:
    if not session.info.setdefault("written", False):
        session.info["written"] = True
        write(session)


def write_now(session: Session) -> None:
    write(session)
    session.flush()


def read(session: Session) -> None:
    session.scalars(sa.select(Unique)).all()


def write_before_commit(session: Session) -> None:
    sa.event.listen(session, "before_commit", once)


def write_behind_a_flush(session: Session) -> None:
    sa.event.listen(session, "after_flush_postexec", lambda session, _: once(session))
    session.add(Effect(name="pending"))


MOMENTS: dict[str, Callable[[Session], None]] = {
    "in the flush of COMMIT": write,
    "before it": write_now,
    "to read": read,
    "as somebody hears of COMMIT": write_before_commit,
    "behind a flush": write_behind_a_flush,
}


def swallow(session: Session) -> None:
    with pytest.raises(SessionNotUsableError):
        read(session)


def nothing_was_done(db: Database, other: Other) -> None:
    assert (db.effects(), db.rows(), other.names()) == ([], [], [])


@pytest.mark.parametrize("moment", [*MOMENTS, "swallowed"])
@pytest.mark.parametrize("verb", ["unseen", "claim_many"])
def test_a_batch_in_a_session_on_two_databases_is_not_committed(
    db: Database, other: Other, verb: str, moment: str
) -> None:
    with db.session(binds=other.binds) as held:

        def importing() -> None:
            if verb == "unseen":
                assert list(db.idem.unseen(held.session, "batch", ["a", "b"], key=str)) == ["a", "b"]
            else:
                assert db.idem.claim_many(held.session, "batch", ["a"]) == [Flag.New]
            held.run(lambda session: effect(session, "here"))
            held.run({**MOMENTS, "swallowed": swallow}[moment])
            held.commit()

        with pytest.raises(SessionNotUsableError, match="two connections"):
            importing()
        held.rollback()
    nothing_was_done(db, other)


def test_a_batch_that_was_rolled_back_leaves_the_session_free_to_use_both(db: Database, other: Other) -> None:
    with db.session(binds=other.binds) as held:
        assert db.idem.claim_many(held.session, "batch", ["a"]) == [Flag.New]
        held.rollback()
        held.run(write)
        held.run(lambda session: effect(session, "here"))
        held.commit()
    assert (db.effects(), db.rows(), other.names()) == (["here"], [], ["there"])


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("form", ["call", "block"])
def test_a_call_in_a_session_on_two_databases_is_not_committed(
    db: Database, other: Other, form: str, moment: str
) -> None:
    if db.is_async:
        from sqlalchemy.ext.asyncio import async_sessionmaker

        maker: Any = async_sessionmaker(db.engine, binds=other.binds)
    else:
        maker = sessionmaker(db.engine, binds=other.binds)
    idem = db.table(maker)

    def work(session: Session) -> None:
        effect(session, "here")
        MOMENTS[moment](session)

    @idem.transactional("order", key="key")
    def order(session: Any, key: str) -> None:
        work(session)

    def call() -> None:
        if form == "call":
            order("k")
        else:
            with idem.transaction("order", "k") as claim:
                db.on(claim.session, work)

    with pytest.raises(SessionNotUsableError, match="two connections"):
        call()
    nothing_was_done(db, other)
