"""The databases of the guards' tests, and a shop in each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.database import Database
from tests.support.guards import Shop, empty_shop
from tests.support.newest import db, server_db

__all__ = ["db", "server_db"]


@pytest.fixture
def shop(db: Database) -> Iterator[Shop]:
    yield empty_shop(db)
    db.dispose(db.engine)  # a race's connections, of which a server has a hundred for all databases


@pytest.fixture
def server_shop(server_db: Database) -> Iterator[Shop]:
    yield empty_shop(server_db)
    server_db.dispose(server_db.engine)
