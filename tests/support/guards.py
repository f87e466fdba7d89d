"""A shop in a database: tables with versions and states, and guards called plainly in both colours."""

from __future__ import annotations

import enum
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from tests.support import PATIENCE
from tests.support.database import Database, Held

CALLERS = 6


class Base(DeclarativeBase):
    pass


class Stage(enum.Enum):
    NEW = "new"
    OPEN = "open"
    DONE = "done"


class Order(Base):
    """Attributes whose columns have other names."""

    __tablename__ = "guard_order"
    number: Mapped[int] = mapped_column("id", primary_key=True, autoincrement=False)
    status: Mapped[str] = mapped_column("st", sa.String(20), default="created")
    total: Mapped[int] = mapped_column("sum", default=0)
    version: Mapped[int] = mapped_column("ver", default=1)
    items: Mapped[list[Item]] = relationship(lazy="joined", order_by="Item.id")


class Item(Base):
    __tablename__ = "guard_item"
    id: Mapped[int] = mapped_column(primary_key=True)
    order: Mapped[int] = mapped_column(sa.ForeignKey("guard_order.id"))


class Counted(Base):
    """A version that the mapper counts, a composite key, an Enum."""

    __tablename__ = "guard_counted"
    shop: Mapped[str] = mapped_column(sa.String(20), primary_key=True)
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    stage: Mapped[Stage] = mapped_column(sa.Enum(Stage, native_enum=False, length=10), default=Stage.NEW)
    revision: Mapped[int] = mapped_column()
    __mapper_args__ = {"version_id_col": revision}


class Ticket(Base):
    """A key that has one spelling in Python, and several as a text."""

    __tablename__ = "guard_ticket"
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    status: Mapped[str] = mapped_column(sa.String(20), default="created")
    version: Mapped[int] = mapped_column(default=1)


class Parcel(Base):
    """A key that the database compares in its own way, but for PostgreSQL: of large and small letters."""

    __tablename__ = "guard_parcel"
    code: Mapped[str] = mapped_column(
        sa.String(20).with_variant(sa.String(20, collation="NOCASE"), "sqlite"), primary_key=True
    )
    status: Mapped[str | None] = mapped_column(sa.String(20), default="created")
    version: Mapped[int | None] = mapped_column(default=1)


class Animal(Base):
    __tablename__ = "guard_animal"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    kind: Mapped[str] = mapped_column(sa.String(20))
    name: Mapped[str] = mapped_column(sa.String(20), default="")
    version: Mapped[int] = mapped_column(default=1)
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "animal"}


class Cat(Animal):
    __mapper_args__ = {"polymorphic_identity": "cat"}


class Horse(Animal):
    __tablename__ = "guard_horse"
    id: Mapped[int] = mapped_column(sa.ForeignKey("guard_animal.id"), primary_key=True)
    hands: Mapped[int] = mapped_column(default=15)
    __mapper_args__ = {"polymorphic_identity": "horse", "polymorphic_load": "inline"}


class Shop:
    """What a test of guards holds: the database, and the guards called plainly."""

    def __init__(self, db: Database) -> None:
        self.db = db

    def call(self, held: Held, guard: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a guard with the session of whatever colour, and await it where it is to be awaited."""
        answer = guard(held.session, *args, **kwargs)
        return answer if self.db.loop is None else self.db.loop.run(answer)

    def add(self, *rows: Any) -> None:
        with sa.orm.Session(self.db.admin) as session, session.begin():
            session.add_all(rows)

    def value(self, column: Any, **where: Any) -> Any:
        """Read one column by itself, as others see it."""
        with sa.orm.Session(self.db.admin) as session:
            return session.scalar(sa.select(column).filter_by(**where))

    @contextmanager
    def statements(self) -> Iterator[list[str]]:
        """The first words of all that is sent to the database meanwhile."""
        engine = getattr(self.db.engine, "sync_engine", self.db.engine)
        seen: list[str] = []

        def listen(conn: Any, cursor: Any, statement: str, *rest: Any) -> None:
            if not statement.startswith(("BEGIN", "PRAGMA")):
                seen.append(" ".join(statement.split()))

        sa.event.listen(engine, "before_cursor_execute", listen)
        try:
            yield seen
        finally:
            sa.event.remove(engine, "before_cursor_execute", listen)

    def race(self, one: Callable[[Held], Any], callers: int = CALLERS) -> Callable[[], list[Any]]:
        """Start callers, each with a session of its own; the function returned waits and gives results and errors."""
        answers: list[Any] = []
        barrier = threading.Barrier(callers)

        def run() -> None:
            with self.db.session() as held:
                barrier.wait(PATIENCE)
                try:
                    answers.append(one(held))
                except Exception as error:
                    answers.append(error)

        threads = [threading.Thread(target=run) for _ in range(callers)]
        for thread in threads:
            thread.start()

        def finish() -> list[Any]:
            for thread in threads:
                thread.join(PATIENCE)
            assert len(answers) == callers, f"{callers - len(answers)} never came back"
            return answers

        return finish


def empty_shop(db: Database) -> Shop:
    """A shop with its tables made and empty."""
    with db.admin.begin() as connection:
        Base.metadata.create_all(connection)
        for table in reversed(Base.metadata.sorted_tables):
            connection.execute(sa.delete(table))
    return Shop(db)
