"""The business transaction of the benchmarks: bare, with a claim written by hand, and under the decorator."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from itertools import count
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session, sessionmaker

import idemtable
from idemtable import IdemTable

metadata = sa.MetaData()
ledger = sa.Table(
    "bench_ledger",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("account", sa.Integer, nullable=False),
    sa.Column("amount", sa.Integer, nullable=False),
)
account = sa.Table(
    "bench_account",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("balance", sa.Integer, nullable=False),
)
table = idemtable.metadata.tables["idemtable"]

_entry = sa.insert(ledger)
_credit = (
    sa.update(account).where(account.c.id == sa.bindparam("of")).values(balance=account.c.balance + sa.bindparam("by"))
)
_store = (
    sa.update(table)
    .where(table.c.id == sa.bindparam("of"), table.c.owner == sa.bindparam("mine"))
    .values(status=1, codec="json", result=sa.bindparam("answer"), completed_at=sa.bindparam("done"))
)


def business(session: Session, number: int) -> dict[str, int]:
    """One entry, one balance: two statements."""
    of = number % 100 + 1
    session.execute(_entry, {"account": of, "amount": 1})
    session.execute(_credit, {"of": of, "by": 1})
    return {"entry": number}


def prepare(engine: sa.Engine, rows: int) -> IdemTable:
    """Make the tables and fill the table of keys, so that its index is as deep as in use."""
    idem = IdemTable(engine)
    with engine.begin() as connection:
        metadata.drop_all(connection)
        idemtable.metadata.drop_all(connection)
        metadata.create_all(connection)
        connection.execute(sa.insert(account), [{"id": number, "balance": 0} for number in range(1, 101)])
    idem.create_all()
    now = datetime.now(UTC)
    with engine.begin() as connection:
        for start in range(0, rows, 5000):
            connection.execute(
                sa.insert(table),
                [
                    {
                        "id": _id(engine, f"old-{number}"),
                        "scope": "bench",
                        "key": f"old-{number}",
                        "status": 1,
                        "owner": os.urandom(16),
                        "codec": "json",
                        "result": b'{"entry":1}',
                        "created_at": now,
                        "expires_at": now + timedelta(days=1),
                    }
                    for number in range(start, min(start + 5000, rows))
                ],
            )
    return idem


def _id(engine: sa.Engine, key: str) -> Any:
    digest = UUID(bytes=sha256(key.encode()).digest()[:16])
    return digest if engine.dialect.name == "postgresql" else digest.bytes


def variants(engine: sa.Engine, idem: IdemTable) -> dict[str, Callable[[], object]]:
    """Everything to compare, each call with a new key."""
    new_session = sessionmaker(engine, expire_on_commit=False)
    numbers = count()
    conflict = sa.insert(table)
    if engine.dialect.name == "postgresql":
        from sqlalchemy.dialects.postgresql import insert

        conflict = insert(table).on_conflict_do_nothing(index_elements=["id"]).returning(table.c.id)  # type: ignore[assignment]

    def bare() -> object:
        number = next(numbers)
        with new_session.begin() as session:
            return business(session, number)

    def by_hand() -> object:
        number = next(numbers)
        key, owner = f"hand-{number}", os.urandom(16)
        fingerprint = sha256(json.dumps({"number": number}, sort_keys=True).encode()).digest()
        now = datetime.now(UTC)
        row = {"id": _id(engine, key), "scope": "bench", "key": key, "status": 0}
        row |= {"fingerprint": fingerprint, "owner": owner, "created_at": now, "expires_at": now + timedelta(days=7)}
        with new_session.begin() as session:
            claimed = session.execute(conflict, row)
            assert engine.dialect.name != "postgresql" or claimed.first() is not None
            result = business(session, number)
            done = datetime.now(UTC)
            answer = {"of": _id(engine, key), "mine": owner, "answer": json.dumps(result).encode(), "done": done}
            assert session.execute(_store, answer).rowcount == 1  # type: ignore[attr-defined]
            return result

    protected = idem.transactional("bench", key="key")(_protected)

    def decorated() -> object:
        number = next(numbers)
        return protected(f"deco-{number}", number)

    return {"bare": bare, "claim by hand in Core": by_hand, "@idem.transactional": decorated}


def _protected(session: Session, key: str, number: int) -> dict[str, int]:
    return business(session, number)
