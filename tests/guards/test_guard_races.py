"""Many callers at each guard: one moves, wins, gets the row; the others are seen waiting by the database's own views."""

from __future__ import annotations

import threading
from collections import Counter
from datetime import timedelta
from functools import partial
from typing import Any
from uuid import uuid4

import pytest
import sqlalchemy as sa

from idemtable.errors import RetryTransactionError, RowLockedError, StaleVersionError
from idemtable.guards import Advance, StateMachine, compare_and_set, lock, lock_name, retry_stale
from tests.support import PATIENCE
from tests.support.database import INNODB, Held
from tests.support.guards import CALLERS, Counted, Order, Parcel, Shop

STEPS = {"created": {"paid", "cancelled"}, "paid": {"shipped", "cancelled"}}
MACHINE = StateMachine(Order.status, STEPS)


def settings(shop: Shop) -> Any:
    idem = shop.db.idem
    return getattr(idem, "inner", idem)._settings


def take_name(shop: Shop, held: Held, name: str, **options: Any) -> None:
    guard = lock_name
    shop.call(held, lambda session: guard(settings(shop), session, name, **options))


# --- optimistic -------------------------------------------------------------------------------------------------------


def compare(shop: Shop, held: Held) -> int:
    version: int = shop.call(held, compare_and_set, Order, 7, version=1, values={"total": Order.total + 1})
    held.commit()
    return version


def test_one_of_many_with_the_same_version_wins(shop: Shop) -> None:
    shop.add(Order(number=7))
    answers = shop.race(partial(compare, shop))()
    assert Counter(map(type, answers)) == {int: 1, StaleVersionError: CALLERS - 1}
    assert {error.found for error in answers if isinstance(error, StaleVersionError)} == {2}
    assert (shop.value(Order.total), shop.value(Order.version)) == (1, 2)


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_those_with_the_same_version_wait_for_the_first(server_shop: Shop, end: str) -> None:
    shop = server_shop
    shop.add(Order(number=7))
    with shop.db.session() as first:
        shop.call(first, compare_and_set, Order, 7, version=1, values={"total": 50})
        finish = shop.race(partial(compare, shop))
        shop.db.await_waiting(CALLERS)
        getattr(first, end)()
    answers = finish()
    winners = 0 if end == "commit" else 1
    assert Counter(map(type, answers)) == Counter({StaleVersionError: CALLERS - winners, int: winners})
    assert shop.value(Order.total) == (50 if end == "commit" else 1)


def test_no_update_is_lost_with_retries(shop: Shop) -> None:
    shop.add(Order(number=7))

    def add(held: Held) -> None:
        @retry_stale(attempts=1000)
        def once() -> None:
            try:
                version, total = held.run(lambda session: session.execute(sa.select(Order.version, Order.total)).one())
                shop.call(held, compare_and_set, Order, 7, version=version, values={"total": total + 1})
                held.commit()
            except BaseException:
                held.rollback()
                raise

        once()

    assert set(shop.race(add, 8)()) == {None}
    assert shop.value(Order.total) == 8


# --- pessimistic ------------------------------------------------------------------------------------------------------


def add_one(shop: Shop, held: Held, read_first: bool = False) -> None:
    if read_first:
        held.run(lambda session: session.get(Order, 7))
    try:
        row = shop.call(held, lock, Order, 7)
    except RetryTransactionError:
        assert read_first
        assert shop.db.insists_on_its_snapshot()
        held.rollback()
        return add_one(shop, held)
    row.total += 1
    held.commit()
    return None


def test_no_update_is_lost_under_a_lock(server_shop: Shop) -> None:
    shop = server_shop
    shop.add(Order(number=7))
    with shop.db.session() as first:
        shop.call(first, lock, Order, 7).total += 1
        # Each has read the row before it waits: what it holds then is stale.
        finish = shop.race(partial(add_one, shop, read_first=True))
        shop.db.await_waiting(CALLERS)
        first.commit()
    assert set(finish()) == {None}
    assert shop.value(Order.total) == CALLERS + 1


def test_no_update_is_lost_under_the_one_write_lock(shop: Shop) -> None:
    shop.add(Order(number=7))
    assert set(shop.race(partial(add_one, shop))()) == {None}
    assert shop.value(Order.total) == CALLERS


def test_one_of_many_that_do_not_wait_gets_the_row(shop: Shop) -> None:
    shop.add(Order(number=7))
    decided = threading.Barrier(CALLERS)

    def grab(held: Held) -> str:
        try:
            shop.call(held, lock, Order, 7, wait=timedelta(0))
            return "got it"
        finally:
            decided.wait(PATIENCE)  # the winner holds it until all have been told
            held.rollback()

    answers = shop.race(grab)()
    assert Counter(answer if isinstance(answer, str) else type(answer) for answer in answers) == {
        "got it": 1,
        RowLockedError: CALLERS - 1,
    }


def test_a_bounded_wait_waits(server_shop: Shop) -> None:
    shop = server_shop
    shop.add(Order(number=7))
    with shop.db.session() as first:
        shop.call(first, lock, Order, 7)
        finish = shop.race(lambda held: shop.call(held, lock, Order, 7, wait=timedelta(seconds=30)).number, 4)
        shop.db.await_waiting(4)
        # The transaction of each ends with its session: they come one after the other.
        first.commit()
    assert finish() == [7] * 4


def test_lists_in_opposite_order_never_deadlock(server_shop: Shop) -> None:
    shop = server_shop
    shop.add(*[Order(number=number) for number in range(6)], *[Counted(shop=name, id=1) for name in "abcdef"])
    turn = iter(range(10**6))

    def transfer(held: Held) -> None:
        for _ in range(5):
            reverse = next(turn) % 2
            numbers = [5, 0, 3] if reverse else [0, 3, 5, 0]
            for row in shop.call(held, lock, Order, numbers):
                row.total += 1
            keys = [("f", 1), ("a", 1)] if reverse else [("a", 1), ("f", 1)]
            shop.call(held, lock, Counted, keys)
            held.commit()

    assert Counter(map(repr, shop.race(transfer, 8)())) == {"None": 8}


def test_a_list_waits_for_its_first_row_and_holds_no_other(server_shop: Shop) -> None:
    shop = server_shop
    shop.add(*[Order(number=number) for number in range(200)])
    with shop.db.session() as first, shop.db.session() as third:
        shop.call(first, lock, Order, 10)
        finish = shop.race(lambda held: len(shop.call(held, lock, Order, [150, 10])), 1)
        shop.db.await_waiting(1)
        assert shop.call(third, lock, Order, 150, wait=timedelta(0)).number == 150
        third.rollback()
        first.commit()
    assert finish() == [2]


def test_opposite_single_locks_resolve_as_an_error_worth_a_new_transaction(server_shop: Shop) -> None:
    shop = server_shop
    shop.add(Order(number=1), Order(number=2))
    both = threading.Barrier(2)
    numbers = iter([(1, 2), (2, 1)])
    failed: list[BaseException] = []

    def cross(held: Held) -> None:
        first, second = next(numbers)
        waited = False
        while True:
            try:
                shop.call(held, lock, Order, first).total += 1
                if not waited:
                    waited = True
                    both.wait(PATIENCE)
                shop.call(held, lock, Order, second).total += 1
                held.commit()
                return
            except RetryTransactionError as error:
                failed.append(error)
                held.rollback()

    assert shop.race(cross, 2)() == [None, None]
    assert failed
    assert [shop.value(Order.total, number=number) for number in (1, 2)] == [2, 2]


@pytest.mark.parametrize("wait", [None, timedelta(seconds=30)], ids=["unbounded", "bounded"])
def test_a_name_is_held_by_one_at_a_time(server_shop: Shop, wait: timedelta | None) -> None:
    shop = server_shop
    inside: list[int] = []
    most: list[int] = []

    def hold(held: Held) -> None:
        take_name(shop, held, "payout:7", wait=wait)
        inside.append(1)
        most.append(len(inside))
        inside.pop()
        held.commit()

    with shop.db.session() as first:
        take_name(shop, first, "payout:7")
        finish = shop.race(hold)
        shop.db.await_waiting(CALLERS)
        first.commit()
    assert set(finish()) == {None}  # not one deadlock
    assert max(most) == 1
    assert shop.db.rows() == []


@pytest.mark.parametrize("wait", [None, timedelta(seconds=30)], ids=["unbounded", "bounded"])
def test_a_name_given_back_by_rollback_goes_to_one_after_the_other(server_shop: Shop, wait: timedelta | None) -> None:
    shop = server_shop
    inside: list[int] = []
    most: list[int] = []
    turn = iter(range(CALLERS))

    def hold(held: Held) -> None:
        take_name(shop, held, "payout:7", wait=wait)
        inside.append(1)
        most.append(len(inside))
        inside.pop()
        held.rollback() if next(turn) % 3 == 0 else held.commit()

    with shop.db.session() as first:
        take_name(shop, first, "payout:7")
        finish = shop.race(hold)
        shop.db.await_waiting(CALLERS)
        first.rollback()
    assert set(finish()) == {None}  # InnoDB has a deadlock for all waiters but one, each time
    assert max(most) == 1
    assert shop.db.rows() == []


def test_a_deadlock_over_a_name_undoes_nothing_unseen(server_shop: Shop) -> None:
    shop = server_shop
    answers: Counter[str] = Counter()
    # A row that is deleted and not purged yet is waited for by itself, without a deadlock: the name must be a new one.
    name = f"payout:{uuid4()}"

    def hold(held: Held) -> None:
        while True:
            held.run(lambda session: session.execute(sa.insert(Order).values(number=next(numbers))))
            try:
                take_name(shop, held, name)
            except RetryTransactionError:
                answers["again"] += 1
                with pytest.raises(sa.exc.SQLAlchemyError):  # it is over, and does not go on without its first half
                    held.run(lambda session: session.execute(sa.select(Order.number)))
                held.rollback()
            else:
                answers["held"] += 1
                held.commit()
                return

    numbers = iter(range(10**6))
    with shop.db.session() as first:
        take_name(shop, first, name)
        finish = shop.race(hold, 8)
        shop.db.await_waiting(8)
        first.rollback()
    assert set(finish()) == {None}
    assert answers["held"] == 8
    assert (answers["again"] > 0) is (shop.db.kind in INNODB)
    assert shop.value(sa.func.count(Order.number)) == 8


def test_one_of_many_that_do_not_wait_gets_the_name(shop: Shop) -> None:
    decided = threading.Barrier(CALLERS)

    def grab(held: Held) -> str:
        try:
            take_name(shop, held, "payout:7", wait=timedelta(0))
            return "got it"
        finally:
            decided.wait(PATIENCE)
            held.rollback()

    answers = shop.race(grab)()
    assert Counter(answer if isinstance(answer, str) else type(answer) for answer in answers) == {
        "got it": 1,
        RowLockedError: CALLERS - 1,
    }


# --- machine ----------------------------------------------------------------------------------------------------------


def advance(shop: Shop, machine: StateMachine, held: Held, **options: Any) -> Advance:
    answer: Advance = shop.call(held, machine.advance, 7, **options)
    held.commit()
    return answer


@pytest.mark.parametrize("to", ["paid", "cancelled"], ids=["one source", "two sources"])
@pytest.mark.parametrize("event", [None, "evt-1"])
def test_one_of_many_moves(shop: Shop, to: str, event: str | None) -> None:
    shop.add(Order(number=7))
    idem = shop.db.idem
    # Not the key of the test before: over its row, deleted and not yet purged, InnoDB's waiters may deadlock.
    options: dict[str, Any] = (
        {} if event is None else {"event_id": f"{event} {uuid4()}", "idem": getattr(idem, "inner", idem)}
    )
    answers = shop.race(partial(advance, shop, MACHINE, to=to, **options))()
    late = Advance(False, to if event is None else "created")
    assert Counter(answers) == {Advance(True, "created"): 1, late: CALLERS - 1}
    assert shop.value(Order.status) == to


def test_an_event_moves_one_of_many_who_spell_the_key_of_its_row_in_their_own_ways(shop: Shop) -> None:
    shop.add(Parcel(code="order"))
    idem = shop.db.idem
    options: dict[str, Any] = {"to": "paid", "event_id": uuid4(), "idem": getattr(idem, "inner", idem)}
    machine = StateMachine(Parcel.status, STEPS)
    spellings = iter(["order"] * 4 if shop.db.kind == "postgresql" else ["order", "Order", "ORDER", "orDER"])

    def pay(held: Held) -> Advance:
        answer: Advance = shop.call(held, machine.advance, next(spellings), **options)
        held.commit()
        return answer

    assert Counter(shop.race(pay, 4)()) == {Advance(True, "created"): 1, Advance(False, "created"): 3}
    assert len(shop.db.rows()) == 1


@pytest.mark.parametrize("to", ["paid", "cancelled"], ids=["one source", "two sources"])
@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_those_who_come_later_wait_for_the_first(server_shop: Shop, to: str, end: str) -> None:
    shop = server_shop
    shop.add(Order(number=7))
    with shop.db.session() as first:
        shop.call(first, MACHINE.advance, 7, to=to)
        finish = shop.race(partial(advance, shop, MACHINE, to=to))
        shop.db.await_waiting(CALLERS)
        getattr(first, end)()
    moved = 0 if end == "commit" else 1
    assert Counter(answer.moved for answer in finish()) == Counter({False: CALLERS - moved, True: moved})


def test_the_state_before_is_what_it_was_after_the_wait(server_shop: Shop) -> None:
    shop = server_shop
    shop.add(Order(number=7))
    with shop.db.session() as first:
        shop.call(first, MACHINE.advance, 7, to="paid")
        finish = shop.race(partial(advance, shop, MACHINE, to="cancelled"), 1)
        shop.db.await_waiting(1)
        first.commit()
    assert finish() == [Advance(True, "paid")]


def test_a_cancelled_order_cannot_be_paid(shop: Shop) -> None:
    for number in range(4):
        shop.add(Order(number=number))
        turn = iter(["paid", "cancelled"] * 4)
        machine = StateMachine(Order.status, {"created": {"paid", "cancelled"}})

        def step(held: Held, number: int = number, turn: Any = turn, machine: StateMachine = machine) -> Any:
            answer = shop.call(held, machine.advance, number, to=next(turn))
            held.commit()
            return answer

        answers = shop.race(step, 8)()
        assert sum(isinstance(answer, Advance) and answer.moved for answer in answers) == 1
