"""Dotted paths into an argument: followed at a call, and held against the declared types when the function is decorated.

A path with a spelling mistake would leave a word out of every call and never say so.
"""

from __future__ import annotations

import inspect
import sys
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from .fields import NOTHING, shape_of

Resolve = Callable[[str, type | None], Any]
"""Evaluates an annotation that is text, of a class or, without one, of the function."""

_WRAPPERS: Final = frozenset(
    {getattr(typing, name, None) for name in ("Annotated", "Final", "Required", "NotRequired", "ReadOnly")} - {None}
)
_BUILT_IN: Final = frozenset(
    {str, int, float, bool, bytes, complex, list, tuple, set, frozenset, Decimal, date, datetime, time, timedelta, UUID}
)
"""Classes whose objects have what the class has, and nothing else."""


def walk(value: Any, path: tuple[str, ...]) -> Any:
    """Follow a path by item of a mapping, else by attribute.

    Returns:
        What is there; ``None`` where a ``None`` stands on the way; `NOTHING` where there is no such name.
    """
    for name in path:
        if value is None or value is NOTHING:
            break
        value = value.get(name, NOTHING) if isinstance(value, Mapping) else getattr(value, name, NOTHING)
    return value


def check(annotation: Any, path: tuple[str, ...], resolve: Resolve, where: str) -> bool:
    """Follow a path through declared types; say whether they allow that nothing is there.

    That is so for the keys of a TypedDict, and where only some members of a union have a field. What no declared type
    tells (``Any``, a ``dict``, a class that fills itself) is accepted here and must be there in a call.

    Args:
        annotation: of the parameter.
        path: the names after the parameter's.
        resolve: evaluates an annotation that is text.
        where: what the program wrote, for the message.

    Raises:
        ValueError: the types have no such path; the message lists what they have.
    """
    optional, told_all, kinds = False, True, list(_kinds(annotation, None, resolve))
    for name in path:
        found: list[tuple[Any, type | None]] = []
        without: list[str] = []
        for kind, owner in kinds:
            cls = typing.get_origin(kind) or kind
            told = _member(kind, cls, name) if isinstance(cls, type) else None
            if told is None:
                return False
            if told is NOTHING:
                without.append(_listed(cls))
                continue
            optional = optional or typing.is_typeddict(cls)
            told_all = told_all and not _is_mapping(cls)
            found += _kinds(told, owner if _is_mapping(cls) else cls, resolve)
        if len(without) == len(kinds) > 0:
            raise ValueError(f"{where} leads nowhere: there is no {name!r} in {', nor in '.join(without)}")
        optional = optional or bool(without)
        kinds = found
    return optional and told_all


def _kinds(hint: Any, owner: type | None, resolve: Resolve) -> Iterator[tuple[Any, type | None]]:
    """Give the types that a declared one stands for, except ``None``, each with the class it was written in."""
    while True:
        if isinstance(hint, typing.ForwardRef):
            hint = hint.__forward_arg__
        if isinstance(hint, str):
            try:
                hint = resolve(hint, owner)
            except Exception:  # a name that only type checkers know
                hint = Any
        origin = typing.get_origin(hint)
        if origin in _WRAPPERS:
            hint = typing.get_args(hint)[0]
        elif hasattr(hint, "__supertype__"):  # a NewType
            hint = hint.__supertype__
        elif isinstance(hint, typing.TypeVar):
            hint = hint.__bound__ or Any
        elif type(hint).__name__ == "TypeAliasType":
            hint = hint.__value__
        else:
            break
    if origin in (typing.Union, types.UnionType):
        for part in typing.get_args(hint):
            yield from _kinds(part, owner, resolve)
    elif hint not in (None, types.NoneType):
        yield hint, owner


def _is_mapping(cls: type) -> bool:
    return issubclass(cls, Mapping) and not typing.is_typeddict(cls)


def _member(kind: Any, cls: type, name: str) -> Any:
    """Return the declared type at a name; `NOTHING` if there is no such name, ``None`` if the class cannot tell."""
    if typing.is_typeddict(cls):
        return cls.__annotations__.get(name, NOTHING)
    if _is_mapping(cls):
        items = typing.get_args(kind)
        return items[1] if len(items) == 2 else Any
    if cls in _BUILT_IN:
        return Any if hasattr(cls, name) else NOTHING
    shape = shape_of(cls)
    if shape is None or not shape.fields or _answers_by_itself(cls):
        return None  # what an __init__ puts into an object, no class tells
    for field in shape.fields:
        if field.name == name:
            return _filled(field.annotation, kind, cls)
    if shape.extra is not None:
        return None
    private = getattr(cls, "__private_attributes__", ())
    return Any if hasattr(cls, name) or name in private or name in _named_at_birth(cls) else NOTHING


def _answers_by_itself(cls: type) -> bool:
    own = [base for base in cls.__mro__ if "__getattr__" in vars(base)]
    return any(not base.__module__.startswith("pydantic.") for base in own)


def _named_at_birth(cls: type) -> set[str]:
    """Return the names that the code mentions which makes an object: some are attributes and no fields."""
    born = ("__init__", "__post_init__", "__attrs_post_init__", "model_post_init")
    codes = [getattr(vars(base).get(name), "__code__", None) for base in cls.__mro__ for name in born]
    return {name for code in codes if code is not None for name in code.co_names}


def _filled(hint: Any, kind: Any, cls: type) -> Any:
    """Put the arguments of a generic class in the place of its variables."""
    known = dict(zip(getattr(cls, "__parameters__", ()), typing.get_args(kind), strict=False))
    if isinstance(hint, typing.TypeVar):
        return known.get(hint, hint)
    free = getattr(hint, "__parameters__", ()) if typing.get_origin(hint) else ()
    return hint[tuple(known.get(name, name) for name in free)] if free else hint


def _listed(cls: Any) -> str:
    shape = None if typing.is_typeddict(cls) else shape_of(cls)
    names = (
        list(cls.__annotations__)
        if typing.is_typeddict(cls)
        else [field.name for field in shape.fields]
        if shape
        else []
    )
    return f"{cls.__name__} (which has {', '.join(names) or 'no fields'})"


def resolver(function: Callable[..., Any]) -> Resolve:
    """Return what evaluates the annotations of a function that is being decorated, and of the classes they name."""
    own = getattr(inspect.unwrap(function), "__globals__", {})

    def resolve(text: str, owner: type | None) -> Any:
        spaces = [vars(sys.modules[base.__module__]) for base in owner.__mro__] if owner else [own]
        local: list[Mapping[str, Any]] = [{}]
        frame = inspect.currentframe()
        while frame is not None:  # types that are local to a function
            if frame.f_globals.get("__package__") != __package__:
                local.append(frame.f_locals)
            frame = frame.f_back
        for space in (*spaces, own):
            for names in local:
                try:
                    return eval(text, space, dict(names))  # noqa: S307 - the program's own text
                except NameError:
                    continue
        raise NameError(text)

    return resolve
