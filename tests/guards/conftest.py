"""The houses of the guards' tests, and a shop in each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.backends import NEWEST, house_of
from tests.support.database import House
from tests.support.guards import Shop, empty_shop


@pytest.fixture(params=NEWEST)
def house(request: pytest.FixtureRequest) -> House:
    return house_of(request.param)


@pytest.fixture(params=[name for name in NEWEST if not name.startswith("sqlite")])
def server_house(request: pytest.FixtureRequest) -> House:
    return house_of(request.param)


@pytest.fixture
def shop(house: House) -> Iterator[Shop]:
    yield empty_shop(house)
    house.dispose(house.engine)  # a race's connections, of which a server has a hundred for all houses


@pytest.fixture
def server_shop(server_house: House) -> Iterator[Shop]:
    yield empty_shop(server_house)
    server_house.dispose(server_house.engine)
