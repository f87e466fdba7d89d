"""The databases: one class for each, in one file with all that is that database's, found by SQLAlchemy's name of it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, TypeVar

from .base import Dialect
from .definition import Driver, Job, Types, full_name
from .explicit import configure_sqlite
from .mysql import MySQL
from .origin import is_own, origin_of
from .postgresql import PostgreSQL
from .purging import Swept
from .sqlite import SQLite
from .statement import Statement
from .words import Fault

if TYPE_CHECKING:
    from sqlalchemy.engine.interfaces import Dialect as SQLAlchemyDialect

__all__ = [
    "Dialect",
    "Driver",
    "Fault",
    "Job",
    "MySQL",
    "Statement",
    "Swept",
    "Types",
    "configure_sqlite",
    "find",
    "full_name",
    "is_own",
    "is_stale",
    "known",
    "named",
    "origin_of",
    "register",
    "untried",
]

D = TypeVar("D", bound=type[Dialect])

_registry: Final[dict[str, type[Dialect]]] = {}
known: Final[Mapping[str, type[Dialect]]] = MappingProxyType(_registry)
"""The classes by SQLAlchemy's names of their databases, in the order in which people are told of them."""


def register(cls: D) -> D:
    """Let the library work on a database; all of it asks this class from now on.

    Only what is made at import is made of the databases known then: ``idemtable.metadata``, the choices of ``--dialect``.
    """
    _registry.update(dict.fromkeys(cls.names, cls))
    return cls


register(PostgreSQL)
register(MySQL)
register(SQLite)


def find(dialect: SQLAlchemyDialect, table: str, schema: str | None) -> Dialect:
    """Return the ways of an engine's database for one table.

    Raises:
        ValueError: the database or its driver is not supported; the message lists those that are.
    """
    cls = known.get(dialect.name)
    if cls is None:
        raise ValueError(f"idemtable knows {', '.join(sorted(known))}, not {dialect.name}")
    if (why := untried(dialect.name, dialect.driver)) is not None:
        raise ValueError(why)
    return cls(dialect, table, schema)


def untried(name: str, driver: str) -> str | None:
    """Say that a driver of a known database is none of those that the library works on; ``None`` if it is one."""
    drivers = {driver.name for driver in known[name].drivers if driver.works}
    # What another one calls a deadlock, a duplicate or a lost connection nobody here has seen.
    if drivers & {driver, driver.removesuffix("_async")}:
        return None
    return (
        f"idemtable has not been tried on {name}+{driver}: it works on {', '.join(sorted(drivers))}. "
        f"Write {name}+{known[name].drivers[0].name}:// in the URL"
    )


def is_stale(error: BaseException) -> bool:
    """Say whether a database, whichever it is, refused a statement since its row has changed after the snapshot."""
    orig = getattr(error, "orig", None)
    return orig is not None and any(cls.code(orig) in cls.stale for cls in known.values())


def named(name: str) -> type[Dialect]:
    """Return the class of a database, for what needs no table and no engine.

    Raises:
        ValueError: the database is not supported; the message lists those that are.
    """
    cls = known.get(name)
    if cls is None:
        raise ValueError(f"{name} is not supported; idemtable works on {', '.join(known)}")
    return cls
