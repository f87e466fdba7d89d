"""What a guard returns or shows of a row is all of the row, as it is now: deferred columns, subclasses, other tables."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import NoResultFound
from sqlalchemy.ext.declarative import ConcreteBase
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from idemtable.errors import IllegalTransitionError, StaleVersionError
from idemtable.guards import Advance, StateMachine, compare_and_set, lock
from tests.support.database import INNODB
from tests.support.guards import Shop


class Base(DeclarativeBase):
    pass


class Letter(Base):
    __tablename__ = "whole_letter"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    state: Mapped[str] = mapped_column(sa.String(20), default="new")
    version: Mapped[int] = mapped_column(default=1)
    pages: Mapped[int] = mapped_column(default=1, deferred=True)
    weight: Mapped[int] = mapped_column(default=1, deferred=True, deferred_raiseload=True)


class Payment(Base):
    __tablename__ = "whole_payment"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    kind: Mapped[str] = mapped_column(sa.String(20))
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "payment"}


class Voucher(Payment):
    """In its base's table, with a column of its own."""

    worth: Mapped[int | None] = mapped_column(default=1)
    __mapper_args__ = {"polymorphic_identity": "voucher"}


class Card(Payment):
    __tablename__ = "whole_card"
    id: Mapped[int] = mapped_column(sa.ForeignKey("whole_payment.id"), primary_key=True)
    limit: Mapped[int] = mapped_column("most", default=1)
    __mapper_args__ = {"polymorphic_identity": "card"}


class Gold(Card):
    """Loaded together with its base, by an outer join."""

    __tablename__ = "whole_gold"
    id: Mapped[int] = mapped_column(sa.ForeignKey("whole_card.id"), primary_key=True)
    bonus: Mapped[int] = mapped_column(default=1)
    __mapper_args__ = {"polymorphic_identity": "gold", "polymorphic_load": "inline"}


class Staff(ConcreteBase, Base):
    """Each class in a table of its own, read by a UNION."""

    __tablename__ = "whole_staff"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    state: Mapped[str] = mapped_column(sa.String(20), default="new")
    version: Mapped[int] = mapped_column(default=1)
    __mapper_args__ = {"polymorphic_identity": "staff", "concrete": True}


class Chief(Staff):
    __tablename__ = "whole_chief"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    state: Mapped[str] = mapped_column(sa.String(20), default="new")
    version: Mapped[int] = mapped_column(default=1)
    __mapper_args__ = {"polymorphic_identity": "chief", "concrete": True}


LETTERS = StateMachine(Letter.state, {"new": {"sent", "kept"}})


def filled(shop: Shop, *rows: Any) -> None:
    with shop.db.admin.begin() as connection:
        Base.metadata.create_all(connection)
        for table in reversed(Base.metadata.sorted_tables):
            connection.execute(sa.delete(table))
    shop.add(*rows)


def changed_since(shop: Shop, held: Any, statement: str) -> None:
    """Begin to read in a session, then let somebody else change a row, where the database lets the session go on."""
    if shop.db.kind in INNODB and not shop.db.insists_on_its_snapshot():
        held.run(lambda session: session.execute(sa.text("SELECT count(*) FROM whole_letter")).all())
    shop.db.execute(statement)


@pytest.mark.parametrize("column", ["pages", "weight"], ids=["deferred", "and never to be loaded by itself"])
def test_a_locked_row_has_its_deferred_columns_as_they_are_now(shop: Shop, column: str) -> None:
    filled(shop, Letter(id=1))
    with shop.db.session() as held:
        changed_since(shop, held, f"UPDATE whole_letter SET {column} = 7")
        letter = shop.call(held, lock, Letter, 1)
        assert getattr(letter, column) == 7  # under async nothing could be loaded here


@pytest.mark.parametrize(
    ("model", "row", "where"),
    [
        (Payment, Voucher, "whole_payment SET worth"),
        (Payment, Card, "whole_card SET most"),
        (Payment, Gold, "whole_gold SET bonus"),
        (Card, Gold, "whole_gold SET bonus"),
    ],
)
def test_a_row_locked_as_its_base_has_the_columns_of_its_class_as_they_are_now(
    shop: Shop, model: Any, row: Any, where: str
) -> None:
    filled(shop, row(id=1), Card(id=2))
    with shop.db.session() as held:
        changed_since(shop, held, f"UPDATE {where} = 7 WHERE {where.split()[0]}.id = 1")
        first, second = shop.call(held, lock, model, [1, 2])
        assert (type(first), type(second)) == (row, Card)
        assert {"worth": 7, "most": 7, "bonus": 7}[where.split()[-1]] in (
            getattr(first, name, None) for name in ("worth", "limit", "bonus")
        )
        assert second.limit == 1


def test_a_row_that_waited_has_the_columns_of_its_class_as_they_are_after_it(server_shop: Shop) -> None:
    shop = server_shop
    filled(shop, Gold(id=1))
    with shop.db.session() as holder:
        shop.call(holder, lock, Card, 1)
        finish = shop.race(lambda held: shop.call(held, lock, Card, 1).bonus, 1)
        shop.db.await_waiting(1)
        holder.run(lambda session: session.execute(sa.text("UPDATE whole_gold SET bonus = 7")))
        holder.commit()
    assert finish() == [7]


def test_subclasses_that_add_nothing_cost_no_statement(shop: Shop) -> None:
    filled(shop, Payment(id=1), Card(id=2))
    with shop.db.session() as held, shop.statements() as sent:
        shop.call(held, lock, Payment, 1)
        shop.call(held, lock, Card, 2)
    assert len([one for one in sent if one.startswith("SELECT")]) == 2


def test_an_object_shows_its_row_after_a_refusal(shop: Shop) -> None:
    """Also the columns that nobody asked about, and at MySQL's REPEATABLE READ, where a plain look shows the snapshot."""
    filled(shop, Letter(id=1), Letter(id=2))
    with shop.db.session() as held:
        if shop.db.kind != "sqlite" and not shop.db.insists_on_its_snapshot():
            letters = [held.run(lambda session, id=id: session.get(Letter, id)) for id in (1, 2)]
            shop.db.execute("UPDATE whole_letter SET version = 5, state = 'sent', pages = 7")
        else:  # they would refuse whoever has read before
            shop.db.execute("UPDATE whole_letter SET version = 5, state = 'sent', pages = 7")
            letters = [held.run(lambda session, id=id: session.get(Letter, id)) for id in (1, 2)]
        with pytest.raises(StaleVersionError):
            shop.call(held, compare_and_set, Letter, 1, version=1, values={})
        with pytest.raises(IllegalTransitionError):
            shop.call(held, LETTERS.advance, 2, to="kept")
        for letter in letters:
            assert (letter.version, letter.state, letter.pages) == (5, "sent", 7)


def test_classes_in_tables_of_their_own(shop: Shop) -> None:
    filled(shop, Staff(id=9), Chief(id=1), Chief(id=2))
    chiefs = StateMachine(Chief.state, {"new": {"gone"}, "old": {"gone"}})
    with shop.db.session() as held:
        with pytest.raises(NoResultFound):
            shop.call(held, lock, Chief, 9)
        assert type(shop.call(held, lock, Chief, 1)) is Chief
        assert shop.call(held, chiefs.advance, 1, to="gone") == Advance(True, "new")
        assert shop.call(held, compare_and_set, Chief, 2, version=1, values={"state": "old"}) == 2
        with pytest.raises(StaleVersionError, match="has version 2"):
            shop.call(held, compare_and_set, Chief, 2, version=1, values={})
        held.commit()
        with pytest.raises(TypeError, match=r"UNION.*whole_staff with_for_update"):
            shop.call(held, lock, Staff, 9)
    assert shop.value(Chief.state, id=2) == "old"
