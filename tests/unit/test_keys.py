"""Who a call is: what may be a key, and the digest that is the primary key."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idemtable import InvalidKeyError, MissingKeyError, MissingTenantError
from idemtable.keys import checked_key, checked_scope, checked_tenant, digest

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


def test_what_a_client_is_told_of_its_tenant_does_not_blame_its_key() -> None:
    with pytest.raises(InvalidKeyError) as caught:
        checked_tenant("a\x00")
    assert "key" not in caught.value.detail
    assert "1 to 255 bytes" in caught.value.detail


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
    assert digest(None, "orders.create", "r-1") == bytes.fromhex("b07efd1cecc4db9b46ff2f82be6702a6")
    assert digest("acme", "orders.create", "é") == bytes.fromhex("efe55c59c24730b8a02e5bbe8c793c23")
