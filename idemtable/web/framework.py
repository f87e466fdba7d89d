"""What the helpers for frameworks share."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any


def asked(subject: Callable[..., Any], request: Any) -> Any:
    """Return what a program's function says of a request; one without parameters is called without it."""
    return subject(request) if inspect.signature(subject).parameters else subject()
