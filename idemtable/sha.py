"""SHA-256 of what is short by CPython's own code, where there is any and nobody has forbidden it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from importlib import import_module
from typing import Any, Final


def _found() -> Callable[[bytes], hashlib._Hash]:
    # OpenSSL looks the algorithm up among its providers for each hash. Alone that costs half a microsecond; in a call,
    # whose caches the database has had meanwhile, seven more than CPython's own takes.
    if not _is_bound_to_openssl():
        for name in ("_sha2", "_sha256"):  # the former since Python 3.12
            if (module := _module(name)) is not None:
                return module.sha256  # type: ignore[no-any-return]
    return hashlib.sha256


def _is_bound_to_openssl() -> bool:
    """Say whether this machine runs in FIPS mode: then whoever runs it wants no code for hashes but what was validated."""
    openssl = _module("_hashlib")
    return openssl is not None and bool(openssl.get_fips_mode())


def _module(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError:  # CPython can be built without each of them
        return None


sha256: Final = _found()
"""Of something short."""

_LONG: Final = 512
"""From about so many bytes on OpenSSL, which has the processor's own instructions for it, is the faster one even after a
statement, when its code has to come back into the caches: measured then, 2.3 microseconds beside 2.6 at 500 bytes, 6.7
beside 23.6 at 8,000."""
_EMPTY: Final = hashlib.sha256()
"""A copy of it spares OpenSSL the search: 0.7 microseconds, which is all that there is to gain at 1,000 bytes."""


def hashed(data: bytes) -> bytes:
    """Return the SHA-256 of something of any length."""
    if len(data) < _LONG:
        return sha256(data).digest()
    found = _EMPTY.copy()
    found.update(data)
    return found.digest()
