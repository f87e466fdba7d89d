"""MariaDB through PyMySQL: the last statement and COMMIT in one packet, as a block that the server decides about.

Not two statements in one packet: for that a connection must allow several, which makes of every injected quote a whole
statement of the attacker's, and PyMySQL forbids it for a reason. MariaDB takes a block of statements as a single one.
MySQL does not, and its claims and results go one by one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from .statement import is_listened_to

if TYPE_CHECKING:
    from sqlalchemy import Connection

REFUSED: Final = 1644
"""What the block fails with where its statement did not touch exactly one row."""

BLOCK: Final = f"""BEGIN NOT ATOMIC {{statement}};
    IF ROW_COUNT() = 1 THEN COMMIT;
    ELSE SIGNAL SQLSTATE '45000' SET MYSQL_ERRNO = {REFUSED}, MESSAGE_TEXT = 'the row is not this claim''s own';
    END IF; END"""


def takes_blocks(connection: Connection) -> bool:
    """Say whether a connection's server and driver take a block, and nobody wants to see its statements one by one."""
    if not getattr(connection.dialect, "is_mariadb", False) or is_listened_to(connection):
        return False
    driver: Any = connection.connection.driver_connection
    kind = type(driver)
    return (kind.__module__, kind.__qualname__) == ("pymysql.connections", "Connection")


@contextmanager
def told(connection: Connection) -> Iterator[None]:
    """Keep SQLAlchemy's COMMIT from being sent inside: the transaction has ended, and PyMySQL sends it all the same."""
    driver: Any = connection.connection.driver_connection

    def once() -> None:
        del driver.commit

    driver.commit = once  # of this connection alone, and nobody else has it
    try:
        yield
    finally:
        vars(driver).pop("commit", None)
