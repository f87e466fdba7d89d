"""Guards where several nodes take writes: a lock is known on its own node, a written row on all of them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from idemtable import IdemTable, RetryTransactionError
from idemtable.guards import lock
from tests.clusters.load import engine_for
from tests.clusters.nodes import Cluster
from tests.support.guards import Base, Order

pytestmark = [
    pytest.mark.timeout(600),
    # Where one node takes writes it knows all locks.
    pytest.mark.parametrize("cluster", ["group-multi", "galera", "galera11.8"], indirect=True),
]

REFUSED = (RetryTransactionError, DBAPIError)
ROUNDS = 10


@pytest.fixture
def engines(cluster: Cluster) -> Any:
    """One for each node that takes writes, with an order in the database."""
    assert cluster.writes_everywhere
    engines = [engine_for(cluster.url(number)) for number in range(len(cluster.nodes))]
    Base.metadata.create_all(engines[0])
    yield engines
    for engine in engines:
        engine.dispose()


def anew(cluster: Cluster, engines: list[Any]) -> None:
    """Leave three orders on every node, as they were made."""
    with Session(engines[0]) as session, session.begin():
        session.execute(sa.delete(Order))
        session.add_all([Order(number=number) for number in range(3)])
    for number in range(len(engines)):
        cluster.ask(number, "SELECT 1", current=True)


def totals(cluster: Cluster, number: int = 2) -> list[int]:
    rows = cluster.ask(number, "SELECT sum FROM guard_order ORDER BY id", database="shop", current=True)
    return [int(total) for (total,) in rows]


def ends(work: Callable[[], object]) -> bool:
    """Whether something is done; else the database has refused it, as a deadlock."""
    try:
        work()
    except REFUSED:
        return False
    return True


def both(engines: list[Any], touch: bool) -> list[bool]:
    """Two callers on two nodes hold row 0 at once, and write one other row each; which of them have committed."""
    sessions = [Session(engines[0]), Session(engines[1])]
    try:
        done = [ends(lambda session=session: lock(session, Order, 0, touch=touch)) for session in sessions]
        assert done == [True, True]  # nobody waits for a lock on another node
        for number, session in enumerate(sessions):
            change = sa.update(Order).where(Order.number == number + 1).values(total=Order.total + 1)
            done[number] = ends(lambda session=session, change=change: session.execute(change))
        return [one and ends(session.commit) for one, session in zip(done, sessions, strict=True)]
    finally:
        for session in sessions:
            session.close()


def test_a_row_that_is_locked_on_two_nodes_stops_nobody_who_writes_another_one(cluster: Cluster, engines: Any) -> None:
    anew(cluster, engines)
    assert both(engines, touch=False) == [True, True]
    assert totals(cluster) == [0, 1, 1]


def test_of_two_who_hold_a_row_and_touch_it_one_commits(cluster: Cluster, engines: Any) -> None:
    for _ in range(ROUNDS):
        anew(cluster, engines)
        committed = both(engines, touch=True)
        assert committed == [True, False]
        assert totals(cluster) == [0, *map(int, committed)]


def test_no_sum_over_several_rows_is_lost_under_a_touched_lock(cluster: Cluster, engines: Any) -> None:
    """Each reads row 1 under the lock of row 0, and writes row 2 to one more than the two rows hold."""
    anew(cluster, engines)
    callers, refused = 6, []

    def add(number: int) -> None:
        for _ in range(ROUNDS):
            while True:
                with Session(engines[number % len(engines)]) as session:
                    try:
                        lock(session, Order, 0, touch=True)
                        target = 1 + number % 2
                        both = session.scalars(sa.select(Order.total).where(Order.number > 0)).all()
                        change = sa.update(Order).where(Order.number == target)
                        session.execute(change.values(total=sum(both) + 1 - both[2 - target]))
                        session.commit()
                        break
                    except REFUSED as error:
                        refused.append(error)

    threads = [threading.Thread(target=add, args=(number,)) for number in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert refused, "no trial: they never met"
    assert sum(totals(cluster)) == callers * ROUNDS


def test_of_two_who_hold_a_name_on_two_nodes_one_commits(cluster: Cluster, engines: Any) -> None:
    anew(cluster, engines)
    tables = [IdemTable(engine) for engine in engines]
    sessions = [Session(engine) for engine in engines[:2]]
    for number, session in enumerate(sessions):
        tables[number].lock_name(session, "payout:7")
    done = []
    for number, session in enumerate(sessions):
        change = sa.update(Order).where(Order.number == number + 1).values(total=Order.total + 1)
        done.append(ends(lambda session=session, change=change: session.execute(change)) and ends(session.commit))
        session.close()
    assert done == [True, False]
    assert totals(cluster) == [0, 1, 0]
