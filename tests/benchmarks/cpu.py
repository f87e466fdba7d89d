"""The library's own CPU for a call: the decorated function against the same statements sent by hand.

On SQLite in memory, where nothing waits: what is left is Python. Both send BEGIN IMMEDIATE, the look, the claim, the
business, the store and COMMIT through the same Session and the same compiled statements.
"""

from __future__ import annotations

import os
import statistics
import time
from itertools import count

import sqlalchemy as sa
from sqlalchemy.orm import Session, sessionmaker

from idemtable import IdemTable, Status
from idemtable.model import Request
from tests.benchmarks.goals import Judge
from tests.benchmarks.harness import BLOCKS, Size, show
from tests.benchmarks.machine import Watch, versions
from tests.benchmarks.results import Part, Row, Table

MOST = 25
"""Microseconds."""

TEXT = """The decorated function against the same statements sent by hand, in turn, on SQLite in memory, where nothing
waits and what is left is Python. Both open a Session and a transaction; the library's part is the rest: the key, the
fingerprint of a payload of one kilobyte, the claim and what it decides, the result."""


def part(size: Size) -> Part:
    """Measure, and judge."""
    watch = Watch("make bench")
    differences = measure(1000 + 2 * size.rounds)
    block = len(differences) // BLOCKS
    blocks = [statistics.median(differences[at : at + block]) for at in range(0, block * BLOCKS, block)]
    figures = {"cpu": statistics.median(differences), "low": min(blocks), "high": max(blocks)}
    table = Table("cpu", "one call, one kilobyte of payload", [Row("cpu", "beyond its statements", figures)])
    show(table.title, table.rows)
    judge = Judge([table])
    judge.most("the library's own CPU for a call, beyond its statements", MOST, figures["cpu"], unit="µs")
    stamp = watch.stamp(versions(("idemtable", "SQLAlchemy", "msgspec")), quick=size.quick)
    return Part("CPU", stamp, [table], judge.goals, TEXT)


def measure(calls: int) -> list[float]:
    """Return the differences in microseconds of one thread's CPU."""
    engine = sa.create_engine("sqlite://")
    idem = IdemTable(engine)
    idem.create_all()
    records = idem._settings.records
    options = records.dialect.begin_options(5.0)
    new_session = sessionmaker(engine, expire_on_commit=False)
    numbers = count()

    @idem.transactional("cpu", key="key")
    def decorated(session: Session, key: str, amount: int, note: str) -> dict[str, int]:
        return {"entry": 1}

    request = Request(bytes(16), None, "cpu", "k", b"f" * 32, 1_000_000, b"o" * 16)

    def by_hand(number: int) -> None:
        mine = Request(number.to_bytes(16), None, "cpu", "k", request.fingerprint, request.ttl, request.owner)
        with new_session() as session:
            session.begin()
            connection = session.connection(execution_options=options)
            records.claim(connection, mine, 5.0)
            records.store(connection, mine, Status.COMPLETED, "json", b'{"entry":1}')
            session.commit()

    note = os.urandom(500).hex()
    differences = []
    for number in range(calls):
        begin = time.thread_time_ns()
        by_hand(number)
        middle = time.thread_time_ns()
        decorated(f"key-{next(numbers)}", amount=number, note=note)
        end = time.thread_time_ns()
        differences.append(((end - middle) - (middle - begin)) / 1000)
    engine.dispose()
    return differences[100:]
