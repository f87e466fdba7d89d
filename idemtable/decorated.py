"""What a decorated function is to a type checker. At run time it is a plain function with three attributes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, Self, TypeVar, overload

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session
    from sqlalchemy.orm import Session, scoped_session

    from .model import Outcome

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
SessionT = TypeVar("SessionT", bound="Session")
AsyncSessionT = TypeVar("AsyncSessionT", bound="AsyncSession")


class Transactional(Protocol[P, R_co]):
    """A function that runs at most once for each key; call it without its session."""

    __name__: str
    __qualname__: str

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
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
        ...

    def outcome(self, *args: P.args, **kwargs: P.kwargs) -> Outcome[R_co]:
        """Do what a call does, and say how it came about."""
        ...

    def join(self, session: Session | scoped_session[Any], *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Run inside the caller's transaction, under a SAVEPOINT: never commit it, never retry.

        Raises:
            RetryTransactionError: roll the transaction back and begin it again.
            SessionNotUsableError: the session cannot carry a claim.
            IdempotencyError: what a call raises.
        """
        ...

    def join_outcome(self, session: Session | scoped_session[Any], *args: P.args, **kwargs: P.kwargs) -> Outcome[R_co]:
        """Do what `join` does, and say how it came about."""
        ...


class AsyncTransactional(Protocol[P, R_co]):
    """The same for ``async def`` and an AsyncSession. Raises as `Transactional` does."""

    __name__: str
    __qualname__: str

    async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Run the function, or replay what it gave; return the value."""
        ...

    async def outcome(self, *args: P.args, **kwargs: P.kwargs) -> Outcome[R_co]:
        """Do what a call does, and say how it came about."""
        ...

    async def join(self, session: AsyncSession | async_scoped_session[Any], *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Run inside the caller's transaction, under a SAVEPOINT: never commit it, never retry."""
        ...

    async def join_outcome(
        self, session: AsyncSession | async_scoped_session[Any], *args: P.args, **kwargs: P.kwargs
    ) -> Outcome[R_co]:
        """Do what `join` does, and say how it came about."""
        ...


class Method(Protocol[P, R_co]):
    """A decorated function with something before its session: a method, or a function whose session comes later.

    Python's types cannot take a parameter out of the middle, so only ``obj.method(…)`` is checked. The attributes are
    those of a function and know no object: ``Class.method.outcome(obj, …)``, ``Class.method.join(obj, session, …)``.
    """

    __name__: str
    __qualname__: str

    def __call__(self, *args: Any, **kwargs: Any) -> R_co:
        """Do what `Transactional` does."""
        ...

    def outcome(self, *args: Any, **kwargs: Any) -> Outcome[R_co]:
        """Do what a call does, and say how it came about."""
        ...

    def join(self, *args: Any, **kwargs: Any) -> R_co:
        """Run inside the caller's transaction."""
        ...

    def join_outcome(self, *args: Any, **kwargs: Any) -> Outcome[R_co]:
        """Do what `join` does, and say how it came about."""
        ...

    @overload
    def __get__(self, instance: None, owner: type[Any] | None, /) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type[Any] | None = None, /) -> BoundMethod[P, R_co]: ...


class BoundMethod(Protocol[P, R_co]):
    """A decorated method of an object."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Do what `Transactional` does."""
        ...

    def outcome(self, *args: Any, **kwargs: Any) -> Outcome[R_co]:
        """Do what a call does; the object comes first."""
        ...

    def join(self, *args: Any, **kwargs: Any) -> R_co:
        """Run inside the caller's transaction; the object comes first, then the session."""
        ...

    def join_outcome(self, *args: Any, **kwargs: Any) -> Outcome[R_co]:
        """Do what `join` does, and say how it came about."""
        ...


class AsyncMethod(Protocol[P, R_co]):
    """The same for ``async def``."""

    __name__: str
    __qualname__: str

    async def __call__(self, *args: Any, **kwargs: Any) -> R_co:
        """Do what `AsyncTransactional` does."""
        ...

    async def outcome(self, *args: Any, **kwargs: Any) -> Outcome[R_co]:
        """Do what a call does, and say how it came about."""
        ...

    async def join(self, *args: Any, **kwargs: Any) -> R_co:
        """Run inside the caller's transaction."""
        ...

    async def join_outcome(self, *args: Any, **kwargs: Any) -> Outcome[R_co]:
        """Do what `join` does, and say how it came about."""
        ...

    @overload
    def __get__(self, instance: None, owner: type[Any] | None, /) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type[Any] | None = None, /) -> AsyncBoundMethod[P, R_co]: ...


class AsyncBoundMethod(Protocol[P, R_co]):
    """A decorated ``async def`` method of an object."""

    async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Do what `AsyncTransactional` does."""
        ...

    async def outcome(self, *args: Any, **kwargs: Any) -> Outcome[R_co]:
        """Do what a call does; the object comes first."""
        ...

    async def join(self, *args: Any, **kwargs: Any) -> R_co:
        """Run inside the caller's transaction; the object comes first, then the session."""
        ...

    async def join_outcome(self, *args: Any, **kwargs: Any) -> Outcome[R_co]:
        """Do what `join` does, and say how it came about."""
        ...


class _NamesSession(Protocol[R_co]):
    def __call__(self, *args: Any, session: Session, **kwargs: Any) -> R_co: ...


class _NamesAsyncSession(Protocol[R_co]):
    def __call__(self, *args: Any, session: AsyncSession, **kwargs: Any) -> R_co: ...


class Decorator(Protocol):
    """What makes a decorated function of a function, wherever its session stands.

    A session class of the program's own comes second: with it alone a checker complains of a type variable where there is
    no session at all.
    """

    @overload
    def __call__(self, function: Callable[Concatenate[Session, P], R], /) -> Transactional[P, R]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[SessionT, P], R], /) -> Transactional[P, R]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[Any, Session, P], R], /) -> Method[P, R]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[Any, SessionT, P], R], /) -> Method[P, R]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[Any, Any, Session, P], R], /) -> Method[..., R]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[Any, Any, Any, Session, P], R], /) -> Method[..., R]: ...
    @overload
    def __call__(self, function: _NamesSession[R], /) -> Method[..., R]: ...


class AsyncDecorator(Protocol):
    """The same for ``async def``."""

    @overload
    def __call__(
        self, function: Callable[Concatenate[AsyncSession, P], Awaitable[R]], /
    ) -> AsyncTransactional[P, R]: ...
    @overload
    def __call__(
        self, function: Callable[Concatenate[AsyncSessionT, P], Awaitable[R]], /
    ) -> AsyncTransactional[P, R]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[Any, AsyncSession, P], Awaitable[R]], /) -> AsyncMethod[P, R]: ...
    @overload
    def __call__(
        self, function: Callable[Concatenate[Any, AsyncSessionT, P], Awaitable[R]], /
    ) -> AsyncMethod[P, R]: ...
    @overload
    def __call__(
        self, function: Callable[Concatenate[Any, Any, AsyncSession, P], Awaitable[R]], /
    ) -> AsyncMethod[..., R]: ...
    @overload
    def __call__(
        self, function: Callable[Concatenate[Any, Any, Any, AsyncSession, P], Awaitable[R]], /
    ) -> AsyncMethod[..., R]: ...
    @overload
    def __call__(self, function: _NamesAsyncSession[Awaitable[R]], /) -> AsyncMethod[..., R]: ...
