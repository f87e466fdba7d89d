"""A stage on each database: the table and the callers of a run, for a test of a single check."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa

from idemtable.verify import TABLE
from idemtable.verify.callers import Callers
from idemtable.verify.ground import Ground
from idemtable.verify.stage import Stage
from tests.cli.conftest import run  # noqa: F401 - a fixture


def rounds(count: int) -> Callable[[], bool]:
    """So many rounds, however long they take."""
    left = iter(range(count))
    return lambda: next(left, None) is not None


@contextmanager
def staged(url: str, count: int = 6, **connect_args: Any) -> Iterator[Stage]:
    """A stage; at the end everything of it is gone."""
    ground = Ground(sa.make_url(url), connect_args, TABLE, None)
    ground.make(60)
    callers = Callers(ground.engine.url, connect_args, count)
    try:
        yield Stage(ground, callers, count, random.Random(1))
    finally:
        ended = callers.close()
        left = ground.drop()
    assert ended, "threads or connections are left"
    assert left is None, left


@pytest.fixture
def stage(database_url: str) -> Iterator[Stage]:
    with staged(database_url) as stage:
        yield stage


def tables(url: str) -> list[str]:
    """The tables of a database."""
    engine = sa.create_engine(url)
    try:
        return sa.inspect(engine).get_table_names()
    finally:
        engine.dispose()


def threads() -> list[str]:
    """The threads of runs that have not ended."""
    return [thread.name for thread in threading.enumerate() if thread.name == "idemtable-verify"]
