"""What is sold, and what was ordered."""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, Field
from sqlalchemy import String, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

Item = Literal["tea", "coffee", "cake"]
PRICES: dict[Item, int] = {"tea": 390, "coffee": 520, "cake": 450}  # in cents


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    customer: Mapped[str] = mapped_column(String(100), index=True)
    item: Mapped[str] = mapped_column(String(50))
    quantity: Mapped[int]
    cents: Mapped[int]


class NewOrder(BaseModel):
    item: Item
    quantity: Annotated[int, Field(ge=1, le=99)] = 1


def place(session: Session, customer: str, new: NewOrder) -> Order:
    """Order something; whoever has begun the transaction commits it."""
    order = Order(customer=customer, item=new.item, quantity=new.quantity, cents=PRICES[new.item] * new.quantity)
    session.add(order)
    session.flush()
    return order


def order_of(session: Session, customer: str, order_id: int) -> Order | None:
    """Find one of a customer's own orders."""
    return session.scalar(select(Order).where(Order.id == order_id, Order.customer == customer))


def orders_of(session: Session, customer: str) -> Sequence[Order]:
    """All orders of a customer, the newest first."""
    return session.scalars(select(Order).where(Order.customer == customer).order_by(Order.id.desc())).all()
