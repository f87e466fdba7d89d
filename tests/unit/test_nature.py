"""What somebody else's code raises by nature, and what came in the middle of it once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from idemtable import ResultNotSerializableError, ResultUnreadableError
from idemtable.arguments import Arguments
from idemtable.codecs import JSON, Results, exceptions, typed_json
from idemtable.nature import by_nature


class TimeLimit(Exception):
    pass


def ringing(times: int, then: Callable[..., Any]) -> Callable[..., Any]:
    """What raises so many times, and is itself from then on."""
    left = [times]

    def rings(*args: Any, **kwargs: Any) -> Any:
        if left[0]:
            left[0] -= 1
            raise TimeLimit
        return then(*args, **kwargs)

    return rings


def test_what_comes_again_is_by_nature_and_what_does_not_came_from_outside() -> None:
    def fails(kind: type[Exception]) -> Callable[[], object]:
        def doing() -> object:
            raise kind

        return doing

    assert by_nature(TimeLimit(), fails(TimeLimit))
    assert not by_nature(TimeLimit(), fails(ValueError))
    assert not by_nature(TimeLimit(), lambda: None)
    with pytest.raises(KeyboardInterrupt):
        by_nature(TimeLimit(), fails(KeyboardInterrupt))  # type: ignore[arg-type]


@dataclass
class Money:
    amount: int

    def __eq__(self, other: object) -> bool:
        return self.compared(other)

    def compared(self, other: object) -> bool:
        return isinstance(other, Money) and self.amount == other.amount


@pytest.mark.parametrize(("times", "raised"), [(1, TimeLimit), (2, ResultNotSerializableError)])
def test_a_time_limit_while_a_result_is_compared_is_raised(monkeypatch: Any, times: int, raised: type) -> None:
    results = Results(Money, JSON, 10_000, "scope")
    monkeypatch.setattr("idemtable.codecs.results.difference", ringing(times, lambda *_: None))
    with pytest.raises(raised):
        results.pack(Money(1))
    assert results.pack(Money(1))[1].amount == 1


@pytest.mark.parametrize(("times", "raised"), [(1, TimeLimit), (2, ResultNotSerializableError)])
def test_a_time_limit_while_an_exception_is_packed_is_raised(monkeypatch: Any, times: int, raised: type) -> None:
    monkeypatch.setattr(exceptions, "_encoded", ringing(times, exceptions._encoded))
    with pytest.raises(raised):
        exceptions.pack(LookupError("k"), (LookupError,), "scope")


@pytest.mark.parametrize(("times", "raised"), [(1, TimeLimit), (2, ResultUnreadableError)])
def test_a_time_limit_while_an_exception_is_rebuilt_is_raised(monkeypatch: Any, times: int, raised: type) -> None:
    data = exceptions.pack(LookupError("k"), (LookupError,), "scope")
    monkeypatch.setattr(exceptions, "_decoded", ringing(times, exceptions._decoded))
    with pytest.raises(raised):
        exceptions.unpack(data, (LookupError,), "scope")
    assert exceptions.unpack(data, (LookupError,), "scope").args == ("k",)


@pytest.mark.parametrize(("times", "raised"), [(1, TimeLimit), (2, TypeError)])
def test_a_time_limit_while_a_type_is_looked_at_is_raised(monkeypatch: Any, times: int, raised: type) -> None:
    monkeypatch.setattr(typed_json, "classes", ringing(times, typed_json.classes))
    with pytest.raises(raised):
        JSON.carrier(Money)


def test_a_time_limit_while_arguments_are_looked_at_is_raised(monkeypatch: Any) -> None:
    monkeypatch.setattr("idemtable.arguments.fingerprint", ringing(1, lambda value: b"print"))
    with pytest.raises(TimeLimit):
        Arguments({"items": [1]})
    monkeypatch.setattr("idemtable.arguments.fingerprint", ringing(9, lambda value: b"print"))
    assert not Arguments({"items": [1]}).have_changed()
