"""Results and remembered exceptions to bytes and back, and the seal under both.

The type comes from the program, never from the row: no pickle, no class name read from a table, no fallback to another
codec. What cannot be decoded raises; it never runs again.
"""

from __future__ import annotations

from .codec import Carrier, Codec, register
from .results import Results
from .seal import Seal, SealContext, opened, sealed
from .typed_json import JSON, JsonCodec

__all__ = [
    "JSON",
    "Carrier",
    "Codec",
    "JsonCodec",
    "Results",
    "Seal",
    "SealContext",
    "opened",
    "register",
    "sealed",
]

register(JSON)
