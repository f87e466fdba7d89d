import os
import subprocess
import sys
from dataclasses import dataclass
from decimal import Decimal

from sqlalchemy import Numeric, String, create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from idemtable import FingerprintMismatchError, IdempotencyError, IdemTable

engine = create_engine(os.environ["IDEMTABLE_URL"])


class Base(DeclarativeBase):
    pass


class Account(Base):
    __tablename__ = "account"
    name: Mapped[str] = mapped_column(String(50), primary_key=True)
    balance: Mapped[Decimal] = mapped_column(Numeric(12, 2))


class Payment(Base):
    __tablename__ = "payment"
    id: Mapped[int] = mapped_column(primary_key=True)
    account: Mapped[str] = mapped_column(String(50))
    amount: Mapped[Decimal] = mapped_column(Numeric(12, 2))


def balance(name: str) -> Decimal:
    with Session(engine) as session:
        return session.get_one(Account, name).balance


Base.metadata.create_all(engine)
with Session(engine) as session, session.begin():
    session.merge(Account(name="bob", balance=Decimal("100.00")))  # Bob begins anew in every run
    for name in ("ada", "cleo"):
        if session.get(Account, name) is None:  # these two do not
            session.add(Account(name=name, balance=Decimal("100.00")))


def pay_unprotected(session: Session, account: str, amount: Decimal) -> None:
    session.get_one(Account, account, with_for_update=True).balance -= amount
    session.add(Payment(account=account, amount=amount))


for _ in range(2):  # the client saw no answer to the first, and sent it again
    with Session(engine) as session, session.begin():
        pay_unprotected(session, "bob", Decimal("10.00"))

print(balance("bob"))  # 80.00


idem = IdemTable(engine)


@dataclass
class Paid:
    payment_id: int
    amount: Decimal


@idem.transactional("payments.pay", key="request_id")
def pay(session: Session, request_id: str, account: str, amount: Decimal) -> Paid:
    session.get_one(Account, account, with_for_update=True).balance -= amount
    payment = Payment(account=account, amount=amount)
    session.add(payment)
    session.flush()
    return Paid(payment.id, amount)


first = pay(request_id="7f3a", account="ada", amount=Decimal("10.00"))
again = pay(request_id="7f3a", account="ada", amount=Decimal("10.00"))

print(first == again, first.amount)  # True 10.00


outcome = pay.outcome(request_id="7f3a", account="ada", amount=Decimal("10.00"))

print(outcome.replayed, outcome.value == first, balance("ada"))  # True True 90.00


try:
    pay(request_id="7f3a", account="ada", amount=Decimal("99.00"))
except FingerprintMismatchError as mismatch:
    print(mismatch.detail)  # This idempotency key was used before with another request; a new request needs a new key.


def endpoint(headers: dict[str, str], body: dict[str, str]) -> tuple[int | None, str]:
    key = headers.get("Idempotency-Key", "")  # an empty key is refused like a bad one
    try:
        paid = pay(request_id=key, account=body["account"], amount=Decimal(body["amount"]))
    except IdempotencyError as error:
        return error.http_status, error.detail
    return 201, f"paid {paid.amount}"


print(endpoint({}, {"account": "cleo", "amount": "5.00"})[0])  # 400
print(endpoint({"Idempotency-Key": "7f3a"}, {"account": "cleo", "amount": "5.00"})[0])  # 422
print(endpoint({"Idempotency-Key": "91cc"}, {"account": "cleo", "amount": "5.00"}))  # (201, 'paid 5.00')


class NotEnoughMoney(Exception):
    pass


@idem.transactional("payments.withdraw", key="request_id")
def withdraw(session: Session, request_id: str, account: str, amount: Decimal) -> None:
    row = session.get_one(Account, account, with_for_update=True)
    row.balance -= amount
    if row.balance < 0:
        raise NotEnoughMoney(account)


try:
    withdraw("w-1", "ada", Decimal("1000.00"))
except NotEnoughMoney:
    print(balance("ada"), idem.get("payments.withdraw", "w-1"))  # 90.00 None


program = """
import os
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session
from idemtable import IdemTable

idem = IdemTable(create_engine(os.environ["IDEMTABLE_URL"]))

@idem.transactional("payments.refund", key="request_id")
def refund(session: Session, request_id: str) -> str:
    session.execute(text("UPDATE account SET balance = balance + 1 WHERE name = 'cleo'"))
    if os.environ.get("DIE"):
        os._exit(137)     # as SIGKILL would: no exception, no rollback, no goodbye
    return "refunded"

refund("r-1")
"""

for die in ("1", "", ""):
    subprocess.run([sys.executable, "-c", program], env=os.environ | {"DIE": die})

print(balance("cleo"))  # 96.00


print(idem.stats().by_scope)  # {'payments.pay': 2, 'payments.refund': 1}
