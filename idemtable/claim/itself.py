"""Calls that would wait for a call around them: for its key, by an engine of their own, or for the one lock of a file."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from . import nesting

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from ..model import Request
    from ..settings import Place, Settings


def wants_its_key(place: Place, request: Request, holds: Callable[[Request, bytes], bool]) -> bool:
    """Say whether a call around this one seems to hold the same key, by an engine of its own: then it is not joined.

    Only the database knows whether it is the same table. Two engines of one address may have a search path each.

    Args:
        place: of the table.
        request: what is asked.
        holds: as of `nesting.refuse_reentry`.
    """
    for frame in nesting.around():
        if (
            holds(request, frame.id)
            and frame.nest != place.nest
            and frame.nest[1:] == place.nest[1:]
            and _is_there(frame, place.engine)
        ):
            return True
    return False


def wants_its_lock(settings: Settings) -> bool:
    """Say whether a call around this one works in the same file, whose one lock to write it holds."""
    if not settings.dialect.is_file or settings.dialect.in_memory(settings.engine.url):
        return False
    return any(_is_there(frame, settings.engine) for frame in nesting.around())


def _is_there(frame: nesting.Frame, engine: Engine) -> bool:
    bind = frame.session.bind
    return bind is not None and _address(bind.engine) == _address(engine)


def _address(engine: Engine) -> tuple[Any, ...]:
    url = engine.url
    # Of a program that connects by itself the URL says nothing, and a database in memory is its engine's own.
    is_own = url.database in (None, "", ":memory:")
    # It may be a file's path; a name is none the worse for it.
    name = engine if is_own else os.path.abspath(str(url.database))
    return url.get_backend_name(), url.host, url.port, url.query.get("host"), name
