"""PostgreSQL's primary key, which is a UUID to drivers and 16 bytes to everything else here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from .statement import Answer, Statement

if TYPE_CHECKING:
    from sqlalchemy import Connection
    from sqlalchemy.engine.interfaces import Dialect as SQLAlchemyDialect

_ID: Final = re.compile(r":(id\d*)\b")


class Keyed(Statement):
    """A statement whose primary keys become UUIDs where it goes through a driver's cursor.

    Not before: to make one takes longer than the digest that it holds, and a packet has no use for it.
    """

    def __init__(self, sql: str, dialect: SQLAlchemyDialect) -> None:
        super().__init__(sql, dialect)
        self._ids = frozenset(_ID.findall(sql))

    def taken(self, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return values as the driver's cursor takes them."""
        return {**values, **{name: UUID(bytes=values[name]) for name in self._ids}}

    def __call__(self, connection: Connection, values: Mapping[str, Any] | None = None) -> Answer:
        return super().__call__(connection, values and self.taken(values))
