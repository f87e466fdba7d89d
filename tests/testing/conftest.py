"""Shops on every kind of database in one colour or the other; on fewer, where neither says anything."""

from __future__ import annotations

import pytest

from tests.support.database import Database
from tests.support.kit import Shop, databases

every = databases(
    "sqlite", "sqlite-async", "postgresql18", "postgresql18-async", "mariadb", "mariadb-async", "mysql", "mysql-async"
)
each = databases("sqlite", "postgresql18-async", "mariadb", "mysql-async")
other = databases("sqlite-async", "postgresql18", "mariadb-async", "mysql")
few = databases("sqlite", "postgresql18-async")


@pytest.fixture
def every_shop(every: Database) -> Shop:
    return Shop(every)


@pytest.fixture
def shop(each: Database) -> Shop:
    """On every kind of database, in one colour."""
    return Shop(each)


@pytest.fixture
def other_shop(other: Database) -> Shop:
    """On every kind of database, in the other colour."""
    return Shop(other)


@pytest.fixture
def any_shop(few: Database) -> Shop:
    """For what depends on neither the database nor the colour."""
    return Shop(few)
