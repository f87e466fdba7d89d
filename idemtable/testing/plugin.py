"""The pytest plugin, which pytest finds by itself once the library is installed. The only module that imports pytest."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, QueuePool, create_engine

from ..dialects import named
from ..table import IdemTable
from .assertion import owed
from .clock import FrozenClock, frozen_clock
from .faults import Failure
from .faults import fail_at as make_fail_at
from .faults import restart_at as make_restart_at
from .outside import OutsideEffectWarning, watching
from .rollback import rolled_back


def pytest_configure(config: pytest.Config) -> None:
    """Make an error of effects that no rollback takes back; a mark or ``-W`` has the last word."""
    name = f"{OutsideEffectWarning.__module__.rpartition('.')[0]}.{OutsideEffectWarning.__qualname__}"
    config.addinivalue_line("filterwarnings", f"error::{name}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, object, object]:
    """Fail a test in which `assert_idempotent` was never awaited: it would pass, and nothing was tried."""
    try:
        done = yield
        is_forgotten = bool(owed)
    finally:
        owed.clear()
    if is_forgotten:
        pytest.fail(
            "assert_idempotent has tested nothing: its call is async, so await it, in an async test", pytrace=False
        )
    return done


_failed = pytest.StashKey[bool]()
"""Of a test that has failed already, whose own error is all there is to be said."""


def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> None:
    """Note whether a test has failed, for what is said when it is over."""
    if call.when == "call":
        item.stash[_failed] = call.excinfo is not None


@pytest.fixture
def _idem_watch(request: pytest.FixtureRequest) -> Iterator[None]:
    with watching() as effects:
        yield
    swallowed = [effect for effect in effects if effect.was_swallowed]
    if swallowed and not request.node.stash.get(_failed, False):
        raise AssertionError(str(swallowed[0])) from swallowed[0].error


class SQLiteTable(IdemTable):
    """A table in a SQLite file that is gone when the test is.

    Attributes:
        engine: of the file, for tables of your own.
    """

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.engine = engine


@pytest.fixture
def idem_sqlite(tmp_path: Path, _idem_watch: None) -> Iterator[SQLiteTable]:
    """An IdemTable in a SQLite file of its own, with the table made; `idem_sqlite.engine` is for your tables."""
    engine = create_engine(f"sqlite:///{tmp_path / 'idemtable.db'}", poolclass=QueuePool)
    with engine.connect() as connection:
        for statement in named("sqlite").many_programs:
            connection.exec_driver_sql(statement)
    table = SQLiteTable(engine)
    table.create_all()
    yield table
    engine.dispose()


@pytest.fixture
def idem_clock(_idem_watch: None) -> Iterator[FrozenClock]:
    """The clock by which keys expire, stopped; `idem_clock.advance(timedelta(days=8))` lets it go on."""
    with frozen_clock() as clock:
        yield clock


@pytest.fixture
def fail_at(request: pytest.FixtureRequest, _idem_watch: None) -> Iterator[Callable[..., Failure]]:
    """Make the next call fail at a step of the protocol: `fail_at("stored")`."""
    yield from _armed(make_fail_at, request)


@pytest.fixture
def restart_at(request: pytest.FixtureRequest, _idem_watch: None) -> Iterator[Callable[..., Failure]]:
    """Make the next call begin its transaction again at a step: `restart_at("ran")`, as after a deadlock."""
    yield from _armed(make_restart_at, request)


def _armed(make: Callable[..., Failure], request: pytest.FixtureRequest) -> Iterator[Callable[..., Failure]]:
    made: list[Failure] = []

    def arm(*args: Any, **kwargs: Any) -> Failure:
        made.append(make(*args, **kwargs))
        return made[-1].arm()

    yield arm
    for failure in made:
        failure.disarm()
    if not request.node.stash.get(_failed, False):
        for failure in made:
            failure.check()


@pytest.fixture
def idem_rollback(_idem_watch: None) -> Iterator[Callable[..., Connection]]:
    """Have all that the test commits rolled back at its end: `idem_rollback(idem, Sessions)`."""
    with ExitStack() as stack:
        yield lambda *binds: stack.enter_context(rolled_back(*binds))
