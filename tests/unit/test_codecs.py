"""Results to bytes and back, without a database: what survives, what is refused, what is too large."""

# No `from __future__ import annotations`: the types are the test's subject.

import math
import re
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Annotated, Any, Literal, NamedTuple, Optional, Union
from uuid import UUID

import msgspec
import pydantic
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from typing_extensions import TypedDict

from idemtable import ResultNotSerializableError, ResultTooLargeError, ResultUnreadableError
from idemtable.codecs import JSON, Codec, JsonCodec, Results, register


def results(returns: Any, limit: int = 10**6) -> Results:
    return Results(returns, JSON, limit, "scope")


class Color(Enum):
    RED = "red"
    BLUE = "blue"


class Level(IntEnum):
    LOW = 1
    HIGH = 2


@dataclass
class Node:
    value: Decimal
    at: datetime | None = None
    children: list["Node"] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Frozen:
    id: UUID
    colors: tuple[Color, ...] = ()


class Typed(TypedDict):
    amount: Decimal
    tags: set[str]


class Pair(NamedTuple):
    left: int
    right: str | None = None


class Tagged(msgspec.Struct, tag=True):
    data: bytes


class Other(msgspec.Struct, tag=True):
    data: int


class Model(pydantic.BaseModel):
    id: UUID
    price: Decimal = Decimal(0)
    color: Color | None = None


@pydantic.dataclasses.dataclass
class Validated:
    number: int


class Base(DeclarativeBase):
    pass


class DriversUUID(UUID):
    """What asyncpg gives for a UUID."""


class Row(Base):
    __tablename__ = "row"
    id: Mapped[int] = mapped_column(primary_key=True)


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
DECIMALS = st.decimals(allow_nan=False, allow_infinity=False)
AWARE = st.datetimes(timezones=st.just(UTC))
NODES = st.recursive(
    st.builds(Node, DECIMALS, st.none() | AWARE),
    lambda inner: st.builds(Node, DECIMALS, st.none() | AWARE, st.lists(inner, max_size=3)),
    max_leaves=5,
)
PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=10,
)
DECLARED: dict[str, tuple[Any, st.SearchStrategy[Any]]] = {
    "none": (None, st.none()),
    "bool": (bool, st.booleans()),
    "int": (int, st.integers(-(2**63), 2**64 - 1)),
    "float": (float, st.floats(allow_nan=False, allow_infinity=False)),
    "str": (str, TEXT),
    "bytes": (bytes, st.binary(max_size=50)),
    "decimal": (Decimal, DECIMALS),
    "uuid": (UUID, st.uuids()),
    "date": (date, st.dates()),
    "time": (time, st.times()),
    "timedelta": (timedelta, st.timedeltas(timedelta(-(10**5)), timedelta(10**5))),
    "naive datetime": (datetime, st.datetimes()),
    "aware datetime": (datetime, AWARE),
    "enum": (Color, st.sampled_from(Color)),
    "int enum": (Level, st.sampled_from(Level)),
    "literal": (Literal["a", "b"], st.sampled_from(["a", "b"])),
    "list": (list[Decimal], st.lists(DECIMALS)),
    "tuple": (tuple[int, str], st.tuples(st.integers(0, 9), TEXT)),
    "set": (set[int], st.sets(st.integers(0, 99))),
    "frozenset": (frozenset[str], st.frozensets(TEXT)),
    "dict": (dict[UUID, list[date]], st.dictionaries(st.uuids(), st.lists(st.dates()))),
    "optional": (Optional[Frozen], st.none() | st.builds(Frozen, st.uuids(), st.tuples(st.sampled_from(Color)))),  # noqa: UP045
    "union": (Union[int, str, None], st.none() | st.integers(0, 9) | TEXT),  # noqa: UP007
    "tagged union": (Tagged | Other, st.builds(Tagged, st.binary()) | st.builds(Other, st.integers(0, 9))),
    "dataclass": (Node, NODES),
    "frozen dataclass": (Frozen, st.builds(Frozen, st.uuids(), st.lists(st.sampled_from(Color)).map(tuple))),
    "typed dict": (Typed, st.fixed_dictionaries({"amount": DECIMALS, "tags": st.sets(TEXT)})),
    "named tuple": (Pair, st.builds(Pair, st.integers(0, 9), st.none() | TEXT)),
    "struct": (Tagged, st.builds(Tagged, st.binary())),
    "model": (Model, st.builds(Model, id=st.uuids(), price=DECIMALS, color=st.none() | st.sampled_from(Color))),
    "models": (dict[str, Model], st.dictionaries(TEXT, st.builds(Model, id=st.uuids(), price=DECIMALS), max_size=3)),
    "pydantic dataclass": (Validated, st.builds(Validated, st.integers(0, 9))),
    "any": (Any, PLAIN),
    "object": (object, PLAIN),
    "bare dict": (dict, st.dictionaries(TEXT, PLAIN, max_size=3)),
    "bare list": (list, st.lists(PLAIN, max_size=3)),
}


@pytest.mark.parametrize("name", DECLARED)
def test_what_is_stored_comes_back_equal_and_of_the_same_type(name: str) -> None:
    declared, values = DECLARED[name]
    typed = results(declared)

    @settings(max_examples=50, deadline=None)  # for each of so many kinds
    @given(values)
    def round_trip(value: Any) -> None:
        data, first = typed.pack(value)
        replay = typed.unpack("json", data)
        assert first == replay == value
        assert type(first) is type(replay) is type(value)
        assert repr(replay) == repr(first)

    round_trip()


@given(PLAIN | st.tuples(PLAIN) | st.sets(st.integers()) | AWARE | DECIMALS | st.binary() | st.just(math.nan))
def test_an_undeclared_result_is_either_the_same_after_storage_or_refused(value: Any) -> None:
    try:
        data, first = results(Any).pack(value)
    except ResultNotSerializableError:
        return
    assert first == value
    assert type(first) is type(value)
    assert results(Any).unpack("json", data) == value


@pytest.mark.parametrize(
    ("declared", "value"),
    [
        (Any, {1}), (Any, (1,)), (Any, {1: 2}), (Any, b"x"), (Any, Decimal("1.5")), (Any, UUID(int=1)),
        (Any, datetime(2030, 1, 1)), (Any, math.nan), (Any, math.inf), (Any, Node(Decimal(1))), (Any, Color.RED),
        (Any, Model(id=UUID(int=1))), (Any, object()), (Any, 1j), (Any, (n for n in "a")), (Any, Row()), (Any, "a\ud800"),
        (float, math.nan), (float, math.inf), (int, "1"), (int, 1.5), (int, None), (str, 1), (bool, 1), (None, 0),
        (list[int], ["1"]), (dict[str, int], {"a": None}), (Node, Frozen(UUID(int=1))),
        (Node, {"value": 1}), (Typed, {"amount": Decimal(1)}), (Color, "green"), (UUID, "x"),
        (Decimal, "x"), (datetime, "2030"), (bytes, "aGk"), (Model, {"id": UUID(int=1)}),
        (dict[str, Any], {"at": datetime(2030, 1, 1)}), (list[Any], [(1, 2)]),
        (list[int], (1, 2)), (UUID, str(UUID(int=1))), (Color, "red"), (Decimal, 1.5), (Decimal, 1),
        (datetime, "2030-01-01T00:00:00"), (float, True), (float, 2**53 + 1),
    ],
    ids=lambda value: f"{value}"[:25].split(" at ")[0],
)  # fmt: skip
def test_what_would_come_back_as_something_else_is_refused(declared: Any, value: Any) -> None:
    with pytest.raises(ResultNotSerializableError, match="returns=") as caught:
        results(declared).pack(value)
    assert caught.value.scope == "scope"


@pytest.mark.parametrize(
    ("declared", "value", "expected"),
    [
        (float, 1, 1.0),
        (list[float], [1, 2.5], [1.0, 2.5]),
        (bytes, bytearray(b"x"), b"x"),
        (UUID, DriversUUID(int=1), UUID(int=1)),
        (dict[str, UUID], {"a": DriversUUID(int=1)}, {"a": UUID(int=1)}),
    ],
    ids=str,
)
def test_another_spelling_of_the_declared_type_becomes_it_on_the_first_call_already(
    declared: Any, value: Any, expected: Any
) -> None:
    data, first = results(declared).pack(value)
    replay = results(declared).unpack("json", data)
    assert first == replay == expected
    assert repr(first) == repr(replay) == repr(expected)


def test_a_result_is_measured_in_bytes_and_the_limit_itself_is_allowed() -> None:
    assert results(str, limit=6).pack("éé")[0] == '"éé"'.encode()
    with pytest.raises(ResultTooLargeError) as caught:
        results(str, limit=5).pack("éé")
    assert (caught.value.size, caught.value.limit, caught.value.scope) == (6, 5, "scope")


@pytest.mark.parametrize("name", ["all", "first", "scalars", "mappings"])
def test_a_result_of_the_database_is_to_be_made_plain_values_of(name: str) -> None:
    with sa.create_engine("sqlite://").connect() as connection:
        given = getattr(connection.execute(sa.text("SELECT 1 AS a")), name)()
        with pytest.raises(ResultNotSerializableError, match=r"Return plain values \(tuple\(row\), list\(items\)"):
            results(list[tuple[int]]).pack(given)


@pytest.mark.parametrize(
    "declared",
    [Node | Frozen, list[Node | Frozen], Row, list[Row], Optional[Row], int | datetime | date, 5, complex, type],  # noqa: UP045
    ids=str,
)
def test_a_type_that_cannot_be_carried_is_refused_with_the_cure(declared: Any) -> None:
    with pytest.raises(TypeError, match=re.escape("returns=")):
        results(declared)


@pytest.mark.parametrize(
    ("codec", "data"),
    [("gone", b"{}"), (None, b"1"), ("", b"1"), ("json", None), ("json", b""), ("json", b"{"), ("json", b'"a"'),
     ("json", b"\xff\xfe"), ("exception", b"[]")],
)  # fmt: skip
def test_bytes_that_cannot_be_read_raise_and_name_the_codec(codec: str | None, data: bytes | None) -> None:
    with pytest.raises(ResultUnreadableError, match="does not run again") as caught:
        results(int).unpack(codec, data)
    assert caught.value.codec == codec
    assert caught.value.__cause__ is not None


def test_a_dataclass_that_gained_a_field_with_a_default_reads_old_rows() -> None:
    @dataclass
    class Old:
        a: int

    @dataclass
    class New:
        a: int
        b: str = "added"

    data, _ = results(Old).pack(Old(1))
    assert results(New).unpack("json", data) == New(1)


def test_annotated_constraints_hold_for_stored_values_too() -> None:
    positive = Annotated[int, msgspec.Meta(gt=0)]
    assert results(positive).pack(1)[1] == 1
    with pytest.raises(ResultNotSerializableError):
        results(positive).pack(0)
    with pytest.raises(ResultUnreadableError):
        results(positive).unpack("json", b"0")


def test_a_codec_needs_a_name_and_a_carrier() -> None:
    class Nameless:
        def carrier(self, returns: Any) -> Any: ...

    class Named(Nameless):
        name = ""

    class Long(Nameless):
        name = "x" * 65

    with pytest.raises(TypeError, match="codec"):
        register(Nameless())  # type: ignore[arg-type]
    for codec in (Named(), Long()):
        with pytest.raises(ValueError, match="64"):
            register(codec)
    assert isinstance(JsonCodec(), Codec)


@pytest.mark.parametrize("name", ["exception", "unkept"])
def test_a_codec_cannot_have_a_name_that_a_row_has_without_one(name: str) -> None:
    codec = JsonCodec()
    codec.name = name  # type: ignore[misc]
    with pytest.raises(ValueError, match=f"cannot be named '{name}'"):
        register(codec)
