"""Who a call is: what may be a key, the digest that is the primary key, and the fingerprint of a payload."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
from collections import OrderedDict
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from idemtable import InvalidKeyError, MissingKeyError, MissingTenantError
from idemtable.keys import checked_key, checked_scope, checked_tenant, digest, fingerprint, walk

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


class Text(str):
    def __str__(self) -> str:
        return "something else"


# --- validation ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key",
    [
        "a",
        " a",
        "a ",
        "é",
        "e\u0301",
        "\U0001f375",
        "a\u200bb",
        "a\u2028b",
        "x" * 255,
        "é" * 127 + "a",
        "null",
        "0",
        "%",
    ],
    ids=lambda key: ascii(key)[:20],
)
def test_a_key_is_taken_exactly_as_given(key: str) -> None:
    assert checked_key(key) == checked_tenant(key) == checked_scope(key) == key


@pytest.mark.parametrize(
    ("key", "fault"),
    [
        ("", "empty"),
        (" ", "white space"),
        ("\u00a0\u2003", "white space"),
        ("x" * 256, "256 characters"),
        ("é" * 128, "256 bytes"),
        ("\U0001f375" * 64, "256 bytes"),
        ("a\x00", "control"),
        ("\x1f", "empty or white space"),
        ("a\x1f", "control"),
        ("a\x7f", "control"),
        ("a\x80", "control"),
        ("a\x9f", "control"),
        ("a\nb", "control"),
        ("\ud800", "surrogate"),
        ("a\udfff", "surrogate"),
        (1, "not int"),
        (True, "not bool"),
        (1.0, "not float"),
        (b"a", "not bytes"),
        (["a"], "not list"),
        (object(), "not object"),
    ],
    ids=lambda value: "object" if type(value) is object else ascii(value)[:20],
)
def test_anything_else_is_refused_and_the_message_says_why_without_the_key(key: Any, fault: str) -> None:
    with pytest.raises(InvalidKeyError, match=fault) as caught:
        checked_key(key)
    with pytest.raises((InvalidKeyError, MissingTenantError)):
        checked_tenant(key)
    with pytest.raises(ValueError if isinstance(key, str) else TypeError, match="scope"):
        checked_scope(key)
    if isinstance(key, str) and key.strip():
        assert key not in str(caught.value)


def test_no_key_and_no_tenant_have_errors_of_their_own() -> None:
    with pytest.raises(MissingKeyError):
        checked_key(None)
    for tenant in (None, ""):
        with pytest.raises(MissingTenantError):
            checked_tenant(tenant)


def test_a_uuid_is_its_canonical_text() -> None:
    id = UUID("12345678123456781234567812345678")
    assert checked_key(id) == checked_tenant(id) == "12345678-1234-5678-1234-567812345678"


def test_a_subclass_of_str_is_taken_by_its_content_and_becomes_a_plain_str() -> None:
    for check in (checked_key, checked_tenant, checked_scope):
        assert check(Text("content")) == "content"
        assert type(check(Text("content"))) is str


@given(TEXT)
def test_what_is_accepted_is_short_text_without_controls(key: str) -> None:
    try:
        accepted = checked_key(key)
    except InvalidKeyError:
        controls = any(ord(c) < 32 or 127 <= ord(c) < 160 for c in key)
        assert controls or not key.strip() or len(key.encode()) > 255
    else:
        assert accepted == key
        assert 0 < len(accepted.encode()) <= 255


# --- the digest ------------------------------------------------------------------------------------------------------


@given(st.tuples(st.none() | TEXT, TEXT, TEXT), st.tuples(st.none() | TEXT, TEXT, TEXT))
def test_two_identities_share_a_digest_only_if_they_are_one(
    one: tuple[str | None, str, str], other: tuple[str | None, str, str]
) -> None:
    assert (digest(*one) == digest(*other)) is (one == other)


@given(TEXT, st.lists(st.integers(0, 30), min_size=4, max_size=4))
def test_where_a_text_is_split_into_tenant_scope_and_key_changes_the_digest(text: str, points: list[int]) -> None:
    def split(first: int, second: int) -> tuple[str, str, str]:
        first, second = sorted((min(first, len(text)), min(second, len(text))))
        return text[:first], text[first:second], text[second:]

    one, other = split(*points[:2]), split(*points[2:])
    assert (digest(*one) == digest(*other)) is (one == other)


def test_no_tenant_is_not_an_empty_one_nor_one_called_none() -> None:
    assert len({digest(tenant, "s", "k") for tenant in (None, "", "None", "\xff\xff\xff\xff")}) == 4


def test_the_digest_never_changes() -> None:
    """It is in users' tables: another value would run old requests again."""
    assert digest(None, "orders.create", "r-1") == UUID("b07efd1c-ecc4-db9b-46ff-2f82be6702a6")
    assert digest("acme", "orders.create", "é") == UUID("efe55c59-c247-30b8-a02e-5bbe8c793c23")


# --- the fingerprint -------------------------------------------------------------------------------------------------


class Color(Enum):
    RED = "red"


@dataclasses.dataclass
class Item:
    name: str
    price: Decimal


class Parcel(msgspec.Struct):
    code: bytes


class Model(pydantic.BaseModel):
    number: int


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=10)
    | st.binary(max_size=10)
    | st.decimals(allow_nan=False)
    | st.datetimes()
    | st.uuids()
)
PAYLOADS = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)  # fmt: skip


@given(PAYLOADS)
def test_a_fingerprint_has_32_bytes_and_is_the_same_each_time(payload: Any) -> None:
    assert fingerprint(payload) == fingerprint(payload)
    assert len(fingerprint(payload)) == 32


@given(st.dictionaries(st.text(max_size=5) | st.integers(), PAYLOADS, min_size=2), st.randoms())
def test_a_fingerprint_does_not_depend_on_the_order_of_names(payload: dict[Any, Any], random: Any) -> None:
    items = list(payload.items())
    random.shuffle(items)
    assert fingerprint(dict(items)) == fingerprint(payload) == fingerprint(OrderedDict(items))
    assert fingerprint({"in": [dict(items)]}) == fingerprint({"in": [payload]})


@given(st.sets(st.text(max_size=5) | st.integers() | st.tuples(st.integers())))
def test_a_fingerprint_does_not_depend_on_the_order_of_a_set(payload: set[Any]) -> None:
    assert fingerprint(payload) == fingerprint(frozenset(sorted(payload, key=repr)))


DISTINCT: list[Any] = [
    None, False, True, 0, 1, -1, 0.0, 1.0, math.nan, math.inf, -math.inf, "", "0", "1", "None", "nan", b"", b"0", b"1",
    [], [[]], [None], {}, {"": None}, {"a": 1}, {"a": True}, {"a": "1"}, {"a": None}, {1: "a"}, {"1": "a"}, [1], ["1"],
    [1, 2], [[1], 2], [1, [2]], 2**63, 2**64, -(2**63) - 1, str(2**64), 10**30, "a\ud800", "a\udc00", "a?",
    "e\u0301", "\u00e9", {"a": {"b": 1}}, {"a": 1, "b": 1}, Decimal("1.5"), 1.5, datetime(2030, 1, 1),
    datetime(2030, 1, 1, tzinfo=UTC), date(2030, 1, 1), timedelta(days=1), UUID(int=1), {"a\ud800": 1}, [2**64, None],
]  # fmt: skip


def test_payloads_that_differ_have_fingerprints_that_differ() -> None:
    found = {fingerprint(payload): payload for payload in DISTINCT}
    assert len(found) == len(DISTINCT)


@given(PAYLOADS, PAYLOADS)
def test_equal_fingerprints_mean_equal_payloads(one: Any, other: Any) -> None:
    if fingerprint(one) == fingerprint(other):
        assert _plain(one) == _plain(other)


def _plain(value: Any) -> Any:
    """What a payload says, with types spelled out where == is generous and text where MessagePack has no type."""
    if isinstance(value, dict):
        return {"dict": {name: _plain(item) for name, item in value.items()}}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, UUID):
        return ("bytes", value.bytes)
    if isinstance(value, Decimal | datetime):
        return ("str", msgspec.to_builtins(value))
    if isinstance(value, float):
        return ("float", repr(value))
    return (type(value).__name__, value)


def test_a_tuple_is_a_list_and_structured_values_are_what_they_hold() -> None:
    assert fingerprint((1, 2)) == fingerprint([1, 2])
    assert fingerprint(Item("tea", Decimal("1.5"))) != fingerprint(Item("tea", Decimal("1.50")))
    assert fingerprint(Parcel(b"a")) != fingerprint(Parcel(b"b"))
    assert fingerprint(Model(number=1)) != fingerprint(Model(number=2))
    assert fingerprint([Model(number=1)]) == fingerprint([Model(number=1)])
    assert fingerprint(Color.RED) == fingerprint("red")
    assert fingerprint(Item("tea", Decimal(1))) == fingerprint(Item("tea", Decimal(1)))


def test_big_numbers_and_odd_text_inside_structured_values_are_taken_too() -> None:
    @dataclasses.dataclass
    class Odd:
        number: int
        text: str

    assert fingerprint(Odd(2**64, "a\ud800")) == fingerprint(Odd(2**64, "a\ud800"))
    assert fingerprint(Odd(2**64, "a\ud800")) != fingerprint(Odd(2**64 + 1, "a\ud800"))
    assert fingerprint(Odd(2**64, "a\ud800")) != fingerprint(Odd(2**64, "a\ud801"))


@pytest.mark.parametrize("payload", [object(), lambda: None, (n for n in "a"), [object()], {"a": object()}, 1j])
def test_what_has_no_canonical_form_is_refused_with_the_cure(payload: Any) -> None:
    with pytest.raises(TypeError, match="payload="):
        fingerprint(payload)


def test_a_fingerprint_is_the_same_in_another_process_with_another_hash_seed() -> None:
    code = (
        "from idemtable.keys import fingerprint\n"
        "print(fingerprint({'b': {1, 'x', (2,)}, 'a': {'z': 1, 2: [b'', None, 1e300]}}).hex())"
    )
    seen = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True, text=True, check=True,
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(seen) == 1


def test_the_fingerprint_never_changes() -> None:
    """It is in users' tables: another value would refuse old requests."""
    payload = {"item": "tea", "amount": 2, "price": Decimal("2.50"), "at": datetime(2030, 1, 1, tzinfo=UTC)}
    assert fingerprint(payload).hex() == "1bc5a588481bdd2972ed6dfee2a227f8e69ba0cbdf4a4fc8fbb05b93c68fd277"


# --- paths -----------------------------------------------------------------------------------------------------------


def test_a_path_follows_items_of_mappings_and_attributes_of_everything_else() -> None:
    class Request:
        headers = {"id": {"value": 7}}

    assert walk({"request": Request()}, ("request", "headers", "id", "value")) == 7
    assert walk({"items": 1}, ("items",)) == 1
    assert walk({}, ("items",)) is None  # an item, never the method of dict
    assert walk(Request(), ("nothing", "more")) is None
    assert walk(None, ("a",)) is None
