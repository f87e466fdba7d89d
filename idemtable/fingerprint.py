"""The fingerprint of what a call carries: equal payloads have one, whoever writes them down, and unlike ones do not.

A payload is put into its form (`forms.py`; for classes with fields, here), encoded as MessagePack, and hashed.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, TypeVar

import msgspec
from msgspec import Raw
from msgspec.msgpack import Ext

from .fields import NOTHING, Field, Shape, introduced, shape_of
from .forms import (
    BY_NAME,
    CAREFUL,
    CONTAINERS,
    HOW,
    INTERFACES,
    PLAIN,
    SCALARS,
    TWOFOLD,
    Form,
    Speller,
    encode,
    rule,
    unknown,
)
from .nature import by_nature
from .sha import hashed

_T = TypeVar("_T")

NEWEST: Final = 1
"""The version that new rows are written with: the first byte of a fingerprint."""


def fingerprint(payload: Any, version: int = NEWEST, defaults: Mapping[str, Default] | None = None) -> bytes:
    """Return the version and 31 bytes of SHA-256, the same in every process and for every order of names.

    Args:
        payload: scalars, containers, dataclasses, msgspec Structs, Pydantic models, in any nesting.
        version: that of the row it is to be compared with.
        defaults: of names in `payload`, a dict; what is at its default is left out.

    Raises:
        TypeError: a value has no canonical form (an open file, an ORM object, an iterator, a list that contains
            itself); the message names ``payload=``.
        ValueError: there is no such version here.
    """
    try:
        mark, encoded = VERSIONS[version]
    except KeyError:
        raise ValueError(f"there is no fingerprint of version {version} here: a newer release wrote it") from None
    return mark + hashed(encoded(payload, defaults))[:31]


def _encoded(payload: Any, defaults: Mapping[str, Default] | None = None) -> bytes:
    try:
        return encode(_kept(payload, defaults, payload, _form, PLAIN) if defaults else _form(payload))
    except (OverflowError, UnicodeEncodeError):  # a number or a text that MessagePack has no place for
        pass
    except RecursionError:
        return bytes(_unrolled(payload, defaults))
    try:
        return encode(_kept(payload, defaults, payload, _careful_form, CAREFUL) if defaults else _careful_form(payload))
    except RecursionError:
        return bytes(_unrolled(payload, defaults))


# A version that was released stays for as long as a row may live: rows are compared in their own.
VERSIONS: Final = {1: (b"\x01", _encoded)}


def _form(value: Any) -> Any:
    return value if type(value) in PLAIN else _speller[type(value)](value, _form, PLAIN)


def _careful_form(value: Any) -> Any:
    return value if type(value) in CAREFUL else _speller[type(value)](value, _careful_form, CAREFUL)


class PerClass(dict[type, _T]):
    """What was found out of classes, while there is room: a program may make any number of them."""

    def __init__(self, find: Callable[[type], _T]) -> None:
        self._find = find

    def __missing__(self, cls: type) -> _T:
        found = self._find(cls)
        if len(self) >= 4096:
            self.clear()
        self[cls] = found
        return found


@PerClass
def _speller(cls: type) -> Speller:
    if hasattr(cls, "__mapper__"):  # its columns may be read from the database when they are looked at
        return unknown
    if spell := rule(cls, SCALARS):
        return spell
    for base in cls.__mro__:
        if spell := BY_NAME.get(f"{base.__module__}.{base.__qualname__}"):
            return spell
    if shape := shape_of(cls):
        return _structure(cls, shape)
    return rule(cls, CONTAINERS) or rule(cls, INTERFACES) or unknown


_EXACT: Final = frozenset(cls for cls, _ in CONTAINERS)
_BY_INTERFACE: Final = frozenset(spell for _, spell in INTERFACES)


@PerClass
def has_form(cls: type) -> bool:
    """Say whether the values of a class have a form by what they are, and not by an interface, which may be any code."""
    return cls in _EXACT or _speller[cls] not in _BY_INTERFACE


# --- what is at its default ------------------------------------------------------------------------------------------


class Default:
    """A default, and whether a value is at it: whether both have one form, for ``0 == False`` and ``[1] == [True]``."""

    def __init__(self, value: Any) -> None:
        self.value = value
        try:
            self._data: bytes | None = _encoded(value)
        except Exception:  # a sentinel without a form: only itself is at it
            self._data = None
        self.plain: type | None = type(value) if type(value) in PLAIN else None
        """The type, where equal values of it have one form."""
        self.itself = value if self.plain or self._data is None else NOTHING
        """What is at the default without a further look. Never a list: it may have been filled meanwhile."""
        form = None if self._data is None else msgspec.msgpack.decode(self._data)
        self._size: int | None = len(form) if isinstance(form, list | dict) else None

    def has(self, form: Any, owner: Any) -> bool:
        """Say whether `form`, of something that `owner` holds, is the default's."""
        if type(form) in (list, dict) and len(form) != self._size:
            return False
        return _data(form) == self._data


class _Made(Default):
    """A default that a factory makes. Where it makes another one each time, no value is at it."""

    def __init__(self, field: Field) -> None:
        super().__init__(NOTHING)
        self._make: Any = field.factory
        self._dependent = field.dependent

    def has(self, form: Any, owner: Any) -> bool:
        arguments = (dict(owner.__dict__),) if self._dependent else ()
        data = _data(form)
        try:
            # Twice: once, a counter may happen to make this very value.
            return all(_encoded(self._make(*arguments)) == data for _ in range(2))
        except Exception as error:
            if not by_nature(error, lambda: _encoded(self._make(*arguments))):
                raise
            return False


_CONSTANT: Final = frozenset({list, dict, set, frozenset, tuple, str, bytes, int, float, bool, deque, OrderedDict})
"""Factories that need not be asked each time."""


def _data(form: Any) -> bytes:
    return bytes(form) if type(form) is Raw else encode(form)


@PerClass
def _defaults(cls: type) -> Mapping[str, Default]:
    """Return the defaults of a class's fields, as the class says that first had each field.

    One that a subclass replaces counts, or two subclasses would be alike that differ in nothing but their defaults. So
    does a field that can only be one word: it tells the members of a union apart.
    """
    shape = shape_of(cls)
    first = introduced(cls)
    fields = [] if shape is None else [first[field.name] for field in shape.fields if not field.is_tag]
    return {field.name: _default(field) for field in fields if not (field.is_required or field.is_tag)}


def _default(field: Field) -> Default:
    if field.factory is None:
        return Default(field.default)
    return Default(field.factory()) if field.factory in _CONSTANT else _Made(field)


def default_of(cls: type, name: str) -> Default | None:
    """Return the default of a class's field; ``None`` if it has none, or the class no such field."""
    return _defaults[cls].get(name)


def _structure(cls: type, shape: Shape) -> Speller:
    names = {field.name for field in shape.fields}
    defaults = _defaults[cls]
    tag = {} if shape.tag is None else dict([shape.tag])
    read, beside = shape.read, shape.extra

    def spell(value: Any, form: Form, plain: frozenset[type]) -> Any:
        found = _kept(read(value), defaults, value, form, plain)
        if tag:
            found.update(tag)
        extra = beside(value) if beside is not None else None
        if not extra:
            return found
        if extra.keys().isdisjoint(names):
            # As if they were fields, which a later release may make them.
            return found | {name: form(item) for name, item in extra.items()}
        return Ext(TWOFOLD, encode([found, form(extra)]))

    return spell


def _kept(
    values: Mapping[str, Any], defaults: Mapping[str, Default], owner: Any, form: Form, plain: frozenset[type]
) -> dict[str, Any]:
    """Return the forms of what `owner` holds, without what is at its default."""
    found = {}
    for name, value in values.items():
        cls = type(value)
        default = defaults.get(name)
        if default is None:
            found[name] = value if cls in plain else form(value)
        elif not (value is default.itself or (cls is default.plain and value == default.value)):
            spelled = value if cls in plain else form(value)
            if cls is default.plain or not default.has(spelled, owner):
                found[name] = spelled
    return found


# --- deep nests ------------------------------------------------------------------------------------------------------


class _Frame:
    """One value, and the forms of its parts as far as they are known."""

    def __init__(self, value: Any, spell: Speller) -> None:
        self.value, self._spell = value, spell
        self.forms: list[Raw] = []
        parts: list[Any] = []

        def note(part: Any) -> Any:
            if _is_flat[type(part)]:
                return _careful_form(part)
            parts.append(part)
            return None

        spell(value, note, CAREFUL)
        self.parts: Iterator[Any] = iter(parts)

    def close(self) -> Raw:
        forms = iter(self.forms)

        def known(part: Any) -> Any:
            return _careful_form(part) if _is_flat[type(part)] else next(forms)

        return Raw(encode(self._spell(self.value, known, CAREFUL)))


@PerClass
def _is_flat(cls: type) -> bool:
    return cls in CAREFUL or any(issubclass(cls, base) for base, _ in SCALARS)


def _unrolled(payload: Any, defaults: Mapping[str, Default] | None = None) -> Raw:
    """Do the same without Python's stack, which ends after a few hundred levels, and find what contains itself.

    Each value is spelled twice: once to learn its parts, and again when their forms are known.
    """

    def arguments(value: Any, form: Form, plain: frozenset[type]) -> Any:
        return _kept(value, defaults or {}, value, form, plain)

    frames = [_Frame(payload, arguments if defaults else _speller[type(payload)])]
    above = {id(payload)}
    while True:
        frame = frames[-1]
        for part in frame.parts:
            if id(part) in above:
                raise TypeError(f"cannot take the fingerprint of a {type(part).__name__} that contains itself: {HOW}")
            above.add(id(part))
            frames.append(_Frame(part, _speller[type(part)]))
            break
        else:
            form = frame.close()
            frames.pop()
            above.discard(id(frame.value))
            if not frames:
                return form
            frames[-1].forms.append(form)
