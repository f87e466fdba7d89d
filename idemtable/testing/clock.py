"""The clock by which keys expire, stopped: the database's own, as far as the library asks for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Engine, event

from ..dialects import known

if TYPE_CHECKING:
    from sqlalchemy import Connection


_COLUMNS: Final = ("expires_at", "completed_at")

_clocks: Final[list[FrozenClock]] = []
"""Those that stand still. The innermost one counts; in a statement that it has changed the others would find nothing."""


class FrozenClock:
    """A clock that goes on when it is told to; made by `frozen_clock` and by the fixture `idem_clock`.

    Whether a key has expired the database says, by its own clock. In the library's statements this one stands in its place:
    on every engine of the process, sync and async, whatever the database. What your own code asks a database or `datetime`
    it does not touch.

    Attributes:
        now: the time that it shows, in UTC.
    """

    def __init__(self) -> None:
        self.now = datetime.now(UTC)

    def advance(self, by: timedelta) -> datetime:
        """Go on.

        Args:
            by: zero or more.

        Returns:
            The time that it shows now.

        Raises:
            TypeError, ValueError: `by` is no timedelta, less than zero, or leads past the year 9999.
        """
        if not isinstance(by, timedelta):
            raise TypeError(f"advance takes a timedelta, not {by!r}")
        if by < timedelta():
            raise ValueError("a clock only goes on: advance takes a timedelta of zero or more")
        if by > datetime.max.replace(tzinfo=UTC) - self.now:
            raise ValueError(f"the clock shows no time after the year 9999, and advance was given {by}")
        self.now += by
        return self.now

    def _told(
        self, connection: Connection, cursor: Any, statement: str, parameters: Any, context: Any, executemany: bool
    ) -> tuple[str, Any]:
        database = known.get(connection.dialect.name)
        # The library's own statements: of those that come as plain text, the ones with its columns.
        is_own = context is not None and context.compiled is None and any(name in statement for name in _COLUMNS)
        if database is not None and is_own and _clocks[-1:] == [self]:
            moment = database.moment.format(f"{self.now:%Y-%m-%d %H:%M:%S.%f}")
            for clock in database.clocks:
                statement = statement.replace(clock, moment)
        return statement, parameters


@contextmanager
def frozen_clock() -> Iterator[FrozenClock]:
    """Stop the clock by which keys expire, while the block runs; inside another such block it is this one that counts.

    Meanwhile the library sends its statements one by one, as it does for everybody who listens to them.
    """
    clock = FrozenClock()
    listener = clock._told
    _clocks.append(clock)
    event.listen(Engine, "before_cursor_execute", listener, retval=True)
    try:
        yield clock
    finally:
        _clocks.remove(clock)
        event.remove(Engine, "before_cursor_execute", listener)
