"""What comes between a statement and its answer, which the next statement on that connection would be given."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from .origin import listen_once
from .words import driver_of

if TYPE_CHECKING:
    from sqlalchemy import Engine

_ACTIVE: Final = 1
"""libpq's number for a command in progress."""


def give_up_amid(engine: Engine) -> None:
    """Have an engine give up a connection whose statement was broken off; doing it twice is harmless.

    SQLAlchemy does so for what is no Exception, such as Ctrl-C. The time limit that a signal handler raises is one, and a
    ROLLBACK, or what is sent to a savepoint, would fail over it in the driver's words.
    """
    listen_once(engine, "handle_error", _give_up)


def _give_up(context: Any) -> None:
    connection = context.connection
    if connection is None or connection.invalidated or context.execution_context is None or context.is_disconnect:
        return
    if isinstance(context.original_exception, context.dialect.loaded_dbapi.Error):
        return
    if _is_amid(driver_of(connection)):
        context.is_disconnect, context.invalidate_pool_on_disconnect = True, False


def _is_amid(driver: Any) -> bool:
    """Say whether a driver's connection has sent a statement whose answer it has not read, or has closed itself over that.

    Of drivers that wait in Python; the others have their answer before a signal's handler is run.
    """
    if (info := getattr(driver, "info", None)) is not None:  # psycopg; and psycopg2, which never is
        return bool(info.transaction_status == _ACTIVE)
    if (is_open := getattr(driver, "open", None)) is not None and hasattr(driver, "_result"):  # PyMySQL
        return not is_open or driver._result is None
    return False
