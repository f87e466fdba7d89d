"""What a decoder complains of, without the value that it quotes: a log may hold the error, and not the result."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import chain
from typing import Any, Final

import msgspec

from .declared import classes
from .same import field_names

_QUOTES: Final = re.compile(r"(Invalid (?:enum )?value) .*?( - at `(?:key` in `)?\$[^`]*`)?\Z", re.DOTALL)


def unquoted(error: Exception, declared: Any) -> Exception:
    """Return an error of decoding, or one that says the same without a value, if it is of msgspec or Pydantic.

    Args:
        error: that was raised.
        declared: the type that was to be made.
    """
    if isinstance(error, msgspec.ValidationError):
        text = str(error)
        shown = _QUOTES.sub(r"\1\2", text)
        return error if shown == text else ValueError(shown)
    if type(error).__name__ == "ValidationError" and type(error).__module__.startswith("pydantic_core."):
        return ValueError(_places(error, declared))
    return error


def _places(error: Any, declared: Any) -> str:
    """Return where a validation has failed and at what. The words may be those of the application's own validators."""
    known = set(chain.from_iterable(map(_names, classes(declared))))
    return "; ".join(
        "".join(f".{part}" if part in known else "[…]" for part in one["loc"]) + f" ({one['type']})"
        for one in error.errors(include_url=False, include_context=False, include_input=False)
    ).strip()


def _names(cls: Any) -> Iterable[str]:
    if (names := field_names(cls)) is not None:
        return names
    return (*getattr(cls, "__required_keys__", ()), *getattr(cls, "__optional_keys__", ()))
