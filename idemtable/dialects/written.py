"""PyMySQL: statements with their values written into them and sent at once, as the driver does in many small steps.

PyMySQL asks of each value what it is, through four functions in Python, and a call has thirteen values; a cursor takes
thirty steps more for a statement that gives no rows. All of it is a third of what a call's two statements cost here.
What is written needs no escaping, whatever the session's ``sql_mode`` or character set: hexadecimal digits, whole numbers,
and text of letters, digits and a few marks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from .statement import Answer, Statement, fail, is_listened_to, send
from .words import driver_of

if TYPE_CHECKING:
    from sqlalchemy import Connection
    from sqlalchemy.engine.interfaces import Dialect as SQLAlchemyDialect

_PLAIN: Final = re.compile(r"[A-Za-z0-9_.:-]+").fullmatch
_ROWLESS: Final = re.compile(
    r"\s*((SET STATEMENT \S+ = \S+ FOR\s+)?(INSERT|UPDATE|DELETE)|BEGIN NOT ATOMIC|SET (?!STATEMENT))"
).match
"""The beginning of a statement that gives no rows, but for those with RETURNING."""


def _bytes(value: bytes) -> str:
    return f"X'{value.hex()}'"


def _text(value: str) -> str:
    # The introducer says what the digits are; without it they would be bytes, and have another collation.
    return f"'{value}'" if _PLAIN(value) else f"_utf8mb4 X'{value.encode().hex()}'"


def _null(value: None) -> str:
    return "NULL"


_LITERAL: Final[Mapping[type, Callable[[Any], str]]] = {bytes: _bytes, str: _text, int: str, type(None): _null}


class Written(Statement):
    """One statement of the library, in the words of PyMySQL."""

    def __init__(self, sql: str, dialect: SQLAlchemyDialect) -> None:
        super().__init__(sql, dialect)
        self.gives_rows = _ROWLESS(self.sql) is None or "RETURNING" in self.sql

    def __call__(self, connection: Connection, values: Mapping[str, Any] | None = None) -> Answer:
        if values is None:
            return super().__call__(connection)
        if is_listened_to(connection) or (text := self.text(values)) is None:
            return super().__call__(connection, values)
        if self.gives_rows or (driver := line(connection)) is None:
            return send(connection, self.sql, values, written=text)
        try:
            return Answer((), driver.query(text))
        except BaseException as error:
            fail(connection, error, self.sql, values)

    def text(self, values: Mapping[str, Any]) -> str | None:
        """Return it; ``None`` where one of the values is of another kind than the library's own."""
        try:
            return self.sql % {name: _LITERAL[type(value)](value) for name, value in values.items()}
        except (KeyError, UnicodeEncodeError):
            return None


def line(connection: Connection) -> Any:
    """Return the driver's connection if it is PyMySQL's, and makes no cursors but PyMySQL's own."""
    driver: Any = driver_of(connection)
    return driver if _is_pymysql_s(driver.__class__) and _is_pymysql_s(driver.cursorclass) else None


@lru_cache(64)
def _is_pymysql_s(kind: Any) -> bool:
    return kind.__module__ in ("pymysql.connections", "pymysql.cursors")
