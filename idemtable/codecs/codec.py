"""What a codec is, and the codecs that are known by name."""

from __future__ import annotations

from typing import Any, Final, Protocol, runtime_checkable

from ..model import EXCEPTION, UNKEPT


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


_registry: Final[dict[str, Codec]] = {}


def register(codec: Codec) -> None:
    """Make rows that were stored with this codec readable; ``IdemTable(codec=…)`` does so by itself.

    Raises:
        TypeError: it is not a `Codec`.
        ValueError: its name is empty or longer than 64 characters, or says in a row that no codec wrote it.
    """
    if not isinstance(codec, Codec):
        raise TypeError(f"{codec!r} is not a codec: it needs a name and a method carrier(type)")
    if not isinstance(codec.name, str) or not 0 < len(codec.name) <= 64:
        raise ValueError(f"a codec's name has 1 to 64 characters, not {codec.name!r}")
    if codec.name in (EXCEPTION, UNKEPT):
        raise ValueError(f"a codec cannot be named {codec.name!r}: with that a row says that no codec wrote it")
    _registry[codec.name] = codec


def named(name: str | None) -> Codec:
    """Return the codec of a row; KeyError if none of this name was registered."""
    return _registry[name or ""]


def type_name(type_: Any) -> str:
    """Return how messages name a type."""
    return type_.__qualname__ if isinstance(type_, type) else str(type_)
