"""Results that hold Pydantic's models come back by field name, whatever their aliases, or are refused at once."""

# No `from __future__ import annotations`: the types are the test's subject.

import dataclasses
import enum
from collections import deque
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from ipaddress import IPv4Address
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar
from zoneinfo import ZoneInfo

import pydantic
import pytest
from pydantic import AliasChoices, AliasPath, BaseModel, ConfigDict, Field, computed_field
from pydantic.alias_generators import to_camel
from typing_extensions import TypedDict

from idemtable import ResultNotSerializableError
from idemtable.codecs import JSON, Results


class Camel(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel)
    order_id: int


class Cat(BaseModel):
    pet_type: Literal["cat"] = Field(alias="petType")
    lives: int = Field(validation_alias=AliasPath("x", "y"), serialization_alias="l")


class Dog(BaseModel):
    pet_type: Literal["dog"] = Field(alias="petType")
    lives: int = Field(validation_alias=AliasChoices("q", "z"))


Pet = Annotated[Cat | Dog, Field(discriminator="pet_type")]


class Owner(BaseModel):
    model_config = ConfigDict(extra="forbid", alias_generator=to_camel, frozen=True)
    first_pet: Pet
    swapped_a: int = Field(alias="swapped_b")
    swapped_b: int = Field(alias="swapped_a")

    @computed_field  # type: ignore[prop-decorator]
    @property
    def sum(self) -> int:
        return self.swapped_a + self.swapped_b


class Tree(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel)
    node_id: int
    sub_trees: list["Tree"] = []


T = TypeVar("T")


class Page(BaseModel, Generic[T]):
    model_config = ConfigDict(alias_generator=to_camel)
    the_items: list[T]


class Camels(pydantic.RootModel[list[Camel]]):
    pass


@pydantic.dataclasses.dataclass
class Validated:
    some_x: int = Field(alias="someX")
    pet: Pet | None = None


@dataclasses.dataclass
class Standard:
    camel: Camel


class Typed(TypedDict):
    camel: Camel


class Slot(BaseModel):
    at: datetime


class Color(enum.Enum):
    RED = "red"


class Wide(BaseModel):
    model_config = ConfigDict(strict=True)
    decimal: Decimal = Decimal("2.00")
    span: timedelta = timedelta(days=-1, microseconds=1)
    at: time = time(12, tzinfo=UTC)
    numbers: set[int] = {1}
    queue: deque[int] = deque([1])
    path: Path = Path("/a")
    address: IPv4Address = IPv4Address("10.0.0.1")
    color: Color = Color.RED
    data: bytes = b"x"
    anything: Any = {"a": [1, None]}


class Extra(BaseModel):
    model_config = ConfigDict(extra="allow")
    a: int


class Private(BaseModel):
    a: int
    _double: int = pydantic.PrivateAttr(default=0)

    def model_post_init(self, context: Any) -> None:
        self._double = self.a * 2


class Parent(BaseModel):
    a: int = 1


class Child(Parent):
    pass


class Holder(BaseModel):
    parent: Parent


class Excluded(BaseModel):
    a: int
    hidden: int = Field(default=1, exclude=True)


class Secret(BaseModel):
    password: pydantic.SecretStr


class Floating(BaseModel):
    f: float | None


class Doubling(BaseModel):
    a: int

    @pydantic.field_validator("a")
    @classmethod
    def double(cls, value: int) -> int:
        return value * 2


class Masking(BaseModel):
    card: str

    @pydantic.field_serializer("card")
    def mask(self, value: str) -> str:
        return value[-4:]


BERLIN = ZoneInfo("Europe/Berlin")
HALF_PAST_TWO = datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN)
CAT = Cat.model_validate({"petType": "cat", "x": {"y": 3}})
DOG = Dog.model_validate({"petType": "dog", "z": 3})
CAMEL = Camel.model_validate({"orderId": 7})
TREE = Tree.model_validate({"nodeId": 1, "subTrees": [{"nodeId": 2, "subTrees": []}]})
PAGE: Any = Page[Camel].model_validate({"theItems": [CAMEL]})


def stored(declared: Any, value: Any) -> Any:
    results = Results(declared, JSON, 10**6, "scope")
    data, first = results.pack(value)
    replay = results.unpack("json", data)
    assert repr(first) == repr(replay)
    return replay


@pytest.mark.parametrize(
    ("declared", "value"),
    [
        (Camel, CAMEL), (list[Camel], [CAMEL]), (Camel | None, None), (Pet, CAT), (list[Pet], [CAT, DOG]), (Cat | Dog, DOG),
        (Owner, Owner.model_validate({"firstPet": CAT, "swapped_b": 1, "swapped_a": 2})), (Tree, TREE), (Page[Camel], PAGE),
        (Camels, Camels([CAMEL])), (Validated, Validated(someX=1, pet=CAT)), (Standard, Standard(CAMEL)),  # type: ignore[call-arg]
        (Typed, {"camel": CAMEL}), (Wide, Wide()), (Extra, Extra(a=1, b=[2])), (Private, Private(a=1)),  # type: ignore[call-arg]
        (Excluded, Excluded(a=1)), (Parent | Camel, CAMEL), (dict[str, Page[Pet]], {"a": Page[Pet](theItems=[DOG])}),  # type: ignore[call-arg]
    ],
    ids=lambda value: repr(value)[:40],
)  # fmt: skip
def test_a_model_comes_back_equal_and_of_its_class(declared: Any, value: Any) -> None:
    back = stored(declared, value)
    assert back == value
    assert type(back) is type(value)


def test_a_generic_model_may_be_made_without_naming_its_items() -> None:
    back = stored(Page[Camel], Page.model_validate({"theItems": [CAMEL]}))
    assert back == PAGE
    assert type(back) is Page[Camel]


@pytest.mark.parametrize("fold", [0, 1])
@pytest.mark.parametrize("holder", [Slot, dataclasses.make_dataclass("At", [("at", datetime)]), None])
def test_a_local_time_in_the_hour_that_exists_twice_keeps_its_instant(holder: Any, fold: int) -> None:
    at = HALF_PAST_TWO.replace(fold=fold)
    back = stored(datetime, at) if holder is None else stored(holder, holder(at=at)).at
    assert back.timestamp() == at.timestamp()
    assert back.utcoffset() == at.utcoffset()


@pytest.mark.parametrize(
    ("declared", "value", "where"),
    [
        (Excluded, Excluded(a=1, hidden=2), ".hidden: another int"),
        (Secret, Secret(password="x"), ".password: another"),  # type: ignore[arg-type]
        (Parent, Child(), "Child comes back as Parent"),
        (Parent | Child, Child(), "Child comes back as Parent"),
        (list[Parent], [Child()], "[0]: Child comes back as Parent"),
        (Holder, Holder(parent=Child()), ".parent: Child comes back as Parent"),
        (Doubling, Doubling(a=1), ".a: another int"),
        (Masking, Masking(card="4711 0815"), ".card: another str"),
        (Floating, Floating(f=float("nan")), ".f: float comes"),
        (Wide, Wide(data=b"\xff"), "utf-8"),
        (Wide, Wide(anything=(1,)), ".anything: tuple comes back as list"),
        (Wide, Wide(anything=Color.RED), ".anything: Color comes back as str"),
        (Extra, Extra(a=1, b=Decimal(1)), "[…]: Decimal"),  # type: ignore[call-arg]
        (Page, Page(theItems=[CAMEL]), ".the_items[0]: Camel comes back as dict"),  # type: ignore[call-arg]
        (Parent, Parent.model_construct(a="x"), ".a (int_parsing)"),
        (Parent, Parent.model_construct(a="1"), ".a: str comes"),
        (Camel, {"order_id": 1}, "dict comes back as Camel"),
        (Slot, Slot(at=datetime(1880, 1, 1, tzinfo=BERLIN)), ".at:"),
    ],
    ids=str,
)
def test_a_model_that_would_come_back_as_another_is_refused_and_says_where(
    declared: Any, value: Any, where: str
) -> None:
    with pytest.raises(ResultNotSerializableError) as caught:
        stored(declared, value)
    assert where in str(caught.value)


def test_what_is_masked_or_computed_is_not_in_the_bytes() -> None:
    results = Results(Owner, JSON, 10**6, "scope")
    data, _ = results.pack(Owner.model_validate({"firstPet": DOG, "swapped_b": 1, "swapped_a": 2}))
    assert data == b'{"first_pet":{"pet_type":"dog","lives":3},"swapped_a":1,"swapped_b":2}'
