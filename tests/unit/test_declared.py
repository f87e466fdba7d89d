"""A declared type from which no decoder can make what was returned is refused when the function is decorated."""

# No `from __future__ import annotations`: the types are the test's subject.

import abc
import enum
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, NewType, Protocol

import msgspec
import pydantic
import pytest
from sqlalchemy.orm import DeclarativeBase, Mapped, MappedAsDataclass, mapped_column, registry
from typing_extensions import TypeAliasType, TypedDict

from idemtable import ResultNotSerializableError
from idemtable.codecs import JSON, Results


class Base(DeclarativeBase):
    pass


class Row(Base):
    __tablename__ = "row"
    id: Mapped[int] = mapped_column(primary_key=True)


class DataBase(MappedAsDataclass, DeclarativeBase):
    pass


class DataRow(DataBase):
    __tablename__ = "row"
    id: Mapped[int] = mapped_column(primary_key=True)


@dataclass
class Imperative:
    id: int


registry().map_imperatively(Imperative, Row.__table__)


class Mapped2(pydantic.BaseModel):
    """What SQLModel makes of table=True, as far as it shows: a model with a mapper."""

    __mapper__: ClassVar[Any] = object()
    id: int


class Schema(pydantic.BaseModel):
    """An application's own base of its models."""

    model_config = pydantic.ConfigDict(frozen=True)


class Paid(Schema):
    receipt: str


class Shape(pydantic.BaseModel, abc.ABC):
    name: str

    @abc.abstractmethod
    def area(self) -> float: ...


@dataclass
class Event:
    pass


@dataclass
class Happened(Event):
    what: str


@dataclass
class Abstract(abc.ABC):
    a: int

    @abc.abstractmethod
    def method(self) -> None: ...


class Message(msgspec.Struct):
    pass


class Text(Message):
    text: str


class Named(Protocol):
    name: str


class Holds(TypedDict):
    event: Event


class HoldsModel(pydantic.BaseModel):
    inner: dict[str, Schema | None]


class Empty(pydantic.BaseModel):
    pass


class Open(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")


class Opened(Open):
    pass


@dataclass
class Nothing:
    pass


@dataclass
class Knows:
    """What hangs on the class is no part of its values."""

    base: ClassVar[type[Row] | Row | None] = None
    a: int = 1


Alias = TypeAliasType("Alias", list[Schema])
New = NewType("New", Event)


@pytest.mark.parametrize(
    "declared",
    [pydantic.BaseModel, Schema, Shape, Event, Abstract, Message, msgspec.Struct, list[pydantic.BaseModel],
     dict[str, Schema], Schema | None, tuple[Event, ...], Annotated[Event, "x"], Holds, HoldsModel, list[HoldsModel],
     Alias, New],
    ids=str,
)  # fmt: skip
def test_a_base_that_others_fill_is_too_wide(declared: Any) -> None:
    with pytest.raises(TypeError, match=r"stands for whatever derives from it.*name the one.*returns="):
        Results(declared, JSON, 1000, "scope")


@pytest.mark.parametrize(
    "declared", [Row, DataRow, Imperative, Mapped2, list[Row], Mapped2 | None, dict[str, DataRow]], ids=str
)
def test_an_orm_class_is_refused_whatever_else_it_is(declared: Any) -> None:
    with pytest.raises(TypeError, match="is an ORM class"):
        Results(declared, JSON, 1000, "scope")


@pytest.mark.parametrize("declared", [Named, abc.ABC, Exception, enum.Enum, list[Named], Protocol], ids=str)
def test_a_class_that_no_decoder_knows_is_refused(declared: Any) -> None:
    with pytest.raises(TypeError, match="returns="):
        Results(declared, JSON, 1000, "scope")


@pytest.mark.parametrize(
    ("declared", "value"),
    [(Empty, Empty()), (Nothing, Nothing()), (Open, Open(a=1)), (Paid, Paid(receipt="R")), (Text, Text("a")),  # type: ignore[call-arg]
     (Knows, Knows(2)), (Happened | None, Happened("x")), (dict[str, Paid], {"a": Paid(receipt="R")})],
    ids=str,
)  # fmt: skip
def test_a_class_that_says_enough_is_carried(declared: Any, value: Any) -> None:
    assert Results(declared, JSON, 1000, "scope").pack(value)[1] == value


def test_what_derives_from_a_declared_class_is_refused_on_the_first_call() -> None:
    class Larger(Happened):
        pass

    class Longer(Text):
        pass

    for declared, value in ((Happened, Larger("x")), (Text, Longer("x")), (Open, Opened())):
        with pytest.raises(ResultNotSerializableError, match="comes back as"):
            Results(declared, JSON, 1000, "scope").pack(value)
