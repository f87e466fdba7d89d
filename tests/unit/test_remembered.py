"""Exceptions to bytes and back: the same class, the same arguments, and no class that the program did not name."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idemtable import ResultNotSerializableError, ResultUnreadableError
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


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT | st.binary(max_size=10)
    | st.decimals(allow_nan=False) | st.dates() | st.uuids() | st.timedeltas()
    | st.datetimes().map(lambda at: at.replace(fold=0))
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
    back = unpack(pack(error, "scope"), (Declined,), "scope")

    assert type(back) is Declined
    assert repr(back.args) == repr(error.args)  # by its text: NaN is not equal to itself
    assert repr(vars(back)) == repr(vars(error))


@pytest.mark.parametrize(
    "value",
    [Decimal("1.50"), UUID(int=1), datetime(2030, 1, 1, tzinfo=UTC), date(2030, 1, 1), timedelta(1), b"\xff", 2**100,
     {1: (2, [3])}, float("inf"), True, 0, ""],
    ids=repr,
)  # fmt: skip
def test_an_argument_keeps_its_type(value: Any) -> None:
    back = unpack(pack(Declined(value), "scope"), (Declined,), "scope")
    assert back.args == (value,)
    assert type(back.args[0]) is type(value)


def test_a_class_with_a_constructor_of_its_own_is_rebuilt_without_calling_it() -> None:
    back = unpack(pack(Worse(code=7), "scope"), (Declined,), "scope")
    assert type(back) is Worse
    assert back.args == ("code 7", 7)
    assert back.code == 7  # type: ignore[attr-defined]
    assert str(back) == str(Worse(code=7))


def test_a_class_that_is_not_named_is_never_rebuilt() -> None:
    data = pack(Declined("x"), "scope")
    for classes in ((), (Unrelated,), (Worse,)):
        with pytest.raises(ResultUnreadableError, match="remember="):
            unpack(data, classes, "scope")


@pytest.mark.parametrize(
    "data", [None, b"", b"{", b"[]", b'["builtins.OSError", [], {}]', b'["os.system", ["true"], {}]', b"\xff"], ids=repr
)
def test_a_row_that_holds_something_else_is_unreadable(data: bytes | None) -> None:
    with pytest.raises(ResultUnreadableError, match="forget"):
        unpack(data, (Declined,), "scope")


@pytest.mark.parametrize("value", [object(), lambda: None, {1}, [object()], {"a": object()}, 1j, Declined("inner")])
def test_an_argument_that_is_no_plain_value_is_refused_with_the_cure(value: Any) -> None:
    for error in (Declined(value), Declined()):
        if not error.args:
            error.extra = value  # type: ignore[attr-defined]
        with pytest.raises(ResultNotSerializableError, match="remember="):
            pack(error, "scope")


def test_a_subclass_of_a_plain_type_is_refused_rather_than_changed() -> None:
    class Name(str):
        pass

    with pytest.raises(ResultNotSerializableError):
        pack(Declined(Name("x")), "scope")


def test_notes_stay_with_the_first_raiser() -> None:
    error = Declined("x")
    error.add_note("seen in this process")
    back = unpack(pack(error, "scope"), (Declined,), "scope")
    assert not hasattr(back, "__notes__")
