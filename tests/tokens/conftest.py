"""The houses of the tokens' tests."""

from __future__ import annotations

import pytest

from tests.support.backends import NEWEST, house_of
from tests.support.database import House


@pytest.fixture(params=NEWEST)
def house(request: pytest.FixtureRequest) -> House:
    return house_of(request.param)


@pytest.fixture(params=[name for name in NEWEST if not name.startswith("sqlite")])
def server_house(request: pytest.FixtureRequest) -> House:
    return house_of(request.param)
