"""The tree of errors: as drawn, picklable, with the status of HTTP, and without anybody's key."""

from __future__ import annotations

import copy
import pickle
import re

import pytest

from idemtable import errors
from idemtable.errors import FingerprintMismatchError, IdempotencyError, InProgressError, KeyRejectedError

CLASSES = [getattr(errors, name) for name in errors.__all__]


def drawn() -> dict[str, tuple[str | None, str | None]]:
    """The tree in the docstring: each class's parent and status."""
    assert errors.__doc__ is not None
    found: dict[str, tuple[str | None, str | None]] = {}
    path: list[tuple[int, str]] = []
    for line in errors.__doc__.splitlines():
        match = re.match(r"([ │├└─]*)(\w+Error)\b(.*)", line)
        if match is None or not line.startswith("    "):
            continue
        depth, name, rest = len(match[1]), match[2], match[3]
        while path and path[-1][0] >= depth:
            path.pop()
        status = re.match(r" (\d{3})\b", rest)
        found[name] = (path[-1][1] if path else None, status[1] if status else None)
        path.append((depth, name))
    return found


def test_the_tree_is_as_the_docstring_draws_it() -> None:
    actual = {
        cls.__name__: next((base.__name__ for base in cls.__bases__ if issubclass(base, IdempotencyError)), None)
        for cls in CLASSES
    }
    assert {name: parent for name, (parent, _) in drawn().items()} == actual


def test_every_error_of_the_module_is_exported() -> None:
    defined = {
        name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, IdempotencyError)
    }
    assert sorted(defined) == sorted(errors.__all__) == errors.__all__


def test_the_statuses_of_http_are_as_drawn_and_inherited() -> None:
    for name, (parent, status) in drawn().items():
        cls = getattr(errors, name)
        if status is not None:
            assert cls.http_status == int(status), name
        elif parent is not None and name != "RetryTransactionError":
            assert cls.http_status == getattr(errors, parent).http_status, name


def test_a_rejected_key_is_a_value_error_and_nothing_else_is() -> None:
    assert {cls for cls in CLASSES if issubclass(cls, ValueError)} == {
        cls for cls in CLASSES if issubclass(cls, KeyRejectedError)
    }


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_an_error_travels_between_processes_with_its_message_and_facts(cls: type[IdempotencyError]) -> None:
    error = cls("the cure", scope="orders", retry_after=2.5, size=7)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        back = pickle.loads(pickle.dumps(error, protocol))
        assert type(back) is cls
        assert back.args == ("the cure",)
        assert str(back) == "the cure"
        assert (back.scope, back.retry_after, back.size) == ("orders", 2.5, 7)
    assert copy.copy(error).scope == "orders"


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_an_error_without_facts_has_its_attributes_all_the_same(cls: type[IdempotencyError]) -> None:
    error = cls("message")
    assert error.scope is None
    for name in cls.__annotations__:
        assert hasattr(error, name)
    assert isinstance(error, IdempotencyError)
    assert cls.__doc__


def test_facts_of_one_error_are_not_those_of_another() -> None:
    assert InProgressError("a", retry_after=9.0).retry_after == 9.0
    assert InProgressError("b").retry_after == 1.0
    assert FingerprintMismatchError("a", scope="x").scope == "x"
    assert FingerprintMismatchError("b").scope is None


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_an_error_says_whether_to_come_again_and_what_a_client_may_read(cls: type[IdempotencyError]) -> None:
    error = cls("orders.create: the table idemtable", scope="orders.create")
    assert error.retryable is (cls.http_status == 503 or error.retry_after is not None)
    assert error.retry_after is None or error.retry_after > 0
    assert re.fullmatch(r"[A-Z][^.]+\.", error.detail)
    assert not re.search(r"scope|table|idemtable|orders|parameter|_", error.detail)
    if cls is not IdempotencyError:
        assert error.detail != IdempotencyError.detail
    back = pickle.loads(pickle.dumps(error))
    assert (back.retryable, back.retry_after, back.detail) == (error.retryable, error.retry_after, error.detail)
