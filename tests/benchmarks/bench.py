"""What the variants are made of, in both colours: the bare transaction, a claim written by hand, and the library.

A call is given a key and a number. The base has an engine of its own, which the library was not given; on a server, over
the same connections.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.util import greenlet_spawn

from idemtable import AsyncIdemTable, IdemTable
from tests.benchmarks.alone import Alone
from tests.benchmarks.work import Business, async_business, business, id_of, keys, new_run, numbers, some_ids, some_rows

Call = Callable[[str, int], Any]
AsyncCall = Callable[[str, int], Awaitable[Any]]

SCOPE = "bench"
_RESTARTS = {1205, 1213}

_STORE = (
    sa.update(keys)
    .where(keys.c.id == sa.bindparam("of"), keys.c.owner == sa.bindparam("mine"))
    .values(status=1, codec="json", result=sa.bindparam("answer"), completed_at=sa.bindparam("done"))
)
_LOOK = sa.select(keys.c.fingerprint, keys.c.result).where(keys.c.id == sa.bindparam("of"))


class Hand:
    """The statements of a claim that is written by hand, in SQLAlchemy Core, into the table that the library has too."""

    def __init__(self, dialect: str) -> None:
        self._dialect = dialect
        self.insert: Any = sa.insert(keys)
        if dialect == "postgresql":
            from sqlalchemy.dialects.postgresql import insert

            self.insert = insert(keys).on_conflict_do_nothing(index_elements=["id"]).returning(keys.c.id)

    def row(self, key: str, number: int) -> dict[str, Any]:
        """What claims a key."""
        now = datetime.now(UTC)
        return {
            "id": id_of(self._dialect, key),
            "scope": "hand",
            "key": key,
            "status": 0,
            "fingerprint": sha256(json.dumps({"number": number}, sort_keys=True).encode()).digest(),
            "owner": os.urandom(16),
            "created_at": now,
            "expires_at": now + timedelta(days=7),
        }

    def is_won(self, answer: Any) -> bool:
        """Whether an INSERT that raised nothing has claimed the key."""
        return self._dialect != "postgresql" or answer.first() is not None

    @staticmethod
    def answer(row: dict[str, Any], result: Any) -> dict[str, Any]:
        """What stores a result."""
        stored = json.dumps(result).encode()
        return {"of": row["id"], "mine": row["owner"], "answer": stored, "done": datetime.now(UTC)}

    @staticmethod
    def stored(row: dict[str, Any], found: Any) -> Any:
        """Read what a lost claim has found."""
        assert bytes(found[0]) == row["fingerprint"]
        return json.loads(found[1])

    @staticmethod
    def begins_again(error: DBAPIError) -> bool:
        """Whether the database asks for the transaction once more."""
        return isinstance(error, OperationalError) and error.orig is not None and error.orig.args[0] in _RESTARTS


class Bench:
    """One database.

    Args:
        base: an engine for what is done without the library.
        engine: the library's.
        some: records that are read over and over.
        work: the business.
    """

    def __init__(self, base: sa.Engine, engine: sa.Engine, some: int = 0, work: Business = business) -> None:
        self.base, self.engine, self._some, self._work = base, engine, some, work
        self.idem = IdemTable(engine)
        self._alone = Alone(self.idem, "alone", some_rows(some))
        self._new = sessionmaker(base, expire_on_commit=False)
        self._new_of_engine = sessionmaker(engine, expire_on_commit=False)

    def bare(self) -> Call:
        """In a Session, which is what a function under the decorator is given."""

        def call(key: str, number: int) -> Any:
            with self._new.begin() as session:
                return self._work(session, number)

        return call

    def core(self) -> Call:
        """On a Connection."""

        def call(key: str, number: int) -> Any:
            with self.base.begin() as connection:
                return self._work(connection, number)

        return call

    def by_hand(self) -> Call:
        """What one would write without a library: a claim before and its result after."""
        hand = Hand(self.base.dialect.name)

        def attempt(key: str, number: int) -> Any:
            row = hand.row(key, number)
            with self._new.begin() as session:
                try:
                    won = hand.is_won(session.execute(hand.insert, row))
                except IntegrityError:
                    won = False
                if not won:
                    return hand.stored(row, session.execute(_LOOK, {"of": row["id"]}).one())
                result = self._work(session, number)
                assert session.execute(_STORE, hand.answer(row, result)).rowcount == 1  # type: ignore[attr-defined]
                return result

        def call(key: str, number: int) -> Any:
            while True:
                try:
                    return attempt(key, number)
                except DBAPIError as error:
                    if not hand.begins_again(error):
                        raise

        return call

    def decorated(self, **options: Any) -> Call:
        """Under the decorator, with its options."""

        work = self._work

        @self.idem.transactional(SCOPE, key="key", share_scope=True, **options)
        def protected(session: Session, key: str, number: int) -> dict[str, int]:
            return work(session, number)

        return protected

    def alone(self) -> Call:
        """The statements of a first execution, and nothing else of the library."""

        def call(key: str, number: int) -> Any:
            with self._new_of_engine() as session:
                return self._alone.first(session, self._work, number)

        return call

    def alone_again(self) -> Call:
        """Those of a replay."""

        def call(key: str, number: int) -> Any:
            with self._new_of_engine() as session:
                return self._alone.again(session)

        return call

    def alone_aside(self) -> Call:
        """The one of a replay that is looked for before."""
        return lambda key, number: self._alone.aside(self.engine)

    def look(self) -> Call:
        """SELECT a stored result by primary key, on a Connection."""
        ids = some_ids(self.base.dialect.name, self._some)

        def call(key: str, number: int) -> Any:
            with self.base.connect() as connection:
                return json.loads(connection.execute(_LOOK, {"of": random.choice(ids)}).one()[1])

        return call

    def look_in_session(self) -> Call:
        """The same in a Session."""
        ids = some_ids(self.base.dialect.name, self._some)

        def call(key: str, number: int) -> Any:
            with self._new() as session:
                return json.loads(session.execute(_LOOK, {"of": random.choice(ids)}).one()[1])

        return call

    def store(self) -> list[tuple[str, int]]:
        """Make answers to replay; give their keys and numbers."""
        call, run = self.decorated(), new_run()
        made = [(f"{run}-{number}", next(numbers)) for number in range(self._some)]
        for key, number in made:
            call(key, number)
        return made


class AsyncBench:
    """One database, async all the way.

    Args:
        base: an engine for what is done without the library.
        engine: the library's.
        some: records that are read over and over.
    """

    def __init__(self, base: AsyncEngine, engine: AsyncEngine, some: int) -> None:
        self.base, self.engine, self._some = base, engine, some
        self.idem = AsyncIdemTable(engine)
        self._alone = Alone(self.idem, "alone", some_rows(some))
        self._new = async_sessionmaker(base, expire_on_commit=False)
        self._new_of_engine = async_sessionmaker(engine, expire_on_commit=False)

    def bare(self) -> AsyncCall:
        """As `Bench` has it."""

        async def call(key: str, number: int) -> Any:
            async with self._new.begin() as session:
                return await async_business(session, number)

        return call

    def core(self) -> AsyncCall:
        """As `Bench` has it."""

        async def call(key: str, number: int) -> Any:
            async with self.base.begin() as connection:
                return await async_business(connection, number)

        return call

    def by_hand(self) -> AsyncCall:
        """As `Bench` has it; tasks of one loop never claim the same key here."""
        hand = Hand(self.base.dialect.name)

        async def call(key: str, number: int) -> Any:
            row = hand.row(key, number)
            async with self._new.begin() as session:
                assert hand.is_won(await session.execute(hand.insert, row))
                result = await async_business(session, number)
                stored = await session.execute(_STORE, hand.answer(row, result))
                assert stored.rowcount == 1  # type: ignore[attr-defined]
                return result

        return call

    def decorated(self, **options: Any) -> AsyncCall:
        """As `Bench` has it."""

        @self.idem.transactional(SCOPE, key="key", share_scope=True, **options)
        async def protected(session: AsyncSession, key: str, number: int) -> dict[str, int]:
            return await async_business(session, number)

        return protected

    def alone(self) -> AsyncCall:
        """As `Bench` has it."""
        alone = self._alone

        async def call(key: str, number: int) -> Any:
            async with self._new_of_engine() as session:
                mine = await session.run_sync(alone.enter)
                result = await async_business(session, number)
                await session.run_sync(alone.leave, mine)
                return result

        return call

    def alone_again(self) -> AsyncCall:
        """As `Bench` has it."""

        async def call(key: str, number: int) -> Any:
            async with self._new_of_engine() as session:
                return await session.run_sync(self._alone.again)

        return call

    def alone_aside(self) -> AsyncCall:
        """As `Bench` has it."""
        return lambda key, number: greenlet_spawn(self._alone.aside, self.engine.sync_engine)

    def look(self) -> AsyncCall:
        """As `Bench` has it."""
        ids = some_ids(self.base.dialect.name, self._some)

        async def call(key: str, number: int) -> Any:
            async with self.base.connect() as connection:
                return json.loads((await connection.execute(_LOOK, {"of": random.choice(ids)})).one()[1])

        return call

    def look_in_session(self) -> AsyncCall:
        """As `Bench` has it."""
        ids = some_ids(self.base.dialect.name, self._some)

        async def call(key: str, number: int) -> Any:
            async with self._new() as session:
                return json.loads((await session.execute(_LOOK, {"of": random.choice(ids)})).one()[1])

        return call
