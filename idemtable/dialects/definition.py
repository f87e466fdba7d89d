"""What a database says of itself without a table or an engine: to migrations, and to the command line."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar

from .catalogue import Catalogue

if TYPE_CHECKING:
    from sqlalchemy import URL, Connection, Inspector
    from sqlalchemy.types import TypeEngine

    from .batches import Batches


@dataclass(frozen=True, slots=True)
class Driver:
    """A driver of a database."""

    name: str
    """SQLAlchemy's name of it, as behind the + of a URL."""
    module: str
    """What is imported, and what its errors come from."""
    cure: str | None = None
    """What a person does who has not got it; ``None`` where Python brings it."""
    works: bool = True
    """Whether the library runs on it; others are listed for their cure, which names one that works."""


@dataclass(frozen=True, slots=True)
class Types:
    """A database's own types of columns; ``None`` where SQLAlchemy's portable type will do."""

    id: TypeEngine[Any] | None = None
    """16 bytes, as `Dialect.id` gives them."""
    text: Callable[[int], TypeEngine[str]] | None = None
    """So many characters."""
    binary: Callable[[int], TypeEngine[bytes]] | None = None
    """Exactly so many bytes."""
    blob: TypeEngine[bytes] | None = None
    """Any number of bytes."""
    time: TypeEngine[Any] | None = None
    """Date and time with microseconds, as `Dialect.time` reads them."""


class Job(StrEnum):
    """What a role of the database is for, in the order in which rights are given."""

    rights: str
    """What it does to rows of the table of keys. A lock on rows needs more than SELECT everywhere, and the purge makes,
    renews and removes a row that is its lease."""
    note: str
    """What the script tells whoever reads it; ``{deleting}`` as `Definition.deleting` says."""

    def __new__(cls, value: str, rights: str, note: str) -> Job:
        """Make a member of its name and its facts."""
        self = str.__new__(cls, value)
        self._value_ = value
        self.rights, self.note = rights, note
        return self

    MIGRATE = "migrate", "SELECT", "For whoever runs `idemtable db upgrade`, before that."
    APP = (
        "app",
        "SELECT, INSERT, UPDATE",
        "For the application, once the table is there. It needs DELETE too if it calls {deleting}.",
    )
    PURGE = (
        "purge",
        "SELECT, INSERT, UPDATE, DELETE",
        "For `idemtable purge` and `idemtable forget`, once the table is there.",
    )


def full_name(table: str, schema: str | None) -> str:
    """Return the name of a table as people write it, with its schema."""
    return table if schema is None else f"{schema}.{table}"


class Definition(ABC):
    """The half of a database's class that needs no instance."""

    names: ClassVar[tuple[str, ...]]
    """SQLAlchemy's names of the database."""
    batches: ClassVar[type[Batches]]
    """Its statements about many keys at once."""

    # --- on the command line ------------------------------------------------------------------------------------------

    mistaken: ClassVar[tuple[str, ...]] = ()
    """Names that people write in a URL and SQLAlchemy does not take."""
    drivers: ClassVar[tuple[Driver, ...]]
    """The first one is sync, and taken where a URL names none or a sync one is needed in an async one's place."""

    is_file: ClassVar[bool] = False
    """Whether a URL names a file, so that there are no users, no passwords and no roles."""

    @classmethod
    def in_memory(cls, url: URL) -> bool:
        """Say whether a URL names no file but a database that is gone with its connections."""
        return False

    @classmethod
    def missing_file(cls, url: URL) -> str | None:
        """Return the name of a URL's file if there is none yet, where connecting would make one."""
        return None

    # --- the table ----------------------------------------------------------------------------------------------------

    types: ClassVar[Types] = Types()
    options: ClassVar[Mapping[str, Any]] = {}
    """SQLAlchemy's options of the table, without the database's name before them."""

    @classmethod
    def column_flaw(cls, found: TypeEngine[Any], wanted: TypeEngine[Any]) -> str | None:
        """Say what a column's type would do to its values that Alembic's comparison does not see."""
        return None

    @classmethod
    def table_flaws(cls, connection: Connection, table: str, schema: str | None) -> list[str]:
        """Say what of a table, beside its columns, would break a promise."""
        return []

    @classmethod
    def unreadable(cls, connection: Connection, table: str, schema: str | None) -> bool:
        """Say whether the connection's role may not read a table that is there, or not even know whether it is."""
        return False

    @classmethod
    def schemas(cls, inspector: Inspector) -> list[str | None]:
        """Return the schemas that an application's own tables may be in; ``None`` is the connection's."""
        return [name for name in inspector.get_schema_names() if name != "information_schema"]

    @classmethod
    def check_schema(cls, schema: str | None, connection: Connection | None, create: bool) -> None:
        """Look whether the table can be made in a schema, without a connection for a script.

        Raises:
            ValueError: neither it nor the database can make one.
            SchemaError: it is not there, and nobody has asked for it to be made.
        """

    @classmethod
    def spelled(cls, connection: Connection, table: str, schema: str | None) -> tuple[str, str | None]:
        """Return the names of a table and its schema as the database has them, where it finds them under others too."""
        return table, schema

    folds_indexes: ClassVar[bool] = False
    """Whether two names of indexes are one where they differ in capitals alone."""

    deleting: ClassVar[str] = "forget or tokens.revoke"
    """The verbs of an application that delete rows of the table."""

    @classmethod
    def grants(cls, job: Job, role: str, table: str, schema: str | None) -> list[str]:
        """Return the statements that let a role do its job.

        Raises:
            ValueError: the database has no roles.
        """
        raise ValueError(f"{cls.names[0]} has no roles: whoever may write to the file may do everything")

    many_programs: ClassVar[tuple[str, ...]] = ()
    """Statements that fit a new database for many programs at once, outside of any transaction."""

    catalogue: ClassVar[type[Catalogue]] = Catalogue
    """What `doctor` and `verify` ask of it from outside."""

    # --- transactions -------------------------------------------------------------------------------------------------

    blind_levels: ClassVar[tuple[str, ...]] = ()
    """The isolation levels at which an UPDATE passes over what was inserted since the transaction began to read, and an
    INSERT of the same fails."""

    # --- errors -------------------------------------------------------------------------------------------------------

    @classmethod
    def undid_all(cls, connection: Connection, error: BaseException) -> bool:
        """Say whether a lock that was waited for in vain has ended the whole transaction, and not its statement alone."""
        return False

    time_limits: ClassVar[Mapping[Any, str]] = {}
    """The driver's numbers of errors that say that a statement took too long, and the setting that tells how long."""

    # --- migrations ---------------------------------------------------------------------------------------------------

    upgrade_options: ClassVar[Mapping[str, Any]] = {"isolation_level": "READ COMMITTED"}
    """Execution options of the connection that upgrades. Whoever waited for the lock must see what the other program
    did: a stricter level still shows the time before."""
    transactional_ddl: ClassVar[bool | None] = None
    """Whether DDL is part of a printed script's transaction; ``None`` where Alembic knows."""
    changing: ClassVar[int | None] = None
    """The driver's number of the error that a look at the table gets while somebody else changes it."""
    before_ddl: ClassVar[tuple[str, ...]] = ()
    """Statements that bound what DDL may wait for locks; they also make sense in a printed script."""
    after_ddl: ClassVar[tuple[str, ...]] = ()
    """Statements that put back what was there before."""

    @classmethod
    @abstractmethod
    def upgrading(
        cls, connection: Connection, table: str, schema: str | None, wait: int
    ) -> AbstractContextManager[None]:
        """Hold a table's lock around one transaction that commits at the end; wait `wait` seconds for it.

        Programs tell where the table is in more ways than one, and the lock has one name: that of the place.

        Raises:
            SchemaError, DBAPIError: somebody else held it for longer.
        """
