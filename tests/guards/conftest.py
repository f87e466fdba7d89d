"""The databases of the guards' tests, and a shop in each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.backends import BACKENDS, db_of
from tests.support.database import Database
from tests.support.guards import Shop, empty_shop
from tests.support.newest import NEWEST

GUARDED = [name for name in BACKENDS if name in NEWEST or name == "mariadb11"]


@pytest.fixture(params=GUARDED)
def db(request: pytest.FixtureRequest) -> Database:
    return db_of(request.param)


@pytest.fixture(params=[name for name in GUARDED if not name.startswith("sqlite")])
def server_db(request: pytest.FixtureRequest) -> Database:
    return db_of(request.param)


@pytest.fixture
def shop(db: Database) -> Iterator[Shop]:
    yield empty_shop(db)
    db.dispose(db.engine)  # a race's connections, of which a server has a hundred for all databases


@pytest.fixture
def server_shop(server_db: Database) -> Iterator[Shop]:
    yield empty_shop(server_db)
    server_db.dispose(server_db.engine)
