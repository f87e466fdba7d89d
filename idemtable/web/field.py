"""The ``Idempotency-Key`` header field: draft-ietf-httpapi-idempotency-key-header-07, and what clients really send."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, Final, Literal

from ..errors import InvalidKeyError
from ..keys import MAX_BYTES, checked_key

try:
    import http_sf
except ImportError as error:
    raise ImportError('idemtable.web needs http-sf: pip install "idemtable[web]"') from error

Syntax = Literal["lenient", "strict"]

_QUOTED: Final = r'"([!#-\[\]-~]|\\["\\])([ !#-\[\]-~]|\\["\\]){0,254}"'
_BARE: Final = r"[!#-+\--~]{1,255}"
PATTERNS: Final[dict[Syntax, str]] = {"strict": f"^{_QUOTED}$", "lenient": f"^({_QUOTED}|{_BARE})$"}
"""For people and their tools. All that fits is a key. Keys that begin with a blank or have parameters fit none of them."""

_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""Of RFC 9110: what the name of a field is, and that of a method."""

_LONGEST: Final = 4 * MAX_BYTES
"""Of a line that is looked at: a String whose characters are all escaped is twice as long, and has parameters that nobody
reads. The parser would take megabytes."""

_ONCE: Final = "The idempotency key was sent more than once; send it in one header."
_ASCII: Final = "The idempotency key must consist of ASCII characters."
_QUOTES: Final = "The idempotency key cannot be read; send it in double quotes, as one String of RFC 9651."
_NO_STRING: Final = "not a String of RFC 9651, which stands in quotes"


def key_of(lines: Sequence[str], syntax: Syntax) -> str | None:
    """Return the key that a request's lines of the field carry, or ``None`` where there is none.

    The draft asks for a String of RFC 9651, in quotes. Most clients (Stripe's and Adyen's among them) send the bare text,
    which the lenient syntax takes for the same key. Parameters are no part of it.

    Raises:
        InvalidKeyError: two lines or a list, another type, an empty or too long text, what is not ASCII.
    """
    if not lines:
        return None
    if len(lines) > 1:
        raise InvalidKeyError("the header with the key was sent more than once: send one", detail=_ONCE)
    line = lines[0].strip(" \t")
    if not line:
        raise InvalidKeyError("the header with the key is empty")
    if len(line) > _LONGEST:
        raise InvalidKeyError(f"the header with the key is longer than {_LONGEST} characters")
    if syntax == "strict" or line.startswith('"'):
        return checked_key(_string(line))
    # Of what is no String: a list or a text in other quotes has no meaning that all would agree on.
    if line.startswith('%"') or not all("!" <= character <= "~" and character not in '",' for character in line):
        raise _unreadable(line, "neither a String in quotes nor visible ASCII without quotes and commas")
    return checked_key(line)


def checked_field(name: object, option: str) -> str:
    """Return the name of a header field.

    Raises:
        TypeError: not a ``str``.
        ValueError: no field can have it, so that none would ever be found.
    """
    if not isinstance(name, str):
        raise TypeError(f"{option}= takes the name of a header field, not {name!r}")
    if not _TOKEN.fullmatch(name):
        raise ValueError(
            f"{option}= takes the name of a header field, which has letters, digits and hyphens but no blank and no colon, "
            f"not {name!r}"
        )
    return name


def checked_syntax(syntax: object) -> Syntax:
    """Return the syntax of a key's line.

    Raises:
        ValueError: there is no such syntax.
    """
    for known in PATTERNS:
        if syntax == known:
            return known
    raise ValueError(f"syntax= is 'lenient' or 'strict', not {syntax!r}")


def checked_methods(names: object) -> frozenset[str]:
    """Return the names of methods, in capitals.

    Raises:
        TypeError: not a collection of ``str``.
        ValueError: there is none, or no method can have one of them: nothing would be protected.
    """
    found = _names(names, "methods", "POST")
    if not found or not all(_TOKEN.fullmatch(name) for name in found):
        raise ValueError(f"methods= takes one or more names such as 'POST', not {found!r}")
    return frozenset(name.upper() for name in found)


def checked_fields(names: object, option: str) -> frozenset[str]:
    """Return the names of header fields, in small letters; one name may be a collection of itself.

    Raises:
        TypeError, ValueError: as of `checked_field`, or it is no collection.
    """
    found = _names([names] if isinstance(names, str) else names, option, "X-Total")
    return frozenset(checked_field(name, option).lower() for name in found)


def _names(given: object, option: str, example: str) -> list[str]:
    # Looked through once: of an iterator nothing would be left for whoever asks next.
    names = [*given] if isinstance(given, Iterable) and not isinstance(given, str | bytes) else [None]
    if not all(isinstance(name, str) for name in names):
        raise TypeError(f"{option}= takes a collection of names such as ({example!r},), not {given!r}")
    return names  # type: ignore[return-value]


def _string(line: str) -> str:
    try:
        item: Any = http_sf.parse(line.encode("ascii"), tltype="item")
    except (http_sf.StructuredFieldError, UnicodeEncodeError):
        raise _unreadable(line, _NO_STRING) from None
    text = item[0]
    if type(text) is not str:  # a Token and a DisplayString are others
        raise _unreadable(line, _NO_STRING)
    return text


def _unreadable(line: str, what: str) -> InvalidKeyError:
    message = f"the header's key is {what}"
    if not line.isascii():
        return InvalidKeyError(message, detail=_ASCII)
    # Of a control character the usual sentence tells: no quotes would help.
    return InvalidKeyError(message, detail=_QUOTES) if line.isprintable() else InvalidKeyError(message)
