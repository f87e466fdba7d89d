"""A second connection of a session's: no COMMIT is of both, so it is refused before either of them is sent."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sqlalchemy import event
from sqlalchemy.orm import Session

from ..errors import SessionNotUsableError

if TYPE_CHECKING:
    from sqlalchemy import Connection
    from sqlalchemy.orm import SessionTransaction


def connections(session: Session) -> list[Connection]:
    """Return those that a session's transaction has begun on."""
    root = session.get_transaction()
    # Each is kept under itself and under its engine.
    return [] if root is None else list({id(one[0]): one[0] for one in root._connections.values()}.values())


def second_connection(session: Session) -> str | None:
    """Say that a session holds two connections, which cannot be committed together."""
    root = session.get_transaction()
    if root is None or len(root._connections) <= 2 or len(connections(session)) < 2:  # nearly always by the first two
        return None
    return (
        "its session works on two connections, and no COMMIT is of both: take binds= away, or write to the other "
        "database in a call of its own"
    )


def may_open(session: Session) -> bool:
    """Say whether code of somebody's still runs as a session is committed; else there is nothing to listen to."""
    return bool(session.dispatch.before_commit) or type(session).commit is not Session.commit or not session._is_clean()


@contextmanager
def none_opened(session: Session) -> Iterator[None]:
    """Let a session open no other connection inside, where it is committed after the look that everybody takes.

    Not by a look between its flush and COMMIT, which it leaves no room for: of two connections the other one may be
    committed first. Only where `may_open` says so: to listen costs as much as a statement.
    """
    event.listen(session, "after_begin", _refuse)
    try:
        yield
    finally:
        event.remove(session, "after_begin", _refuse)


def _refuse(session: Session, transaction: SessionTransaction, connection: Connection) -> None:
    if why := second_connection(session):
        raise SessionNotUsableError(f"the call cannot be committed: {why}")
