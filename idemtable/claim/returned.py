"""What a business may return in place of its value, to say what is to become of its transaction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class RollBack:
    """What a business returns that wants its writes undone and its key free, without raising: the value is given on."""

    value: Any


@dataclass(frozen=True, slots=True)
class Unkept:
    """What a business returns whose effect is to be committed and whose answer is not to be kept, as for its size.

    The caller gets the value. A later call with the key runs nothing, and has no answer to give.
    """

    value: Any
    frees: bool = False
    """Whether the key is free again: a later call with it runs. A token is spent all the same."""
