"""SHA-256 by CPython's own code, where there is any."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from importlib import import_module
from typing import Final


def _found() -> Callable[[bytes], hashlib._Hash]:
    # OpenSSL looks the algorithm up among its providers for each hash. Alone that costs half a microsecond; in a call,
    # whose caches the database has had meanwhile, seven more than CPython's own takes.
    for name in ("_sha2", "_sha256"):  # the former since Python 3.12
        try:
            return import_module(name).sha256  # type: ignore[no-any-return]
        except ImportError:  # it can be built without
            continue
    return hashlib.sha256


sha256: Final = _found()
