"""Plain values to JSON and back with a tag for what JSON has no type for: arguments of exceptions declare no types."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, Flag
from fractions import Fraction
from functools import reduce
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from operator import or_
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import NoneType
from typing import Any, Final
from uuid import UUID
from zoneinfo import ZoneInfo

from .codec import type_name

_JSON: Final = frozenset({NoneType, bool, int, str})
_TEXTS: Final[dict[str, type]] = {
    cls.__name__: cls
    for cls in (
        Decimal, UUID, Fraction, complex, Path, PurePosixPath, PureWindowsPath,
        IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network,
    )
}  # fmt: skip
"""What its own text says in full."""
_TAGS: Final[dict[type, str]] = {**{cls: tag for tag, cls in _TEXTS.items()}, type(Path()): "Path"}


def tagged(value: Any) -> Any:
    """Return a plain value as JSON's types; TypeError for one that is not plain."""
    kind = type(value)
    if kind in _JSON:
        return value
    if kind in _TAGS:
        return {_TAGS[kind]: str(value)}
    if kind in _WRITERS:
        return _WRITERS[kind](value)
    if isinstance(value, Enum):
        return {"enum": [identity(kind), *_names(value)]}
    if isinstance(value, Decimal):
        return {"decimal": [identity(kind), Decimal.__str__(value)]}
    raise TypeError(f"a value of type {type_name(kind)}")


def untagged(value: Any) -> Any:
    """Return what `tagged` was given."""
    if isinstance(value, list):
        return [untagged(item) for item in value]
    if isinstance(value, dict):
        ((tag, item),) = value.items()
        return _TEXTS[tag](item) if tag in _TEXTS else _READERS[tag](item)
    return value


def _names(member: Enum) -> list[str]:
    """Return a member's name, or those that a combination of flags is made of."""
    if isinstance(member, Flag) and member.name not in type(member).__members__:
        if not (names := [str(part.name) for part in member]):
            raise TypeError(f"a {type_name(type(member))} without a flag")
        return names
    return [member.name]


def _zoned(value: datetime | time) -> list[Any]:
    # An offset alone would say when it is, but not write itself as the zone does in a message.
    zone = value.tzinfo.key if isinstance(value.tzinfo, ZoneInfo) else None
    return [(value.replace(tzinfo=None) if zone else value).isoformat(), value.fold, zone]


def _unzoned(read: Callable[[str], Any], text: str, fold: int, zone: str | None) -> Any:
    value = read(text).replace(fold=fold)
    return value.replace(tzinfo=ZoneInfo(zone)) if zone else value


_WRITERS: Final[dict[type, Callable[[Any], Any]]] = {
    float: lambda value: value if value - value == 0 else {"float": repr(value)},
    list: lambda items: [tagged(item) for item in items],
    tuple: lambda items: {"tuple": [tagged(item) for item in items]},
    set: lambda items: {"set": [tagged(item) for item in items]},
    frozenset: lambda items: {"frozenset": [tagged(item) for item in items]},
    dict: lambda entries: {"dict": [[tagged(name), tagged(item)] for name, item in entries.items()]},
    range: lambda numbers: {"range": [numbers.start, numbers.stop, numbers.step]},
    bytes: lambda data: {"bytes": data.hex()},
    date: lambda day: {"date": day.isoformat()},
    timedelta: lambda span: {"timedelta": [span.days, span.seconds, span.microseconds]},
    datetime: lambda moment: {"datetime": _zoned(moment)},
    time: lambda moment: {"time": _zoned(moment)},
}
_READERS: Final[dict[str, Callable[[Any], Any]]] = {
    "float": float,
    "tuple": lambda items: tuple(map(untagged, items)),
    "set": lambda items: set(map(untagged, items)),
    "frozenset": lambda items: frozenset(map(untagged, items)),
    "dict": lambda entries: {untagged(name): untagged(item) for name, item in entries},
    "range": lambda numbers: range(*numbers),
    "bytes": bytes.fromhex,
    "date": date.fromisoformat,
    "timedelta": lambda span: timedelta(*span),
    "datetime": lambda moment: _unzoned(datetime.fromisoformat, *moment),
    "time": lambda moment: _unzoned(time.fromisoformat, *moment),
    # A member is there already, and none of the class's code runs to find it or to make a number.
    "enum": lambda named: reduce(or_, [loaded(named[0], (Enum,)).__members__[name] for name in named[1:]]),
    "decimal": lambda named: Decimal.__new__(loaded(named[0], (Decimal,)), named[1]),
}


# --- classes, by name ------------------------------------------------------------------------------------------------


def identity(cls: type) -> str:
    """Return what a row calls a class."""
    return f"{cls.__module__}.{cls.__qualname__}"


def loaded(name: str, classes: tuple[type, ...]) -> Any:
    """Return the class of that name among `classes` and what derives from them; LookupError if there is none.

    The program's classes are gone through and each one's name is compared: what a row says is never imported.
    """
    found = [cls for cls in _family(classes) if identity(cls) == name]
    if not found:
        raise LookupError(f"no class {name} is loaded")
    return found[-1]  # a class that was made again, as in a notebook, comes behind the older one


def _family(classes: tuple[type, ...]) -> Iterator[type]:
    for cls in classes:
        yield cls
        yield from _family(tuple(cls.__subclasses__()))
