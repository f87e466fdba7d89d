"""The decorator: a function that writes, made safe to call again."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from functools import partial, update_wrapper
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypedDict, TypeVar

from .binding import sync_session, unscoped
from .claim.call import Asks, Call, Keys
from .claim.run import AsyncRun, Run
from .model import ALL, Outcome
from .signature import Parameters, declared_return

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession
    from sqlalchemy.orm import Session

    from .settings import Settings

P = ParamSpec("P")
R = TypeVar("R")

Spec = str | Callable[..., Any]
Remember = tuple[type[Exception], ...]


class CommonOptions(TypedDict, total=False):
    """What every decorator of the library takes; `IdemTable.transactional` says what each means."""

    payload: Any
    wait: timedelta | None
    remember: Remember
    returns: Any
    isolation_level: str | None


class Options(CommonOptions, total=False):
    """What `IdemTable.transactional` takes beside scope and key."""

    tenant: Spec | None
    ttl: timedelta | None


class _BaseTransactional:
    """What a decorated function knows of itself, compiled at decoration.

    Args:
        settings: of the table.
        function: the program's.
        asks: makes the function's calls, given the type of its results.
        key, tenant: where a call's two words stand in its arguments.
        payload, returns, isolation_level: those of `IdemTable.transactional`.
    """

    def __init__(
        self,
        settings: Settings,
        function: Callable[..., Any],
        asks: Callable[[Any], Asks],
        *,
        key: Spec,
        tenant: Spec | None = None,
        payload: Any = ALL,
        returns: Any = None,
        isolation_level: str | None = None,
    ) -> None:
        self._settings = settings
        self._function = function
        parameters = Parameters(function)
        self._given = parameters.given
        # Frames: this __init__, the decorator, then the program.
        declared = declared_return(function, depth=3) if returns is None else returns
        self._asks = asks(declared)
        key_word, tenant_word = self._asks.words
        self._key = parameters.extractor(key, key_word)
        self._tenant = None if tenant is None else parameters.extractor(tenant, tenant_word)
        self._where = f"the call of {self._asks.scope}" + (f" ({key_word}={key!r})" if isinstance(key, str) else "")
        self._fingerprint = parameters.fingerprinter(payload, key)
        if isolation_level is not None and (not isinstance(isolation_level, str) or isolation_level == "AUTOCOMMIT"):
            raise ValueError(
                f"isolation_level= takes a transaction's level such as 'SERIALIZABLE', not {isolation_level!r}"
            )
        self._level = isolation_level
        update_wrapper(self, function)  # type: ignore[arg-type]
        self.__signature__ = parameters.signature

    def __repr__(self) -> str:
        return f"<transactional {self._asks.scope!r}: {self._function!r}>"

    def _call(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call:
        """Say who this call is and what it carries; raises before any SQL."""
        asks, given = self._asks, self._given(args, kwargs)
        key = asks.key(self._key(given, args, kwargs), self._where)
        tenant = None if self._tenant is None else asks.tenant(self._tenant(given, args, kwargs))
        return asks.call(key, tenant, self._fingerprint(given, args, kwargs))


class Transactional(_BaseTransactional, Generic[P, R]):
    """A function that runs at most once for each key; call it without its session."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the function, or replay what it gave; return the value.

        Raises:
            KeyRejectedError: the key or the tenant is not usable; nothing was sent.
            FingerprintMismatchError: the key was used with another payload.
            InProgressError: the first call still runs after `wait`.
            ResultError: the result cannot be stored or read back.
            TransactionError: the transaction cannot keep the promise.
            SchemaError: the table is missing.
            Exception: whatever the function raises.
        """
        return self.outcome(*args, **kwargs).value

    def outcome(self, *args: P.args, **kwargs: P.kwargs) -> Outcome[R]:
        """Do what a call does, and say how it came about."""
        run = Run(self._settings, self._call(args, kwargs), self._level)
        return run.outcome(lambda session: self._function(session, *args, **kwargs))

    def join(self, session: Session, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run inside the caller's transaction, under a SAVEPOINT: never commit it, never retry.

        Raises:
            RetryTransactionError: roll the transaction back and begin it again.
            SessionNotUsableError: the session cannot carry a claim.
            IdempotencyError: what a call raises.
        """
        run = Run(self._settings, self._call(args, kwargs))
        given = sync_session(session, "Session")
        return run.inside(given, lambda session: self._function(session, *args, **kwargs)).value  # type: ignore[no-any-return]


class AsyncTransactional(_BaseTransactional, Generic[P, R]):
    """The same for ``async def`` and an AsyncSession."""

    async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the function, or replay what it gave; return the value. Raises as `Transactional` does."""
        return (await self.outcome(*args, **kwargs)).value

    async def outcome(self, *args: P.args, **kwargs: P.kwargs) -> Outcome[R]:
        """Do what a call does, and say how it came about."""
        run = AsyncRun(self._settings, self._call(args, kwargs), self._level)
        return await run.outcome(lambda session: self._function(session, *args, **kwargs))

    async def join(self, session: AsyncSession, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run inside the caller's transaction, under a SAVEPOINT: never commit it, never retry."""
        run = AsyncRun(self._settings, self._call(args, kwargs))
        sync_session(session, "AsyncSession")
        outcome = await run.inside(unscoped(session), lambda session: self._function(session, *args, **kwargs))
        return outcome.value  # type: ignore[no-any-return]


# Read by checkers alone: what a decorator makes of a function, in each colour.
Decorator = Callable[[Callable[Concatenate["Session", P], R]], Transactional[P, R]]
AsyncDecorator = Callable[[Callable[Concatenate["AsyncSession", P], Awaitable[R]]], AsyncTransactional[P, R]]


def decorate_keys(settings: Settings, scope: str, key: Spec, options: Options) -> Callable[[Any], Any]:
    """Return the decorator of functions whose key the client makes; see `IdemTable.transactional`."""
    rest: Options = options.copy()
    tenant = rest.pop("tenant", None)
    return decorate(settings, partial(Keys, settings, scope), rest, key=key, tenant=tenant, takes=Options)


def decorate(
    settings: Settings,
    asks: Callable[..., Asks],
    options: CommonOptions,
    *,
    key: Spec,
    tenant: Spec | None = None,
    takes: type[CommonOptions],
) -> Callable[[Any], Any]:
    """Return the decorator of a table, for functions of its colour.

    Args:
        settings: of the table.
        asks: makes the calls of a function, given the type of its results and what it understands of the options.
        options: as the program gave them.
        key, tenant: where a call's two words stand in its arguments.
        takes: which options there are.

    Raises:
        TypeError: there is no such option.
    """
    known = takes.__annotations__
    if unknown := options.keys() - known:
        raise TypeError(f"there is no option {', '.join(sorted(unknown))}; there are {', '.join(sorted(known))}")
    compiled = {name: options[name] for name in ("payload", "returns", "isolation_level") if name in options}
    asks = partial(asks, **{name: value for name, value in options.items() if name not in compiled})
    is_async = settings.binding.is_async

    def decorator(function: Any) -> Any:
        _check(function, is_async)
        cls = AsyncTransactional if is_async else Transactional
        return cls(settings, function, asks, key=key, tenant=tenant, **compiled)

    return decorator


def _check(function: Any, is_async: bool) -> None:
    if not callable(function):
        raise TypeError(f"transactional decorates a function, not {function!r}: put it on the line above def")
    if not is_async and (inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)):
        raise TypeError(f"{function.__qualname__} is async: use AsyncIdemTable with an AsyncEngine")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(f"{function.__qualname__} is a generator: its work would run after the claim; return a list")
    if is_async and not inspect.iscoroutinefunction(function):
        raise TypeError(f"{function!r} is not an async function: use IdemTable with an Engine, or write async def")
