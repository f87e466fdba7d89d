"""The databases: one small class for each, found by SQLAlchemy's name of the dialect."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from .base import Dialect, Fault
from .mysql import MySQL
from .postgresql import PostgreSQL
from .sqlite import SQLite, configure_sqlite
from .statement import Statement

if TYPE_CHECKING:
    from sqlalchemy.engine.interfaces import Dialect as SQLAlchemyDialect

__all__ = ["Dialect", "Fault", "Statement", "configure_sqlite", "find"]

_registry: Final[dict[str, type[Dialect]]] = {name: cls for cls in (PostgreSQL, MySQL, SQLite) for name in cls.names}


def find(dialect: SQLAlchemyDialect, table: str, schema: str | None) -> Dialect:
    """Return the ways of an engine's database for one table.

    Raises:
        ValueError: the database is not supported; the message lists those that are.
    """
    cls = _registry.get(dialect.name)
    if cls is None:
        raise ValueError(f"idemtable knows {', '.join(sorted(_registry))}, not {dialect.name}")
    return cls(dialect, table, schema)
