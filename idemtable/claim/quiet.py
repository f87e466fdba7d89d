"""What a session's listeners hear of COMMIT: one, at the end, and none of a savepoint's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sqlalchemy.orm import Session


@contextmanager
def quiet(session: Session) -> Iterator[None]:
    """Tell nobody of a savepoint that ends inside.

    ``after_commit`` at a savepoint would send the mail for an order that is rolled back, and ``before_commit`` would
    happen twice.
    """
    dispatch = session.dispatch
    session.dispatch = _Quiet(dispatch)  # type: ignore[assignment]
    try:
        yield
    finally:
        session.dispatch = dispatch


class _Quiet:
    """A session's events, but for those of a COMMIT."""

    def __init__(self, dispatch: Any) -> None:
        self._dispatch = dispatch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._dispatch, name)

    def before_commit(self, session: Session) -> None:
        """Tell nobody."""

    after_commit = before_commit
