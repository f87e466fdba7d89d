"""Pools that give everybody one connection, where COMMIT and ROLLBACK are everybody's."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import SingletonThreadPool, StaticPool

if TYPE_CHECKING:
    from sqlalchemy import Pool

_SHARING: Final = (StaticPool, SingletonThreadPool)


def occupied(pool: Pool, inside: Callable[[Any], bool | None]) -> str | None:
    """Say why a pool has no connection for a transaction of one's own now, with the cure; ``None`` if it has.

    Args:
        pool: of an engine.
        inside: what `Dialect.inside` says of a driver's connection. Where that is nothing, whoever has the connection is
            taken to be at work in it.
    """
    if not isinstance(pool, _SHARING):
        return None
    if isinstance(pool, StaticPool):
        shared = pool.__dict__.get("connection")  # made at first use
    else:
        shared = getattr(pool._conn, "current", lambda: None)()
    if shared is None or shared.driver_connection is None:
        return None
    begun = inside(shared.driver_connection)
    if not (shared.in_use if begun is None else begun):
        return None
    return (
        f"its {type(pool).__name__} gives everybody one connection, and another transaction is at work in it, which "
        f"this one would end. Make the engine with poolclass=sqlalchemy.QueuePool or NullPool, or end that one first"
    )
