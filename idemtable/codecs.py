"""Results to bytes and back: the codec's contract, the typed JSON codec, the registry by name.

The type comes from the program, never from the row: no pickle, no class name read from a table, no fallback to another
codec. What cannot be decoded raises; it never runs again.
"""

from __future__ import annotations

from typing import Any, Final, Protocol, runtime_checkable

import msgspec
from msgspec import inspect as types

from .errors import ResultNotSerializableError, ResultTooLargeError, ResultUnreadableError


class Carrier(Protocol):
    """Carries values of one type."""

    def encode(self, value: Any) -> bytes:
        """Return the value as bytes; raise any exception for what cannot be carried."""

    def decode(self, data: bytes) -> Any:
        """Return the value; raise any exception for bytes that are not one."""


@runtime_checkable
class Codec(Protocol):
    """A way to store results. `name` goes into each row; change it when old rows can no longer be read."""

    name: str

    def carrier(self, returns: Any) -> Carrier:
        """Return what carries values of this type; raise TypeError for a type it cannot carry."""


class _Typed:
    """msgspec, for everything but Pydantic's types."""

    def __init__(self, returns: Any) -> None:
        self._encoder = msgspec.json.Encoder()
        self._decoder = msgspec.json.Decoder(returns)
        self.encode = self._encoder.encode
        self.decode = self._decoder.decode


class _Validated:
    """Pydantic's own serializer and validator, for types that hold its models."""

    def __init__(self, returns: Any) -> None:
        from pydantic import TypeAdapter

        self._adapter = TypeAdapter(returns)
        self.encode = self._adapter.dump_json
        self.decode = self._adapter.validate_json


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
                raise TypeError(f"no decoder knows {_name(foreign[0])}")
            return _Typed(returns)
        except ImportError:
            raise
        except Exception as error:  # Pydantic's schema errors are of several families
            raise TypeError(
                f"the result type {_name(returns)} cannot be carried by the {self.name!r} codec: {error}. Return a "
                f"dataclass or another plain type (not an ORM object), or pass returns= or codec="
            ) from error


def _name(type_: Any) -> str:
    return type_.__qualname__ if isinstance(type_, type) else str(type_)


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
_registry: dict[str, Codec] = {JSON.name: JSON}


def register(codec: Codec) -> None:
    """Make rows that were stored with this codec readable; ``IdemTable(codec=…)`` does so by itself.

    Raises:
        TypeError: it is not a `Codec`.
        ValueError: its name is empty or longer than 64 characters.
    """
    if not isinstance(codec, Codec):
        raise TypeError(f"{codec!r} is not a codec: it needs a name and a method carrier(type)")
    if not isinstance(codec.name, str) or not 0 < len(codec.name) <= 64:
        raise ValueError(f"a codec's name has 1 to 64 characters, not {codec.name!r}")
    _registry[codec.name] = codec


class Results:
    """Stores and reads the results of one function: its type, its codec, its largest size."""

    def __init__(self, returns: Any, codec: Codec, limit: int, scope: str) -> None:
        self.codec = codec.name
        self._returns = returns
        self._limit = limit
        self._scope = scope
        self._carrier = codec.carrier(returns)
        # Pydantic models always compare by value, and its JSON turns NaN into null without a word.
        self._exact = codec is JSON and (isinstance(self._carrier, _Validated) or _is_open(returns))

    def pack(self, value: Any) -> tuple[bytes, Any]:
        """Return the bytes to store and the value as a replay will give it.

        Raises:
            ResultNotSerializableError: what comes back would not be what went in.
            ResultTooLargeError: more bytes than `max_result_bytes`.
        """
        try:
            data = self._carrier.encode(value)
            decoded = self._carrier.decode(data)
        except Exception as error:
            raise self._refused(value, f"{type(error).__name__}: {error}") from error
        if len(data) > self._limit:
            raise ResultTooLargeError(
                f"the result of {self._scope} has {len(data)} bytes, more than the {self._limit} allowed: return less "
                f"(an id instead of a document), or raise max_result_bytes; the effect was rolled back",
                scope=self._scope,
                size=len(data),
                limit=self._limit,
            )
        if not self._survives(value, decoded, data):
            raise self._refused(value, "it comes back as another value (a set, a tuple, a date or NaN in plain JSON)")
        return data, decoded

    def _survives(self, value: Any, decoded: Any, data: bytes) -> bool:
        try:
            if decoded == value:
                return True
            if self._exact:
                return False
            # Classes without __eq__ compare by identity. MessagePack, unlike JSON, keeps NaN apart from null.
            return msgspec.msgpack.encode(decoded) == msgspec.msgpack.encode(value)
        except Exception:
            return self._carrier.encode(decoded) == data

    def _refused(self, value: Any, why: str) -> ResultNotSerializableError:
        return ResultNotSerializableError(
            f"the result of {self._scope}, a {type(value).__name__}, does not survive storage as "
            f"{_name(self._returns)}: {why}. Declare the return type, or pass returns=; the effect was rolled back",
            scope=self._scope,
        )

    def unpack(self, codec: str | None, data: bytes | None) -> Any:
        """Return a stored result.

        Raises:
            ResultUnreadableError: the codec is not known, or the bytes are not of the declared type. The row stays.
        """
        try:
            carrier = self._carrier if codec == self.codec else _registry[codec or ""].carrier(self._returns)
            return carrier.decode(data or b"")
        except Exception as error:
            why = f"no codec named {codec!r} is registered" if isinstance(error, KeyError) else str(error)
            raise ResultUnreadableError(
                f"the stored result of {self._scope} cannot be read as {_name(self._returns)}: {why}. The row stays "
                f"and the function does not run again; teach the program the old form, or forget the key",
                scope=self._scope,
                codec=codec,
            ) from error
