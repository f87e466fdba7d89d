"""Exceptions that were named in ``remember``, to bytes and back.

Only the classes that the program names (and what derives from them) are ever rebuilt: the row holds a name to compare
with, not a name to import.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

import msgspec

from ..errors import ResultNotSerializableError, ResultTooLargeError, ResultUnreadableError

CODEC: Final = "exception"

# JSON has no decimals, dates or tuples; arguments of exceptions have no declared types that could bring them back.
_READERS: Final[dict[str, Callable[[Any], Any]]] = {
    "Decimal": Decimal,
    "UUID": UUID,
    "datetime": datetime.fromisoformat,
    "date": date.fromisoformat,
    "timedelta": lambda days_seconds_micros: timedelta(*days_seconds_micros),
    "bytes": bytes.fromhex,
    "float": float,
    "tuple": lambda items: tuple(_untagged(item) for item in items),
    "dict": lambda items: {_untagged(name): _untagged(value) for name, value in items},
}


def _tagged(value: Any) -> Any:
    match value:
        case None | bool() | int() | str() if type(value) in (type(None), bool, int, str):
            return value
        case float():
            return value if value - value == 0 else {"float": repr(value)}
        case list():
            return [_tagged(item) for item in value]
        case tuple():
            return {"tuple": [_tagged(item) for item in value]}
        case dict():
            return {"dict": [[_tagged(name), _tagged(item)] for name, item in value.items()]}
        case Decimal() | UUID():
            return {type(value).__name__: str(value)}
        case datetime():
            return {"datetime": value.isoformat()}
        case date():
            return {"date": value.isoformat()}
        case timedelta():
            return {"timedelta": [value.days, value.seconds, value.microseconds]}
        case bytes():
            return {"bytes": value.hex()}
    raise TypeError(f"an argument or attribute of type {type(value).__name__}")


def _untagged(value: Any) -> Any:
    if isinstance(value, list):
        return [_untagged(item) for item in value]
    if isinstance(value, dict):
        ((tag, item),) = value.items()
        return _READERS[tag](item)
    return value


def _identity(cls: type[BaseException]) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _family(classes: tuple[type[Exception], ...]) -> Iterator[type[Exception]]:
    for cls in classes:
        yield cls
        yield from _family(tuple(cls.__subclasses__()))


def pack(error: Exception, scope: str, limit: int = sys.maxsize) -> bytes:
    """Return an exception as bytes: its class's name, its arguments, its attributes.

    Raises:
        ResultNotSerializableError: an argument or attribute is not a plain value.
        ResultTooLargeError: more bytes than `limit`.
    """
    state = {name: value for name, value in vars(error).items() if name != "__notes__"}
    try:
        data = msgspec.json.encode([_identity(type(error)), [_tagged(a) for a in error.args], _tagged(state)])
    except (TypeError, ValueError) as fault:
        raise ResultNotSerializableError(
            f"{type(error).__name__}, which {scope} is to remember, cannot be stored: {fault}. Give it plain "
            f"arguments, or leave it out of remember=; the effect was rolled back and nothing is remembered",
            scope=scope,
        ) from error
    if len(data) > limit:
        raise ResultTooLargeError(
            f"{type(error).__name__}, which {scope} is to remember, has {len(data)} bytes, more than the {limit} "
            f"allowed; the effect was rolled back and nothing is remembered",
            scope=scope,
            size=len(data),
            limit=limit,
        ) from error
    return data


def unpack(data: bytes | None, classes: tuple[type[Exception], ...], scope: str) -> Exception:
    """Return the stored exception, of the same class and with the same arguments.

    Raises:
        ResultUnreadableError: its class is not among `classes` or what derives from them.
    """
    name = "?"
    try:
        name, args, state = msgspec.json.decode(data or b"")
        found = next(cls for cls in _family(classes) if _identity(cls) == name)
        # Not found(*args): a class may take other arguments than the ones it hands to Exception.
        error = found.__new__(found, *(values := [_untagged(item) for item in args]))
        error.args = tuple(values)
        vars(error).update(_untagged(state))
        return error
    except Exception as fault:
        raise ResultUnreadableError(
            f"{scope} failed with an exception that was remembered ({name}), and this call cannot rebuild it: name the "
            f"class in remember=, or forget the key",
            scope=scope,
            codec=CODEC,
        ) from fault
