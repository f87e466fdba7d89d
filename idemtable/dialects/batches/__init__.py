"""Many keys in one statement: what each database can do of it, in its own words.

One statement for each step, however many keys there are, and each takes the ids in their order: two batches that share
keys wait for each other at the first of them and never at two. So neither repeats nor the variables of a statement are a
matter here: whoever calls gives each id once, and all of them travel as one text.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Final

from ...model import Status

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy import Connection

    from ..base import Dialect
    from ..statement import Answer

COLUMNS: Final = "id, tenant, scope, {key}, status, owner, created_at, completed_at, expires_at"
VALUES: Final = f":tenant, :scope, k.text, {Status.COMPLETED.code}, :owner, {{now}}, {{now}}, {{later}}"
"""But for the id. There is no codec and no result: nothing was encoded."""
TAKEN: Final = f"""fingerprint = NULL, status = {Status.COMPLETED.code}, owner = :owner, codec = NULL, result = NULL,
            created_at = {{now}}, completed_at = {{now}}, expires_at = {{later}}"""
FOUND: Final = "t.status, t.created_at, t.completed_at, t.expires_at, t.owner, {now}"
_DONE: Final = ", ".join(str(status.code) for status in (Status.COMPLETED, Status.FAILED, Status.SPENT))
OPEN: Final = f"(t.status IS NULL OR t.status NOT IN ({_DONE}) OR {{expires}} <= {{now}})"
"""What is not plainly done: whether it may be had is for `policy` to say. Nothing else of a batch is looked at again."""


class Batches(ABC):
    """The statements of one database about many rows at once; `values` are those of a request, with its wait."""

    most: ClassVar[int] = 10_000
    """Ids in one statement. The longest keys, every character of them escaped twice, stay below the 16 MiB that
    MariaDB and PyMySQL let a statement have; and more of them are no faster."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect

    @abstractmethod
    def claim(
        self, connection: Connection, ids: Sequence[bytes], keys: Sequence[str] | None, values: Mapping[str, Any]
    ) -> tuple[set[bytes], str | None]:
        """Insert a finished row for each id that is not there, waiting for whoever holds one.

        Args:
            connection: in whose transaction.
            ids: each once, in order.
            keys: one for each id, or ``None`` where they are not kept.
            values: of the request.

        Returns:
            The ids that were lost: whose rows, by their owner, are not the request's. And `Dialect.mark`, where it comes
            along.
        """

    @abstractmethod
    def look(self, connection: Connection, ids: Sequence[bytes], values: Mapping[str, Any]) -> Answer:
        """Read those of the rows that are not plainly done: the id, and `FOUND`, all ``None`` where there is no row."""

    @abstractmethod
    def take_over(self, connection: Connection, ids: Sequence[bytes], values: Mapping[str, Any]) -> set[bytes]:
        """Make rows that have expired the request's, unless somebody else was faster; return those that were lost."""
