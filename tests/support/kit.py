"""One text for both colours: a business function on a database, and `assert_idempotent` of calls of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy.orm import Session
from sqlalchemy.util import greenlet_spawn

from idemtable.testing import assert_idempotent
from tests.support.backends import BACKENDS, db_of
from tests.support.database import Database, effect


def databases(*names: str) -> Any:
    """A fixture of these backends, as far as they are there."""

    @pytest.fixture(params=[name for name in names if name in BACKENDS])
    def db(request: pytest.FixtureRequest) -> Database:
        return db_of(request.param)

    return db


def buy(session: Session, key: str) -> None:
    """Do what is to be done once."""
    effect(session, "tea")


class Shop:
    """A database with something to be done once, and calls of it."""

    def __init__(self, db: Database) -> None:
        self.db = db

    def order(self, business: Callable[[Session, str], object], idem: Any = None, **options: Any) -> Any:
        """Protect a function of a session and a key; give what a user calls."""
        options.setdefault("key", "key")

        def order(session: Any, key: str) -> None:
            business(session, key)

        scope = f"testing.{business.__name__}"
        return (idem or self.db.idem).transactional(scope, share_scope=True, **options)(order)

    def prove(self, call: Callable[[str], Any], engine: Any = None, **options: Any) -> None:
        """Assert that a call is idempotent; on an async database as one that is awaited."""
        engine = self.db.engine if engine is None else engine
        if self.db.loop is None:
            assert assert_idempotent(call, engine, **options) is None
            return

        async def plainly(key: str) -> None:
            await greenlet_spawn(call, key)

        self.db.loop.run(assert_idempotent(getattr(call, "inner", plainly), engine, **options))

    def refuse(self, call: Callable[[str], Any], **options: Any) -> str:
        """Prove that it is not; give what is said."""
        with pytest.raises(AssertionError) as caught:
            self.prove(call, **options)
        return str(caught.value)

    def beside(self, work: Callable[[Session], object]) -> None:
        """Commit something in a transaction of its own, on the same engine."""
        with self.db.session() as held:
            held.run(work)
            held.commit()
