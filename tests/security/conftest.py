"""The databases of these tests: one of each kind, since a threat to a row is the same in either colour."""

from __future__ import annotations

import pytest

from tests.support.backends import BACKENDS, db_of
from tests.support.database import Database

KINDS = [name for name in ("sqlite", "postgresql18", "mariadb", "mysql") if name in BACKENDS]


@pytest.fixture(params=KINDS)
def db(request: pytest.FixtureRequest) -> Database:
    return db_of(request.param)


@pytest.fixture
def key_column(db: Database) -> str:
    """The column's name as this database wants it written."""
    return "`key`" if db.kind in ("mariadb", "mysql") else "key"
