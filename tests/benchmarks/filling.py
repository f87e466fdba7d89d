"""Rows for a table of keys by the million, made by the database itself: as calls leave them, in their order."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import sqlalchemy as sa

from idemtable import IdemTable
from tests.support.database import kind_of

TTL: Final = 7 * 86_400 * 1_000_000
"""Microseconds."""
_PIECE: Final = 250_000

_INSERT: Final = """INSERT INTO {table}
    (id, scope, {key}, fingerprint, status, owner, codec, result, created_at, completed_at, expires_at) """
_ROWS: Final = {
    "postgresql": """SELECT gen_random_uuid(), 'orders.create', gen_random_uuid()::text, decode(repeat('ab', 32), 'hex'),
            1, decode(md5(n::text), 'hex'), 'json', '{{"order_id":123456}}'::bytea,
            at, at + interval '3 ms', at + interval '7 days'
        FROM (SELECT n, now() - ({age} - {step} * n) * interval '1 microsecond' AS at
            FROM generate_series({low}::bigint, {high}) AS n) AS numbered""",
    "sqlite": """SELECT randomblob(16), 'orders.create', hex(randomblob(18)), randomblob(32), 1, randomblob(16), 'json',
            CAST('{{"order_id":123456}}' AS BLOB), at, strftime('%Y-%m-%d %H:%M:%f000', julianday(at) + 0.003 / 86400),
            strftime('%Y-%m-%d %H:%M:%f000', julianday(at) + 7)
        FROM (WITH RECURSIVE numbers (n) AS (SELECT {low} UNION ALL SELECT n + 1 FROM numbers WHERE n < {high})
            SELECT strftime('%Y-%m-%d %H:%M:%f000', 'now', (({step} * n - {age}) / 1000000.0) || ' seconds') AS at
            FROM numbers)""",
}
_INNODB: Final = """SELECT UNHEX(LEFT(SHA2(CONCAT(UUID(), n), 256), 32)), 'orders.create', UUID(),
            REPEAT(UNHEX('ab'), 32), 1, UNHEX(LEFT(SHA2(n, 256), 32)), 'json', '{{"order_id":123456}}',
            at, at + INTERVAL 3000 MICROSECOND, at + INTERVAL 7 DAY
        FROM (SELECT n, UTC_TIMESTAMP(6) - INTERVAL ({age} - {step} * n) MICROSECOND AS at
            FROM ({numbers}) AS numbers) AS numbered"""
_NUMBERS: Final = {
    "mariadb": "SELECT seq AS n FROM seq_{low}_to_{high}",
    "mysql": "WITH RECURSIVE s (n) AS (SELECT {low} UNION ALL SELECT n + 1 FROM s WHERE n < {high}) SELECT n FROM s",
}


def make(engine: sa.Engine, table: str, rows: int, *, expired: float = 0.0) -> IdemTable:
    """Make a table with rows of the last 7 days, evenly, and so many more that this share of them has expired."""
    idem = IdemTable(engine, table=table)
    idem.create_all()
    add(engine, table, rows, age=round(TTL / (1 - expired)))
    return idem


def add(engine: sa.Engine, table: str, rows: int, *, age: int) -> None:
    """Add rows that are `age` microseconds old and younger, down to none."""
    kind = kind_of(engine)
    rows_of = _ROWS.get(kind, _INNODB)
    key = "`key`" if kind in _NUMBERS else "key"
    for low in range(0, rows, _PIECE):
        span: dict[str, Any] = {"low": low, "high": min(low + _PIECE, rows) - 1, "age": age, "step": age // rows}
        numbers = _NUMBERS.get(kind, "").format(**span)
        with engine.begin() as connection:
            if kind == "mysql":
                connection.exec_driver_sql(f"SET SESSION cte_max_recursion_depth = {_PIECE}")
            sql = _INSERT.format(table=table, key=key) + rows_of.format(**span, numbers=numbers)
            connection.exec_driver_sql(sql)


@contextmanager
def key_last(engine: sa.Engine, table: str) -> Iterator[None]:
    """Fill an empty table without its primary key, on PostgreSQL: with it, ten million random keys take ten times as long.

    The key is built as loose as their coming one by one would have left it.
    """
    if engine.dialect.name != "postgresql":
        yield
        return
    with engine.begin() as connection:
        [(name,)] = connection.exec_driver_sql(
            f"SELECT conname FROM pg_constraint WHERE conrelid = '{table}'::regclass AND contype = 'p'"
        )
        connection.exec_driver_sql(f"ALTER TABLE {table} DROP CONSTRAINT {name}")
    yield
    with engine.begin() as connection:
        connection.exec_driver_sql("SET LOCAL maintenance_work_mem = '1GB'")
        connection.exec_driver_sql(f"ALTER TABLE {table} ADD CONSTRAINT {name} PRIMARY KEY (id) WITH (fillfactor = 70)")


def settle(engine: sa.Engine, *tables: str) -> None:
    """Do what the server would do in the next minutes, so that it does not do it in the middle of a measure."""
    kind = kind_of(engine)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for table in tables:
            connection.exec_driver_sql(
                {"postgresql": f"VACUUM (ANALYZE) {table}", "sqlite": "ANALYZE"}.get(kind, f"ANALYZE TABLE {table}")
            )
        if kind == "postgresql":
            connection.exec_driver_sql("CHECKPOINT")
