"""Every successful reply is the same value, of the declared type, for the first caller and for every replay."""

# No `from __future__ import annotations`: the return types here are the test's subject, and classes at decoration.

import enum
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from types import SimpleNamespace
from typing import Annotated, Any, Literal, NamedTuple, Optional
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
import pydantic
import pytest
import sqlalchemy as sa
from pydantic.alias_generators import to_camel
from typing_extensions import TypedDict

from idemtable import ResultNotSerializableError, ResultTooLargeError, ResultUnreadableError, Status
from tests.support.database import Database, Effect, effect


@dataclass(frozen=True)
class Line:
    item: str
    price: Decimal


@dataclass
class Receipt:
    order_id: int
    at: datetime
    lines: list[Line] = field(default_factory=list)


class Payment(TypedDict):
    id: UUID
    amount: Decimal


class Point(NamedTuple):
    x: int
    y: int | None


class Invoice(pydantic.BaseModel):
    number: int
    paid: Decimal | None = None
    lines: list["Invoice"] = []


class Camel(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", alias_generator=to_camel)
    order_id: int

    @pydantic.computed_field  # type: ignore[prop-decorator]
    @property
    def twice(self) -> int:
        return self.order_id * 2


class Cat(pydantic.BaseModel):
    kind: Literal["cat"] = pydantic.Field(default="cat", alias="petKind")


class Dog(pydantic.BaseModel):
    kind: Literal["dog"] = pydantic.Field(default="dog", alias="petKind")


class Slot(pydantic.BaseModel):
    at: datetime


class LongReceipt(Receipt):
    pass


class Parcel(msgspec.Struct):
    code: bytes
    weight: float


class Color(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


PET = Annotated[Cat | Dog, pydantic.Field(discriminator="kind")]
HALF_PAST_TWO = datetime(2026, 10, 25, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"), fold=1)
"""The second one of that night: to ``==`` it is no other time."""

NOON = datetime(2030, 1, 2, 12, 30, 15, 123456, tzinfo=UTC)
VALUES: list[tuple[Any, Any]] = [
    (Receipt, Receipt(1, NOON, [Line("tea", Decimal("2.50"))])),
    (Payment, Payment(id=UUID(int=7), amount=Decimal("0.10"))),
    (Point, Point(1, None)),
    (Invoice, Invoice(number=1, paid=Decimal("3.10"), lines=[Invoice(number=2)])),
    (list[Invoice], [Invoice(number=1)]),
    (Camel, Camel(orderId=7)),  # type: ignore[call-arg]
    (PET, Dog()),
    (list[PET], [Cat(), Dog()]),
    (Optional[Invoice], None),  # noqa: UP045 - the other spelling
    (Parcel, Parcel(b"\x00\xff", 1.5)),
    (Decimal, Decimal("10.00")),
    (datetime, NOON),
    (datetime, NOON.replace(tzinfo=None)),
    (date, date(2030, 1, 2)),
    (timedelta, timedelta(days=1, microseconds=1)),
    (UUID, UUID(int=1)),
    (Color, Color.RED),
    (Level, Level.HIGH),
    (bytes, b"\x00\xff"),
    (list[int], [1, 2]),
    (tuple[int, str], (1, "a")),
    (set[int], {1, 2}),
    (dict[str, Decimal], {"a": Decimal(1)}),
    (dict[int, str], {1: "a"}),
    (int | None, None),
    (int | str, "1"),
    (type(None), None),
    (int, 0),
    (bool, False),
    (str, ""),
    (str, "é\u2028\U0001f375"),
    (float, 0.1),
    (int, 2**63),
    (Any, {"a": [1, 2.5, None, True, "x"]}),
    (Any, 0),
    (Any, False),
]


def test_a_result_is_equal_and_of_its_type_on_the_first_call_and_on_every_replay(db: Database) -> None:
    for number, (declared, value) in enumerate(VALUES):
        runs: list[str] = []

        @db.idem.transactional(f"typed {number}", key="key", returns=declared)
        def typed(session: Any, key: str, runs: Any = runs, value: Any = value) -> Any:
            runs.append(key)
            return value

        first, second = typed("k"), typed("k")
        assert first == second == value
        assert type(first) is type(second) is type(value)
        assert repr(first) == repr(second) == repr(value)
        assert runs == ["k"]


@pytest.mark.parametrize(("declared", "value"), VALUES[:9], ids=[f"{t}"[-20:] for t, _ in VALUES[:9]])
def test_a_typed_result_keeps_its_type_in_both_colours(db: Database, declared: Any, value: Any) -> None:
    @db.idem.transactional("typed", key="key")
    def typed(session: Any, key: str) -> declared:
        return value

    assert typed("k") == typed("k") == value
    assert type(typed("k")) is type(value)
    with db.idem.transaction("block", "k", returns=declared) as claim:
        claim.result = value
    with db.idem.transaction("block", "k", returns=declared) as claim:
        assert claim.result == value
        assert type(claim.result) is type(value)


def test_the_first_caller_gets_the_decoded_value_and_not_the_functions_own_object(db: Database) -> None:
    made = [Receipt(1, NOON)]

    @db.idem.transactional("order", key="key")
    def order(session: Any, key: str) -> Receipt:
        return made[0]

    first = order("k")
    assert first == made[0]
    assert first is not made[0]


def test_returns_goes_before_the_declared_type(db: Database) -> None:
    @db.idem.transactional("order", key="key", returns=tuple[int, Decimal])
    def order(session: Any, key: str) -> Any:
        return (1, Decimal("1.0"))

    assert order("k") == order("k") == (1, Decimal("1.0"))


@pytest.mark.parametrize(
    "value",
    [(1, 2), {1}, NOON, Decimal("1.0"), Receipt(1, NOON), {1: 2}, b"x", UUID(int=1), float("nan"), Color.RED],
    ids=repr,
)
def test_a_result_that_plain_json_would_change_is_refused_on_the_first_call(sync_db: Database, value: Any) -> None:
    @sync_db.idem.transactional("order", key="key")
    def order(session: Any, key: str):  # type: ignore[no-untyped-def]
        effect(session, key)
        return value

    with pytest.raises(ResultNotSerializableError, match="returns="):
        order("k")
    assert (sync_db.effects(), sync_db.rows()) == ([], [])


def test_an_object_inside_a_plain_result_is_refused_and_not_flattened(sync_db: Database) -> None:
    @sync_db.idem.transactional("order", key="key")
    def order(session: Any, key: str) -> dict[str, Any]:
        effect(session, key)
        return {"receipt": Receipt(1, NOON)}

    with pytest.raises(ResultNotSerializableError):
        order("k")
    assert (sync_db.effects(), sync_db.rows()) == ([], [])


def test_a_result_of_another_type_than_declared_is_refused_on_the_first_call(db: Database) -> None:
    @db.idem.transactional("order", key="key")
    def order(session: Any, key: str) -> Receipt:
        effect(session, key)
        return "not a receipt"  # type: ignore[return-value]

    with pytest.raises(ResultNotSerializableError, match="Receipt"):
        order("k")
    assert (db.effects(), db.rows()) == ([], [])


@pytest.mark.parametrize("declared", [None, "None"])
def test_a_function_that_is_declared_to_return_nothing_returns_nothing(db: Database, declared: Any) -> None:
    def ordered(value: Any) -> Any:
        def order(session: Any, key: str) -> Any:
            effect(session, key)
            return value

        order.__annotations__["return"] = declared
        return db.idem.transactional("order", key="key", share_scope=True)(order)

    with pytest.raises(ResultNotSerializableError, match="a int, does not survive storage as NoneType"):
        ordered(5)("k")
    assert (db.effects(), db.rows()) == ([], [])
    assert [ordered(None).outcome("k").value for _ in range(2)] == [None, None]


@pytest.mark.parametrize(
    ("declared", "value"),
    [(Receipt, LongReceipt(1, NOON)), (list[Receipt], [LongReceipt(1, NOON)]), (int, Level.HIGH), (list[int], (1, 2)),
     (tuple[int, int | None], Point(1, None)), (Slot, Slot.model_construct(at="2030-01-01"))],
    ids=repr,
)  # fmt: skip
def test_a_result_that_would_come_back_as_another_type_is_refused_on_the_first_call(
    db: Database, declared: Any, value: Any
) -> None:
    @db.idem.transactional("order", key="key", returns=declared)
    def order(session: Any, key: str) -> Any:
        effect(session, key)
        return value

    with pytest.raises(ResultNotSerializableError, match="comes back as"):
        order("k")
    assert (db.effects(), db.rows()) == ([], [])


def test_a_local_time_in_the_hour_that_exists_twice_keeps_its_instant(db: Database) -> None:
    for number, (declared, value) in enumerate([(datetime, HALF_PAST_TWO), (Slot, Slot(at=HALF_PAST_TWO))]):

        @db.idem.transactional(f"slot {number}", key="key", returns=declared)
        def slot(session: Any, key: str, value: Any = value) -> Any:
            return value

        for found in (slot("k"), slot("k")):
            at = getattr(found, "at", found)
            assert (at.timestamp(), at.utcoffset()) == (HALF_PAST_TWO.timestamp(), timedelta(hours=1))


def test_a_result_of_exactly_the_largest_size_is_stored_and_one_byte_more_is_not(db: Database) -> None:
    idem = db.table(max_result_bytes=100)

    @idem.transactional("order", key="key")
    def order(session: Any, key: str, size: int) -> str:
        effect(session, key)
        return "x" * size

    order("fits", 98)
    with pytest.raises(ResultTooLargeError, match="max_result_bytes") as caught:
        order("large", 99)
    assert (caught.value.size, caught.value.limit) == (101, 100)
    assert db.effects() == ["fits"]
    assert idem.get("order", "fits").result_bytes == 100
    assert idem.get("order", "large") is None


def test_a_result_of_the_default_limit_travels_whole(db: Database) -> None:
    value = "é" * 131_000

    @db.idem.transactional("order", key="key")
    def order(session: Any, key: str) -> str:
        return value

    assert order("k") == order("k") == value


@pytest.mark.parametrize(
    "declared",
    [
        Receipt | Line,
        list[Receipt | Line],
        pydantic.BaseModel,
        list[pydantic.BaseModel],
        Effect,
        list[Effect],
        sa.Row,
        5,
        Iterator[int],
    ],
    ids=str,
)
def test_a_return_type_that_cannot_be_carried_is_refused_at_decoration(sync_db: Database, declared: Any) -> None:
    def order(session: Any, key: str) -> Any: ...

    order.__annotations__["return"] = declared
    with pytest.raises(TypeError, match="returns="):
        sync_db.idem.transactional("order", key="key")(order)
    with pytest.raises(TypeError, match="returns="):
        sync_db.idem.transaction("order", "k", returns=declared)
    assert sync_db.rows() == []


def test_a_generator_is_refused_at_decoration(db: Database) -> None:
    def order(session: Any, key: str) -> Any:
        yield 1

    async def stream(session: Any, key: str) -> Any:
        yield 1

    table = getattr(db.idem, "inner", db.idem)
    for function in (order, stream):
        with pytest.raises(TypeError, match=r"generator|async"):
            table.transactional("order", key="key")(function)


def test_a_return_type_that_names_nothing_is_refused_at_decoration(sync_db: Database) -> None:
    def order(session: Any, key: str) -> "Nowhere":  # type: ignore[name-defined] # noqa: F821
        ...

    with pytest.raises(TypeError, match="returns="):
        sync_db.idem.transactional("order", key="key")(order)


# --- codecs ----------------------------------------------------------------------------------------------------------


class Upside:
    """Stores text upside down; nothing else of this name is in any registry."""

    name = "upside-down"

    class Text:
        def encode(self, value: Any) -> bytes:
            return json.dumps(value)[::-1].encode()

        def decode(self, data: bytes) -> Any:
            return json.loads(data.decode()[::-1])

    def carrier(self, returns: Any) -> "Upside.Text":
        if returns is complex:
            raise TypeError("upside-down carries no complex")
        return self.Text()


def test_a_codec_of_ones_own_stores_and_reads_and_its_name_is_in_the_row(db: Database) -> None:
    idem = db.table(codec=Upside())

    @idem.transactional("order", key="key")
    def order(session: Any, key: str) -> dict[str, int]:
        return {"id": 7}

    assert order("k") == order("k") == {"id": 7}
    assert idem.get("order", "k").codec == "upside-down"
    assert bytes(db.rows()[0].result) == b'}7 :"di"{'
    with pytest.raises(TypeError, match="complex"):
        idem.transactional("order", key="key", returns=complex)(lambda session, key: 1j)


class Textual:
    """A codec whose author took a text for bytes: ``json.loads`` takes both."""

    name = "textual"

    def carrier(self, returns: Any) -> Any:
        return SimpleNamespace(encode=json.dumps, decode=json.loads)


def test_a_codec_that_makes_no_bytes_is_refused_on_the_first_call(db: Database) -> None:
    @db.table(codec=Textual()).transactional("order", key="key")
    def order(session: Any, key: str) -> dict[str, str]:
        effect(session, key)
        return {"drink": "tea"}

    with pytest.raises(ResultNotSerializableError, match="'textual' has made a str of it, not bytes"):
        order("k")
    assert (db.effects(), db.rows()) == ([], [])


def test_a_result_that_somebody_wrote_as_text_is_read(db: Database) -> None:
    @db.idem.transactional("order", key="key")
    def order(session: Any, key: str) -> dict[str, str]:
        effect(session, key)
        return {"drink": "tea"}

    order("k")
    as_bytes = "convert_to(:text, 'UTF8')" if db.kind == "postgresql" else ":text"
    db.execute(f"UPDATE idemtable SET result = {as_bytes}", text='{"drink": "milk"}')
    assert order("k") == {"drink": "milk"}
    assert db.effects() == ["k"]


def test_a_row_of_another_known_codec_is_read_with_that_codec(db: Database) -> None:
    old, new = db.table(codec=Upside()), db.idem

    def order(session: Any, key: str) -> dict[str, int]:
        return {"id": effect(session, key)}

    first = old.transactional("order", key="key")(order)("k")
    assert new.transactional("order", key="key")(order)("k") == first
    assert db.effects() == ["k"]


@pytest.mark.parametrize(
    ("column", "value"),
    [("codec", "gone"), ("codec", None), ("result", b"{"), ("result", b'{"other": 1}'), ("result", None)],
    ids=str,
)
def test_an_unreadable_row_raises_stays_and_is_never_run_again(db: Database, column: str, value: Any) -> None:
    runs = []

    @db.idem.transactional("order", key="key")
    def order(session: Any, key: str) -> Receipt:
        runs.append(key)
        effect(session, key)
        return Receipt(1, NOON)

    order("k")
    db.execute(f"UPDATE idemtable SET {column} = :value", value=value)
    before = db.rows()
    for _ in range(2):
        with pytest.raises(ResultUnreadableError, match="forget") as caught:
            order("k")
        assert caught.value.codec == (value if column == "codec" else "json")
        assert caught.value.http_status == 500
    with db.session() as held:
        with pytest.raises(ResultUnreadableError):
            order.join(held.session, "k")
        held.commit()
    with pytest.raises(ResultUnreadableError), db.idem.transaction("order", "k", returns=Receipt):
        runs.append("block")

    assert runs == ["k"]
    assert db.rows() == before
    assert db.effects() == ["k"]
    assert db.idem.get("order", "k").status is Status.COMPLETED
    assert db.idem.forget("order", "k")
    order("k")
    assert runs == ["k", "k"]
