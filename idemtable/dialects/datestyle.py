"""PostgreSQL's DateStyle: psycopg reads times in ISO's alone, and finds out when it reads one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from .words import driver_of

if TYPE_CHECKING:
    from sqlalchemy import Connection

CURE: Final = "ALTER ROLE … SET datestyle = 'ISO', or make the engine with connect_args={'options': '-c datestyle=ISO'}"
_FOUND: Final = "idemtable_datestyle"
"""Where a driver's connection keeps what was found when it was first looked at."""


def unread_style(connection: Connection) -> str | None:
    """Return the DateStyle of a connection of psycopg's if it cannot read times in it; nothing is sent."""
    return style_of(driver_of(connection))


def style_of(driver: Any) -> str | None:
    """Return that of a driver's connection."""
    style = driver.pgconn.parameter_status(b"DateStyle") or b"ISO"  # some poolers do not tell
    return None if style.startswith(b"ISO") else str(style.decode())


def unread(connection: Connection) -> str | None:
    """Say why results that are stored could not be read again, with the cure; found once for each of the pool's."""
    known = connection.connection.info
    if _FOUND not in known:
        style = unread_style(connection)
        known[_FOUND] = style and f"psycopg cannot read the times that this server sends (DateStyle {style!r}): {CURE}"
    return known[_FOUND]  # type: ignore[no-any-return]
