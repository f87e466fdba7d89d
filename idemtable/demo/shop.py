"""The second act: a form sent twice, a cancelled order that nobody can pay, a lost update refused."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any, Final

import click
import sqlalchemy as sa
from sqlalchemy.orm import Session, sessionmaker

from ..errors import IllegalTransitionError, SpentTokenError, StaleVersionError
from ..guards import compare_and_set, retry_stale
from ..table import IdemTable
from .business import TABLE, metadata
from .check import Promise

orders: Final = sa.Table(
    f"{TABLE}_order",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("item", sa.String(32), nullable=False),
    sa.Column("price", sa.Integer, nullable=False),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
)

Begin = Callable[[], AbstractContextManager[Session]]

_CLERKS: Final = 4
"""People who do the same thing at the same moment."""


def play(engine: sa.Engine) -> Iterator[Promise]:
    """Play the three scenes, say what is seen, and give what was promised of each."""
    idem = IdemTable(engine, table=TABLE)
    begin = sessionmaker(engine).begin
    for scene in (_form_sent_twice, _cancelled_order, _lost_update):
        promise, seen = scene(idem, begin)
        click.echo(f"  {seen}")
        yield promise
    click.echo()


def _together(work: Callable[[int], Any]) -> list[Any]:
    """Let all clerks do it at once; give what each got, refusals included."""
    barrier = threading.Barrier(_CLERKS)
    answers: list[Any] = [None] * _CLERKS

    def one(number: int) -> None:
        barrier.wait()
        try:
            answers[number] = work(number)
        except Exception as error:
            answers[number] = error

    threads = [threading.Thread(target=one, args=(number,)) for number in range(_CLERKS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def _new_order(session: Session, item: str, price: int) -> int:
    row = {"item": item, "price": price, "status": "created", "version": 1}
    (number,) = session.execute(orders.insert().values(row)).inserted_primary_key  # type: ignore[attr-defined]
    return int(number)


def _form_sent_twice(idem: IdemTable, begin: Begin) -> tuple[Promise, str]:
    tokens = idem.tokens("demo.checkout", ttl=timedelta(minutes=30))

    @tokens.transactional(token="token", subject="user")  # noqa: S106 - the name of a parameter
    def checkout(session: Session, token: str, user: str, item: str) -> int:
        return _new_order(session, item, 450)

    token = tokens.issue(subject="user:7")
    answers = _together(lambda _: checkout(token, "user:7", "tea"))
    try:
        checkout(token, "user:7", "coffee")
        other = "taken"
    except SpentTokenError:
        other = "refused"
    with begin() as session:
        made = session.execute(sa.select(sa.func.count()).select_from(orders)).scalar_one()
    kept = made == 1 and len(set(map(str, answers))) == 1 and other == "refused"
    facts = f"{made} order, {len(answers)} equal answers; with another cart {other}"
    return Promise("a form sent several times at once made one order", kept, facts), (
        f"form         sent {len(answers)} times at once with one token, then once more with another cart"
    )


def _cancelled_order(idem: IdemTable, begin: Begin) -> tuple[Promise, str]:
    machine = idem.machine(orders.c.status, {"created": {"paid", "cancelled"}, "paid": {"shipped"}})
    with begin() as session:
        number = _new_order(session, "cup", 900)
        machine.advance(session, number, to="cancelled")

    def pay(_: int) -> bool:
        with begin() as session:
            return machine.advance(session, number, to="paid").moved

    answers = _together(pay)
    with begin() as session:
        status = session.execute(sa.select(orders.c.status).where(orders.c.id == number)).scalar_one()
    refused = sum(isinstance(answer, IllegalTransitionError) for answer in answers)
    facts = f"{refused} of {len(answers)} refused; the order is {status}"
    return Promise("a cancelled order could not be paid", refused == len(answers) and status == "cancelled", facts), (
        f"order        cancelled, then {len(answers)} payments for it at once"
    )


def _lost_update(idem: IdemTable, begin: Begin) -> tuple[Promise, str]:
    with begin() as session:
        number = _new_order(session, "pot", 1_000)
    read = threading.Barrier(_CLERKS)

    def price_and_version(session: Session) -> tuple[int, int]:
        where = orders.c.id == number
        price, version = session.execute(sa.select(orders.c.price, orders.c.version).where(where)).one()
        return price, version

    def raise_price(_: int) -> int:
        with begin() as session:
            price, version = price_and_version(session)
        read.wait()  # everybody has seen the same price before anybody writes
        with begin() as session:
            return compare_and_set(session, orders, number, version=version, values={"price": price + 10})

    @retry_stale(attempts=20)
    def raise_price_again() -> int:
        with begin() as session:
            price, version = price_and_version(session)
        with begin() as session:
            return compare_and_set(session, orders, number, version=version, values={"price": price + 10})

    answers = _together(raise_price)
    stale = sum(isinstance(answer, StaleVersionError) for answer in answers)
    for answer in answers:
        if isinstance(answer, StaleVersionError):
            raise_price_again()
    with begin() as session:
        price, _ = price_and_version(session)
    facts = f"{stale} of {len(answers)} told to read again; the price rose by {price - 1_000}"
    kept = stale == len(answers) - 1 and price == 1_000 + 10 * len(answers)
    return Promise("no update was lost", kept, facts), (
        f"price        read by {len(answers)} clerks at once, raised by 10 by each"
    )
