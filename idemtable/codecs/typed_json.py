"""Typed JSON: what most results travel as.

msgspec for everything that it knows, Pydantic's own serializer and validator for types that hold Pydantic's models.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import inspect as types

from .codec import Carrier, type_name


class _Typed:
    """msgspec, for everything but Pydantic's types."""

    def __init__(self, returns: Any) -> None:
        # Where the type leaves something to the value (Any, a bare dict) JSON has fewer types than Python.
        self.exact = _is_open(returns)
        self.encode = msgspec.json.Encoder().encode
        self.decode = msgspec.json.Decoder(returns).decode


class _Validated:
    """Pydantic, for types that hold its models."""

    # Its models always compare by value, and its JSON turns NaN into null without a word.
    exact = True

    def __init__(self, returns: Any) -> None:
        from pydantic import TypeAdapter

        adapter = TypeAdapter(returns)
        self.encode = adapter.dump_json
        self.decode = adapter.validate_json


class JsonCodec:
    """Typed JSON: dataclasses, TypedDict, NamedTuple, msgspec Structs, Pydantic models, and the plain types."""

    name = "json"

    def carrier(self, returns: Any) -> Carrier:
        """Return a carrier for the type.

        Raises:
            TypeError: JSON cannot tell its parts apart (a union of two dataclasses), or no decoder knows it (an ORM
                class): it would fail on the first replay, so it fails here.
        """
        if returns is object:
            returns = Any
        try:
            info = types.type_info(returns)
            foreign = list(_foreign(info, set()))
            if any(_is_pydantic(part) for part in foreign):
                return _Validated(returns)
            if foreign:
                raise TypeError(f"no decoder knows {type_name(foreign[0])}")
            return _Typed(returns)
        except ImportError:
            raise
        except Exception as error:  # Pydantic's schema errors are of several families
            raise TypeError(
                f"the result type {type_name(returns)} cannot be carried by the {self.name!r} codec: {error}. Return a "
                f"dataclass or another plain type (not an ORM object), or pass returns= or codec="
            ) from error


def _is_pydantic(type_: Any) -> bool:
    return hasattr(type_, "__pydantic_core_schema__") or hasattr(type_, "__get_pydantic_core_schema__")


def _foreign(info: Any, seen: set[int]) -> Any:
    """Yield the classes inside a type that msgspec does not know by itself."""
    if id(info) in seen:
        return
    seen.add(id(info))
    if isinstance(info, types.CustomType):
        yield info.cls
    elif isinstance(info, types.DataclassType) and _is_pydantic(info.cls):
        yield info.cls  # a Pydantic dataclass validates only through Pydantic
    elif isinstance(info, msgspec.Struct):
        for field in info.__struct_fields__:
            value = getattr(info, field)
            for part in value if isinstance(value, tuple) else (value,):
                if isinstance(part, msgspec.Struct):
                    yield from _foreign(part, seen)


def _is_open(returns: Any) -> bool:
    """Whether the type leaves something to the value (Any, a bare dict): there JSON has fewer types than Python."""
    if returns is Any or returns is object:
        return True
    seen: set[int] = set()

    def search(info: Any) -> bool:
        if id(info) in seen or not isinstance(info, msgspec.Struct):
            return False
        seen.add(id(info))
        if isinstance(info, types.AnyType):
            return True
        values = (getattr(info, field) for field in info.__struct_fields__)
        return any(search(part) for value in values for part in (value if isinstance(value, tuple) else (value,)))

    return search(types.type_info(returns))


JSON: Final = JsonCodec()
