"""Another value or another type, down to the last field, is never taken for what went in."""

# No `from __future__ import annotations`: the types are the test's subject.

import enum
import math
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any, Generic, NamedTuple, TypeVar
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
import pydantic
import pytest

from idemtable.codecs.same import difference


class Level(enum.IntEnum):
    HIGH = 1


class Word(enum.StrEnum):
    TEA = "tea"


class Money(Decimal):
    pass


class Name(str):
    pass


@dataclass
class Line:
    item: str
    price: Decimal


class Longer(Line):
    pass


@dataclass
class Order:
    id: int
    lines: list[Line]
    at: datetime | None = None


@dataclass
class Uncompared:
    a: int = field(compare=False)


@dataclass
class Forgiving:
    a: int

    def __eq__(self, other: object) -> bool:
        return True


@dataclass(slots=True)
class Single:
    a: Any


class Pair(NamedTuple):
    left: Any
    right: Any


class Parcel(msgspec.Struct, eq=False):
    code: str


class Model(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")
    a: Any = None
    _private: Any = pydantic.PrivateAttr(default=None)


T = TypeVar("T")


class Page(pydantic.BaseModel, Generic[T]):
    items: list[T]


class Plain:
    def __init__(self, a: Any) -> None:
        self.a = a


class Slotted:
    __slots__ = ("a", "unset")

    def __init__(self, a: Any) -> None:
        self.a = a


def private(value: Any) -> Model:
    model = Model()
    model._private = value
    return model


BERLIN = ZoneInfo("Europe/Berlin")
SECOND_HALF_PAST_TWO = datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN, fold=1)
CET, CEST = timezone(timedelta(hours=1)), timezone(timedelta(hours=2))


def order(price: Decimal = Decimal("2.50"), item: str = "tea") -> Order:
    return Order(1, [Line("milk", Decimal(1)), Line(item, price)], datetime(2030, 1, 1, tzinfo=UTC))


SAME: list[tuple[Any, Any]] = [
    (1, 1), ("a", "a"), (None, None), (math.nan, math.nan), ([math.nan, 1], [math.nan, 1]), ([], []), ({}, {}), ((), ()),
    ({"a": 1, "b": [2]}, {"b": [2], "a": 1}), ({1, 2}, {2, 1}), (order(), order()), ([order()], [order()]),
    (Decimal("NaN"), Decimal("NaN")), (Pair(1, 2), Pair(1, 2)), (Single([1]), Single([1])), (Single(()), Single(())),
    (Parcel("a"), Parcel("a")), (Model(a=[1], b={"c": 1}), Model(a=[1], b={"c": 1})), (private(1), private(1)),
    (Plain([1]), Plain([1])), (Slotted(1), Slotted(1)), (Plain(Plain(1)), Plain(Plain(1))), (Level.HIGH, Level.HIGH),
    (deque([1]), deque([1])), (date(2030, 1, 1), date(2030, 1, 1)), (UUID(int=1), UUID(int=1)), (range(3), range(3)),
    (SECOND_HALF_PAST_TWO, datetime(2026, 10, 25, 2, 30, tzinfo=CET)),
    (SECOND_HALF_PAST_TWO.replace(fold=0), datetime(2026, 10, 25, 2, 30, tzinfo=CEST)),
    (datetime(2030, 1, 1, fold=1), datetime(2030, 1, 1)), (time(1, tzinfo=CET), time(1, tzinfo=CET)),
    (Page[int](items=[1]), Page[int](items=[1])), (Page(items=[1]), Page[int](items=[1])),
    # Another spelling, which every type checker takes for the type.
    (1, 1.0), ([1, 2.5], [1.0, 2.5]), ({"a": 1}, {"a": 1.0}), (bytearray(b"x"), b"x"), ([Single(1)], [Single(1.0)]),
]  # fmt: skip
OTHERS: list[tuple[Any, Any, str]] = [
    (1, 2, ": another int comes back"), (1, "1", ": int comes back as str"), (True, 1, ": bool comes back as int"),
    (1.0, 1, ": float comes back as int"), (1, True, ": int comes back as bool"), (2**53 + 1, float(2**53), ""),
    (None, False, ""), (Level.HIGH, 1, ": Level comes back as int"), (1, Level.HIGH, ""), (Level.HIGH, 1.0, ""),
    (Word.TEA, "tea", ": Word comes back as str"), (Name("tea"), "tea", ""), (Money(1), Decimal(1), ""),
    (Decimal("2.0"), Decimal("2.00"), ": another Decimal comes back"), (Decimal(1), 1, ""), (1, Decimal(1), ""),
    ([1], (1,), ""), ((1,), [1], ""), ([1, 2], [1], ": another list comes back"), ([1], [1, 2], ""),
    ([[1], [2, 3]], [[1, 2], [3]], "[0]: another list comes back"), ([[1], {"a": 2}], [{"a": 1}, [2]], ""),
    ([1, Level.HIGH], [1, 1], "[1]: Level comes back as int"), ([[Word.TEA]], [["tea"]], "[0][0]: Word"),
    ([Decimal(1), Decimal("2.0")], [Decimal(1), Decimal("2.00")], "[1]: another Decimal comes back"),
    ({"a": Word.TEA}, {"a": "tea"}, "[…]: Word comes back as str"), ({Word.TEA: 1}, {"tea": 1}, " (a key): Word"),
    ({1: 2}, {True: 2}, " (a key): int"), ({"a": 1}, {"b": 1}, ": another dict"), ({"a": 1}, {}, ": another dict"),
    ({}, {"a": 1}, ": another dict"), ({"a": 1, "b": Level.HIGH}, {"b": 1, "a": 1}, "[…]: Level"),
    (OrderedDict(a=1), {"a": 1}, ": OrderedDict comes back as dict"), ({1}, frozenset({1}), ""), (frozenset({1}), {1}, ""),
    ({1}, {2}, ": another set"), ({Word.TEA}, {"tea"}, " (an item): Word"), ({"a": {1}}, {"a": frozenset({1})}, ""),
    (Pair(1, 2), (1, 2), ": Pair comes back as tuple"), (Pair(1, [Word.TEA]), Pair(1, ["tea"]), "[1][0]: Word"),
    (order(), order(Decimal("2.5")), ".lines[1].price: another Decimal comes back"),
    (order(item=Name("tea")), order(), ".lines[1].item: Name comes back as str"),
    (Longer("a", Decimal(1)), Line("a", Decimal(1)), ": Longer comes back as Line"),
    (Order(1, [Longer("a", Decimal(1))]), Order(1, [Line("a", Decimal(1))]), ".lines[0]: Longer comes back as Line"),
    (Uncompared(1), Uncompared(2), ".a: another int"), (Forgiving(1), Forgiving(2), ".a: another int"),
    (Single(Word.TEA), Single("tea"), ".a: Word"), (Parcel("a"), Parcel("b"), ".code: another str"),
    (Model(a=1), Model(a=2), ".a: another int"), (Model(b=Word.TEA), Model(b="tea"), ".__pydantic_extra__[…]: Word"),
    (private(1), private(2), ".__pydantic_private__[…]: another int"), (Page(items=[Level.HIGH]), Page[int](items=[1]), ""),
    (Plain(1), Plain(2), ".a: another int"), (Plain([Word.TEA]), Plain(["tea"]), ""),
    (Slotted(1), Slotted(2), ""), (object(), object(), ""),
    ((n for n in "a"), (n for n in "a"), ""), (UUID(int=1), UUID(int=2), ""), (UUID(int=1), str(UUID(int=1)), ""),
    (SECOND_HALF_PAST_TWO, datetime(2026, 10, 25, 2, 30, tzinfo=CEST), ": another datetime comes back"),
    (SECOND_HALF_PAST_TWO, SECOND_HALF_PAST_TWO.replace(fold=0), ": another datetime comes back"),
    (SECOND_HALF_PAST_TWO, SECOND_HALF_PAST_TWO.replace(tzinfo=None), ""), (datetime(2030, 1, 1), date(2030, 1, 1), ""),
    (datetime(2030, 1, 1, 1, tzinfo=CET), datetime(2030, 1, 1, tzinfo=UTC), ": another datetime comes back"),
    (datetime(1880, 1, 1, tzinfo=BERLIN), datetime(1880, 1, 1, tzinfo=timezone(timedelta(minutes=53))), ""),
    (time(1, tzinfo=CET), time(0, tzinfo=UTC), ": another time comes back"), (time(1, tzinfo=BERLIN), time(1), ""),
    ({"a": bytearray(b"x")}, {"a": b"y"}, ""), (memoryview(b"x"), "x", ""),
]  # fmt: skip


@pytest.mark.parametrize(("value", "back"), SAME)
def test_the_same_is_the_same(value: Any, back: Any) -> None:
    assert difference(value, back) is None
    assert difference([value, 0], [back, 0]) is None
    assert difference(Single(value), Single(back)) is None


@pytest.mark.parametrize(("value", "back", "where"), OTHERS)
def test_another_value_or_type_is_found_and_its_place_is_named(value: Any, back: Any, where: str) -> None:
    for path, found in (
        ("", difference(value, back)),
        ("[1]", difference([0, value], [0, back])),
        (".a[…]", difference(Single({"a": value}), Single({"a": back}))),
    ):
        assert found is not None
        assert found.startswith(path + where)
