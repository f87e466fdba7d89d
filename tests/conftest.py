"""Fixtures over real servers: a fresh database for a test, or one that a whole suite shares."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

pytest_plugins = ("pytester",)
pytest.register_assert_rewrite("tests.support", "tests.testing.conftest")

from tests.support.backends import BACKENDS, close_all, db_of, server  # noqa: E402
from tests.support.database import Database  # noqa: E402

LONG = (
    "tests/brokers/",  # beside the pages that want the same broker
    "test_toy_dialect",
    "test_demo",
    "test_typing",
    "test_programs",
    "test_links",
    "test_servers",
    "faults/test_clusters",
    "test_many_at_once",
    "test_browser",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # Begun last, each of these would have the other processes wait for it.
    items.sort(key=lambda item: not any(name in item.nodeid for name in LONG))


def pytest_collection_finish() -> None:
    # Thousands of tests and all that is imported stay to the end: each full collection would look through them again.
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    close_all()


@pytest.fixture(params=[name for name in ("sqlite", "postgresql18", "mariadb", "mysql") if name in BACKENDS])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A fresh, empty database, as the URL of a sync driver."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'test.db'}"
        return
    found = server(request.param)
    name = f"t_{uuid4().hex[:16]}"
    found.create_database(name)
    yield found.url(name)
    found.drop_database(name)


@pytest.fixture(params=list(BACKENDS))
def db(request: pytest.FixtureRequest) -> Database:
    """Every database in both colours, with the tables made and empty."""
    return db_of(request.param)


@pytest.fixture(params=[name for name, (_, driver) in BACKENDS.items() if "async" not in name])
def sync_db(request: pytest.FixtureRequest) -> Database:
    """Every database, sync only: for what does not depend on the colour."""
    return db_of(request.param)


@pytest.fixture(params=[name for name in BACKENDS if not name.startswith("sqlite")])
def server_db(request: pytest.FixtureRequest) -> Database:
    """Every database that more than one can write to at once."""
    return db_of(request.param)


# Imported by name by test processes that are started from tests.
sys.path.insert(0, str(Path(__file__).parents[1]))
