"""What `doctor` and `verify` ask of a database, from outside of any call: in one module for each, in its own words.

What a module here asks are settings and views; it writes nothing. What a role may not see is left out, or said to be.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Final

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from ...model import Finding

CHARSET: Final = (
    "text does not come back as it was sent: give the connection the character set utf8mb4 (?charset=utf8mb4 in the URL) "
    "or UTF8 (client_encoding), and the database an encoding that has all characters"
)
CONNECTIONS: Final = (
    "there are fewer connections to be had than were asked for: --callers takes fewer, and an application's pool_size and "
    "max_overflow, times its processes, must stay below what the server and its user may have"
)


class Catalogue:
    """One database's answers; here those of one that tells nothing."""

    @classmethod
    def examine(cls, connection: Connection, table: str, schema: str | None) -> list[Finding]:
        """Say what the catalogue tells of the promises; nothing is written, and the transaction stays usable.

        Args:
            connection: in a transaction.
            table: of keys, which may not be there.
            schema: of the table.
        """
        return []

    @classmethod
    def unread(cls, connection: Connection) -> Finding | None:
        """Say why the driver cannot read the answers here, if it cannot: then nothing else is asked."""
        return None

    @classmethod
    def isolation(cls, level: str) -> Finding | None:
        """Judge an isolation level that own transactions would run at; ``None`` where there is but one."""
        return None

    @classmethod
    def fails_over(cls, connection: Connection) -> str | None:
        """Say by what another server could take this one's place; ``None`` where nothing tells of any."""
        return None

    @classmethod
    def lockless(cls, connection: Connection) -> str | None:
        """Say why locks do not keep others out where the database is, with the cure; ``None`` if they do."""
        return None

    # --- a server, its connections and their sessions ---------------------------------------------------------------------

    number: ClassVar[str | None] = None
    """Asks for the server's number of a connection; ``None`` where there is no server."""
    ending: ClassVar[str] = ""
    """Has the server end the connection of a ``{number}``."""
    ended: ClassVar[frozenset[Any]] = frozenset()
    """Codes by which it says that there is no connection of that number any more."""
    note: ClassVar[tuple[str, str] | None] = None
    """Gives the session a variable of the value ``{word}``, and reads it again; ``None`` where a session has none."""
    cures: ClassVar[Mapping[Any, str]] = {}
    """Codes by which an error tells what is wrong between a program and the database, and the cure."""

    @classmethod
    def leans_on_session(cls, connection: Connection) -> bool:
        """Say whether a call sets something of the session's, so that its transactions must stay on one connection."""
        return False
