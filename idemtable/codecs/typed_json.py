"""Typed JSON: what most results travel as.

msgspec for everything that it knows, Pydantic's own serializer and validator for types that hold Pydantic's models.
"""

from __future__ import annotations

import inspect
from typing import Any, Final

import msgspec
from msgspec import inspect as types

from ..nature import by_nature
from .codec import Carrier, type_name
from .declared import classes, is_pydantic, refuse_what_never_comes_back


class _Typed:
    """msgspec, for everything but Pydantic's types."""

    def __init__(self, returns: Any) -> None:
        self.encode = msgspec.json.Encoder().encode
        self.decode = msgspec.json.Decoder(returns).decode


class _Validated:
    """Pydantic, for types that hold its models: written and read by the names of their fields, whatever the aliases.

    An alias may be a path or one of several, and the one to be written another than the one to be read.
    """

    def __init__(self, returns: Any) -> None:
        from pydantic import TypeAdapter

        self._adapter: Any = TypeAdapter(returns)
        if "by_name" in inspect.signature(TypeAdapter.validate_json).parameters:
            self._options = {"by_alias": False, "by_name": True}
            self._validate: Any = self._adapter.validate_json
        else:  # before 2.11 a validator cannot be told so, but it can be made so
            from pydantic_core import SchemaValidator

            self._options = {}
            self._validate = SchemaValidator(_without_aliases(self._adapter.core_schema)).validate_json

    def encode(self, value: Any) -> bytes:
        # Without what is computed, which extra="forbid" would refuse. Its warnings are for us: a value is compared.
        data: bytes = self._adapter.dump_json(value, by_alias=False, round_trip=True, warnings=False)
        return data

    def decode(self, data: bytes) -> Any:
        return self._validate(data, **self._options)


_FIELDS: Final = frozenset({"model-field", "dataclass-field", "typed-dict-field"})
_OPAQUE: Final = frozenset({"default", "metadata", "serialization", "expected", "cls"})


def _without_aliases(schema: Any) -> Any:
    """Return a core schema of Pydantic's with the aliases taken out."""
    if isinstance(schema, dict):
        is_field = schema.get("type") in _FIELDS
        return {
            name: part if name in _OPAQUE else _without_aliases(part)
            for name, part in schema.items()
            if not (is_field and name == "validation_alias")
        }
    if isinstance(schema, list | tuple):
        return type(schema)(map(_without_aliases, schema))
    return schema


class JsonCodec:
    """Typed JSON: dataclasses, TypedDict, NamedTuple, msgspec Structs, Pydantic models, and the plain types."""

    name = "json"

    def carrier(self, returns: Any) -> Carrier:
        """Return a carrier for the type.

        Raises:
            TypeError: JSON cannot tell its parts apart (a union of two dataclasses), no decoder knows it (an ORM
                class), or it says too little (a base class): it would fail on the first replay, so it fails here.
        """
        if returns is object:
            returns = Any
        try:
            return _carrier(returns)
        except ImportError:
            raise
        except Exception as error:  # Pydantic's schema errors are of several families
            if not by_nature(error, lambda: _carrier(returns)):
                raise
            raise TypeError(
                f"the result type {type_name(returns)} cannot be carried by the {self.name!r} codec: {error}. Return a "
                f"dataclass or another plain type (not an ORM object), or pass returns= or codec="
            ) from error


def _carrier(returns: Any) -> Carrier:
    found = list(classes(returns))
    refuse_what_never_comes_back(found)
    if any(map(is_pydantic, found)):
        return _Validated(returns)
    for cls in _foreign(types.type_info(returns), set()):
        raise TypeError(f"no decoder knows {type_name(cls)}")
    return _Typed(returns)


def _foreign(info: Any, seen: set[int]) -> Any:
    """Yield the classes inside a type that msgspec does not know by itself."""
    if id(info) in seen:
        return
    seen.add(id(info))
    if isinstance(info, types.CustomType):
        yield info.cls
    elif isinstance(info, msgspec.Struct):
        for field in info.__struct_fields__:
            value = getattr(info, field)
            for part in value if isinstance(value, tuple) else (value,):
                if isinstance(part, msgspec.Struct):
                    yield from _foreign(part, seen)


JSON: Final = JsonCodec()
