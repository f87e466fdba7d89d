"""The fingerprint of a payload: equal values have one, unlike ones do not, whatever they are made of."""

from __future__ import annotations

import array
import collections
import dataclasses
import enum
import fractions
import ipaddress
import itertools
import math
import random
import re
import subprocess
import sys
import types
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from functools import cached_property
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Annotated, Any, Final, Generic, Literal, NamedTuple, TypedDict, TypeVar
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import msgspec
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.orm import DeclarativeBase, Mapped, MappedAsDataclass, mapped_column

from idemtable.fingerprint import NEWEST, Default, PerClass, fingerprint

T = TypeVar("T")


class Color(enum.Enum):
    RED = "red"


class Word(enum.StrEnum):
    RED = "red"


class Rights(enum.Flag):
    READ = 1
    WRITE = 2


# --- what it is made of ----------------------------------------------------------------------------------------------

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=10)
    | st.binary(max_size=10)
    | st.decimals(allow_nan=False)
    | st.datetimes()
    | st.datetimes(timezones=st.timezones())
    | st.dates()
    | st.times()
    | st.timedeltas()
    | st.uuids()
    | st.fractions()
    | st.complex_numbers(allow_nan=False)
    | st.ip_addresses()
)
PAYLOADS = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=5), inner, max_size=4)
        | st.frozensets(SCALARS, max_size=3)
    ),
    max_leaves=10,
)


@given(PAYLOADS)
def test_a_fingerprint_has_32_bytes_of_which_the_first_is_its_version(payload: Any) -> None:
    assert fingerprint(payload) == fingerprint(payload) == fingerprint(payload, NEWEST)
    assert len(fingerprint(payload)) == 32
    assert fingerprint(payload)[0] == NEWEST == 1


def test_a_version_that_is_not_known_is_refused() -> None:
    with pytest.raises(ValueError, match="newer release"):
        fingerprint("a", 99)


def test_the_fingerprint_never_changes() -> None:
    """It is in users' tables: another value would refuse old requests."""
    payload = {
        "item": "tea", "amount": 2, "price": Decimal("2.50"), "at": datetime(2030, 1, 1, tzinfo=UTC), 2**70: "a\ud800",
        "more": [date(2030, 1, 1), time(1), timedelta(1), datetime(2030, 1, 1), UUID(int=1), {1, "a"}, 1j, 0.5, ...],
        "else": [Path("a"), ipaddress.ip_address("::1"), re.compile("a"), fractions.Fraction(1, 3), range(3), UTC],
        "pydantic": [pydantic.SecretStr("a"), pydantic.HttpUrl("https://a.test"), Old(item="tea")],
    }  # fmt: skip
    assert fingerprint(payload).hex() == "01c8fc19539b9860f086e304f41e7e47e020a2d754e6d40210641fe390ba1aa0"


@settings(max_examples=20, deadline=None)
@given(PAYLOADS, PAYLOADS)
def test_a_fingerprint_is_that_of_a_copy_and_of_no_other(one: Any, other: Any) -> None:
    assert (fingerprint(one) == fingerprint(other)) is (_told(one) == _told(other))


def _told(value: Any) -> Any:
    """What a payload says, with the types spelled out where == is generous."""
    if isinstance(value, dict):
        return {"dict": {name: _told(item) for name, item in value.items()}}
    if isinstance(value, list):
        return [_told(item) for item in value]
    if isinstance(value, frozenset):
        return {"set": sorted(map(repr, map(_told, value)))}
    if isinstance(value, datetime | time):
        return (type(value).__name__, value.tzinfo is None, value)
    return (type(value).__name__, value)


@given(st.dictionaries(st.text(max_size=5) | st.integers(), PAYLOADS, min_size=2), st.randoms())
def test_a_fingerprint_does_not_depend_on_the_order_of_names(payload: dict[Any, Any], dice: random.Random) -> None:
    items = list(payload.items())
    dice.shuffle(items)
    assert fingerprint(dict(items)) == fingerprint(payload) == fingerprint(collections.OrderedDict(items))
    assert fingerprint({"in": [dict(items)]}) == fingerprint({"in": [payload]})


@given(st.sets(st.text(max_size=5) | st.integers() | st.tuples(st.integers())))
def test_a_fingerprint_does_not_depend_on_the_order_of_a_set(payload: set[Any]) -> None:
    assert fingerprint(payload) == fingerprint(frozenset(sorted(payload, key=repr)))


def test_a_fingerprint_is_the_same_in_another_process_with_another_hash_seed() -> None:
    code = (
        "from dataclasses import dataclass, field\n"
        "from decimal import Decimal\n"
        "from idemtable.fingerprint import fingerprint\n"
        "@dataclass\n"
        "class Body:\n"
        "    names: frozenset = frozenset({'x', 'y', 'z'})\n"
        "    more: set = field(default_factory=set)\n"
        "body = Body(more={'a', 'b', ('c', Decimal(1))})\n"
        "print(fingerprint({'b': {1, 'x', (2,)}, 'a': {'z': 1, 2: [b'', None, 1e300]}, 'body': body}).hex())"
    )
    seen = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True, text=True, check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }  # fmt: skip
    assert len(seen) == 1


# --- values ----------------------------------------------------------------------------------------------------------

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
BERLIN = ZoneInfo("Europe/Berlin")
TWICE = datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN)  # that hour comes twice


class Markup(str):
    @cached_property
    def length(self) -> int:
        return len(self)

    def __str__(self) -> str:
        return "something else"


class Headers(Mapping[str, str]):
    def __getitem__(self, name: str) -> str:
        return {"a": "b"}[name]

    def __iter__(self) -> Any:
        return iter("a")

    def __len__(self) -> int:
        return 1


class Row(Sequence[int]):
    def __getitem__(self, index: Any) -> Any:
        return [1, 2][index]

    def __len__(self) -> int:
        return 2


def measured(markup: Markup) -> Markup:
    assert markup.length
    return markup


EQUAL: list[tuple[Any, Any]] = [
    (Decimal("2.0"), Decimal("2.00")),
    (Decimal("10"), Decimal("1E+1")),
    (Decimal("-0"), Decimal("0E+5")),
    (Decimal("1" * 60 + ".50"), Decimal("1" * 60 + ".5")),
    (Decimal("1E+999999"), Decimal("10E+999998")),
    (Decimal("NaN"), Decimal("-NaN")),
    (0.0, -0.0),
    (math.nan, -math.nan),
    ([Decimal("1.0")], (Decimal("1.00"),)),
    (NOON, NOON.astimezone(timezone(timedelta(hours=1)))),
    (NOON, NOON.astimezone(BERLIN)),
    (TWICE.replace(fold=1), datetime(2026, 10, 25, 1, 30, tzinfo=UTC)),
    (datetime(2026, 1, 1, fold=1), datetime(2026, 1, 1)),
    (datetime.min.replace(tzinfo=UTC), datetime.min.replace(tzinfo=UTC)),
    (time(12, tzinfo=UTC), time(13, tzinfo=timezone(timedelta(hours=1)))),
    (timedelta(hours=24), timedelta(days=1)),
    (fractions.Fraction(2, 4), fractions.Fraction(1, 2)),
    (range(0), range(5, 1)),
    (range(0, 3, 2), range(0, 4, 2)),
    (bytearray(b"a"), b"a"),
    (memoryview(b"a"), b"a"),
    (array.array("i", [1, 2]), [1, 2]),
    (collections.deque([1, 2]), [1, 2]),
    (Row(), [1, 2]),
    ((1, 2), [1, 2]),
    ({1, "a"}, frozenset({"a", 1})),
    ({"a": 1}.keys(), {"a"}),
    ({"a": 1}.values(), [1]),
    (collections.defaultdict(int, a=1), {"a": 1}),
    (types.MappingProxyType({"a": 1}), {"a": 1}),
    (types.SimpleNamespace(a=1), {"a": 1}),
    (Headers(), {"a": "b"}),
    (Color.RED, "red"),
    ({Word.RED: 1}, {"red": 1}),
    (Rights.READ | Rights.WRITE, 3),
    (Markup("a"), "a"),
    (measured(Markup("a")), "a"),
    (UUID(int=1), UUID("00000000-0000-0000-0000-000000000001")),
    (Path("a/b"), PurePosixPath("a//b")),
    (PureWindowsPath("A/b"), PureWindowsPath("a\\B")),
    (ipaddress.ip_address("::1"), ipaddress.ip_address("0:0::1")),
    (re.compile("a"), re.compile("a")),
    (pydantic.HttpUrl("https://a.test"), pydantic.HttpUrl("https://a.test/")),
    (pydantic.ByteSize(5), 5),
    (UTC, timezone(timedelta())),
]


@pytest.mark.parametrize(("one", "other"), EQUAL, ids=lambda value: type(value).__name__)
def test_equal_values_have_one_fingerprint(one: Any, other: Any) -> None:
    assert fingerprint(one) == fingerprint(other)
    assert fingerprint({"in": [one, {1: one}]}) == fingerprint({"in": [other, {1: other}]})


class Money(Decimal):
    currency: str


class Slotted(str):
    __slots__ = ("__secret",)

    def keep(self, secret: str) -> Slotted:
        self.__secret = secret
        return self


class Cart(list):  # type: ignore[type-arg]
    pass


def having(value: Any, **state: Any) -> Any:
    for name, item in state.items():
        setattr(value, name, item)
    return value


UNLIKE: list[Any] = [
    None, False, True, 0, 1, -1, 0.0, 1.0, math.nan, math.inf, -math.inf, "", "0", "1", "None", "nan", b"", b"0", b"1",
    [], [[]], [None], {}, {"": None}, {"a": 1}, {"a": True}, {"a": "1"}, {"a": None}, {1: "a"}, {"1": "a"}, [1], ["1"],
    [1, 2], [[1], 2], [1, [2]], 2**63, 2**64, -(2**63) - 1, str(2**64), 10**30, "a\ud800", "a\udc00", "a?", 10**5000,
    "e\u0301", "\u00e9", {"a": {"b": 1}}, {"a": 1, "b": 1}, Decimal("1.5"), 1.5, datetime(2030, 1, 1),
    datetime(2030, 1, 1, tzinfo=UTC), datetime(2030, 1, 1, tzinfo=BERLIN), date(2030, 1, 1), timedelta(days=1),
    UUID(int=1), {"a\ud800": 1}, [2**64, None], set(), {1}, {True}, {1, 2}, {(1, 2)}, {"a"}, ["a"], [{1: 1}], {None: 1},
    Decimal(1), Decimal(0), Decimal("NaN"), Decimal("Infinity"), Decimal("-Infinity"), fractions.Fraction(1),
    fractions.Fraction(3, 2), 1j, 1 + 0j, complex(0, 2), 0j, time(0), time(0, tzinfo=UTC), time(1, tzinfo=UTC),
    time(1, tzinfo=BERLIN), time(1, tzinfo=ZoneInfo("Asia/Tokyo")), time(1), timedelta(0), timedelta(microseconds=1),
    "2030-01-01", "2030-01-01T00:00:00", "P1D", "1.5", UUID(int=1).bytes, str(UUID(int=1)), UUID(int=2),
    Path("1"), Path("a"), Path("a/b"), PureWindowsPath("a"), "a", "a/b", Path("a\udc80"), re.compile("a"),
    re.compile("a", re.I), re.compile(b"a"), range(1), range(2), range(1, 2), range(0, 4, 2), [0],
    ipaddress.ip_address("10.0.0.1"), ipaddress.ip_interface("10.0.0.1"), ipaddress.ip_network("10.0.0.1"), "10.0.0.1",
    ipaddress.ip_address("::1"), ipaddress.ip_network("10.0.0.0/8"), int(ipaddress.ip_address("10.0.0.1")),
    pydantic.SecretStr("a"), pydantic.SecretStr("b"), pydantic.SecretBytes(b"a"), "**********",
    pydantic.Secret[int](1), pydantic.HttpUrl("https://a.test/"), pydantic.HttpUrl("https://b.test/"), "https://a.test/",
    pydantic.PostgresDsn("postgres://u:one@h/x"), pydantic.PostgresDsn("postgres://u:two@h/x"), ..., "...",
    msgspec.UNSET, UTC, BERLIN, "Europe/Berlin", {"a": 1, Color.RED: 1, "red": 2}, {"a": 1, "red": 2},
    having(Money("1.5"), currency="EUR"), having(Money("1.5"), currency="USD"), Slotted("s").keep("a"),
    Slotted("s").keep("b"), having(Cart([1]), owner="a"), having(Cart([1]), owner="b"),
]  # fmt: skip


def test_values_that_differ_have_fingerprints_that_differ() -> None:
    found = [fingerprint(payload) for payload in UNLIKE]
    alike = [(UNLIKE[i], UNLIKE[j]) for i, j in itertools.combinations(range(len(found)), 2) if found[i] == found[j]]
    assert alike == []
    assert len({fingerprint(["a\ud800", 2**64, payload]) for payload in UNLIKE}) == len(UNLIKE)


def test_numpys_values_are_pythons() -> None:
    numpy = pytest.importorskip("numpy")
    assert fingerprint(numpy.float64(-0.0)) == fingerprint(0.0)
    assert fingerprint(numpy.int64(1)) == fingerprint(1)
    assert fingerprint(numpy.bool_(True)) == fingerprint(True)
    assert fingerprint(numpy.array([[1, 2], [3, 4]])) == fingerprint([[1, 2], [3, 4]])
    for odd in (numpy.datetime64("2030-01-01"), numpy.longdouble(1), numpy.array(["2030"], dtype="datetime64[ns]")):
        with pytest.raises(TypeError, match="payload="):
            fingerprint(odd)


class Base(DeclarativeBase):
    pass


class Row1(Base):
    __tablename__ = "row1"
    id: Mapped[int] = mapped_column(primary_key=True)


class Row2(MappedAsDataclass, Base):
    __tablename__ = "row2"
    id: Mapped[int] = mapped_column(primary_key=True)


class Dumped:
    def model_dump(self) -> Any:
        return {"a": 1}


REFUSED: list[Any] = [
    object(), object, lambda: None, (n for n in "a"), iter([1]), map(str, [1]), zip([1]), {"a": 1}.items().__iter__(),
    sys.stdout, math, Row1(id=1), Row2(id=1), Dumped(), enum.Enum("Odd", {"X": object()}).X, Exception("a"),
]  # fmt: skip


@pytest.mark.parametrize("payload", REFUSED, ids=lambda payload: type(payload).__name__)
def test_what_has_no_canonical_form_is_refused_with_the_cure(payload: Any) -> None:
    for where in (payload, [payload], {"a": payload}, {"a": 2**64, "b": payload}):
        with pytest.raises(TypeError, match="payload="):
            fingerprint(where)


def test_an_iterator_is_refused_and_keeps_what_it_has() -> None:
    numbers = iter([1, 2])
    with pytest.raises(TypeError, match=r"an iterator that this would empty: .*plain values, under a decorator"):
        fingerprint({"numbers": numbers})
    assert list(numbers) == [1, 2]


# --- deep and endless ------------------------------------------------------------------------------------------------


def nested(levels: int, wrap: Any, inside: Any) -> Any:
    for _ in range(levels):
        inside = wrap(inside)
    return inside


@dataclasses.dataclass
class Node:
    value: Any
    label: Any = "none"
    kind: Any = Color.RED
    below: list[Any] = dataclasses.field(default_factory=list)


WRAPS: dict[str, Any] = {
    "list": lambda inside: [1, inside],
    "dict": lambda inside: {"a": inside, "b": Decimal(1)},
    "mapping": lambda inside: {1: inside, "a": 1, (1, 2): inside if inside == "x" else 0},
    "object": lambda inside: Node(inside, below=[inside] if inside == "x" else []),
}


@pytest.mark.parametrize("name", WRAPS)
def test_a_nest_may_be_deep(name: str) -> None:
    wrap = WRAPS[name]
    assert fingerprint(nested(3_000, wrap, "x")) != fingerprint(nested(3_000, wrap, "y"))


@pytest.mark.parametrize("name", WRAPS)
@pytest.mark.parametrize(
    "leaf", ["x", "a\ud800", {Word.RED: 2**64, Color.RED: 1}, {Markup("a"): Node("a", "none", "red")}]
)
def test_a_deep_nest_is_the_same_as_it_is_at_the_top_of_the_stack(name: str, leaf: Any) -> None:
    payload = nested(60, WRAPS[name], leaf)

    def deeper(levels: int) -> bytes:
        return deeper(levels - 1) if levels else fingerprint(payload)

    limit = sys.getrecursionlimit()
    used = len(__import__("inspect").stack(0))
    assert deeper(limit - used - 80) == fingerprint(payload)


def endless_list() -> Any:
    found: list[Any] = [1]
    found.append({"a": found})
    return found


def endless_dict() -> Any:
    found: dict[str, Any] = {}
    found["a"] = (found,)
    return found


def endless_object() -> Any:
    found = Node(1)
    found.below.append(found)
    return found


@pytest.mark.parametrize("make", [endless_list, endless_dict, endless_object])
def test_what_contains_itself_is_refused_with_the_cure(make: Any) -> None:
    for payload in (make(), {"a": [make()]}, Node(make())):
        with pytest.raises(TypeError, match=r"contains itself.*payload=: plain values, under a decorator"):
            fingerprint(payload)


def test_what_is_there_twice_does_not_contain_itself() -> None:
    shared = [1]
    assert fingerprint(nested(5_000, lambda inside: [inside, shared], shared)) is not None
    assert fingerprint([shared, shared]) == fingerprint([[1], [1]])


# --- classes with fields: what counts --------------------------------------------------------------------------------


class Old(pydantic.BaseModel):
    item: str


class New(pydantic.BaseModel):
    item: str
    gift: bool = False
    tags: list[str] = pydantic.Field(default_factory=list)
    at: datetime | None = None


class Open(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")
    item: str = pydantic.Field("tea", alias="what")


class Private(pydantic.BaseModel):
    item: str
    _seen: int = pydantic.PrivateAttr(0)


class Aliased(pydantic.BaseModel):
    item: str = pydantic.Field(alias="what")


class Hiding(pydantic.BaseModel):
    account: str = pydantic.Field(exclude=True)
    name: str = "n"
    old: str = pydantic.Field("o", deprecated=True)

    @pydantic.field_serializer("name")
    def masked(self, value: str) -> str:
        return "***"

    @pydantic.model_serializer
    def nothing(self) -> dict[str, Any]:
        return {}


serials = itertools.count()


class Computed(pydantic.BaseModel):
    item: str

    @pydantic.computed_field  # type: ignore[prop-decorator]
    @property
    def serial(self) -> int:
        return next(serials)

    @cached_property
    def cached(self) -> int:
        return next(serials)


class Box(pydantic.BaseModel, Generic[T]):
    content: T


class Numbers(pydantic.RootModel[list[int]]):
    pass


class Party(pydantic.BaseModel):
    kind: str = "account"


class Account(Party):
    account: str


class Narrowed(pydantic.BaseModel):
    to: Party


@pydantic.dataclasses.dataclass
class PydanticData:
    item: str
    gift: bool = pydantic.Field(default=False, exclude=True)


@pydantic.dataclasses.dataclass(config={"extra": "allow"})
class OpenData:
    item: str


@dataclasses.dataclass
class Data:
    item: str
    _hidden: str = "h"
    password: str = dataclasses.field(default="p", repr=False, compare=False)


@dataclasses.dataclass(slots=True, frozen=True)
class SlottedData:
    item: str
    gift: bool = False


class Sent(msgspec.Struct, rename="camel", omit_defaults=True, array_like=True):
    item: str
    is_gift: bool = False


class Tuple(NamedTuple):
    item: str
    gift: bool = False


class Typed(TypedDict, total=False):
    item: str
    gift: bool


class OtherRoot(pydantic.BaseModel):
    item: str


def opened(**values: Any) -> Open:
    return Open.model_validate(values)


UNLIKE_OBJECTS: list[tuple[Any, Any]] = [
    (Hiding(account="a"), Hiding(account="b")),
    (Hiding(account="a", name="x"), Hiding(account="a", name="y")),
    (Hiding(account="a", old="x"), Hiding(account="a", old="y")),
    (Narrowed(to=Account(account="a")), Narrowed(to=Account(account="b"))),
    (opened(more=1), opened(more=2)),
    (opened(what="a", item="x"), opened(what="x", item="a")),
    (opened(what="tea", item="x"), opened(what="x")),
    (Box[int](content=1), Box[int](content=2)),
    (Box[Old](content=Old(item="a")), Box[Old](content=Old(item="b"))),
    (Numbers([1]), Numbers([2])),
    (PydanticData("a", gift=True), PydanticData("a")),
    (OpenData("a", more=1), OpenData("a", more=2)),  # type: ignore[call-arg]
    (Data("a", "b"), Data("a", "c")),
    (Data("a", password="b"), Data("a", password="c")),
    (SlottedData("a", True), SlottedData("a")),
    (Sent("a", True), Sent("a")),
    (Tuple("a", True), Tuple("a")),
    (Tuple("a"), ["a"]),
    (Typed(item="a", gift=False), Typed(item="a")),
    (Node(0), Node(False)),
    (Node(1), Node(1.0)),
    (New(item="a", at=NOON), New(item="a")),
]  # fmt: skip


@pytest.mark.parametrize(("one", "other"), UNLIKE_OBJECTS, ids=lambda value: type(value).__name__)
@pytest.mark.filterwarnings("error")
def test_every_field_counts_whatever_the_class_leaves_out_of_a_dump(one: Any, other: Any) -> None:
    assert fingerprint(one) != fingerprint(other)
    assert fingerprint({"body": [one]}) != fingerprint({"body": [other]})


def test_what_is_no_field_does_not_count() -> None:
    one, other = Private(item="a"), Private(item="a")
    other._seen = 1
    assert fingerprint(one) == fingerprint(other)
    warm = Computed(item="a")
    assert warm.cached is not None
    assert fingerprint(warm) == fingerprint(Computed(item="a"))
    assert fingerprint(Aliased(what="a")) == fingerprint(Old(item="a"))  # its name here, not on the wire


def test_classes_are_what_they_hold() -> None:
    """A request keeps its fingerprint when the class is renamed, moved, or becomes another kind of class."""
    kinds = [Old(item="a"), OtherRoot(item="a"), Data("a"), SlottedData("a"), Sent("a"), Tuple("a"), PydanticData("a")]
    assert {fingerprint(one) for one in kinds} == {fingerprint({"item": "a"})}


def test_a_field_that_was_an_extra_before_is_the_same() -> None:
    class Newer(Open):
        gift: bool = False

    assert fingerprint(opened(gift=True)) == fingerprint(Newer(gift=True))


def test_what_was_never_set_does_not_count() -> None:
    @dataclasses.dataclass
    class Late:
        item: str
        total: int = dataclasses.field(init=False)

    late = Late("a")
    assert fingerprint(late) == fingerprint({"item": "a"})
    late.total = 5
    assert fingerprint(late) == fingerprint({"item": "a", "total": 5})
    assert fingerprint(New.model_construct(gift=True)) == fingerprint({"gift": True})


def test_attrs_classes_are_read_as_well() -> None:
    attrs = pytest.importorskip("attrs")
    cls = attrs.make_class("Body", {"item": attrs.field(), "gift": attrs.field(default=False),
                                    "tags": attrs.field(factory=list), "_own": attrs.field(default=1)})  # fmt: skip
    assert fingerprint(cls("a")) == fingerprint({"item": "a"})
    assert fingerprint(cls("a", own=2)) == fingerprint({"item": "a", "_own": 2})


def test_an_sqlmodel_without_a_table_is_a_model_and_one_with_a_table_is_refused() -> None:
    sqlmodel = pytest.importorskip("sqlmodel")

    class Body(sqlmodel.SQLModel):  # type: ignore[misc, name-defined]
        item: str
        gift: bool = sqlmodel.Field(default=False, exclude=True)

    class Hero(sqlmodel.SQLModel, table=True):  # type: ignore[misc, name-defined, call-arg]
        id: int = sqlmodel.Field(primary_key=True)

    assert fingerprint(Body(item="a")) == fingerprint({"item": "a"})
    assert fingerprint(Body(item="a", gift=True)) == fingerprint({"item": "a", "gift": True})
    with pytest.raises(TypeError, match="payload="):
        fingerprint(Hero(id=1))


# --- classes with fields: defaults -----------------------------------------------------------------------------------


class Nested(pydantic.BaseModel):
    lines: list[New] = []
    first: New | None = None
    prices: tuple[Decimal, ...] = (Decimal("1.0"),)


class DefaultStruct(msgspec.Struct, kw_only=True):
    tags: list[str] = []
    more: dict[str, int] = msgspec.field(default_factory=lambda: {"a": 1})
    item: str
    state: str | msgspec.UnsetType = msgspec.UNSET


AT_DEFAULT: list[tuple[Any, Any]] = [
    (New(item="a"), {"item": "a"}),
    (New(item="a", gift=False, tags=[], at=None), {"item": "a"}),
    (Nested(lines=[New(item="a", gift=False)], first=New(item="b")), {"lines": [{"item": "a"}], "first": {"item": "b"}}),
    (Nested(prices=(Decimal("1.00"),)), {}),
    (Node("a", "none", "red", ()), {"value": "a"}),  # type: ignore[arg-type]
    (Node("a", "none", Word.RED), {"value": "a"}),
    (Node("a", None), {"value": "a", "label": None}),
    (DefaultStruct(item="a"), {"item": "a"}),
    (DefaultStruct(item="a", tags=[], more={"a": 1}), {"item": "a"}),
    (DefaultStruct(item="a", more={"a": True}), {"item": "a", "more": {"a": True}}),
    (Tuple("a", False), {"item": "a"}),
    (Sent("a", False), {"item": "a"}),
]  # fmt: skip


@pytest.mark.parametrize(("given_", "counted"), AT_DEFAULT, ids=lambda value: type(value).__name__)
def test_fields_at_their_default_are_left_out(given_: Any, counted: Any) -> None:
    assert fingerprint(given_) == fingerprint(counted)


def test_equal_is_not_enough_to_be_at_a_default() -> None:
    assert fingerprint(New.model_construct(item="a", gift=0)) == fingerprint({"item": "a", "gift": 0})
    assert fingerprint(Node("a", below=[Node(1)])) != fingerprint(Node("a"))

    @dataclasses.dataclass
    class Ones:
        ones: Any = (1, 1)

    assert fingerprint(Ones((True, True))) == fingerprint({"ones": [True, True]})


def test_a_default_that_was_changed_in_place_counts() -> None:
    @dataclasses.dataclass
    class Shared:
        node: Node = dataclasses.field(default_factory=lambda: shared)

    shared = Node("a")
    body = Shared()
    body.node = Node("b")
    assert fingerprint(body) == fingerprint({"node": {"value": "b"}})


def test_a_factory_that_makes_another_value_each_time_is_no_default() -> None:
    @dataclasses.dataclass
    class Drawn:
        item: str
        id: UUID = dataclasses.field(default_factory=uuid4)
        serial: int = dataclasses.field(default_factory=itertools.count().__next__)

    class Model(pydantic.BaseModel):
        id: UUID = pydantic.Field(default_factory=uuid4)

    drawn = Drawn("a")
    assert fingerprint(drawn) == fingerprint(drawn) == fingerprint({"item": "a", "id": drawn.id, "serial": 0})
    assert {fingerprint(Drawn("a", drawn.id, serial)) for serial in range(20)} == {
        fingerprint({"item": "a", "id": drawn.id, "serial": serial}) for serial in range(20)
    }
    assert fingerprint(Model()) != fingerprint(Model())


def test_a_factory_that_fails_or_looks_at_other_fields_is_asked_as_pydantic_does() -> None:
    @dataclasses.dataclass
    class Failing:
        item: Any = dataclasses.field(default_factory=lambda: {}["nothing"])

    assert fingerprint(Failing("a")) == fingerprint({"item": "a"})
    if not hasattr(pydantic.fields.FieldInfo, "default_factory_takes_validated_data"):
        pytest.skip("this Pydantic's factories take nothing")

    class Dependent(pydantic.BaseModel):
        amount: int
        total: int = pydantic.Field(default_factory=lambda data: data["amount"] * 2)

    assert fingerprint(Dependent(amount=2)) == fingerprint(Dependent(amount=2, total=4)) == fingerprint({"amount": 2})
    assert fingerprint(Dependent(amount=2, total=5)) == fingerprint({"amount": 2, "total": 5})


def test_a_sentinel_without_a_form_is_left_out_where_it_is_the_default() -> None:
    missing = object()

    @dataclasses.dataclass
    class Body:
        item: str
        note: Any = missing

    assert fingerprint(Body("a")) == fingerprint({"item": "a"})
    assert fingerprint(Body("a", None)) == fingerprint({"item": "a", "note": None})
    with pytest.raises(TypeError, match="payload="):
        fingerprint(Body("a", object()))


class Card(pydantic.BaseModel):
    kind: Literal["card"] = "card"
    number: str


class Transfer(pydantic.BaseModel):
    kind: Literal["transfer"] = "transfer"
    number: str


class Payment(pydantic.BaseModel):
    by: Annotated[Card | Transfer, pydantic.Field(discriminator="kind")]


@dataclasses.dataclass
class CardData:
    number: str
    kind: Final[Literal["card"]] = "card"


@dataclasses.dataclass
class TransferData:
    number: str
    kind: Literal["transfer"] = "transfer"


class CardStruct(msgspec.Struct, tag=True):
    number: str


class TransferStruct(msgspec.Struct, tag=True):
    number: str


def test_the_members_of_a_union_stay_apart_by_what_tells_them_apart() -> None:
    def pay(kind: str) -> Payment:
        return Payment.model_validate({"by": {"kind": kind, "number": "1"}})

    class Local(pydantic.BaseModel):
        pass

    @dataclasses.dataclass
    class LocalCard:  # whose annotations cannot be resolved
        other: Local
        kind: Literal["card"] = "card"

    @dataclasses.dataclass
    class LocalTransfer:
        other: Local
        kind: Literal["transfer"] = "transfer"

    assert fingerprint(pay("card")) != fingerprint(pay("transfer"))
    assert fingerprint(Card(number="1")) == fingerprint({"kind": "card", "number": "1"})
    assert fingerprint(CardData("1")) != fingerprint(TransferData("1"))
    assert fingerprint(CardStruct("1")) != fingerprint(TransferStruct("1"))
    assert fingerprint(LocalCard(Local())) != fingerprint(LocalTransfer(Local()))


def test_a_default_that_a_subclass_replaces_counts() -> None:
    class Cash(Party):
        kind: str = "cash"

    assert fingerprint(Cash()) != fingerprint(Party())
    assert fingerprint(Party()) == fingerprint({})


@given(st.builds(Node, PAYLOADS, PAYLOADS, PAYLOADS, st.lists(PAYLOADS, max_size=2)))
def test_an_object_is_the_dict_of_what_is_not_at_its_default(node: Node) -> None:
    values = {field.name: getattr(node, field.name) for field in dataclasses.fields(node)}
    defaults = {"label": "none", "kind": "red", "below": []}
    kept = {
        name: value
        for name, value in values.items()
        if name == "value" or fingerprint(value) != fingerprint(defaults[name])
    }
    assert fingerprint(node) == fingerprint(kept)


def test_what_is_known_of_classes_does_not_grow_for_ever() -> None:
    known = PerClass(lambda cls: cls.__name__)
    for number in range(5_000):
        assert known[type(f"Body{number}", (), {})] == f"Body{number}"
    assert len(known) <= 4096


def test_defaults_of_names_in_a_dict_are_left_out_at_any_depth() -> None:
    defaults = {"a": Default(1), "b": Default([Decimal("1.0")]), "c": Default(None)}
    assert fingerprint({"a": 1, "b": (Decimal(1),), "c": None, "d": 1}, NEWEST, defaults) == fingerprint({"d": 1})
    assert fingerprint({"a": True, "b": [], "d": 2**64}, NEWEST, defaults) == fingerprint(
        {"a": True, "b": [], "d": 2**64}
    )
    deep = nested(3_000, lambda inside: [inside], 1)
    assert fingerprint({"a": 1, "d": deep}, NEWEST, defaults) == fingerprint({"d": deep})


class Nowhere(tzinfo):
    def utcoffset(self, when: datetime | None, /) -> None:
        return None


def test_a_zone_that_tells_no_offset_leaves_a_moment_naive() -> None:
    naive = datetime(2026, 1, 1)
    assert fingerprint(naive.replace(tzinfo=Nowhere())) == fingerprint(naive)
