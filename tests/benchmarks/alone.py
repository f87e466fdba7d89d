"""The library's statements without the library: sent as it sends them, in the same packets, with nothing round them.

No key is made, no payload and no result is looked at, no transaction is watched, and no error is handled. What is left of
the library writes the statements' values and reads their rows.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from sqlalchemy.orm import Session

from idemtable import Status
from idemtable.dialects.words import Look
from idemtable.model import Request

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

    from idemtable import AsyncIdemTable, IdemTable

WAIT = 5.0
"""Seconds."""
_DAY = 86_400_000_000
_KEY, _PRINT, _OWNER, _RESULT = "0123456789ab-1234", bytes(32), bytes(16), b'{"order_id":1,"amount":5}'


class Alone:
    """One table's statements.

    Args:
        idem: the table.
        scope: of the rows.
        some: ids of records that are there, to be read over and over.
    """

    def __init__(self, idem: IdemTable | AsyncIdemTable, scope: str, some: Sequence[bytes] = ()) -> None:
        self._records = idem._settings.records
        self._scope, self._some = scope, some

    def enter(self, session: Session) -> tuple[Connection, Request]:
        """Begin, and claim a key of its own."""
        request = self._request(os.urandom(16))  # at random places of the index, as those of keys are
        connection = self._begun(session)
        won = self._records.claim(connection, request, WAIT)
        assert won
        return connection, request

    def leave(self, session: Session, mine: tuple[Connection, Request]) -> None:
        """Store, and commit."""
        connection, request = mine
        along = self._records.dialect.along(connection)
        stored = self._records.store(connection, request, Status.COMPLETED, "json", _RESULT, along)
        assert stored
        session.commit()

    def first(self, session: Session, work: Callable[[Any, int], Any], number: int) -> Any:
        """Run the business between the two."""
        mine = self.enter(session)
        result = work(session, number)
        self.leave(session, mine)
        return result

    def again(self, session: Session) -> Any:
        """Claim in vain, and read."""
        id = random.choice(self._some)
        connection = self._begun(session)
        won = self._records.claim(connection, self._request(id), WAIT)
        assert not won
        found = self._records.find(connection, id, WAIT, Look.LEAVING)
        session.rollback()
        return found and found.result

    def aside(self, engine: Engine) -> Any:
        """Read, on a Connection."""
        with engine.connect() as connection:
            connection.begin()
            self._records.dialect.begun(connection)
            found = self._records.find(connection, random.choice(self._some), WAIT, Look.ASIDE)
        return found and found.result

    def _request(self, id: bytes) -> Request:
        return Request(id, None, self._scope, _KEY, _PRINT, _DAY, _OWNER)

    def _begun(self, session: Session) -> Connection:
        dialect = self._records.dialect
        with dialect.beginning(WAIT):
            connection = session.connection()
        dialect.begun(connection)
        return connection
