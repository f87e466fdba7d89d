"""The decorator as a plain import, for a program that has no table object to keep."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Unpack, overload

from .binding import is_async
from .table import IdemTable
from .table_async import AsyncIdemTable

if TYPE_CHECKING:
    from sqlalchemy import Engine
    from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker
    from sqlalchemy.orm import sessionmaker

    from .decorated import AsyncDecorator, Decorator
    from .transactional import Options, Spec


@overload
def transactional(
    bind: Engine | sessionmaker[Any] | IdemTable, scope: str, *, key: Spec, **options: Unpack[Options]
) -> Decorator: ...
@overload
def transactional(
    bind: AsyncEngine | async_sessionmaker[Any] | AsyncIdemTable, scope: str, *, key: Spec, **options: Unpack[Options]
) -> AsyncDecorator: ...
def transactional(bind: Any, scope: str, *, key: Spec, **options: Unpack[Options]) -> Any:
    """Decorate a function as `IdemTable.transactional` does, without a table to name first.

    Args:
        bind: an Engine or sessionmaker, an AsyncEngine or async_sessionmaker, or a table with settings of its own.
        scope, key, options: those of `IdemTable.transactional`.
    """
    if not isinstance(bind, IdemTable | AsyncIdemTable):
        bind = AsyncIdemTable(bind) if is_async(bind) else IdemTable(bind)
    return bind.transactional(scope, key=key, **options)
