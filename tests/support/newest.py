"""The fixtures for features that ask nothing of a server that the contract suite does not: one version of each database.

Of MariaDB that is the older one: 11.8 differs in what it says to a snapshot that is too old, and the contract, the races of
one key and the guards ask it that.
"""

from __future__ import annotations

import pytest

from tests.support.backends import BACKENDS, db_of
from tests.support.database import Database

SECOND = ("postgresql16", "mariadb11", "mysql-connector", "mariadb-mysqlclient")
NEWEST = [name for name in BACKENDS if name not in SECOND]


@pytest.fixture(params=NEWEST)
def db(request: pytest.FixtureRequest) -> Database:
    return db_of(request.param)


@pytest.fixture(params=[name for name in NEWEST if not name.startswith("sqlite")])
def server_db(request: pytest.FixtureRequest) -> Database:
    return db_of(request.param)
