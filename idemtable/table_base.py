"""What the sync and the async table share: the call of a block, errors in plain words, looking up a record."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, TypedDict

from . import schema as schemas
from .claim import Call
from .codecs import Results
from .guards import StateMachine
from .keys import checked_key, checked_scope, checked_tenant, digest, fingerprint
from .model import Record, Request
from .settings import Settings, checked_ttl, checked_wait
from .transaction import explain
from .transactional import Spec

if TYPE_CHECKING:
    from uuid import UUID

    from sqlalchemy import Connection
    from sqlalchemy.exc import SQLAlchemyError

Remember = tuple[type[Exception], ...]


class Options(TypedDict, total=False):
    """What `IdemTable.transactional` takes beside scope and key."""

    tenant: Spec | None
    payload: Any
    ttl: timedelta | None
    wait: timedelta | None
    remember: Remember
    returns: Any
    isolation_level: str | None


WEEK: Final = timedelta(days=7)
"""A Friday's bug is found on Monday, and queues keep dead letters for days: the key must outlive the last retry."""


class BaseTable:
    """The settings, and what both colours do with them."""

    _settings: Settings

    def __repr__(self) -> str:
        name = ".".join(part for part in (self._settings.schema, self._settings.table) if part)
        return f"{type(self).__name__}({self._settings.engine.url!r}, table={name!r})"

    def _call(self, scope: str, key: Any, tenant: Any, payload: Any, ttl: Any, wait: Any, returns: Any) -> Call:
        settings = self._settings
        id, named_tenant, named_key = identity(scope, key, tenant)
        request = Request(
            id,
            named_tenant,
            scope,
            named_key if settings.store_keys else None,
            None if payload is None else fingerprint(payload),
            os.urandom(16),
            settings.ttl if ttl is None else checked_ttl(ttl),
        )
        results = Results(Any if returns is None else returns, settings.codec, settings.max_result_bytes, scope)
        return Call(request, results, settings.wait if wait is None else checked_wait(wait))

    def machine(self, column: Any, transitions: Mapping[Any, Collection[Any]]) -> StateMachine:
        """Return a `StateMachine` that remembers events in this table.

        Args:
            column: an attribute such as ``Order.status``, or a column of a Table.
            transitions: for each state those it may become.
        """
        return StateMachine(column, transitions, idem=self)

    def _translated(self, error: SQLAlchemyError) -> Exception:
        return explain(error, self._settings.dialect, self._settings, "idemtable", repeats=True) or error

    def _get(self, id: UUID) -> Callable[[Connection], Record | None]:
        def work(connection: Connection) -> Record | None:
            stored = self._settings.records.find(connection, id)
            return stored.record if stored else None

        return work

    def _create_all(self, connection: Connection) -> None:
        schemas.create_all(connection, self._settings.table, self._settings.schema)

    def _check_schema(self, connection: Connection) -> None:
        schemas.require(connection, self._settings.table, self._settings.schema)


def identity(scope: str, key: Any, tenant: Any) -> tuple[UUID, str | None, str]:
    """Return the id of a key, with its tenant and itself as checked text."""
    named_key = checked_key(key)
    named_tenant = None if tenant is None else checked_tenant(tenant)
    return digest(named_tenant, checked_scope(scope), named_key), named_tenant, named_key
