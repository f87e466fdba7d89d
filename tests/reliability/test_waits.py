"""The watcher that E11 believes: it sees a caller who waits for somebody else, and only that."""

from __future__ import annotations

from typing import Any, Final

import pytest
import sqlalchemy as sa

from tests.reliability.places import Place
from tests.reliability.waits import TELLING, Waits
from tests.support.crowd import Beside, until
from tests.support.database import effect

TOUCH: Final = sa.text("UPDATE effect SET amount = amount + 1")


def touch(engine: Any) -> None:
    with engine.begin() as connection:
        connection.execute(TOUCH)


@pytest.mark.parametrize("engine", ["postgresql18", "mariadb10.11", "mysql9.7"])
def test_a_caller_who_waits_for_somebody_else_is_seen_and_one_who_waits_for_a_caller_is_not(engine: str) -> None:
    place = Place(engine, "fused")
    with (
        place.own(*TELLING[place.kind]) as (_, db),
        db.other_engine() as callers,
        Waits(db, callers) as waits,
    ):
        with db.session() as held:
            held.run(lambda session: effect(session, "one"))
            held.commit()
        with db.engine.connect() as holder:
            holder.execute(TOUCH)
            caller = Beside(lambda: touch(callers))
            until(lambda: waits.longest, "nobody is seen waiting")
            holder.rollback()
        caller.result()
        seen = set(waits.seen)
        with callers.connect() as holder:
            holder.execute(TOUCH)
            caller = Beside(lambda: touch(callers))
            db.await_waiting(1)
            looks = waits.looks
            until(lambda: waits.looks >= looks + 3, "nobody looks")
            holder.rollback()
        caller.result()
        assert len(seen) == 1
        assert set(waits.seen) == seen
