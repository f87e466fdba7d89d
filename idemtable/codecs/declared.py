"""What a declared type is made of, looked at when a function is decorated."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, ClassVar, get_args, get_origin, get_type_hints

from .codec import type_name
from .same import field_names, is_model


def classes(declared: Any) -> Iterator[type]:
    """Yield every class that a type is made of, those of its fields included."""
    waiting = [declared]
    seen: list[Any] = []
    while waiting:
        part = waiting.pop()
        if any(part is known for known in seen):
            continue
        seen.append(part)
        waiting += [get_origin(part), *get_args(part)]
        waiting += [getattr(part, name) for name in ("__value__", "__supertype__") if hasattr(part, name)]
        if isinstance(part, type):
            yield part
            waiting += _fields(part)


def _fields(cls: Any) -> list[Any]:
    if is_model(cls):
        return [field.annotation for field in cls.model_fields.values()]
    # A TypedDict and a NamedTuple are told by these.
    if field_names(cls) is None and not hasattr(cls, "__required_keys__") and not hasattr(cls, "_field_defaults"):
        return []
    hints: dict[str, Any] = {}
    with suppress(Exception):  # a name that is not there is for the decoder to complain about
        hints = get_type_hints(cls, include_extras=True)
    return [hint for hint in hints.values() if get_origin(hint) is not ClassVar]


def refuse_what_never_comes_back(found: list[type]) -> None:
    """Raise TypeError for a class of which no decoder can make what was returned."""
    for cls in found:
        if hasattr(cls, "__mapper__") or hasattr(cls, "_sa_class_manager"):
            raise TypeError(f"{type_name(cls)} is an ORM class, whose objects belong to a session")
        if is_too_wide(cls):
            raise TypeError(
                f"{type_name(cls)} stands for whatever derives from it, and nothing says which class to make: name the "
                f"one that is returned, or a union of them"
            )


def is_too_wide(cls: Any) -> bool:
    """Say whether a record's class is a base that others fill: abstract, or without any field and with subclasses."""
    names = field_names(cls)
    if names is None:
        return False
    if inspect.isabstract(cls):
        return True
    open_ended = is_model(cls) and cls.model_config.get("extra") == "allow"
    return not names and not open_ended and bool(cls.__subclasses__())


def is_pydantic(cls: Any) -> bool:
    """Say whether only Pydantic can validate a class."""
    return hasattr(cls, "__pydantic_core_schema__") or hasattr(cls, "__get_pydantic_core_schema__")
