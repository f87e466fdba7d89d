"""Exceptions to bytes and back: the same class, the same arguments, and no class that the program did not name."""

from __future__ import annotations

import enum
from collections import namedtuple
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from http import HTTPStatus
from ipaddress import ip_address, ip_network
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from idemtable import ResultNotSerializableError, ResultTooLargeError, ResultUnreadableError
from idemtable.codecs.exceptions import pack, unpack


class Declined(Exception):
    pass


class Worse(Declined):
    def __init__(self, *, code: int) -> None:
        super().__init__(f"code {code}", code)
        self.code = code
        self.at = datetime(2030, 1, 1, tzinfo=UTC)


class Unrelated(Exception):
    pass


class Reason(enum.StrEnum):
    LIMIT = "limit"


class Mixed(str, enum.Enum):  # noqa: UP042 - its text is another one than a StrEnum's
    LIMIT = "limit"


class Level(enum.IntEnum):
    HIGH = 3


class Color(enum.Enum):
    RED = ("red", [])


class Rights(enum.Flag):
    READ = enum.auto()
    WRITE = enum.auto()


class Money(Decimal):
    pass


class Tagged(Decimal):
    currency = "EUR"


Pair = namedtuple("Pair", "left right")
BERLIN = ZoneInfo("Europe/Berlin")


def back(error: Exception, *classes: type[Exception]) -> Any:
    named = classes or (Exception,)
    return unpack(pack(error, named, "scope"), named, "scope")


def same(error: Exception, *classes: type[Exception]) -> Any:
    """Pack, unpack and hold everything that shows of an exception against the first one."""
    found = back(error, *classes)
    assert type(found) is type(error)
    assert repr(found.args) == repr(error.args)
    assert [type(value) for value in found.args] == [type(value) for value in error.args]
    assert repr(vars(found)) == repr(vars(error))
    assert str(found) == str(error)
    assert repr(found) == repr(error)
    return found


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT | st.binary(max_size=10)
    | st.decimals(allow_nan=False) | st.dates() | st.uuids() | st.timedeltas() | st.datetimes() | st.times()
    | st.datetimes(timezones=st.timezones()) | st.complex_numbers(allow_nan=False) | st.fractions() | st.ip_addresses()
    | st.sampled_from([Reason.LIMIT, Level.HIGH, Color.RED, Rights.READ, Rights.READ | Rights.WRITE])
    | st.decimals(allow_nan=False).map(Money)
)  # fmt: skip
ARGUMENTS = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.lists(inner, max_size=3).map(tuple) | st.dictionaries(TEXT, inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.lists(ARGUMENTS, max_size=4), st.dictionaries(st.sampled_from(["a", "b", "reason"]), ARGUMENTS))
def test_an_exception_comes_back_with_its_class_arguments_and_attributes(
    args: list[Any], state: dict[str, Any]
) -> None:
    error = Declined(*args)
    vars(error).update(state)
    same(error, Declined)


@pytest.mark.parametrize(
    "value",
    [Decimal("1.50"), Decimal("NaN"), UUID(int=1), datetime(2030, 1, 1, tzinfo=UTC), date(2030, 1, 1), timedelta(1),
     b"\xff", 2**100, {1: (2, [3])}, float("inf"), float("nan"), -0.0, True, 0, "", None, {1, 2}, frozenset({"a"}),
     range(3, 9, 2), 1j, Fraction(1, 3), Path("/a/b"), PurePosixPath("a"), PureWindowsPath("c:\\a"),
     ip_address("::1"), ip_network("10.0.0.0/8"), time(1, 2, tzinfo=UTC), time(3, fold=1), datetime(2030, 1, 1, fold=1),
     datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN), datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN, fold=1),
     datetime(1880, 1, 1, tzinfo=BERLIN), datetime(2030, 1, 1, tzinfo=timezone(timedelta(hours=1))),
     Reason.LIMIT, Mixed.LIMIT, Level.HIGH, Color.RED, HTTPStatus.PAYMENT_REQUIRED, Rights.READ,
     Rights.READ | Rights.WRITE, Money("1.50"), [Money("2.00"), {Reason.LIMIT: Level.HIGH}]],
    ids=repr,
)  # fmt: skip
def test_an_argument_or_attribute_keeps_its_type(value: Any) -> None:
    for error in (Declined(value), Declined("x", value), Declined()):
        if not error.args:
            error.extra = value  # type: ignore[attr-defined]
        same(error, Declined)


def test_a_member_of_an_enum_comes_back_as_the_member_itself() -> None:
    assert back(Declined(Color.RED)).args[0] is Color.RED
    assert back(Declined(Reason.LIMIT)).args[0] is Reason.LIMIT


# --- kinds of classes ------------------------------------------------------------------------------------------------


class Slots(Declined):
    __slots__ = ("__hidden", "code", "unset")

    def __init__(self, code: int) -> None:
        super().__init__()
        self.code = code
        self.__hidden = "x"

    def hidden(self) -> str:
        return self.__hidden


@dataclass(frozen=True)
class Frozen(Declined):
    code: int
    reason: Reason = Reason.LIMIT


@dataclass(frozen=True, slots=True)
class FrozenSlots(Exception):
    code: int
    reason: Reason = Reason.LIMIT


@dataclass
class Written(Declined):
    code: int

    def __str__(self) -> str:
        return f"number {self.code}"


class Many(Unrelated, KeyError):
    retry = True

    def __init__(self, *, sku: str) -> None:
        super().__init__(sku)
        self.retry = False


class Late(ValueError, OSError):
    pass


class Made(Declined):
    def __new__(cls, *, code: int) -> Made:
        self = super().__new__(cls, "made", code)
        self.code = code
        return self

    def __init__(self, *, code: int) -> None:
        pass

    code: int


class OfAFile(OSError):
    def __init__(self, name: str, *, tries: int) -> None:
        super().__init__(2, "No such file", name)
        self.tries = tries


class HTTPException(Exception):
    """Starlette's, whose arguments are those of its call and whose text is made of its attributes."""

    def __init__(self, status_code: int, detail: str | None = None, headers: dict[str, str] | None = None) -> None:
        self.status_code = status_code
        self.detail = HTTPStatus(status_code).phrase if detail is None else detail
        self.headers = headers

    def __str__(self) -> str:
        return f"{self.status_code}: {self.detail}"


def decoding() -> Exception:
    try:
        b"\xff".decode()
    except UnicodeDecodeError as error:
        return error
    raise AssertionError


@pytest.mark.parametrize(
    "error",
    [
        Worse(code=7), Slots(7), Frozen(7), Frozen(code=7), FrozenSlots(7), Written(7), Many(sku="tea"), Made(code=7),
        Late(1, "x"), OfAFile("a", tries=3), KeyError("sku"), KeyError(("a", 1)), ValueError(), StopIteration(7),
        FileNotFoundError(2, "No such file", "invoice.pdf"), OSError(2, "No such file", "a", None, "b"), OSError("text"),
        OSError(2, "No such file", Path("a")), BlockingIOError(11, "x", 5), ConnectionResetError(), decoding(),
        UnicodeEncodeError("ascii", "é", 0, 1, "x"), ImportError("x", name="a", path="b"),
        SyntaxError("x", ("f", 1, 2, "text")), HTTPException(402, "card declined", {"Retry-After": "1"}),
        HTTPException(HTTPStatus.PAYMENT_REQUIRED), NameError("x", name="y"),
    ],
    ids=repr,
)  # fmt: skip
def test_a_class_of_any_kind_is_rebuilt_without_running_its_code(error: Exception) -> None:
    found = same(error)
    for name in ("errno", "strerror", "filename", "filename2", "reason", "code", "value", "name", "lineno", "start"):
        assert getattr(found, name, "none") == getattr(error, name, "none")


def test_what_is_beside_the_dict_comes_back_too() -> None:
    found = back(Slots(7))
    assert (found.code, found.hidden(), hasattr(found, "unset")) == (7, "x", False)
    assert back(FrozenSlots(7, Reason.LIMIT)) == FrozenSlots(7, Reason.LIMIT)
    assert back(BlockingIOError(11, "x", 5)).characters_written == 5
    assert back(FileNotFoundError(2, "No such file", "a")).filename2 is None


def test_what_lacked_an_attribute_is_only_a_hint_for_the_traceback() -> None:
    with pytest.raises(AttributeError) as caught:
        Unrelated.nothing  # type: ignore[attr-defined] # noqa: B018
    found = same(caught.value)
    assert (found.name, found.obj) == ("nothing", None)


def test_notes_are_kept_and_causes_are_not() -> None:
    error = Declined("x")
    error.add_note("at the till")
    error.__cause__ = ValueError("y")
    found = back(error)
    assert found.__notes__ == ["at the till"]
    assert found.__cause__ is None


def test_a_class_that_was_made_again_is_the_one_that_comes_back() -> None:
    made = [type("Again", (Declined,), {}) for _ in range(2)]
    assert type(back(made[1]("x"))) is made[1]
    with pytest.raises(ResultNotSerializableError, match="another class is called"):
        back(made[0]("x"))
    assert type(back(made[0]("x"), made[0])) is made[0]


# --- what is refused -------------------------------------------------------------------------------------------------


def test_a_class_that_is_not_named_is_never_rebuilt() -> None:
    data = pack(Declined("x"), (Declined,), "scope")
    for classes in ((), (Unrelated,), (Worse,)):
        with pytest.raises(ResultUnreadableError, match="remember="):
            unpack(data, classes, "scope")


@pytest.mark.parametrize(
    "data",
    [None, b"", b"{", b"[]", b'["builtins.OSError", [], []]', b'["os.system", ["true"], []]', b"\xff",
     b'["tests.unit.test_remembered.Declined", [{"enum": ["os.system", "true"]}], []]',
     b'["tests.unit.test_remembered.Declined", [{"decimal": ["builtins.str", "1"]}], []]',
     b'["tests.unit.test_remembered.Declined", [{"os.system": "true"}], []]'],
    ids=repr,
)  # fmt: skip
def test_a_row_that_holds_something_else_is_unreadable(data: bytes | None) -> None:
    with pytest.raises(ResultUnreadableError, match="forget"):
        unpack(data, (Declined,), "scope")


class Name(str):
    pass


class Colour(enum.Flag):
    RED = 1


class Speechless(Exception):
    def __str__(self) -> str:
        raise AttributeError("no text")


def tagged_money() -> Decimal:
    money = Tagged("1.50")
    money.currency = "CHF"
    return money


@pytest.mark.parametrize(
    "value",
    [object(), lambda: None, [object()], {"a": object()}, Declined("inner"), Name("x"), Pair(1, 2), tagged_money(),
     Frozen, bytearray(b"x"), "a\ud800", [[]], Decimal("sNaN"), Colour(0)],
    ids=lambda value: repr(value).split(" at ")[0],
)  # fmt: skip
def test_an_argument_that_would_not_come_back_is_refused_with_the_cure(value: Any) -> None:
    if value == [[]]:
        value[0].append(value)  # it holds itself
    for error in (Declined(value), Declined()):
        if not error.args:
            error.extra = value  # type: ignore[attr-defined]
        with pytest.raises(ResultNotSerializableError, match="remember=") as caught:
            back(error)
        assert caught.value.__cause__ is error


def test_the_message_says_which_part_it_is_and_nothing_of_its_value() -> None:
    error = Declined("x")
    error.response = Name("secret")  # type: ignore[attr-defined]
    with pytest.raises(ResultNotSerializableError, match="the attribute response holds a value of type Name") as caught:
        back(error)
    assert "secret" not in str(caught.value)
    with pytest.raises(ResultNotSerializableError, match=r"args\[1\] holds a value of type Pair"):
        back(Declined(1, Pair(1, 2)))


class Counting(Declined):
    count = 0

    def __str__(self) -> str:
        Counting.count += 1
        return f"{Counting.count}"


class Caused(Declined):
    def __str__(self) -> str:
        return f"because of {self.__cause__!r}"


class Hiding(Declined):
    @property
    def __dict__(self) -> Any:  # type: ignore[override]
        raise RuntimeError("no")


def caused() -> Exception:
    error = Caused()
    error.__cause__ = ValueError()
    return error


def invalid() -> Exception:
    import pydantic

    class Model(pydantic.BaseModel):
        a: int

    try:
        Model(a="x")  # type: ignore[arg-type]
    except pydantic.ValidationError as error:
        return error
    raise AssertionError


@pytest.mark.parametrize(
    "error",
    [Counting(), caused(), Hiding(), Speechless(5), ExceptionGroup("x", [Declined()]), invalid()],
    ids=lambda error: type(error).__name__,
)
def test_an_exception_that_would_come_back_as_less_is_refused(error: Exception) -> None:
    with pytest.raises(ResultNotSerializableError, match="remember="):
        back(error)


def test_an_exception_is_measured_in_bytes() -> None:
    with pytest.raises(ResultTooLargeError) as caught:
        pack(Declined("x" * 100), (Declined,), "scope", 100)
    assert caught.value.size > caught.value.limit == 100


def test_nothing_but_plain_json_is_in_the_row() -> None:
    name, args, state = msgspec.json.decode(pack(Declined(Reason.LIMIT), (Declined,), "scope"))
    assert name == f"{__name__}.Declined"
    assert args == [{"enum": [f"{__name__}.Reason", "LIMIT"]}]
    assert state == []
