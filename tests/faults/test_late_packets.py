"""A packet that arrives when its client has given up, and another attempt has done the work already."""

from __future__ import annotations

import threading
from contextlib import suppress
from datetime import timedelta
from socket import SHUT_RDWR, socket
from typing import Any

import pytest
import sqlalchemy as sa

from idemtable.model import Request
from tests.support.backends import db_of
from tests.support.database import Database, effect
from tests.support.lines import engine_at
from tests.support.proxy import Proxy, Way, is_commit

WAIT = timedelta(seconds=50)
FUSED = ["postgresql18", "postgresql18-async", "mariadb"]
"""Where COMMIT travels with the result: nobody is asked in between whether the row still is the call's."""


class Slow(Proxy):
    """Hangs up on the client that sends the next COMMIT, and hands that on when it is told to."""

    def __init__(self, target: int) -> None:
        self.is_set = False
        self.go, self.arrived = threading.Event(), threading.Event()
        self._slow: socket | None = None
        super().__init__(target)

    def _pass(self, way: Way, source: socket, target: socket) -> None:
        with suppress(OSError):
            while chunk := source.recv(65536):
                if source is self._slow:  # the server has done it, and there is nobody to be told
                    self.arrived.set()
                    break
                if self.is_set and way is Way.TO_SERVER and is_commit(chunk):
                    self.is_set, self._slow = False, target
                    source.shutdown(SHUT_RDWR)
                    self.go.wait(60)
                target.sendall(chunk)
        if self._slow not in (source, target) or self.arrived.is_set():
            self._end(source, target)


@pytest.fixture(params=FUSED)
def db(request: pytest.FixtureRequest) -> Database:
    return db_of(request.param)


def check_that_what_arrives_late_finds_no_row_of_its_own(db: Database) -> None:
    assert db.sync_url.port is not None
    runs: list[str] = []
    with Slow(db.sync_url.port) as proxy:
        engine = engine_at(db, proxy.port)

        @db.table(engine).transactional("late", key="key", wait=WAIT)
        def order(session: Any, key: str) -> str:
            runs.append(key)
            if len(runs) == 1:
                session.execute(sa.text("ROLLBACK"))  # its claim is gone, and what it writes is in another transaction
                proxy.is_set = True
            effect(session, key)
            return key

        try:
            assert order.outcome("k").attempts == 2
        finally:
            proxy.go.set()
            assert proxy.arrived.wait(60)
            db.dispose(engine)
    assert runs == ["k", "k"]
    assert db.effects() == ["k"]


def test_what_arrives_late_finds_no_row_of_its_own(db: Database) -> None:
    check_that_what_arrives_late_finds_no_row_of_its_own(db)


def test_the_check_finds_attempts_that_share_an_owner(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Request, "again", lambda self: self)
    with pytest.raises(AssertionError):
        check_that_what_arrives_late_finds_no_row_of_its_own(db)
    assert db.effects() == ["k", "k"]
