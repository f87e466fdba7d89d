"""Whether what comes back is what went in: the same value *and* the same types, down to the last field.

``==`` does not say it: a member of an IntEnum equals its number, a frozenset equals a set, a field with ``compare=False``
is never looked at. And it denies it of a local time in the hour that exists twice, which equals no time of another zone.
"""

from __future__ import annotations

import dataclasses
import marshal
from collections import deque
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from functools import lru_cache
from itertools import chain, compress, count, repeat
from operator import attrgetter
from types import GetSetDescriptorType, MemberDescriptorType, NoneType
from typing import Any, Final
from uuid import UUID

from .codec import type_name

Comparison = Callable[[Any, Any], "str | None"]
Opening = Callable[[list[Any], list[Any]], Any]

_PLAIN: Final = frozenset({NoneType, bool, int, float, str, bytes, UUID, date, timedelta})
"""Where ``==`` between two values of the type says it all."""
_FLAT: Final = _PLAIN | {Decimal}
_BUILT_IN: Final = frozenset({dict, list, tuple})


def difference(value: Any, back: Any) -> str | None:
    """Return where `back` is another thing than `value`, or ``None`` where it is the same.

    The text names fields and types and never a value: ``.lines[0].price: Money comes back as Decimal``.
    """
    kind = type(value)
    if kind in _PLAIN:
        if kind is type(back) and value == back:
            return None
    elif (kind in _BUILT_IN and _same_bytes(value, back)) or _alike([value], [back]):
        return None
    return _where(value, back)


def _same_bytes(value: Any, back: Any) -> bool:
    """Say whether things of plain JSON are the same, at the speed of C: marshal writes exact built-in types only."""
    try:
        return marshal.dumps(value, 2) == marshal.dumps(back, 2)  # from 3 on it would tell shared texts from equal ones
    except ValueError:
        return False


def _alike(mine: list[Any], theirs: list[Any]) -> bool:
    """Say whether things are surely the same, level by level: a call for each item takes many times as long."""
    while mine:
        kinds = [*map(type, mine)]
        if kinds != [*map(type, theirs)]:
            return False
        found = {*kinds}
        if found <= _FLAT:
            if Decimal in found:  # to == 2.00 is 2.0
                exact = [kind is Decimal for kind in kinds]
                if not all(map(Decimal.same_quantum, compress(mine, exact), compress(theirs, exact))):
                    return False
            return mine == theirs
        inner: list[Any] = []
        inner_theirs: list[Any] = []
        pairs: Iterable[tuple[type, list[Any], list[Any]]]
        if len(found) == 1:
            pairs = ((kinds[0], mine, theirs),)
        else:
            pairs = zip(kinds, ([value] for value in mine), ([value] for value in theirs), strict=True)
        for kind, some, others in pairs:
            if kind in _PLAIN:
                if some != others:
                    return False
                continue
            compare, opening = _known(kind)
            if opening is None:
                if any(map(compare, some, others)):
                    return False
            elif opening(some, inner) != opening(others, inner_theirs):
                return False
        mine, theirs = inner, inner_theirs
    return True


def _where(value: Any, back: Any) -> str | None:
    kind: Any = type(back)
    if type(value) is not kind and not _becomes(value, kind):
        return f": {type_name(type(value))} comes back as {type_name(kind)}"
    if kind in _PLAIN:
        return None if value == back or (value != value and back != back) else _another(back)
    return _known(kind)[0](value, back)


def _becomes(value: Any, kind: type) -> bool:
    """Say whether the type is a mere spelling of the value's own, so that nobody is surprised to get it back."""
    if kind is float:
        return type(value) is int  # as every type checker takes it
    if kind is bytes:
        return type(value) in (bytearray, memoryview)
    if kind is UUID:
        return isinstance(value, UUID)  # asyncpg has a class of its own
    return hasattr(kind, "__pydantic_generic_metadata__") and _generic(type(value)) is _generic(kind)


def _generic(kind: Any) -> Any:
    """Return what a model is a parametrisation of: ``Page(…)`` is a ``Page[Item]``, and Pydantic finds them equal."""
    return (getattr(kind, "__pydantic_generic_metadata__", None) or {}).get("origin") or kind


def _another(back: Any) -> str:
    return f": another {type_name(type(back))} comes back"


# --- how to compare and how to open the values of a class, found once --------------------------------------------------


@lru_cache(maxsize=1024)
def _known(kind: Any) -> tuple[Comparison, Opening | None]:
    if issubclass(kind, Enum):
        return _enums, None
    if (names := field_names(kind)) is not None:
        # What a model holds beside its fields is part of its value too.
        return _records((*names, "__pydantic_extra__", "__pydantic_private__") if is_model(kind) else names)
    for base, known in _BY_BASE.items():
        if issubclass(kind, base):
            return known
    return _objects, None


def is_model(kind: Any) -> bool:
    """Say whether a class is a model of Pydantic's, without importing it."""
    return isinstance(kind, type) and hasattr(kind, "__pydantic_root_model__")


def field_names(kind: Any) -> tuple[str, ...] | None:
    """Return the names of a record's fields (dataclass, Struct, attrs, Pydantic model); ``None`` if it is no record."""
    if is_model(kind):
        return tuple(kind.model_fields)
    if dataclasses.is_dataclass(kind):
        return tuple(field.name for field in dataclasses.fields(kind))
    if (names := getattr(kind, "__struct_fields__", None)) is not None:
        return tuple(names)
    if (attributes := getattr(kind, "__attrs_attrs__", None)) is not None:
        return tuple(attribute.name for attribute in attributes)
    return None


def _records(names: tuple[str, ...]) -> tuple[Comparison, Opening]:
    paths = [f".{name}" for name in names]
    get: Callable[[Any], tuple[Any, ...]] = attrgetter(*names) if len(names) > 1 else _getter_of_one(names)

    def opening(records: list[Any], into: list[Any]) -> None:
        into += chain.from_iterable(map(get, records))

    return lambda value, back: _each(get(value), get(back), paths), opening


def _getter_of_one(names: tuple[str, ...]) -> Callable[[Any], tuple[Any, ...]]:
    return lambda value: tuple(getattr(value, name) for name in names)


def _each(mine: Iterable[Any], theirs: Iterable[Any], paths: Iterable[str]) -> str | None:
    for path, value, back in zip(paths, mine, theirs, strict=False):
        if (found := _where(value, back)) is not None:
            return path + found
    return None


def _sequences(value: Any, back: Any) -> str | None:
    if len(value) != len(back):
        return _another(back)
    return _each(value, back, (f"[{number}]" for number in count()))


def _open_sequences(some: list[Any], into: list[Any]) -> list[int]:
    into += chain.from_iterable(some)
    return [*map(len, some)]


def _mappings(value: Any, back: Any) -> str | None:
    keys = {key: key for key in back}
    if value.keys() != keys.keys():
        return _another(back)
    found = _each(value, (keys[key] for key in value), repeat(" (a key)"))
    return found or _each(value.values(), (back[key] for key in value), repeat("[…]"))


def _open_mappings(some: list[Any], into: list[Any]) -> list[int]:
    into += chain.from_iterable(some)
    into += chain.from_iterable([mapping.values() for mapping in some])
    return [*map(len, some)]


def _sets(value: Any, back: Any) -> str | None:
    items = {item: item for item in back}
    return _another(back) if value != back else _each(value, (items[item] for item in value), repeat(" (an item)"))


def _enums(value: Any, back: Any) -> str | None:
    return None if value is back else _another(back)


def _times(value: Any, back: Any) -> str | None:
    if value.tzinfo is back.tzinfo is UTC:
        same = value == back
    else:  # to == no two times of different zones are equal in the hour that exists twice
        same = (
            value.utcoffset() == back.utcoffset()
            and value.replace(tzinfo=None) == back.replace(tzinfo=None)
            and (value.tzinfo is None) == (back.tzinfo is None)
        )
    return None if same else _another(back)


def _decimals(value: Decimal, back: Decimal) -> str | None:
    if Decimal.__str__(value) != Decimal.__str__(back):  # to == 2.00 is 2.0, and NaN is nothing
        return _another(back)
    return None if type(value) is Decimal else _what_is_held(value, back)


def _objects(value: Any, back: Any) -> str | None:
    if value is back or value == back:
        return None
    # Without an __eq__ of its own an object is what it holds; one that shows nothing may hold anything.
    if any("__eq__" in vars(cls) for cls in type(value).__mro__[:-1]) or not (
        hasattr(value, "__dict__") or held(value)
    ):
        return _another(back)
    return _what_is_held(value, back)


def _what_is_held(value: Any, back: Any) -> str | None:
    mine, theirs = held(value), held(back)
    if mine.keys() != theirs.keys():
        return _another(back)
    return _each(mine.values(), (theirs[name] for name in mine), (f".{name}" for name in mine))


def held(value: Any) -> dict[str, Any]:
    """Return what an object holds in its ``__dict__``, and beside it: ``__slots__``, the filename of an OSError."""
    found = dict(getattr(value, "__dict__", {}))
    for name, member in members(type(value)).items():
        try:
            found[name] = member.__get__(value)
        except AttributeError:  # a slot that was never set
            continue
    return found


def members(kind: type) -> dict[str, Any]:
    """Return the descriptors of what the objects of a class keep outside of their ``__dict__``."""
    # Those of the second kind are computed, but for a few exceptions'.
    sorts = (MemberDescriptorType, *((GetSetDescriptorType,) if issubclass(kind, BaseException) else ()))
    return {
        name: member
        for cls in reversed(kind.__mro__)
        if cls is not BaseException
        for name, member in vars(cls).items()
        if isinstance(member, sorts) and not name.startswith("__")
    }


_BY_BASE: Final[dict[type, tuple[Comparison, Opening | None]]] = {
    tuple: (_sequences, _open_sequences),
    list: (_sequences, _open_sequences),
    deque: (_sequences, _open_sequences),
    dict: (_mappings, _open_mappings),
    set: (_sets, None),
    frozenset: (_sets, None),
    datetime: (_times, None),
    time: (_times, None),
    Decimal: (_decimals, None),
}
