"""The business that is protected: a ledger without any unique constraint, and balances that are moved."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.orm import Session, registry

from ..model import Outcome
from ..table import IdemTable

TABLE: Final = "idemtable_demo"
SCOPE: Final = "demo.payments"

BRIEFLY: Final = timedelta(seconds=1)
"""How long last week's keys are remembered: a week, for somebody who watches."""
WAIT: Final = timedelta(milliseconds=500)
"""Short, so that clients are told that a payment is in progress while the killed worker still holds it."""

metadata: Final = sa.MetaData()
ledger: Final = sa.Table(
    f"{TABLE}_ledger",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("request", sa.String(64), nullable=False),
    sa.Column("account", sa.String(32), nullable=False),
    sa.Column("amount", sa.Integer, nullable=False),
)
accounts: Final = sa.Table(
    f"{TABLE}_account",
    metadata,
    sa.Column("name", sa.String(32), primary_key=True),
    sa.Column("balance", sa.BigInteger, nullable=False),
)


class Payment:
    """A row of the ledger."""

    id: int

    def __init__(self, request: str, account: str, amount: int) -> None:
        self.request, self.account, self.amount = request, account, amount


registry().map_imperatively(Payment, ledger)


class GatewayDown(Exception):
    """The payment gateway cannot be reached."""


@dataclass(frozen=True)
class Receipt:
    """What a payment gives, and what its replays must give again."""

    payment: int
    account: str
    amount: int
    balance: int


Before = Callable[[str], None]
"""Called at the end of a payment, with everything written and nothing committed."""
Pay = Callable[..., Outcome[Receipt]]


def payments(engine: sa.Engine, *, protected: bool, before_commit: Before) -> dict[int, Pay]:
    """Give the way to pay of each day; every one returns an `Outcome`."""

    def pay(session: Session, key: str, account: str, amount: int) -> Receipt:
        row = Payment(request=key, account=account, amount=amount)
        session.add(row)
        session.flush()
        update = accounts.update().where(accounts.c.name == account)
        session.execute(update.values(balance=accounts.c.balance - amount))
        balance = session.execute(sa.select(accounts.c.balance).where(accounts.c.name == account)).scalar_one()
        before_commit(key)
        return Receipt(row.id, account, amount, balance)

    def unprotected(key: str, account: str, amount: int) -> Outcome[Receipt]:
        with Session(engine) as session, session.begin():
            return Outcome(pay(session, key, account, amount), replayed=False, attempts=1, created_at=None)

    if not protected:
        return dict.fromkeys((1, 2, 3), unprotected)
    idem = IdemTable(engine, wait=WAIT, table=TABLE)
    remembered = idem.transactional(SCOPE, key="key")(pay).outcome
    return {1: idem.transactional(SCOPE, key="key", ttl=BRIEFLY)(pay).outcome, 2: remembered, 3: remembered}


def prepare(engine: sa.Engine, names: set[str]) -> None:
    """Create the business's tables, with an account for each name."""
    metadata.create_all(engine)
    with engine.begin() as connection:
        rows: list[dict[str, Any]] = [{"name": name, "balance": 0} for name in sorted(names)]
        connection.execute(accounts.insert(), rows)


def books(engine: sa.Engine) -> tuple[list[tuple[int, str, str, int]], dict[str, int]]:
    """Read the ledger (id, request, account, amount) and the balances."""
    with engine.connect() as connection:
        found = connection.execute(sa.select(ledger).order_by(ledger.c.id))
        rows = [(id_, request, account, amount) for id_, request, account, amount in found]
        balances = {name: int(balance) for name, balance in connection.execute(sa.select(accounts))}
    return rows, balances
