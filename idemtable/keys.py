"""Who a call is: validated names, and the digest that is the primary key."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final
from uuid import UUID

from .errors import InvalidKeyError, KeyRejectedError, MissingKeyError, MissingTenantError
from .sha import sha256

MAX_BYTES: Final = 255
"""The longest key, scope or tenant in bytes of UTF-8: what Stripe takes, and what VARCHAR(255) holds in any charset."""

# C0, DEL and C1. A newline in a key splits log lines and headers; PostgreSQL refuses NUL in text altogether.
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f]")


def _fault(value: object) -> str | None:
    """Say what is wrong with a name; the text never holds the value itself."""
    if not isinstance(value, str):
        return f"must be a str or a uuid.UUID, not {type(value).__name__}"
    if not value or value.isspace():
        return "must not be empty or white space alone"
    if len(value) > MAX_BYTES:
        return f"has {len(value)} characters; at most {MAX_BYTES} bytes of UTF-8 are allowed"
    if value.isascii() and value.isprintable():  # what most are, seen in a quarter of the time
        return None
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        return "holds a lone surrogate, which is not text"
    if size > MAX_BYTES:
        return f"has {size} bytes of UTF-8; at most {MAX_BYTES} are allowed"
    if _CONTROL.search(value):
        return "holds a control character"
    return None


_CURE: Final = "pass one, made once by the client and kept across its retries"


def checked_key(key: object, where: str = "the call", what: str = "key", cure: str = _CURE) -> str:
    """Return the key as text, exactly as given: nothing is trimmed or folded.

    Args:
        key: the key.
        where: what it was looked for in, for the message.
        what: what the program calls it, for the message.
        cure: what is to be said where there is none.

    Raises:
        MissingKeyError: `key` is ``None``.
        InvalidKeyError: it is not a ``str`` of 1 to 255 bytes without control characters, nor a ``uuid.UUID``.
    """
    if key is None:
        raise MissingKeyError(f"{where} has no {what}: {cure}")
    if isinstance(key, UUID):
        return str(key)
    if fault := _fault(key):
        raise InvalidKeyError(f"the {what} {fault}")
    return str.__str__(key)


def checked_keys(keys: Sequence[object], where: str, before: int = 0, cure: str = _CURE) -> list[str]:
    """Return many keys as text; see `checked_key`. A note on the error says which it was, counted from `before`.

    Args:
        keys: all of them.
        where: what each was looked for in, for the message.
        before: how many came before these.
        cure: what is to be said where there is none.
    """
    # What most keys are is seen of all at once, in a tenth of the time.
    if {str}.issuperset(map(type, keys)):
        texts: list[str] = list(keys)  # type: ignore[arg-type]
        joined = "".join(texts)
        if (
            joined.isascii()
            and joined.isprintable()
            and all(map(str.strip, texts))
            and max(map(len, texts), default=0) <= MAX_BYTES
        ):
            return texts
    found = []
    for number, key in enumerate(keys, before + 1):
        try:
            found.append(checked_key(key, where, cure=cure))
        except KeyRejectedError as error:
            error.add_note(f"It is number {number} of the batch.")
            raise
    return found


_UNUSABLE_TENANT: Final = "What says for whom the request is must be text of 1 to 255 bytes without control characters."


def checked_tenant(tenant: object) -> str:
    """Return the tenant as text.

    Raises:
        MissingTenantError: it is ``None`` or empty. Callers without a tenant would share one another's replies.
        InvalidKeyError: as for a key.
    """
    if tenant is None or tenant == "":
        raise MissingTenantError("the call has no tenant: refuse it, or leave tenant= out to use one shared space")
    if isinstance(tenant, UUID):
        return str(tenant)
    if fault := _fault(tenant):
        raise InvalidKeyError(f"the tenant {fault}", detail=_UNUSABLE_TENANT)
    return str.__str__(tenant)


def checked_scope(scope: object) -> str:
    """Return the scope, a name that the program chose.

    Raises:
        TypeError: it is not a ``str``.
        ValueError: it is empty, longer than 255 bytes of UTF-8, or holds control characters.
    """
    if not isinstance(scope, str):
        raise TypeError(f'a scope is a name for what is done once, such as "orders.create", not {scope!r}')
    if fault := _fault(scope):
        raise ValueError(f"the scope {fault}")
    return str.__str__(scope)


def digest(tenant: str | None, scope: str, key: str) -> bytes:
    """Return the primary key of (tenant, scope, key): the first 16 bytes of a SHA-256.

    A digest has a fixed size and no collation: under MariaDB's utf8mb4_bin, "a" and "a " are one key. Every part
    carries its length, or ("a:b", "c") and ("a", "b:c") would be one too; no tenant differs from every tenant.
    """
    return _digest(_front(tenant, scope), key.encode())


def digests(tenant: str | None, scope: str, keys: Iterable[str]) -> list[bytes]:
    """Return the primary keys of many keys of one scope; see `digest`."""
    front = _front(tenant, scope)
    return [_digest(front, key) for key in map(str.encode, keys)]


def _digest(front: bytes, key: bytes) -> bytes:
    return sha256(front + len(key).to_bytes(4, "big") + key).digest()[:16]


@lru_cache(1024)
def _front(tenant: str | None, scope: str) -> bytes:
    return (b"\xff\xff\xff\xff" if tenant is None else _with_length(tenant)) + _with_length(scope)


def _with_length(text: str) -> bytes:
    data = text.encode()
    return len(data).to_bytes(4, "big") + data
