"""What fault tests share: a database for each driver, reached through a proxy that cuts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from tests.support.backends import BACKENDS
from tests.support.database import Database
from tests.support.proxy import Proxy

_ONE_VERSION = ("postgresql18", "mariadb", "mysql")
DRIVERS = [name for name, (server, _) in BACKENDS.items() if server in _ONE_VERSION]
"""The backends that have a connection to lose, one for each driver of a database."""


@dataclass
class Line:
    """A database, and an engine and a table that reach it through the proxy only."""

    db: Database
    proxy: Proxy
    engine: Any
    idem: Any

    @property
    def is_fused(self) -> bool:
        """Whether COMMIT travels with the result."""
        return self.db.backend in ("postgresql18", "postgresql18-async", "mariadb", "mysql-several")

    def checked_out(self) -> int:
        """How many connections are out of the pool."""
        return int(getattr(self.engine, "sync_engine", self.engine).pool.checkedout())


def engine_at(db: Database, port: int, **options: Any) -> Any:
    """An engine for the database, behind another port."""
    url = db.url.set(host="127.0.0.1", port=port)
    if db.connect_args:
        options = {"connect_args": db.connect_args, **options}
    if db.is_async:
        from sqlalchemy.ext.asyncio import create_async_engine

        return create_async_engine(url, **options)
    return db.listened(sa.create_engine(url, **options))


@contextmanager
def through_a_proxy(db: Database, **options: Any) -> Iterator[Line]:
    """Reach the database through a proxy of its own; at the end every connection must be back in the pool."""
    assert db.sync_url.port is not None
    with Proxy(db.sync_url.port) as proxy:
        engine = engine_at(db, proxy.port, **options)
        try:
            line = Line(db, proxy, engine, db.table(engine))
            yield line
            assert line.checked_out() == 0, f"{line.checked_out()} connections were never given back"
        finally:
            db.dispose(engine)
