"""Exceptions that are a result: the writes go, the key stays, replays raise the same."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from http import HTTPStatus
from typing import Any

import pytest
import sqlalchemy as sa

import idemtable
from idemtable import FingerprintMismatchError, Outcome, ResultNotSerializableError, ResultUnreadableError, Status
from tests.support.database import Database, Unique, effect


class CardDeclined(Exception):
    def __init__(self, reason: str, *, amount: Decimal, tries: tuple[int, ...] = ()) -> None:
        super().__init__(f"declined: {reason}", amount)
        self.reason = reason
        self.tries = tries


class StolenCard(CardDeclined):
    pass


class Reason(StrEnum):
    LIMIT = "limit"


class Money(Decimal):
    pass


class HTTPException(Exception):
    """As Starlette has it: the arguments are those of the call, the text is made of the attributes."""

    def __init__(self, status_code: int, detail: str, headers: dict[str, str] | None = None) -> None:
        self.status_code = status_code
        self.detail = detail
        self.headers = headers

    def __str__(self) -> str:
        return f"{self.status_code}: {self.detail}"


class Slots(Exception):
    __slots__ = ("reason",)

    def __init__(self, *, reason: Reason) -> None:
        super().__init__()
        self.reason = reason


@dataclass(frozen=True)
class Frozen(Exception):
    reason: Reason
    amount: Money


class Other(Exception):
    pass


@pytest.fixture
def runs() -> list[str]:
    return []


@pytest.fixture
def pay(db: Database, runs: list[str]) -> Any:
    @db.idem.transactional("pay", key="key", remember=(CardDeclined,), payload=None)
    def pay(session: Any, key: str, error: Exception | None = None) -> str:
        runs.append(key)
        effect(session, key)
        if error is not None:
            raise error
        return "paid"

    return pay


def test_a_remembered_exception_rolls_back_the_writes_and_is_raised_again_without_running(
    db: Database, pay: Any, runs: list[str]
) -> None:
    error = CardDeclined("limit", amount=Decimal("9.90"), tries=(1, 2))
    with pytest.raises(CardDeclined) as first:
        pay("k", error)
    assert first.value is error
    with pytest.raises(CardDeclined) as second:
        pay("k")

    assert type(second.value) is CardDeclined
    assert second.value.args == first.value.args == ("declined: limit", Decimal("9.90"))
    assert second.value.reason == "limit"
    assert second.value.tries == (1, 2)
    assert runs == ["k"]
    assert db.effects() == []
    record = db.idem.get("pay", "k")
    assert record.status is Status.FAILED
    assert record.codec == "exception"


def test_a_subclass_of_a_remembered_class_comes_back_as_itself(pay: Any, runs: list[str]) -> None:
    for error in (StolenCard("stolen", amount=Decimal(1)), None):
        with pytest.raises(CardDeclined) as caught:
            pay("k", error)
        assert type(caught.value) is StolenCard
    assert runs == ["k"]


def test_an_exception_that_is_not_named_is_not_remembered(db: Database, pay: Any, runs: list[str]) -> None:
    with pytest.raises(Other):
        pay("k", Other())
    assert db.rows() == []
    assert pay("k") == "paid"
    assert runs == ["k", "k"]


def test_the_first_caller_and_every_replay_catch_the_same(db: Database) -> None:
    errors: list[Any] = [
        HTTPException(HTTPStatus.PAYMENT_REQUIRED, "card declined", {"Retry-After": "60"}),
        CardDeclined(Reason.LIMIT, amount=Money("1.50"), tries=(1, 2)),
        Slots(reason=Reason.LIMIT),
        Frozen(Reason.LIMIT, Money("2.00")),
        FileNotFoundError(2, "No such file", "invoice.pdf"),
        KeyError("sku"),
    ]

    @db.idem.transactional("pay", key="key", remember=(Exception,), payload=None)
    def pay(session: Any, key: str, error: Any = None) -> str:
        effect(session, key)
        if error is not None:
            raise error
        return "paid"

    for number, error in enumerate(errors):
        seen = []
        for again in (error, None):
            with pytest.raises(type(error)) as caught:
                pay(f"k{number}", again)
            found: Any = caught.value
            beside = [getattr(found, name, None) for name in ("reason", "amount", "filename", "errno", "status_code")]
            own = {name: value for name, value in vars(found).items() if not name.startswith("__idemtable_")}
            seen.append((type(found), repr(found.args), str(found), repr(own), repr(beside)))
        assert seen[0] == seen[1]
    assert db.effects() == []


def test_a_base_class_covers_what_derives_from_it(db: Database) -> None:
    runs = []

    @db.idem.transactional("pay", key="key", remember=(Exception,))
    def pay(session: Any, key: str) -> None:
        runs.append(key)
        raise StolenCard("stolen", amount=Decimal(1))

    for _ in range(2):
        with pytest.raises(StolenCard):
            pay("k")
    assert runs == ["k"]


def test_database_errors_are_never_remembered_not_even_by_a_base_class(db: Database) -> None:
    db.execute("INSERT INTO unique_business (name) VALUES ('taken')")
    errors: list[Any] = []

    def violate(session: Any) -> None:
        session.add(Unique(name="taken"))
        session.flush()

    def misspell(session: Any) -> None:
        session.execute(sa.text("SELECT * FROM no_such_table"))

    def driver(session: Any) -> None:
        try:
            misspell(session)
        except sa.exc.DBAPIError as error:
            raise error.orig from None  # type: ignore[misc]

    @db.idem.transactional("pay", key="key", remember=(Exception,), payload=None)
    def pay(session: Any, key: str, work: Any) -> str:
        effect(session, key)
        errors.append(key)
        if work is not None:
            work(session)
        return "paid"

    for number, work in enumerate((violate, misspell, driver)):
        with pytest.raises(Exception):  # noqa: B017 - each another class
            pay(f"k{number}", work)
        assert (db.effects(), db.rows()) == ([], [])
        assert pay(f"k{number}", None) == "paid"
        db.sweep()
        db.execute("INSERT INTO unique_business (name) VALUES ('taken')")
    assert errors == ["k0", "k0", "k1", "k1", "k2", "k2"]


def test_an_exception_raised_over_a_database_error_is_remembered_as_itself(db: Database) -> None:
    """The business turns a violation of its own into an answer, which is what remember= is for."""
    db.execute("INSERT INTO unique_business (name) VALUES ('taken')")
    runs = []

    @db.idem.transactional("pay", key="key", remember=(CardDeclined,))
    def pay(session: Any, key: str) -> None:
        runs.append(key)
        effect(session, key)
        session.add(Unique(name="taken"))
        try:
            session.flush()
        except sa.exc.IntegrityError as error:
            raise CardDeclined("used", amount=Decimal(0)) from error

    for _ in range(2):
        with pytest.raises(CardDeclined):
            pay("k")
    assert runs == ["k"]
    assert db.effects() == []
    assert db.idem.get("pay", "k").status is Status.FAILED


class Even(sa.TypeDecorator[int]):
    impl = sa.Integer
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Any) -> Any:
        if value % 2:
            raise CardDeclined("odd", amount=Decimal(value))
        return value


def test_an_exception_that_came_out_of_a_statement_is_remembered_as_one_that_did_not(db: Database) -> None:
    runs = []

    @db.idem.transactional("pay", key="key", remember=(CardDeclined,))
    def pay(session: Any, key: str) -> None:
        runs.append(key)
        try:
            session.execute(sa.text("SELECT :amount").bindparams(sa.bindparam("amount", 3, type_=Even)))
        except sa.exc.StatementError as error:
            raise error.orig from None  # type: ignore[misc]

    for _ in range(2):
        with pytest.raises(CardDeclined) as caught:
            pay("k")
        assert caught.value.args == ("declined: odd", Decimal(3))
    assert runs == ["k"]


def test_an_exception_that_cannot_be_stored_rolls_everything_back(db: Database, pay: Any, runs: list[str]) -> None:
    with pytest.raises(ResultNotSerializableError, match="remember=") as caught:
        pay("k", CardDeclined(object(), amount=Decimal(1)))  # type: ignore[arg-type]
    assert isinstance(caught.value.__cause__, CardDeclined)
    assert (db.effects(), db.rows()) == ([], [])
    assert pay("k") == "paid"
    assert runs == ["k", "k"]


def test_a_remembered_exception_still_checks_the_payload(db: Database) -> None:
    @db.idem.transactional("pay", key="key", remember=(CardDeclined,))
    def pay(session: Any, key: str, amount: int) -> None:
        raise CardDeclined("limit", amount=Decimal(amount))

    with pytest.raises(CardDeclined):
        pay("k", 1)
    with pytest.raises(FingerprintMismatchError):
        pay("k", 2)


def test_a_remembered_exception_that_is_no_longer_named_is_unreadable_and_nothing_runs(db: Database) -> None:
    runs = []

    def pay(session: Any, key: str) -> None:
        runs.append(key)
        raise CardDeclined("limit", amount=Decimal(1))

    with pytest.raises(CardDeclined):
        db.idem.transactional("pay", key="key", remember=(CardDeclined,))(pay)("k")
    with pytest.raises(ResultUnreadableError, match="remember="):
        db.idem.transactional("pay", key="key")(pay)("k")
    assert runs == ["k"]
    assert db.idem.get("pay", "k").status is Status.FAILED


def test_a_joined_call_remembers_with_the_callers_commit(db: Database, pay: Any, runs: list[str]) -> None:
    with db.session() as held:
        held.run(lambda session: effect(session, "before"))
        with pytest.raises(CardDeclined):
            pay.join(held.session, "k", CardDeclined("limit", amount=Decimal(1)))
        held.run(lambda session: effect(session, "after"))
        held.commit()
    with pytest.raises(CardDeclined):
        pay("k")
    assert runs == ["k"]
    assert db.effects() == ["before", "after"]


def test_a_joined_call_forgets_with_the_callers_rollback(db: Database, pay: Any, runs: list[str]) -> None:
    with db.session() as held:
        with pytest.raises(CardDeclined):
            pay.join(held.session, "k", CardDeclined("limit", amount=Decimal(1)))
        held.rollback()
    assert db.rows() == []
    assert pay("k") == "paid"
    assert runs == ["k", "k"]


@pytest.mark.parametrize("remember", [(), (CardDeclined,)], ids=["the outer call fails", "the outer call remembers"])
def test_what_an_inner_call_remembers_is_kept_only_if_the_outer_call_catches_it(
    sync_db: Database, remember: tuple[type[Exception], ...]
) -> None:
    inner_runs = []

    @sync_db.idem.transactional("charge", key="key", remember=(CardDeclined,))
    def charge(session: Any, key: str) -> None:
        inner_runs.append(key)
        raise CardDeclined("limit", amount=Decimal(1))

    @sync_db.idem.transactional("order", key="key", remember=remember)
    def order(session: Any, key: str, *, catches: bool) -> str:
        effect(session, key)
        try:
            charge(f"{key}/charge")
        except CardDeclined:
            if not catches:
                raise
        return "ordered, not paid"

    assert order("caught", catches=True) == "ordered, not paid"
    with pytest.raises(CardDeclined):
        charge("caught/charge")
    assert inner_runs == ["caught/charge"]
    assert sync_db.effects() == ["caught"]

    with pytest.raises(CardDeclined) as caught:
        order("passed on", catches=False)
    assert (idemtable.outcome_of(caught.value) is not None) == bool(remember)
    assert sync_db.idem.get("charge", "passed on/charge") is None
    assert (sync_db.idem.get("order", "passed on") is not None) == bool(remember)
    assert sync_db.effects() == ["caught"]


def test_a_function_that_remembers_stores_its_results_as_any_other(db: Database, pay: Any, runs: list[str]) -> None:
    assert pay("k") == pay("k") == "paid"
    assert runs == ["k"]
    assert db.effects() == ["k"]


@pytest.mark.parametrize("wrong", [(CardDeclined, "text"), (int,), BaseException, (KeyboardInterrupt,)], ids=repr)
def test_remember_takes_exception_classes_only(sync_db: Database, wrong: Any) -> None:
    with pytest.raises(TypeError, match="remember="):

        @sync_db.idem.transactional("pay", key="key", remember=wrong)
        def pay(session: Any, key: str) -> None: ...


def test_a_remembered_exception_tells_how_it_came_about(db: Database) -> None:
    @db.idem.transactional("outer", key="key", remember=ValueError, payload=None)
    def outer(session: Any, key: str, inner: Any = None) -> None:
        if inner is not None:
            inner(key)
        raise ValueError(key)

    @db.idem.transactional("inner", key="key", remember=(ValueError,))
    def inner(session: Any, key: str) -> None:
        raise ValueError(key)

    def told(call: Any, *args: Any) -> Any:
        with pytest.raises((ValueError, Other)) as caught:
            call(*args)
        return idemtable.outcome_of(pickle.loads(pickle.dumps(caught.value)))

    assert told(outer, "k") == Outcome(None, False, 1, None)
    replayed = told(outer, "k")
    assert (replayed.value, replayed.replayed, replayed.attempts) == (None, True, 1)
    assert replayed.created_at == db.idem.get("outer", "k").created_at
    # One that was remembered inside can be remembered outside as well.
    assert told(outer, "both", inner).replayed is False
    assert told(outer, "both", inner).replayed is True
    with db.session() as held:
        assert told(outer.join, held.session, "joined").replayed is False
        assert told(outer.join_outcome, held.session, "joined").replayed is True

    @db.idem.transactional("fails", key="key", remember=LookupError)
    def fails(session: Any, key: str) -> None:
        raise Other

    assert told(fails, "k") is None


def test_an_exception_that_came_through_a_call_which_does_not_name_it_has_no_outcome(db: Database) -> None:
    @db.idem.transactional("inner", key="key", remember=(CardDeclined,))
    def inner(session: Any, key: str) -> None:
        raise CardDeclined("limit", amount=Decimal(1))

    @db.idem.transactional("outer", key="key")
    def outer(session: Any, key: str, inside: str, *, in_group: bool = False) -> None:
        try:
            inner(inside)
        except CardDeclined as error:
            if in_group:
                raise ExceptionGroup("of tasks", [error]) from None
            raise

    with pytest.raises(CardDeclined):
        inner("before")
    for inside in ("anew", "before"):
        with pytest.raises(CardDeclined) as caught:
            outer("k", inside)
        assert idemtable.outcome_of(caught.value) is None
        with pytest.raises(ExceptionGroup) as group:
            outer("k", inside, in_group=True)
        assert idemtable.outcome_of(group.value.exceptions[0]) is None
        with pytest.raises(CardDeclined) as caught, db.idem.transaction("block", "k") as claim:
            inner.join(claim.session, inside)
        assert idemtable.outcome_of(caught.value) is None
    with pytest.raises(CardDeclined) as caught:
        inner("before")
    told = idemtable.outcome_of(caught.value)
    assert told is not None
    assert told.replayed
