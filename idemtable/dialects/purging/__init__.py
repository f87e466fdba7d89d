"""How a purge gets through a table: what one batch did, and where the next one goes on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Final

from ...model import Status

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import Connection

    from ..statement import Statement

RENEW: Final = f"""
    UPDATE {{table}} SET status = {Status.LOCK.code}, expires_at = {{later}} WHERE id = :id AND owner = :owner"""
"""Of the row by which there is one runner."""


@dataclass(frozen=True, slots=True)
class Swept:
    """What one batch did."""

    deleted: int
    rest: Any
    """Where the next batch goes on, as the database's own class has written it; ``None`` when this was the last one."""


class Sweeping(ABC):
    """What a database does for a purge."""

    purge_options: ClassVar[Mapping[str, Any]] = {}
    """Execution options of its transactions."""

    @abstractmethod
    def statement(self, template: str) -> Statement:
        """Compile a template for the table."""

    @cached_property
    def _renew(self) -> Statement:
        return self.statement(RENEW)

    def renew(self, connection: Connection, lease: Mapping[str, Any]) -> bool:
        """Put off the end of a lease, given by its id, owner and ttl; say whether it still was that owner's."""
        return self._renew(connection, lease).rowcount == 1

    def sweep(self, connection: Connection, lease: Mapping[str, Any], batch: int, rest: Any, *, careful: bool) -> Swept:
        """Renew a lease and delete a batch, or nothing where the lease is somebody else's by now.

        Args:
            connection: in a transaction of its own, in which nothing else is done; it may be committed here.
            lease: as of `renew`.
            batch, rest, careful: as of `delete_expired`.
        """
        if not self.renew(connection, lease):
            return Swept(0, None)
        return self.delete_expired(connection, batch, rest, careful=careful)

    @abstractmethod
    def delete_expired(self, connection: Connection, batch: int, rest: Any, *, careful: bool) -> Swept:
        """Delete at most `batch` expired rows that nobody holds, where the batch before has left off; ``None`` begins.

        With `careful` a row was held that this would wait for, and may not be waited for again.
        """
