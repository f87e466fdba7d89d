"""Dotted paths: followed at a call, and held against the declared types at decoration."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from decimal import Decimal
from functools import cached_property
from types import SimpleNamespace
from typing import (
    Annotated,
    Any,
    Generic,
    NamedTuple,
    NewType,
    NotRequired,
    Optional,
    Protocol,
    TypedDict,
    TypeVar,
    Union,
)
from uuid import UUID

import msgspec
import pydantic
import pytest

from idemtable.fields import NOTHING
from idemtable.paths import check, resolver, walk

T = TypeVar("T")
B = TypeVar("B", bound="Body")


@dataclasses.dataclass
class Body:
    amount: int
    customer: Customer | None = None
    lines: list[Line] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        self.total = self.amount

    @property
    def doubled(self) -> int:
        return self.amount * 2

    def method(self) -> None: ...


class Customer(pydantic.BaseModel):
    id: UUID
    address: Annotated[Optional[Address], "where"] = None  # noqa: UP045
    _seen: int = 0

    @pydantic.computed_field  # type: ignore[prop-decorator]
    @property
    def label(self) -> str:
        return ""


class Address(msgspec.Struct, rename="camel"):
    street_name: str


class Line(NamedTuple):
    item: str
    price: Decimal


class Order(TypedDict):
    line: NotRequired[Line]
    by_name: dict[str, Line]


class Box(pydantic.BaseModel, Generic[T]):
    content: T


@dataclasses.dataclass
class Crate(Generic[T]):
    content: T
    all: Annotated[Union[Line, T], "all"]  # noqa: UP007


class Open(pydantic.BaseModel, extra="allow"):
    item: str


@dataclasses.dataclass
class Answering:
    item: str

    def __getattr__(self, name: str) -> str:
        return name


class Plain:
    known: int

    def __init__(self) -> None:
        self.item = 1


class Color(enum.Enum):
    RED = 1


class Likeness(Protocol):
    item: str


@dataclasses.dataclass
class Cached:
    item: str

    @cached_property
    def upper(self) -> str:
        return self.item.upper()


Named = NewType("Named", Body)
MaybeBody = Optional[Body]  # noqa: UP045


def checked(annotation: Any, path: str) -> bool:
    return check(annotation, tuple(path.split(".")), resolver(checked), f"payload={path!r}")


@pytest.mark.parametrize(
    ("annotation", "path"),
    [
        (Body, "amount"), (Body, "customer.id"), (Body, "customer.address.street_name"), (Body, "customer.label"),
        (Body, "doubled"), (Body, "method"), (Body, "total"), (Body, "amount.real"), (Body, "customer.id.hex"),
        ("Body", "customer.id"), ("Body | None", "customer.id"), (MaybeBody, "amount"), (Body | None, "amount"),
        (Annotated[Body, "x"], "amount"), (Annotated["Body | None", "x"], "amount"), (Named, "amount"), (B, "amount"),
        (Body | Line, "item"), (Body | Line, "amount"), (Line, "price.real"), (Line, "index"), (Order, "line.price"),
        (Box[Line], "content.item"), (Crate[Body], "content.amount"), (Crate[Body], "all.amount"),
        (Crate[Body], "all.item"), (Cached, "upper"), (Customer, "_seen"), (Customer, "model_fields_set"), (str, "upper"),
        (None, "anything"),
    ],
    ids=str,
)  # fmt: skip
def test_a_path_that_the_types_have_is_accepted(annotation: Any, path: str) -> None:
    checked(annotation, path)


@pytest.mark.parametrize(
    ("annotation", "path", "optional"),
    [
        (Order, "line", True), (Order, "line.price", True), (Body | Line, "item", True), (Body, "amount", False),
        (Body | None, "customer.id", False), (Any, "x", False), (dict[str, Body], "x.amount", False),
    ],
    ids=str,
)  # fmt: skip
def test_what_may_be_absent_is_told_from_what_must_be_there(annotation: Any, path: str, optional: bool) -> None:
    assert checked(annotation, path) is optional


@pytest.mark.parametrize(
    ("annotation", "path", "listed"),
    [
        (Body, "amont", r"Body \(which has amount, customer, lines\)"),
        (Body, "customer.ID", r"Customer \(which has id, address\)"),
        (Body, "customer.address.streetName", r"Address \(which has street_name\)"),
        (Body, "customer.address.street_name.x", r"str \(which has no fields\)"),
        (Body, "lines.item", r"list \(which has no fields\)"),
        (Body, "amount.x", r"int \(which"),
        ("Body | None", "amont", "Body"),
        (MaybeBody, "amont", "Body"),
        (Annotated[Body | None, "x"], "amont", "Body"),
        (Named, "amont", "Body"),
        (B, "amont", "Body"),
        (Line, "prise", r"Line \(which has item, price\)"),
        (Body | Line, "prise", r"Body \(.*, nor in Line"),
        (Body | Line, "item.x", "str"),
        (Order, "lines", r"Order \(which has line, by_name\)"),
        (Order, "line.prise", "Line"),
        (Order, "by_name.anybody.prise", "Line"),
        (Order, "keys", "Order"),  # its items, never the methods of dict
        (Box[Line], "content.prise", "Line"),
        (Box[Line], "contents", r"Box\[Line\]"),
        (Crate[Body], "content.amont", "Body"),
        (Crate[Body], "all.amont", "Line .*, nor in Body|Body .*, nor in Line"),
        (dict[str, Body], "a.amont", "Body"),
        (Mapping[str, Body], "a.amont", "Body"),
        (str, "x", "str"),
        (UUID, "hexe", "UUID"),
    ],
    ids=str,
)
def test_a_path_that_the_types_do_not_have_is_refused_and_the_fields_are_listed(
    annotation: Any, path: str, listed: str
) -> None:
    with pytest.raises(ValueError, match=rf"payload='{path}' leads nowhere: there is no '\w+' in .*{listed}"):
        checked(annotation, path)


@pytest.mark.parametrize(
    ("annotation", "path"),
    [
        (Any, "x"), (object, "x"), (dict, "x"), (dict[str, Any], "x.y"), (dict[str, Body], "x.amount"), (Plain, "x"),
        (Open, "x"), (Answering, "x"), (pydantic.BaseModel, "x"), (msgspec.Struct, "x"), (Body | Any, "x"), (T, "x"),
        (Body | Plain, "x"), ("Nowhere", "x"), ("Body | Nowhere", "x"), (SimpleNamespace, "x"), (Color, "x"),
        (Likeness, "x"), (type[Body], "x"), (5, "x"), (Box, "content.x"), (Crate, "content.x"),
        (list[Any] | dict[str, int], "x"),
    ],
    ids=str,
)  # fmt: skip
def test_types_that_do_not_tell_leave_the_path_to_the_call(annotation: Any, path: str) -> None:
    assert checked(annotation, path) is False


def test_types_that_are_local_to_a_function_are_found() -> None:
    @dataclasses.dataclass
    class Inner:
        item: str

    @dataclasses.dataclass
    class Outer:
        inner: Inner

    assert checked("Outer", "inner.item") is False
    with pytest.raises(ValueError, match=r"Inner \(which has item\)"):
        checked("Outer", "inner.itme")


def test_a_path_follows_items_of_mappings_and_attributes_of_everything_else() -> None:
    class Request:
        headers = {"id": {"value": 7}}

    assert walk({"request": Request()}, ("request", "headers", "id", "value")) == 7
    assert walk({"items": 1}, ("items",)) == 1
    assert walk({}, ("items",)) is NOTHING  # an item, never the method of dict


def test_a_none_on_the_way_ends_a_path_and_a_name_that_is_not_there_is_told_apart() -> None:
    assert walk(None, ("a",)) is None
    assert walk({"a": None}, ("a", "b", "c")) is None
    assert walk({"a": {}}, ("a", "b", "c")) is NOTHING
    assert walk(SimpleNamespace(a=SimpleNamespace()), ("a", "b")) is NOTHING
