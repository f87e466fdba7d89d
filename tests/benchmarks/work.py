"""The business transaction that everything is compared with, and the tables that it is done in.

An order goes in, and its amount off one of ten thousand accounts: one INSERT, one UPDATE. Neither needs an answer, and two
at a time hardly ever want the same account, so that the transaction is as fast as one that writes can be.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from itertools import count
from typing import Any
from uuid import UUID, uuid4

import sqlalchemy as sa

import idemtable
from idemtable import IdemTable

ACCOUNTS = 10_000
AMOUNT = 5

metadata = sa.MetaData()
orders = sa.Table(
    "bench_orders",
    metadata,
    sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("customer", sa.Integer, nullable=False),
    sa.Column("amount", sa.Integer, nullable=False),
)
accounts = sa.Table(
    "bench_accounts",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("balance", sa.BigInteger, nullable=False),
    postgresql_with={"fillfactor": "50"},  # room for a new version of a row beside the old one
)
keys = idemtable.metadata.tables["idemtable"]

numbers = count(1)
"""Of orders; no two in a run are the same, whichever variant makes them."""

ENTER = sa.insert(orders)
PAY = (
    sa.update(accounts)
    .where(accounts.c.id == sa.bindparam("of"))
    .values(balance=accounts.c.balance - sa.bindparam("amount"))
)

Business = Callable[[Any, int], dict[str, int]]


def _order(number: int) -> dict[str, Any]:
    return {"id": number, "customer": number % 1000, "amount": AMOUNT}


def payment() -> dict[str, Any]:
    """Say what is taken from whom."""
    return {"of": random.randint(1, ACCOUNTS), "amount": AMOUNT}


def business(session: Any, number: int) -> dict[str, int]:
    """Do it through a Session, or a Connection."""
    session.execute(ENTER, _order(number))
    session.execute(PAY, payment())
    return {"order_id": number, "amount": AMOUNT}


async def async_business(session: Any, number: int) -> dict[str, int]:
    """Do it through an AsyncSession, or an AsyncConnection."""
    await session.execute(ENTER, _order(number))
    await session.execute(PAY, payment())
    return {"order_id": number, "amount": AMOUNT}


def new_run() -> str:
    """Name a run, so that its keys are new whatever ran before it."""
    return uuid4().hex[:12]


def id_of(dialect: str, key: str) -> Any:
    """Give the id that a claim by hand writes for a key, as the database's column has it."""
    id = UUID(bytes=sha256(key.encode()).digest()[:16])
    return id if dialect == "postgresql" else id.bytes


def some_rows(count: int) -> list[bytes]:
    """Give the same ids as bytes."""
    return [sha256(f"old-{number}".encode()).digest()[:16] for number in range(count)]


def some_ids(dialect: str, count: int) -> list[Any]:
    """Give ids of records that `prepare` has made."""
    return [id_of(dialect, f"old-{number}") for number in range(count)]


def prepare(engine: sa.Engine, rows: int) -> None:
    """Make the tables, and fill that of the keys, so that its index is as deep as in use."""
    with engine.begin() as connection:
        metadata.drop_all(connection)
        idemtable.metadata.drop_all(connection)
        metadata.create_all(connection)
        everybody = [{"id": id, "balance": 1_000_000} for id in range(1, ACCOUNTS + 1)]
        connection.execute(sa.insert(accounts), everybody)
    IdemTable(engine).create_all()
    name, now = engine.dialect.name, datetime.now(UTC)
    with engine.begin() as connection:
        for start in range(0, rows, 5000):
            connection.execute(
                sa.insert(keys), [_old(name, f"old-{n}", now) for n in range(start, min(start + 5000, rows))]
            )


def _old(dialect: str, key: str, now: datetime) -> dict[str, Any]:
    return {
        "id": id_of(dialect, key),
        "scope": "old",
        "key": key,
        "status": 1,
        "fingerprint": os.urandom(32),
        "owner": os.urandom(16),
        "codec": "json",
        "result": b'{"order_id":1,"amount":5}',
        "created_at": now,
        "completed_at": now,
        "expires_at": now + timedelta(days=7),
    }
