"""A call made while another error is being handled is not to blame for that error; nor for a lock it could do without."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from idemtable import InProgressError, LostClaimError, ResultTooLargeError, RetryTransactionError, Status
from idemtable.claim import steps
from idemtable.claim.steps import Moment, Step
from idemtable.testing import restart_at
from tests.support.database import Database, effect


class Declined(Exception):
    pass


def while_handling(error: Exception, call: Callable[[], Any]) -> Any:
    try:
        raise error
    except Exception:
        return call()


def lost(db: Database) -> OperationalError:
    """What a program has in hand when it calls again."""
    return OperationalError("COMMIT", None, Exception("gone"), connection_invalidated=True)


def test_a_remembered_failure_is_remembered_the_second_time_too(db: Database) -> None:
    runs = []

    @db.idem.transactional("pay", key="key", remember=(Declined,))
    def pay(session: Any, key: str) -> int:
        runs.append(key)
        raise Declined("no")

    with pytest.raises(Declined):
        while_handling(lost(db), lambda: pay("k"))
    assert runs == ["k"]
    assert db.idem.get("pay", "k").status is Status.FAILED


def test_a_business_error_is_not_run_again(db: Database) -> None:
    runs = []

    @db.idem.transactional("pay", key="key")
    def pay(session: Any, key: str) -> int:
        runs.append(key)
        raise Declined("no")

    with pytest.raises(Declined):
        while_handling(lost(db), lambda: pay("k"))
    with db.session() as held, pytest.raises(Declined):
        while_handling(lost(db), lambda: pay.join(held.session, "k"))
    assert runs == ["k", "k"]


def test_what_a_function_makes_of_an_answer_of_ours_is_its_own_answer(db: Database) -> None:
    runs = []

    @db.idem.transactional("pay", key="key", remember=(Declined,))
    def pay(session: Any, key: str) -> int:
        runs.append(key)
        try:
            raise InProgressError("busy") from lost(db)
        except InProgressError as error:
            raise Declined("no") from error

    for _ in range(2):
        with pytest.raises(Declined):
            pay("k")
    assert runs == ["k"]


def test_a_commit_whose_answer_was_lost_is_ours_however_late_it_is_found(db: Database) -> None:
    losses = 0

    @db.idem.transactional("pay", key="key")
    def pay(session: Any, key: str) -> int:
        return effect(session, key)

    def lose(moment: Moment) -> None:
        nonlocal losses
        if moment.step is Step.COMMITTED and not losses:
            losses += 1
            db.expire()
            raise lost(db)

    with steps.listening(lose):
        outcome = pay.outcome("k")
    assert losses == 1
    assert (outcome.replayed, outcome.attempts) == (False, 2)
    assert db.effects() == ["k"]


def test_a_remembered_exception_is_no_larger_than_a_result(db: Database) -> None:
    @db.table(max_result_bytes=100).transactional("pay", key="key", remember=(Declined,))
    def pay(session: Any, key: str) -> int:
        effect(session, key)
        raise Declined("x" * 200)

    with pytest.raises(ResultTooLargeError) as caught:
        pay("k")
    assert (caught.value.limit, db.effects(), db.rows()) == (100, [], [])


def test_a_replayed_block_cannot_commit_unseen(db: Database) -> None:
    with db.idem.transaction("order", "k") as claim:
        claim.result = 1
    with pytest.raises(LostClaimError), db.idem.transaction("order", "k") as claim:
        db.on(claim.session, lambda session: session.commit())


@pytest.mark.parametrize("payload", [{}, {"payload": None}], ids=["all", "none"])
def test_arguments_that_the_first_attempt_changed_are_never_stored_as_an_answer(
    db: Database, payload: dict[str, Any]
) -> None:
    runs: list[int] = []

    @db.idem.transactional("book", key="key", **payload)
    def book(session: Any, key: str, items: list[str]) -> int:
        booked = 0
        while items:
            effect(session, items.pop())
            booked += 1
        runs.append(booked)
        if len(runs) == 1:
            raise RetryTransactionError("the database asks to begin again")
        return booked

    with pytest.raises(RetryTransactionError, match="changed its arguments") as caught:
        book("k", ["cup", "pot"])
    assert caught.value.retryable
    assert (runs, db.rows(), db.effects()) == ([2], [], [])
    assert book("k", ["cup", "pot"]) == 2
    assert sorted(db.effects()) == ["cup", "pot"]


def numbers(count: int) -> Iterator[str]:
    for number in range(count):
        yield str(number)


ITERATORS = {
    "generator": lambda: numbers(2),
    "list's": lambda: iter(["0", "1"]),
    "in a list": lambda: [numbers(2)],
    "in a dict": lambda: {"items": numbers(2)},
    "deep inside": lambda: {"items": [(numbers(2),)]},
}
FORMS = {
    "nothing": lambda idem, function: idem.transactional("book", key="key", payload=None)(function),
    "a path": lambda idem, function: idem.transactional("book", key="key", payload=("shop",))(function),
    "a callable": lambda idem, function: idem.transactional("book", key="key", payload=lambda key, items: key)(
        function
    ),
    "a message": lambda idem, function: idem.inbox("book").transactional(message_id="key")(function),
}


def booking(db: Database, covers: str, reads: list[bool]) -> Any:
    """A function that reads its items if it is to; the database asks to run it again as often as that was written down."""

    def book(session: Any, key: str, items: Any, shop: str = "here") -> int:
        booked = 0
        if reads.pop(0):
            while isinstance(items, list | dict | tuple):
                (items,) = items.values() if isinstance(items, dict) else items
            for item in items:
                effect(session, item)
                booked += 1
        if reads:
            raise RetryTransactionError("the database asks to begin again")
        return booked

    return FORMS[covers](db.idem, book)


@pytest.mark.parametrize("covers", FORMS)
@pytest.mark.parametrize("kind", ITERATORS)
def test_an_iterator_that_the_first_attempt_has_read_is_never_stored_as_an_empty_one(
    db: Database, kind: str, covers: str
) -> None:
    reads = [True, True]
    book = booking(db, covers, reads)
    with pytest.raises(RetryTransactionError, match="read only once") as caught:
        book("k", ITERATORS[kind]())
    assert caught.value.final
    assert caught.value.retryable
    assert (reads, db.rows(), db.effects()) == ([True], [], [])
    assert book("k", ITERATORS[kind]()) == 2
    assert db.effects() == ["0", "1"]


@pytest.mark.parametrize("kind", ITERATORS)
def test_an_iterator_of_an_attempt_in_which_the_function_did_not_run_is_as_good_as_new(db: Database, kind: str) -> None:
    book = booking(db, "nothing", [True])
    with restart_at("claimed"):
        outcome = book.outcome("k", ITERATORS[kind]())
    assert (outcome.value, outcome.attempts) == (2, 2)
    assert db.effects() == ["0", "1"]


def test_a_generator_that_has_not_begun_is_as_good_as_new(db: Database) -> None:
    book = booking(db, "nothing", [False, True])
    assert book.outcome("k", numbers(2)).attempts == 2
    assert db.effects() == ["0", "1"]


class Upload:
    """As Starlette has it: what is no iterator itself, and reads one."""

    def __init__(self, *items: str) -> None:
        self.file = io.StringIO("\n".join(items))
        self.lock = threading.Lock()

    def read(self) -> str:
        return self.file.read()

    def seek(self, place: int) -> None:
        self.file.seek(place)

    def take(self) -> list[str]:
        return self.read().split()


@dataclass
class Basket:
    items: list[str]
    shop: Any

    def take(self) -> list[str]:
        taken, self.items = self.items, []
        return taken


USED = {
    "an upload": Upload,
    "a record": lambda *items: Basket([*items], threading.Lock()),
}


@pytest.mark.parametrize("kind", USED)
def test_what_the_first_attempt_has_used_up_is_never_stored_as_an_empty_one(db: Database, kind: str) -> None:
    runs = []

    @db.idem.transactional("book", key="key", payload=())
    def book(session: Any, key: str, given: Any) -> int:
        items = given.take()
        for item in items:
            effect(session, item)
        runs.append(len(items))
        if len(runs) == 1:
            raise RetryTransactionError("the database asks to begin again")
        return len(items)

    with pytest.raises(RetryTransactionError, match="read only once") as caught:
        book("k", USED[kind]("cup", "pot"))
    assert caught.value.final
    assert (runs, db.rows(), db.effects()) == ([2], [], [])
    assert book("k", USED[kind]("cup", "pot")) == 2
    assert db.effects() == ["cup", "pot"]


def test_a_joined_call_says_how_it_came_about(db: Database) -> None:
    @db.idem.transactional("joined", key="key")
    def call(session: Any, key: str) -> int:
        return effect(session, key)

    with db.session() as held:
        first = call.join_outcome(held.session, "k")
        again = call.join_outcome(held.session, "k")
        held.commit()
    assert (first.value, first.replayed, first.attempts, first.created_at) == (again.value, False, 1, None)
    assert again.replayed
    assert again.created_at is not None
