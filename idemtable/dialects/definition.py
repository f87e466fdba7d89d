"""What a database says of itself without a table or an engine: to migrations, and to the command line."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from sqlalchemy import Connection


class Definition(ABC):
    """The half of a database's class that needs no instance."""

    names: ClassVar[tuple[str, ...]]
    """SQLAlchemy's names of the database."""

    # --- migrations ---------------------------------------------------------------------------------------------------

    upgrade_options: ClassVar[Mapping[str, Any]] = {"isolation_level": "READ COMMITTED"}
    """Execution options of the connection that upgrades. Whoever waited for the lock must see what the other program
    did: a stricter level still shows the time before."""
    transactional_ddl: ClassVar[bool | None] = None
    """Whether DDL is part of a printed script's transaction; ``None`` where Alembic knows."""
    before_ddl: ClassVar[tuple[str, ...]] = ()
    """Statements that bound what DDL may wait for locks; they also make sense in a printed script."""
    after_ddl: ClassVar[tuple[str, ...]] = ()
    """Statements that put back what was there before."""

    @classmethod
    @abstractmethod
    def upgrading(cls, connection: Connection, name: str, wait: int) -> AbstractContextManager[None]:
        """Hold the lock `name` around one transaction that commits at the end; wait `wait` seconds for it.

        Raises:
            SchemaError, DBAPIError: somebody else held it for longer.
        """
