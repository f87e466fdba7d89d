"""What a value looks like in a fingerprint: the form that all values equal to it share, and no other has.

A form is made of ``None``, ``bool``, ``int``, ``float``, ``str``, ``bytes``, lists, dicts with names, and extension
codes, and goes to MessagePack, which keeps these apart at C speed. Everything else is spelled here.
"""

from __future__ import annotations

import re
import sys
from array import array
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence, Set, ValuesView
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import MAX_EMAX, MAX_PREC, MIN_EMIN, Context, Decimal
from enum import Enum
from fractions import Fraction
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from pathlib import PurePath, PureWindowsPath
from types import EllipsisType, NoneType, SimpleNamespace
from typing import Any, Final
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
from msgspec.msgpack import Ext

Form = Callable[[Any], Any]
Speller = Callable[[Any, Form, frozenset[type]], Any]
"""Makes the form of a value of one type, given how forms are made and which types are a form already."""

PLAIN: Final = frozenset({NoneType, bool, int, str, bytes})
"""What is a form already. Exactly these: msgspec writes a subclass as it writes its base, and dates as text."""
CAREFUL: Final = PLAIN - {int, str}
"""The same, where a number or a text is there that MessagePack has no place for."""

# Extension codes. They are in users' tables, and never change.
_BIG_INT, _ODD_TEXT, _MAPPING, _SET, _DECIMAL, _INSTANT, _DATETIME, _DATE, _TIME, _TIMEDELTA = range(1, 11)
_UUID, _PATH, _ADDRESS, _PATTERN, _COMPLEX, _FRACTION, _RANGE, _ZONE, _SECRET, _URL, _COLOR = range(11, 22)
_SINGLE, TWOFOLD = range(22, 24)

# MessagePack and not JSON: it keeps bytes apart from text, an integer from a float, and NaN from null, at C speed.
encode: Final = msgspec.msgpack.Encoder(order="deterministic").encode


HOW: Final = (
    "say what identifies the request by payload=: plain values, under a decorator names of parameters or a callable, or "
    "None for no check"
)
"""What is to be said of a payload that nobody can compare."""


def ext(code: int, form: Form, *parts: Any) -> Ext:
    """Return an extension of several parts."""
    return Ext(code, encode([form(part) for part in parts]))


def unknown(value: Any, form: Form, plain: frozenset[type]) -> Any:
    """Refuse a value that has no form, and say what to do instead."""
    what = f"{type(value).__name__}, an iterator that this would empty" if hasattr(value, "__next__") else None
    raise TypeError(f"cannot take the fingerprint of {what or type(value).__name__}: {HOW}")


# --- scalars ---------------------------------------------------------------------------------------------------------

# Methods are taken from the type and not from the value: subclasses override them (`pendulum.DateTime.isoformat`).


def _int(value: int, form: Form, plain: frozenset[type]) -> Any:
    value = int.__int__(value)
    return value if -(2**63) <= value < 2**64 else Ext(_BIG_INT, hex(value).encode())


def _str(value: str, form: Form, plain: frozenset[type]) -> Any:
    value = str.__str__(value)
    if str in plain:
        return value
    try:
        value.encode()
    except UnicodeEncodeError:
        return Ext(_ODD_TEXT, value.encode("utf-8", "surrogatepass"))
    return value


_NAN: Final = float("nan")


def _float(value: float, form: Form, plain: frozenset[type]) -> float:
    # One zero and one NaN: -0.0 equals 0.0, and a NaN has 52 bits that nobody sees.
    return float.__add__(value, 0.0) if value == value else _NAN


def _bytes(value: Any, form: Form, plain: frozenset[type]) -> bytes:
    return b"".join((value,))


def _view(value: memoryview, form: Form, plain: frozenset[type]) -> Any:
    return bytes(value) if value.format == "B" and value.ndim == 1 else form(value.tolist())


# Its traps are off: a signalling NaN is a NaN. Its precision is no matter of memory; it only never rounds.
_EXACT: Final = Context(prec=MAX_PREC, Emin=MIN_EMIN, Emax=MAX_EMAX, traps=[])


_ONE: Final = {"-0": "0", "-NaN": "NaN"}


def _decimal(value: Decimal, form: Form, plain: frozenset[type]) -> Ext:
    text = str(Decimal.normalize(value, _EXACT))
    return Ext(_DECIMAL, _ONE.get(text, text).encode())


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_DAYS: Final = [getattr(timedelta, name).__get__ for name in ("days", "seconds", "microseconds")]


def _duration(value: timedelta) -> bytes:
    return ":".join(str(part(value)) for part in _DAYS).encode()


def _datetime(value: datetime, form: Form, plain: frozenset[type]) -> Ext:
    if value.utcoffset() is None:
        return Ext(_DATETIME, datetime.isoformat(value).encode())
    return Ext(_INSTANT, _duration(datetime.__sub__(value, _EPOCH)))


def _time(value: time, form: Form, plain: frozenset[type]) -> Ext:
    offset = value.utcoffset()
    since = timedelta(hours=value.hour, minutes=value.minute, seconds=value.second, microseconds=value.microsecond) - (
        offset or timedelta()
    )
    # A zone with summer time tells no offset without a date.
    zone = None if value.tzinfo is None else True if offset is not None else value.tzinfo
    return ext(_TIME, form, _duration(since), zone)


def _path(value: PurePath, form: Form, plain: frozenset[type]) -> Ext:
    if isinstance(value, PureWindowsPath):
        return ext(_PATH, form, "windows", value.as_posix().lower())
    return ext(_PATH, form, "posix", str(value))


def _range(value: range, form: Form, plain: frozenset[type]) -> Ext:
    size = len(value)
    return ext(_RANGE, form, size, value.start if size else None, value.step if size > 1 else None)


def _zone(value: Any, form: Form, plain: frozenset[type]) -> Any:
    if isinstance(value, timezone):
        return Ext(_ZONE, _duration(value.utcoffset(None)))
    return unknown(value, form, plain) if value.key is None else Ext(_ZONE, value.key.encode())


# --- containers ------------------------------------------------------------------------------------------------------


def _list(value: Any, form: Form, plain: frozenset[type]) -> list[Any]:
    if {*map(type, value)} <= plain:
        return list(value)
    return [item if type(item) in plain else form(item) for item in value]


_NAMES: Final = {str}


def _dict(value: Mapping[Any, Any], form: Form, plain: frozenset[type]) -> Any:
    if str in plain:
        if {*map(type, value)} <= _NAMES and {*map(type, value.values())} <= plain:
            return dict(value)
        found = {}
        for name, item in value.items():
            if type(name) is not str:
                break
            found[name] = item if type(item) in plain else form(item)
        else:
            return found
    return _pairs([(form(name), form(item)) for name, item in value.items()])


def _pairs(pairs: list[tuple[Any, Any]]) -> Any:
    named = {name: item for name, item in pairs if type(name) is str}
    if len(named) == len(pairs):
        return named
    # Names of other types, and two of one form ("red" beside Color.RED).
    return Ext(_MAPPING, encode(sorted((encode(name), encode(item)) for name, item in pairs)))


def _set(value: Any, form: Form, plain: frozenset[type]) -> Ext:
    return Ext(_SET, encode(sorted(encode(form(item)) for item in value)))


# --- the table -------------------------------------------------------------------------------------------------------


def _address(kind: type) -> Speller:
    name = kind.__name__
    return lambda value, form, plain: Ext(_ADDRESS, f"{name} {value}".encode())


SCALARS: Final[tuple[tuple[type, Speller], ...]] = (
    # Before the types that an Enum may be one of. A member is its value, as it is in JSON.
    (Enum, lambda value, form, plain: form(value.value)),
    (int, _int),
    (str, _str),
    (float, _float),
    (Decimal, _decimal),
    (bytes, _bytes),
    (bytearray, _bytes),
    (memoryview, _view),
    (datetime, _datetime),
    (date, lambda value, form, plain: Ext(_DATE, date.isoformat(value).encode())),
    (time, _time),
    (timedelta, lambda value, form, plain: Ext(_TIMEDELTA, _duration(value))),
    (timezone, _zone),
    (ZoneInfo, _zone),
    (UUID, lambda value, form, plain: Ext(_UUID, value.bytes)),
    (PurePath, _path),
    *((kind, _address(kind)) for kind in (IPv4Interface, IPv6Interface, IPv4Address, IPv6Address)),
    *((kind, _address(kind)) for kind in (IPv4Network, IPv6Network)),
    (re.Pattern, lambda value, form, plain: ext(_PATTERN, form, value.pattern, value.flags)),
    (complex, lambda value, form, plain: ext(_COMPLEX, form, value.real, value.imag)),
    (Fraction, lambda value, form, plain: Ext(_FRACTION, f"{value.numerator:x}/{value.denominator:x}".encode())),
    (range, _range),
    (EllipsisType, lambda value, form, plain: Ext(_SINGLE, b"...")),
    (msgspec.UnsetType, lambda value, form, plain: Ext(_SINGLE, b"UNSET")),
)
"""Looked through in order, for a type and its subclasses."""

CONTAINERS: Final[tuple[tuple[type, Speller], ...]] = (
    (list, _list),
    (tuple, _list),
    (dict, _dict),
    (set, _set),
    (frozenset, _set),
    (deque, _list),
    (array, _list),
    (SimpleNamespace, lambda value, form, plain: _dict(vars(value), form, plain)),
)

INTERFACES: Final[tuple[tuple[type, Speller], ...]] = (
    (Iterator, unknown),
    (Mapping, _dict),
    (Set, _set),
    (Sequence, _list),
    (ValuesView, _list),
)
"""What a class of somebody else's says that it is."""


def _secret(value: Any, form: Form, plain: frozenset[type]) -> Ext:
    return ext(_SECRET, form, value.get_secret_value())


def _url(value: Any, form: Form, plain: frozenset[type]) -> Ext:
    return ext(_URL, form, str(value))


def _color(value: Any, form: Form, plain: frozenset[type]) -> Ext:
    return ext(_COLOR, form, value.as_rgb_tuple())


def _numpy(value: Any, form: Form, plain: frozenset[type]) -> Any:
    # Dates of NumPy become bare numbers, and the widest floats have no form in Python.
    item = value.tolist() if value.dtype.kind in "biufcSUO" else value
    return unknown(value, form, plain) if type(item) is type(value) else form(item)


BY_NAME: Final[dict[str, Speller]] = {
    **dict.fromkeys(("pydantic.types.Secret", "pydantic.types.SecretStr", "pydantic.types.SecretBytes"), _secret),
    **dict.fromkeys(("pydantic.networks._BaseUrl", "pydantic.networks._BaseMultiHostUrl"), _url),
    **dict.fromkeys(("pydantic_core._pydantic_core.Url", "pydantic_core._pydantic_core.MultiHostUrl"), _url),
    **dict.fromkeys(("pydantic.color.Color", "pydantic_extra_types.color.Color"), _color),
    "pydantic.networks.NameEmail": lambda value, form, plain: form({"name": value.name, "email": value.email}),
    **dict.fromkeys(("numpy.ndarray", "numpy.generic"), _numpy),
}
"""Types of libraries that may not be there."""


def rule(cls: type, table: tuple[tuple[type, Speller], ...]) -> Speller | None:
    """Return how a table spells a class; a subclass may hold more than its base, and that counts too."""
    for base, spell in table:
        if issubclass(cls, base):
            return spell if cls is base or base is Enum or table is INTERFACES else _with_state(spell, cls, base)
    return None


def _with_state(spell: Speller, cls: type, base: type) -> Speller:
    own = cls.__mro__[: cls.__mro__.index(base)]
    slots = [
        f"_{part.__name__.lstrip('_')}{name}" if name.startswith("__") and not name.endswith("__") else name
        for part in own
        if part.__module__.partition(".")[0] not in sys.stdlib_module_names  # a path remembers its own text, for one
        for name in _names(part.__dict__.get("__slots__", ()))
        if name not in ("__dict__", "__weakref__")
    ]

    def spelled(value: Any, form: Form, plain: frozenset[type]) -> Any:
        state = {name: getattr(value, name) for name in slots if hasattr(value, name)}
        for name, item in getattr(value, "__dict__", {}).items():
            if not hasattr(cls, name):  # else a cached_property, which comes and goes
                state[name] = item
        content = spell(value, form, plain)
        return Ext(TWOFOLD, encode([content, form(state)])) if state else content

    return spelled


def _names(slots: Any) -> tuple[str, ...]:
    return (slots,) if isinstance(slots, str) else tuple(slots)
