"""What must be so before a race tells anything: transactions that are undone, a session that stays one's own, a call."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from typing import Final

import sqlalchemy as sa

from .race import Check, Race, named
from .stage import Stage

_ENGINE: Final = (
    "what a function writes into such a table is not undone with its key. Have the server make tables that can be rolled "
    "back (default_storage_engine=InnoDB), and convert those that are there: ALTER TABLE … ENGINE=InnoDB"
)
_CLIENTS: Final = 4
_POOLER: Final = (
    "a pooler gives a transaction another connection than the one before it. The library keeps nothing in a session on "
    "this database; your own SET, LISTEN, temporary tables and prepared statements do"
)
_BROKEN_POOLER: Final = (
    "a call here sets its lock time-out in the session and puts it back: whoever shares the connection meanwhile waits by "
    "it. Let each client keep its connection (session pooling)"
)


def transactions(stage: Stage, stayed: str | None) -> Check:
    """See that a ROLLBACK undoes what was written, and that the database's locks can be relied on.

    Args:
        stage: the run.
        stayed: what was left in the table after a ROLLBACK.
    """
    check = Check("transactions", "INSERT and ROLLBACK, in a table as your own are made and in one as the library's", 2)
    check.seen = "nothing stayed"
    if stayed is not None:
        check.seen = stayed
        check.blame(stayed)
        check.because(_ENGINE)
    with stage.callers.engine.connect() as connection:
        if (why := stage.ground.catalogue.lockless(connection)) is not None:
            check.blame("locks keep nobody out")
            check.because(why)
    return check


def session(stage: Stage) -> Check:
    """See whether each client has a connection of its own, and its transactions stay on it."""
    check = Check("session", "each of some clients sets a variable of its session and looks again")
    if (words := stage.ground.catalogue.note) is None:
        check.seen = "there is no server, and no pooler"
        return check
    note, read = words
    with ExitStack() as opened:
        count = min(stage.count, _CLIENTS)
        clients = {f"client {n}": opened.enter_context(stage.callers.engine.connect()) for n in range(count)}
        for word, connection in clients.items():
            with connection.begin():
                connection.exec_driver_sql(note.format(word=word))
        found = {}
        for word, connection in clients.items():
            with connection.begin():
                found[word] = connection.exec_driver_sql(read).scalar()
        check.times = count
        stage.is_pooled = any(found[word] != word for word in clients)
        check.seen = "one found another's, or nothing" if stage.is_pooled else "each found its own"
        if stage.is_pooled and stage.ground.catalogue.leans_on_session(connection):
            check.blame("a setting of one client's session is in force in another's")
            check.because(_BROKEN_POOLER)
        elif stage.is_pooled:
            check.because(_POOLER)
        for connection in clients.values():
            with suppress(sa.exc.SQLAlchemyError):
                connection.invalidate()  # the variable goes with it
    return check


def call(stage: Stage) -> Check:
    """See that a call runs and is replayed: without that there is nothing to try."""
    check = Check("call", "a call and its replay")
    for way in stage.ways:
        key = stage.key("call")
        race = Race(f"two calls, {way.name}", ["caller 1"])
        for _ in range(2):
            stage.herd(race, way, key)
            if race.errors:
                break
        for error in race.errors:
            race.broken.append(f"a call raised {type(error).__name__}")
            check.because(named(error))
        stage.why(check, race)
        if not race.errors:
            _replayed(race, stage.effects(race))
        check.take(race)
    check.seen = "the second got the first one's reply" if check.kept else "no call can be made"
    return check


def _replayed(race: Race, effects: int) -> None:
    if effects != 1:
        race.broken.append(f"{effects} effects were committed by a call and its replay")
    if not race.answers[0].replayed:
        race.broken.append("a call with a key that was used was no replay")
