"""Read by type-checkers only: what the guards give for a Session and for an AsyncSession."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import assert_type

from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from idemtable import AsyncIdemTable, IdemTable
from idemtable.guards import Advance, StateMachine, compare_and_set, lock, retry_stale
from tests.support.guards import Order

MACHINE = StateMachine(Order.status, {"created": {"paid"}})


def sync(session: Session, idem: IdemTable) -> None:
    assert_type(compare_and_set(session, Order, 7, version=1, values={"total": 1}), int)
    assert_type(compare_and_set(session, Order.metadata.tables["x"], 7, version=1, values={}, version_column="v"), int)
    assert_type(lock(session, Order, 7), Order)
    assert_type(lock(session, Order, ("a", 7), wait=timedelta(0)), Order)
    assert_type(lock(session, Order, [7, 8], wait=timedelta(seconds=1)), list[Order])
    assert_type(lock(session, Order, 7, touch=True), Order)
    assert_type(MACHINE.advance(session, 7, to="paid"), Advance)
    assert_type(MACHINE.advance(session, 7, to="paid", event_id="e", idem=idem), Advance)


async def coroutines(session: AsyncSession, idem: AsyncIdemTable) -> None:
    assert_type(compare_and_set(session, Order, 7, version=1, values={"total": 1}), Awaitable[int])
    assert_type(await lock(session, Order, 7), Order)
    assert_type(await lock(session, Order, [7, 8]), list[Order])
    assert_type(await lock(session, Order, [7, 8], touch=True), list[Order])
    assert_type(await MACHINE.advance(session, 7, to="paid", event_id="e", idem=idem), Advance)


@retry_stale
def bare(number: int) -> str:
    return str(number)


@retry_stale(attempts=3)
async def called(number: int) -> str:
    return str(number)


assert_type(bare(7), str)
plain: Callable[[int], str] = bare
coroutine: Callable[[int], Awaitable[str]] = called
