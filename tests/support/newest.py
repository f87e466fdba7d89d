"""The fixtures for features that ask nothing of a server that the contract suite does not: one version of each database."""

from __future__ import annotations

import pytest

from tests.support.backends import BACKENDS, db_of
from tests.support.database import Database

NEWEST = [name for name in BACKENDS if not name.startswith("postgresql16")]


@pytest.fixture(params=NEWEST)
def db(request: pytest.FixtureRequest) -> Database:
    return db_of(request.param)


@pytest.fixture(params=[name for name in NEWEST if not name.startswith("sqlite")])
def server_db(request: pytest.FixtureRequest) -> Database:
    return db_of(request.param)
