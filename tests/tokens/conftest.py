"""The databases of the tokens' tests."""

from __future__ import annotations

import pytest

from tests.support.backends import NEWEST, db_of
from tests.support.database import Database


@pytest.fixture(params=NEWEST)
def db(request: pytest.FixtureRequest) -> Database:
    return db_of(request.param)


@pytest.fixture(params=[name for name in NEWEST if not name.startswith("sqlite")])
def server_db(request: pytest.FixtureRequest) -> Database:
    return db_of(request.param)
