"""The decorator: a function that writes, made safe to call again."""

from __future__ import annotations

import inspect
import os
from collections.abc import Awaitable, Callable, Mapping
from functools import update_wrapper
from typing import TYPE_CHECKING, Any, ClassVar, Concatenate, Generic, ParamSpec, TypeVar

import tenacity

from . import frames, retry
from .binding import sync_session, unscoped
from .claim import Attempt, Call
from .codecs import Results
from .keys import checked_key, checked_scope, checked_tenant, digest
from .model import Outcome, Request
from .settings import checked_ttl, checked_wait
from .signature import Parameters, declared_return
from .transaction import Joined, Own

if TYPE_CHECKING:
    from datetime import timedelta

    from sqlalchemy.ext.asyncio import AsyncSession
    from sqlalchemy.orm import Session

    from .settings import Settings

P = ParamSpec("P")
R = TypeVar("R")

Spec = str | Callable[..., Any]


class _BaseTransactional:
    """What a decorated function knows of itself, compiled at decoration."""

    _specs: ClassVar[tuple[str, str]] = ("key", "tenant")
    """What the program calls the two arguments that say who a call is."""

    def __init__(
        self,
        settings: Settings,
        function: Callable[..., Any],
        scope: str,
        *,
        key: Spec,
        tenant: Spec | None,
        payload: Any,
        ttl: timedelta | None,
        wait: timedelta | None,
        remember: tuple[type[Exception], ...],
        returns: Any,
        isolation_level: str | None,
    ) -> None:
        self._settings = settings
        self._function = function
        self._scope = checked_scope(scope)
        parameters = Parameters(function)
        self._given = parameters.given
        self._key = parameters.extractor(key, self._specs[0])
        self._tenant = None if tenant is None else parameters.extractor(tenant, self._specs[1])
        self._where = f"the call of {scope} (key={key!r})" if isinstance(key, str) else f"the call of {scope}"
        self._fingerprint = parameters.fingerprinter(payload, key)
        self._ttl = settings.ttl if ttl is None else checked_ttl(ttl)
        self._wait = settings.wait if wait is None else checked_wait(wait)
        self._remember = _checked_remember(remember)
        if isolation_level is not None and (not isinstance(isolation_level, str) or isolation_level == "AUTOCOMMIT"):
            raise ValueError(
                f"isolation_level= takes a transaction's level such as 'SERIALIZABLE', not {isolation_level!r}"
            )
        self._level = isolation_level
        # Frames: this __init__, the class's factory, the decorator, then the program.
        declared = declared_return(function, depth=4) if returns is None else returns
        self._results = Results(declared, settings.codec, settings.max_result_bytes, self._scope)
        update_wrapper(self, function)  # type: ignore[arg-type]
        self.__signature__ = parameters.signature

    def __repr__(self) -> str:
        return f"<transactional {self._scope!r}: {self._function!r}>"

    def _call(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call:
        """Say who this call is and what it carries; raises before any SQL."""
        given = self._given(args, kwargs)
        key = checked_key(self._key(given, args, kwargs), self._where)
        tenant = None if self._tenant is None else checked_tenant(self._tenant(given, args, kwargs))
        request = Request(
            digest(tenant, self._scope, key),
            tenant,
            self._scope,
            key if self._settings.store_keys else None,
            self._fingerprint(given, args, kwargs),
            os.urandom(16),
            self._ttl,
        )
        return Call(request, self._results, self._wait, self._remember)

    def _own(self, call: Call) -> Attempt:
        return call.attempt(self._settings, Own(self._settings, self._level), repeats=True)

    def _joined(self, call: Call) -> Attempt:
        return call.attempt(self._settings, Joined(self._settings), repeats=False)

    def _restarts(self, error: BaseException, call: Call) -> bool:
        return self._settings.attempts > 1 and retry.restarts(error, self._settings.dialect, call.before)

    def _retrying(self, call: Call) -> dict[str, Any]:
        return retry.policy(self._settings.dialect, self._settings.attempts - 1, call.before)


def _checked_remember(remember: object) -> tuple[type[Exception], ...]:
    classes = remember if isinstance(remember, tuple) else (remember,)
    for cls in classes:
        if not (isinstance(cls, type) and issubclass(cls, Exception)):
            raise TypeError(f"remember= takes a tuple of exception classes, not {remember!r}")
    return classes


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
        call = self._call(args, kwargs)
        while frame := frames.enclosing(self._settings.house):
            with frame.lock:
                if not frame.open:  # it ended while this thread waited for its turn
                    continue
                frame.inside += 1
                try:
                    return self._run(self._joined(call), frame.session, args, kwargs)
                finally:
                    frame.inside -= 1
                    if frame.is_left_over():
                        frame.session.close()
        try:
            return self._begin(call, args, kwargs)
        except Exception as error:
            if not self._restarts(error, call):
                raise
        return tenacity.Retrying(**self._retrying(call))(self._begin, call, args, kwargs)

    def join(self, session: Session, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run inside the caller's transaction, under a SAVEPOINT: never commit it, never retry.

        Raises:
            RetryTransactionError: roll the transaction back and begin it again.
            SessionNotUsableError: the session cannot carry a claim.
            IdempotencyError: what a call raises.
        """
        call = self._call(args, kwargs)
        return self._run(self._joined(call), sync_session(session, "Session"), args, kwargs).value

    def _begin(self, call: Call, args: Any, kwargs: Any) -> Outcome[R]:
        with self._settings.binding.session() as session:  # type: ignore[union-attr]
            return self._run(self._own(call), session, args, kwargs)

    def _run(self, attempt: Attempt, session: Session, args: Any, kwargs: Any) -> Outcome[R]:
        try:
            if not attempt.open(session, session):
                return attempt.answer()
            return attempt.finish(session, self._function(session, *args, **kwargs))
        except BaseException as error:
            attempt.fail(session, error)
            raise


class AsyncTransactional(_BaseTransactional, Generic[P, R]):
    """The same for ``async def`` and an AsyncSession."""

    async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the function, or replay what it gave; return the value. Raises as `Transactional` does."""
        return (await self.outcome(*args, **kwargs)).value

    async def outcome(self, *args: P.args, **kwargs: P.kwargs) -> Outcome[R]:
        """Do what a call does, and say how it came about."""
        call = self._call(args, kwargs)
        while frame := frames.enclosing(self._settings.house):
            async with frame.turn():
                if not frame.open:  # it ended while this task waited for its turn
                    continue
                frame.inside += 1
                try:
                    return await self._run(self._joined(call), frame.session, args, kwargs)
                finally:
                    frame.inside -= 1
                    if frame.is_left_over():
                        await frame.session.close()
        try:
            return await self._begin(call, args, kwargs)
        except Exception as error:
            if not self._restarts(error, call):
                raise
        return await tenacity.AsyncRetrying(**self._retrying(call))(self._begin, call, args, kwargs)

    async def join(self, session: AsyncSession, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run inside the caller's transaction, under a SAVEPOINT: never commit it, never retry."""
        call = self._call(args, kwargs)
        sync_session(session, "AsyncSession")
        return (await self._run(self._joined(call), unscoped(session), args, kwargs)).value

    async def _begin(self, call: Call, args: Any, kwargs: Any) -> Outcome[R]:
        async with self._settings.binding.session() as session:  # type: ignore[union-attr]
            return await self._run(self._own(call), session, args, kwargs)

    async def _run(self, attempt: Attempt, session: AsyncSession, args: Any, kwargs: Any) -> Outcome[R]:
        try:
            if not await session.run_sync(attempt.open, session):
                return attempt.answer()
            value = await self._function(session, *args, **kwargs)
            return await session.run_sync(attempt.finish, value)
        except BaseException as error:
            await session.run_sync(attempt.fail, error)
            raise


Decorator = Callable[[Callable[Concatenate["Session", P], R]], Transactional[P, R]]
AsyncDecorator = Callable[[Callable[Concatenate["AsyncSession", P], Awaitable[R]]], AsyncTransactional[P, R]]


def decorate(
    settings: Settings, scope: str, options: dict[str, Any], cls: type[Transactional[Any, Any]] = Transactional
) -> Callable[[Any], Transactional[Any, Any]]:
    """Return the decorator of a sync table."""

    def decorator(function: Any) -> Transactional[Any, Any]:
        if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(f"{function.__qualname__} is async: use AsyncIdemTable with an AsyncEngine")
        _refuse_generator(function)
        return cls(settings, function, scope, **options)

    return decorator


def decorate_async(
    settings: Settings,
    scope: str,
    options: dict[str, Any],
    cls: type[AsyncTransactional[Any, Any]] = AsyncTransactional,
) -> Callable[[Any], AsyncTransactional[Any, Any]]:
    """Return the decorator of an async table."""

    def decorator(function: Any) -> AsyncTransactional[Any, Any]:
        _refuse_generator(function)
        if not inspect.iscoroutinefunction(function):
            raise TypeError(f"{function!r} is not an async function: use IdemTable with an Engine, or write async def")
        return cls(settings, function, scope, **options)

    return decorator


def _refuse_generator(function: Any) -> None:
    if not callable(function):
        raise TypeError(f"transactional decorates a function, not {function!r}: put it on the line above def")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(f"{function.__qualname__} is a generator: its work would run after the claim; return a list")
