"""StateMachine, one step after the other; the races are in test_guard_races."""

from __future__ import annotations

import enum
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.hybrid import hybrid_property
from sqlalchemy.orm import DeclarativeBase, Mapped, column_property, mapped_column, relationship, synonym

from idemtable.errors import (
    FingerprintMismatchError,
    IllegalTransitionError,
    InProgressError,
    InvalidKeyError,
    RetryTransactionError,
)
from idemtable.guards import Advance, StateMachine, lock
from tests.support.guards import Counted, Horse, Order, Parcel, Shop, Stage, Ticket

STEPS = {"created": {"paid", "cancelled"}, "paid": {"shipped", "refunded", "cancelled"}}
MACHINE = StateMachine(Order.status, STEPS)
STAGES = StateMachine(Counted.stage, {Stage.NEW: {"open"}, "OPEN": {Stage.DONE, "new"}, "done": {"open"}})


def remembering(shop: Shop) -> Any:
    idem = shop.db.idem
    return getattr(idem, "inner", idem)


def test_a_step_is_taken_once(shop: Shop) -> None:
    shop.add(Order(number=7))
    with shop.db.session() as held:
        with shop.statements() as sent:
            assert shop.call(held, MACHINE.advance, 7, to="paid") == Advance(moved=True, state_before="created")
        assert [statement.split()[0] for statement in sent] == ["UPDATE"]
        with shop.statements() as sent:
            assert shop.call(held, MACHINE.advance, 7, to="paid") == Advance(moved=False, state_before="paid")
        assert [statement.split()[0] for statement in sent] == ["UPDATE", "SELECT"]
        held.commit()
    assert shop.value(Order.status) == "paid"


def test_where_several_states_lead_the_one_before_is_known(shop: Shop) -> None:
    shop.add(Order(number=1), Order(number=2, status="paid"))
    with shop.db.session() as held:
        with shop.statements() as sent:
            assert shop.call(held, MACHINE.advance, 1, to="cancelled") == Advance(True, "created")
        lock = ["UPDATE"] if shop.db.kind == "sqlite" else []  # of no row: the write lock
        assert [statement.split()[0] for statement in sent] == [*lock, "SELECT", "UPDATE"]
        assert shop.call(held, MACHINE.advance, 2, to="cancelled") == Advance(True, "paid")
        with shop.statements() as sent:
            assert shop.call(held, MACHINE.advance, 2, to="cancelled") == Advance(False, "cancelled")
        assert [statement.split()[0] for statement in sent] == [*lock, "SELECT"]


def test_what_is_not_allowed(shop: Shop) -> None:
    shop.add(Order(number=7), Order(number=8, status="odd"))
    with shop.db.session() as held:
        with pytest.raises(IllegalTransitionError, match="'created' and cannot become 'shipped'") as caught:
            shop.call(held, MACHINE.advance, 7, to="shipped")
        error = caught.value
        assert (error.state, error.to, error.allowed) == ("created", "shipped", ("cancelled", "paid"))
        with pytest.raises(IllegalTransitionError, match="is gone") as caught:
            shop.call(held, MACHINE.advance, 9, to="shipped")
        assert (caught.value.state, caught.value.allowed) == (None, ())
        with pytest.raises(IllegalTransitionError, match="nothing"):
            shop.call(held, MACHINE.advance, 8, to="cancelled")
        with pytest.raises(IllegalTransitionError) as caught:
            shop.call(held, MACHINE.advance, 8, to="created")  # nothing leads there
        assert caught.value.state == "odd"
        held.commit()
    assert shop.value(Order.status, number=7) == "created"


@pytest.mark.parametrize("to", ["paid", "cancelled", "created"], ids=["one source", "two sources", "none"])
def test_a_row_without_a_state_is_not_gone(shop: Shop, to: str) -> None:
    shop.add(Parcel(code="ord-1"))
    shop.db.execute("UPDATE guard_parcel SET status = NULL")
    machine = StateMachine(Parcel.status, STEPS)
    with shop.db.session() as held:
        with pytest.raises(IllegalTransitionError, match="has no state and cannot become") as caught:
            shop.call(held, machine.advance, "ord-1", to=to)
        assert (caught.value.state, caught.value.allowed) == (None, ())
        with pytest.raises(IllegalTransitionError, match="is gone"):
            shop.call(held, machine.advance, "ord-2", to=to)


def test_the_object_that_the_session_holds_shows_the_state(shop: Shop) -> None:
    shop.add(Order(number=7), Counted(shop="a", id=1))
    with shop.db.session() as held:
        row = held.run(lambda session: session.get(Order, 7))
        if shop.db.kind != "sqlite":  # there it would refuse the step of who has read before
            shop.db.execute("UPDATE guard_order SET st = 'paid'")
        if shop.db.insists_on_its_snapshot():
            with pytest.raises(RetryTransactionError):
                shop.call(held, MACHINE.advance, 7, to="paid")
            held.rollback()
            row = held.run(lambda session: session.get(Order, 7))
        assert shop.call(held, MACHINE.advance, 7, to="paid").moved is (shop.db.kind == "sqlite")
        assert row.status == "paid"
        row.status = "shipped"
        with pytest.raises(ValueError, match="not flushed"):
            shop.call(held, MACHINE.advance, 7, to="refunded")
        held.rollback()

        counted = held.run(lambda session: session.get(Counted, ("a", 1)))
        assert shop.call(held, STAGES.advance, ("a", 1), to="open") == Advance(True, Stage.NEW)
        assert (counted.stage, counted.revision) == (Stage.OPEN, 2)

        def change(session: Any) -> None:
            counted.stage = Stage.DONE
            session.commit()

        held.run(change)  # not stale
    assert shop.value(Counted.revision) == 3


def test_enum_columns(shop: Shop) -> None:
    shop.add(Counted(shop="a", id=1), Counted(shop="a", id=2))
    with shop.db.session() as held:
        for to in ("open", "OPEN", Stage.OPEN):
            answer = shop.call(held, STAGES.advance, ("a", 1), to=to)
            assert answer.state_before in (Stage.NEW, Stage.OPEN)
        assert shop.call(held, STAGES.advance, {"shop": "a", "id": 1}, to="done") == Advance(True, Stage.OPEN)
        with pytest.raises(IllegalTransitionError) as caught:
            shop.call(held, STAGES.advance, ("a", 1), to=Stage.NEW)
        assert (caught.value.state, caught.value.allowed) == (Stage.DONE, (Stage.OPEN,))
        held.commit()
    assert shop.value(Counted.stage, id=1) is Stage.DONE
    assert shop.value(Counted.stage, id=2) is Stage.NEW


class Word(enum.StrEnum):
    CREATED = "created"
    PAID = "paid"


def test_a_string_column_takes_the_values_of_an_enum(shop: Shop) -> None:
    shop.add(Order(number=7))
    machine = StateMachine(Order.__table__.c.st, {Word.CREATED: [Word.PAID]})
    with shop.db.session() as held:
        assert shop.call(held, machine.advance, 7, to=Word.PAID) == Advance(True, "created")
        assert shop.call(held, machine.advance, 7, to="paid") == Advance(False, "paid")
        held.commit()
    assert shop.value(Order.status) == "paid"


def test_states_are_compared_as_the_database_compares_them(shop: Shop) -> None:
    table = sa.Table(
        "guard_filled", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True), sa.Column("st", sa.CHAR(9))
    )
    machine = StateMachine(table.c.st, {"new": ["paid"], "held": ["done"], "paid": ["done"]})
    found = "Paid" if shop.db.kind in ("mariadb", "mysql") else "paid"  # by their collation it is the same state
    with shop.db.admin.begin() as connection:
        table.drop(connection, checkfirst=True)
        table.create(connection)
        connection.execute(sa.insert(table).values(id=1, st=found))
    with shop.db.session() as held:
        assert shop.call(held, machine.advance, 1, to="paid") == Advance(False, "paid")
        assert shop.call(held, machine.advance, 1, to="done") == Advance(True, "paid")
        assert shop.call(held, machine.advance, 1, to="done") == Advance(False, "done")
        held.commit()


# --- events -----------------------------------------------------------------------------------------------------------


def test_an_event_is_applied_once_wherever_the_row_has_gone(shop: Shop) -> None:
    shop.add(Order(number=7), Order(number=8))
    machine = remembering(shop).machine(Order.status, STEPS)
    with shop.db.session() as held:
        for _ in range(2):
            answer = shop.call(held, machine.advance, 7, to="paid", event_id="evt-1")
        assert answer == Advance(False, "created")
        assert shop.call(held, machine.advance, 8, to="paid", event_id="evt-1") == Advance(True, "created")
        assert shop.call(held, machine.advance, 7, to="refunded", event_id="evt-2").moved
        held.commit()
    with shop.db.session() as held:
        row = held.run(lambda session: session.get(Order, 7))
        assert shop.call(held, MACHINE.advance, 7, to="paid", event_id="evt-1", idem=remembering(shop)) == Advance(
            False, "created"
        )
        with pytest.raises(IllegalTransitionError):
            shop.call(held, MACHINE.advance, 7, to="paid")
        with pytest.raises(FingerprintMismatchError):
            shop.call(held, machine.advance, 7, to="shipped", event_id="evt-2")
        assert held.run(lambda session: session.get(Order, 7)) is row
        held.commit()
    assert shop.value(Order.status, number=7) == "refunded"
    assert {row.scope for row in shop.db.rows()} == {"machine:guard_order.st"}


def test_an_event_that_moved_nothing_is_remembered_too(shop: Shop) -> None:
    shop.add(Counted(shop="ä" * 20, id=1, stage=Stage.OPEN))
    machine = StateMachine(Counted.stage, {"new": {"open"}, "open": {"new", "done"}}, idem=remembering(shop))
    key, event = ("ä" * 20, 1), "e" * 250  # too long together
    with shop.db.session() as held:
        assert shop.call(held, machine.advance, key, to="open", event_id=event) == Advance(False, Stage.OPEN)
        assert shop.call(held, machine.advance, key, to="new", event_id=uuid4()) == Advance(True, Stage.OPEN)
        assert shop.call(held, machine.advance, key, to="open", event_id=event) == Advance(False, Stage.OPEN)
        held.commit()
    assert shop.value(Counted.stage) is Stage.NEW


def test_an_event_that_was_refused_or_rolled_back_may_come_again(shop: Shop) -> None:
    shop.add(Order(number=7))
    machine = StateMachine(Order.status, STEPS, idem=remembering(shop))
    with shop.db.session() as held:
        with pytest.raises(IllegalTransitionError):
            shop.call(held, machine.advance, 7, to="shipped", event_id="evt-1")
        assert shop.call(held, machine.advance, 7, to="paid", event_id="evt-0").moved
        held.rollback()
        assert shop.call(held, machine.advance, 7, to="paid", event_id="evt-0").moved
        assert shop.call(held, machine.advance, 7, to="shipped", event_id="evt-1").moved
        held.commit()
    assert shop.value(Order.status) == "shipped"


def test_inside_a_transactional_function(shop: Shop) -> None:
    shop.add(Order(number=7))
    machine = StateMachine(Order.status, STEPS, idem=remembering(shop))

    # Inside run_sync the session is a sync one, with the machinery of an async table: the same code.
    @shop.db.idem.transactional("orders.pay", key="key", returns=bool)
    def pay(session: Any, key: str, event: str) -> bool:
        return machine.advance(session, 7, to="paid", event_id=event).moved

    assert (pay("k-1", "e-1"), pay("k-1", "e-1"), pay("k-2", "e-1"), pay("k-3", "e-2")) == (True, True, False, False)


@pytest.mark.parametrize("model", [Ticket, Parcel])
@pytest.mark.parametrize("held_already", [False, True], ids=["", "and the session holds the object"])
def test_an_event_is_applied_once_however_the_key_of_its_row_is_spelled(
    shop: Shop, model: Any, held_already: bool
) -> None:
    if model is Parcel and shop.db.kind == "postgresql":
        pytest.skip("whose texts have one spelling")
    key = uuid4() if model is Ticket else "ord-1"
    shop.add(Ticket(id=key) if model is Ticket else Parcel(code=key))
    machine = remembering(shop).machine(model.status, {"created": {"paid"}, "paid": {"created"}})
    with shop.db.session() as held:
        row = held.run(lambda session: session.get(model, key)) if held_already else None
        assert shop.call(held, machine.advance, str(key).upper(), to="paid", event_id="evt-1").moved
        assert row is None or row.status == "paid"
        assert shop.call(held, machine.advance, key, to="created", event_id="evt-2").moved
        for one in (key, str(key), str(key).upper()):
            assert shop.call(held, machine.advance, one, to="paid", event_id="evt-1") == Advance(False, "created")
        held.commit()
    assert shop.value(model.status) == "created"
    assert {row.key for row in shop.db.rows()} == {f'["{key}", "evt-1"]', f'["{key}", "evt-2"]'}


def test_the_event_of_a_row_that_is_gone_is_remembered(shop: Shop) -> None:
    shop.add(Parcel(code="ord-1"))
    machine = remembering(shop).machine(Parcel.status, STEPS)
    with shop.db.session() as held:
        assert shop.call(held, machine.advance, "ord-1", to="paid", event_id="evt-1").moved
        held.commit()
    shop.db.execute("DELETE FROM guard_parcel")
    with shop.db.session() as held:
        assert shop.call(held, machine.advance, "ord-1", to="paid", event_id="evt-1") == Advance(False, "created")
        with pytest.raises(IllegalTransitionError, match="is gone"):
            shop.call(held, machine.advance, "ord-1", to="paid", event_id="evt-2")


def test_what_the_key_of_an_event_costs(shop: Shop) -> None:
    shop.add(Order(number=7), Ticket(id=uuid4()), Parcel(code="ord-1"))
    looks = []
    for column, key in ((Order.number, Order.status), (Ticket.id, Ticket.status), (Parcel.code, Parcel.status)):
        machine = remembering(shop).machine(key, STEPS)
        value = shop.value(column)
        with shop.db.session() as held, shop.statements() as sent:
            assert shop.call(held, machine.advance, value, to="paid", event_id="evt-1").moved
            held.commit()
        looks.append(sum(one.startswith("SELECT guard_") for one in sent))
    assert looks == [0, 0, 1]  # only of a text is it asked how the row spells it


def test_an_event_whose_row_is_held_for_too_long_is_still_in_progress(shop: Shop) -> None:
    if shop.db.kind == "postgresql":
        pytest.skip("there the key of the row is read without a lock")
    shop.add(Parcel(code="ord-1"))
    with shop.db.other_engine() as engine, shop.db.session() as holder, shop.db.session(engine) as held:
        table = shop.db.table(engine, wait=timedelta(0))
        machine = getattr(table, "inner", table).machine(Parcel.status, STEPS)
        shop.call(holder, lock, Parcel, "ord-1")
        if shop.db.kind != "sqlite":
            held.run(lambda session: session.execute(sa.text("SET SESSION innodb_lock_wait_timeout = 1")))
        with pytest.raises(InProgressError):
            shop.call(held, machine.advance, "ord-1", to="paid", event_id="evt-1")
        held.rollback()
        holder.commit()
        assert shop.call(held, machine.advance, "ord-1", to="paid", event_id="evt-1").moved


# --- construction -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("column", "steps", "error", "match"),
    [
        (Order, STEPS, TypeError, "attribute"),
        ("status", STEPS, TypeError, "attribute"),
        (Order.items, STEPS, TypeError, "attribute"),
        (Order.status, {}, ValueError, "at least one step"),
        (Order.status, {"created": set()}, ValueError, "at least one step"),
        (Order.status, [("created", "paid")], TypeError, "mapping"),
        (Order.status, {"created": "paid"}, TypeError, "such as"),
        (Order.status, {"created": b"paid"}, TypeError, "such as"),
        (Order.status, {"created": {"created"}}, ValueError, "leads to itself"),
        (Order.status, {"created": {None}}, ValueError, "None"),
        (Order.status, {"created": [["paid"]]}, TypeError, "one value"),
        (Counted.stage, {"new": {"opne"}}, ValueError, "no state 'opne'; it has 'NEW', 'OPEN', 'DONE'"),
        (Counted.stage, {"new": {"open"}, Stage.NEW: {"done"}}, ValueError, "two entries"),
    ],
)
def test_nonsense_is_refused_at_construction(column: Any, steps: Any, error: Any, match: str) -> None:
    with pytest.raises(error, match=match):
        StateMachine(column, steps)


def test_nonsense_is_refused_before_any_sql() -> None:
    with sa.orm.Session() as session:
        with pytest.raises(ValueError, match="knows 'created', 'paid'"):
            MACHINE.advance(session, 7, to="piad")
        with pytest.raises(ValueError, match="no state"):
            STAGES.advance(session, ("a", 1), to="nope")
        with pytest.raises(ValueError, match="primary key"):
            MACHINE.advance(session, (7, 8), to="paid")
        with pytest.raises(TypeError, match=r"idem\.machine"):
            MACHINE.advance(session, 7, to="paid", event_id="e")
        with pytest.raises(TypeError, match="takes an IdemTable"):
            MACHINE.advance(session, 7, to="paid", event_id="e", idem=object())  # type: ignore[call-overload]
        for event in ("", 5):
            with pytest.raises(InvalidKeyError, match="the event_id must"):
                MACHINE.advance(session, 7, to="paid", event_id=event)
        with pytest.raises(TypeError, match="several tables"):
            StateMachine(Horse.name, {"a": {"b"}}).advance(session, 7, to="b")


def test_what_is_no_plain_column_of_a_row_is_refused_at_construction() -> None:
    class Late(DeclarativeBase):
        pass

    class Odd(Late):
        __tablename__ = "odd"
        id: Mapped[int] = mapped_column(primary_key=True)
        state: Mapped[str] = mapped_column()
        revision: Mapped[int] = mapped_column()
        other: Mapped[str] = synonym("state")
        twice: Mapped[str] = column_property(state + state)
        __mapper_args__ = {"version_id_col": revision}

        @hybrid_property
        def mixed(self) -> str:
            return self.state

    for column in (Odd.other, Odd.twice, Odd.mixed):
        with pytest.raises(TypeError, match="attribute"):
            StateMachine(column, {"a": {"b"}})
    for column, match in ((Odd.id, "primary key"), (Odd.__table__.c.id, "primary key"), (Odd.revision, "version")):
        with pytest.raises(TypeError, match=match):
            StateMachine(column, {1: {2}})
    with pytest.raises(TypeError, match="IdemTable"):
        StateMachine(Odd.state, {"a": {"b"}}, idem=object())  # type: ignore[arg-type]
    Late.registry.dispose()


def test_a_machine_can_be_made_before_its_mapper_is_complete() -> None:
    class Late(DeclarativeBase):
        pass

    class Early(Late):
        __tablename__ = "early"
        id: Mapped[int] = mapped_column(primary_key=True)
        state: Mapped[str] = mapped_column()
        other: Mapped[Any] = relationship("NotYetImported")

    assert StateMachine(Early.state, {"a": {"b"}}).diagram()
    Late.registry.dispose()


def test_diagram() -> None:
    assert MACHINE.diagram() == (
        "stateDiagram-v2\n"
        "    [*] --> created\n"
        "    created --> cancelled\n"
        "    created --> paid\n"
        "    paid --> cancelled\n"
        "    paid --> refunded\n"
        "    paid --> shipped\n"
        "    cancelled --> [*]\n"
        "    refunded --> [*]\n"
        "    shipped --> [*]\n"
    )
    assert STAGES.diagram() == (
        "stateDiagram-v2\n    NEW --> OPEN\n    OPEN --> NEW\n    OPEN --> DONE\n    DONE --> OPEN\n"
    )
    odd = StateMachine(Order.status, {"in transit": {'the "end"'}, "end": {"in transit", "s1"}})
    assert odd.diagram() == (
        "stateDiagram-v2\n"
        '    state "in transit" as s1_\n'
        '    state "end" as s2\n'
        '    state "the #quot;end#quot;" as s3\n'
        "    [*] --> s2\n"
        "    s1_ --> s3\n"
        "    s2 --> s1_\n"
        "    s2 --> s1\n"
        "    s3 --> [*]\n"
        "    s1 --> [*]\n"
    )


def test_a_scoped_session_takes_an_event(shop: Shop) -> None:
    shop.add(Order(number=7))
    machine = remembering(shop).machine(Order.status, STEPS)
    if shop.db.is_async:
        from sqlalchemy.ext.asyncio import async_scoped_session, async_sessionmaker

        scoped: Any = async_scoped_session(async_sessionmaker(shop.db.engine), scopefunc=lambda: 1)
    else:
        scoped = sa.orm.scoped_session(sa.orm.sessionmaker(shop.db.engine))
    answer = machine.advance(scoped, 7, to="paid", event_id="evt-1")
    assert (answer if shop.db.loop is None else shop.db.loop.run(answer)).moved
    closed = scoped.remove()
    if shop.db.loop is not None:
        shop.db.loop.run(closed)
