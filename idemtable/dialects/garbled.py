"""asyncmy: where the bytes that it writes into a statement arrive as others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from .words import driver_of

if TYPE_CHECKING:
    from sqlalchemy import Connection

_PLAIN_BACKSLASHES: Final = 512
"""The bit of the server's status that says ``NO_BACKSLASH_ESCAPES``."""
_TWO_BYTES: Final = ("big5", "cp932", "gbk", "gb18030", "sjis")
"""Character sets in which the second byte of a letter may be a backslash."""


def garbled(connection: Connection) -> str | None:
    """Say why ids and owners would not arrive as they are, with the cure; ``None`` if they do.

    asyncmy puts a backslash before a quotation mark whatever the session takes that for. A batch would then find its own
    rows to be somebody else's, and give its items to nobody.
    """
    if connection.dialect.driver != "asyncmy":
        return None
    driver: Any = driver_of(connection)
    if driver.server_status & _PLAIN_BACKSLASHES:
        return "asyncmy writes bytes wrongly where sql_mode has NO_BACKSLASH_ESCAPES: take it out, or use a sync driver"
    if (charset := driver.character_set_name()) in _TWO_BYTES:
        return f"asyncmy writes bytes wrongly in the character set {charset}: take charset=utf8mb4 in the engine's URL"
    return None
