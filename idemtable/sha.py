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

_LONG: Final = 2048
"""From about so many bytes on OpenSSL, which has the processor's own instructions for it, is the faster one even after a
statement, when its code has to come back into the caches: measured then, 6.1 microseconds beside 6.4 at 2,000 bytes, 9.1
beside 22.6 at 8,000."""


def hashed(data: bytes) -> bytes:
    """Return the SHA-256 of something of any length."""
    return (sha256 if len(data) < _LONG else hashlib.sha256)(data).digest()
