"""The decorator: a function that writes, made safe to call again."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, TypedDict

from .annotations import Names, declared_return, innermost, is_of_other_colour, is_session
from .arguments import Arguments
from .binding import sync_session, unscoped
from .claim.call import Asks, Call, Keys
from .claim.run import AsyncRun, Run
from .dress import dressed
from .errors import InvalidKeyError, RetryTransactionError
from .fingerprint import NEWEST
from .model import ALL, Outcome, Unset
from .nature import by_nature
from .scopes import SCOPES, owner_of
from .settings import LEVELS, checked_flag
from .signature import Fingerprinter, Parameters

if TYPE_CHECKING:
    from .settings import Settings

Spec = str | Callable[..., Any]
Remember = type[Exception] | tuple[type[Exception], ...]


class CommonOptions(TypedDict, total=False):
    """What every decorator of the library takes; `IdemTable.transactional` says what each means."""

    payload: Any
    wait: timedelta | None
    remember: Remember
    returns: Any
    isolation_level: str | None
    share_scope: bool


class Options(TypedDict, total=False):
    """What `IdemTable.transactional` takes beside scope and key.

    The common ones are written out: the API page does not show what is inherited.
    """

    tenant: Spec | None
    payload: Any
    ttl: timedelta | None
    wait: timedelta | None
    remember: Remember
    returns: Any
    isolation_level: str | None
    share_scope: bool
    lookaside: bool
    deferred: bool


class Compiled:
    """What a decorated function knows of itself, found once at decoration.

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
        self.settings = settings
        self.function = function
        names = Names(function)
        self.parameters = parameters = Parameters(function, key, tenant, names)
        _check_session(function, parameters.session, names, settings.binding.is_async)
        self._given = parameters.given
        self._filled = parameters.filled
        self.asks = asks(declared_return(function, names) if returns is None else returns)
        key_word, tenant_word = self.asks.words
        self._key = parameters.extractor(key, key_word)
        self._tenant = None if tenant is None else parameters.extractor(tenant, tenant_word)
        self._where = f"the call of {self.asks.scope}" + (f" ({key_word}={key!r})" if isinstance(key, str) else "")
        self._fingerprint = parameters.fingerprinter(payload, key)
        self._covers_all = isinstance(payload, Unset)
        self._print: Fingerprinter = self._fingerprint
        if self._covers_all and parameters.receiver is not None:
            self._print = self._without_receiver
        self.level = _checked_level(settings, isolation_level)

    def call(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Call, Mapping[str, Any]]:
        """Say who this call is and what it carries, with its arguments by name; raises before any SQL."""
        asks, given = self.asks, self._given(args, kwargs)
        word = self._key(given, args, kwargs)
        try:
            key = asks.key(word, self._where)
        except InvalidKeyError:
            if not is_session(type(word)):
                raise
            name = innermost(self.function).__qualname__
            raise TypeError(
                f"{name} got a session as its key (leave the session out: the call gets one of its own)"
            ) from None
        tenant = None if self._tenant is None else asks.tenant(self._tenant(given, args, kwargs))
        return asks.call(key, tenant, partial(self._print, given, args, kwargs)), given

    def _without_receiver(
        self, given: Mapping[str, Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], version: int = NEWEST, /
    ) -> bytes | None:
        given = {name: value for name, value in given.items() if name != self.parameters.receiver}
        return self._fingerprint(given, args, kwargs, version)

    def work(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Callable[[Any], Any]:
        """Return what runs the function in a session, once."""

        def work(session: Any) -> Any:
            args_, kwargs_ = self._filled(session, args, kwargs)
            return self.function(*args_, **kwargs_)

        return work

    def runs(
        self, call: Call, given: Mapping[str, Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
        """Return what runs the function in a session: first, and in a later attempt, only with the arguments it had then.

        A first attempt that emptied a list would leave the second one nothing to do, and "nothing done" would be stored
        as the answer. Where the payload covers all arguments, its fingerprint is at hand; elsewhere one is taken of what
        can be changed.
        """
        work = self.work(args, kwargs)
        if self._covers_all:
            return work, partial(self._again, work, partial(self._differ, call, given, args, kwargs))
        if self.settings.attempts == 1 and not self.settings.failover and not call.deferred:
            return work, work
        receiver = self.parameters.receiver
        before = Arguments({name: value for name, value in given.items() if name != receiver} if receiver else given)
        work = before.noting(work)
        return work, partial(self._again, work, before.have_changed)

    def _again(self, work: Callable[[Any], Any], have_changed: Callable[[], bool], session: Any) -> Any:
        if have_changed():
            scope = self.asks.scope
            raise RetryTransactionError(
                f"{scope}: the database asks to run the function again, and the first run has changed its arguments, "
                f"or read what can be read only once: nothing was committed. Give it lists in place of iterators, and "
                f"let it work on copies of what it changes; this call can be made again with fresh arguments and the "
                f"same key",
                scope=scope,
                final=True,
            )
        return work(session)

    def _differ(self, call: Call, given: Mapping[str, Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
        def taken() -> bytes | None:
            return self._print(given, args, kwargs, NEWEST)

        try:
            return taken() != call.request.fingerprint
        except Exception as error:  # it had one before
            if not by_nature(error, taken):
                raise
            return True

    def joined(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
        """Return the session that a caller handed over, and the call's own arguments; the object of a method is first."""
        at = 0 if self.parameters.receiver is None else 1
        if len(args) > at:
            return args[at], (*args[:at], *args[at + 1 :]), kwargs
        if len(args) == at and "session" in kwargs:
            kwargs = dict(kwargs)
            return kwargs.pop("session"), args, kwargs
        raise TypeError(f"{innermost(self.function).__qualname__}.join is given {self.order} first")

    @property
    def order(self) -> str:
        """What `join` is given first."""
        receiver = self.parameters.receiver
        return "the caller's session" if receiver is None else f"{receiver}, then the caller's session,"


def _sync(made: Compiled) -> tuple[Callable[..., Any], ...]:
    settings, level = made.settings, made.level

    def outcome(*args: Any, **kwargs: Any) -> Outcome[Any]:
        call, given = made.call(args, kwargs)
        return Run(settings, call, level).outcome(*made.runs(call, given, args, kwargs))

    def function(*args: Any, **kwargs: Any) -> Any:
        return outcome(*args, **kwargs).value

    def join_outcome(*args: Any, **kwargs: Any) -> Outcome[Any]:
        session, args, kwargs = made.joined(args, kwargs)
        run = Run(settings, made.call(args, kwargs)[0])
        return run.inside(sync_session(session, "Session"), made.work(args, kwargs))

    def join(*args: Any, **kwargs: Any) -> Any:
        return join_outcome(*args, **kwargs).value

    return function, outcome, join, join_outcome


def _async(made: Compiled) -> tuple[Callable[..., Any], ...]:
    settings, level = made.settings, made.level

    async def outcome(*args: Any, **kwargs: Any) -> Outcome[Any]:
        call, given = made.call(args, kwargs)
        return await AsyncRun(settings, call, level).outcome(*made.runs(call, given, args, kwargs))

    async def function(*args: Any, **kwargs: Any) -> Any:
        return (await outcome(*args, **kwargs)).value

    async def join_outcome(*args: Any, **kwargs: Any) -> Outcome[Any]:
        session, args, kwargs = made.joined(args, kwargs)
        run = AsyncRun(settings, made.call(args, kwargs)[0])
        sync_session(session, "AsyncSession")
        return await run.inside(unscoped(session), made.work(args, kwargs))

    async def join(*args: Any, **kwargs: Any) -> Any:
        return (await join_outcome(*args, **kwargs)).value

    return function, outcome, join, join_outcome


def decorate_keys(
    settings: Settings, scope: str, key: Spec, options: Options, keys: type[Keys] = Keys
) -> Callable[[Any], Any]:
    """Return the decorator of functions whose key the client makes, and `keys` checks; see `IdemTable.transactional`."""
    rest: Options = options.copy()
    tenant = rest.pop("tenant", None)
    return decorate(settings, partial(keys, settings, scope), rest, key=key, tenant=tenant, takes=Options)


def decorate(
    settings: Settings,
    asks: Callable[..., Asks],
    options: CommonOptions,
    *,
    key: Spec,
    tenant: Spec | None = None,
    takes: type[CommonOptions],
    store: Any = None,
) -> Callable[[Any], Any]:
    """Return the decorator of a table, for functions of its colour.

    Args:
        settings: of the table.
        asks: makes the calls of a function, given the type of its results and what it understands of the options.
        options: as the program gave them.
        key, tenant: where a call's two words stand in its arguments.
        takes: which options there are.
        store: what keeps the scope's tokens, if it is not the table.

    Raises:
        TypeError: there is no such option.
    """
    known = takes.__annotations__
    if unknown := options.keys() - known:
        raise TypeError(f"there is no option {', '.join(sorted(unknown))}; there are {', '.join(sorted(known))}")
    compiled = {name: options[name] for name in ("payload", "returns", "isolation_level") if name in options}
    own = {*compiled, "share_scope"}
    asks = partial(asks, **{name: value for name, value in options.items() if name not in own})
    is_async = settings.binding.is_async

    def decorator(function: Any) -> Any:
        _check(function, is_async)
        made = Compiled(settings, function, asks, key=key, tenant=tenant, **compiled)
        decorated = dressed(made.function, made.parameters, (_async if is_async else _sync)(made))
        place = (made.asks.space, settings.table, settings.schema, made.asks.scope)
        owner = owner_of(function, shares=checked_flag(options.get("share_scope", False), "share_scope"))
        SCOPES.take(settings.anchors if store is None else [store], place, decorated, owner, made.asks.rivalry)
        return decorated

    return decorator


def _checked_level(settings: Settings, level: object) -> str | None:
    """Return an isolation level that the table's database has, as far as that is known."""
    if level is None:
        return None
    levels: Sequence[str] = LEVELS
    if not settings.binding.is_late:
        known = settings.place.engine.dialect.get_isolation_level_values(None)  # type: ignore[arg-type]
        levels = [one for one in LEVELS if one in known]
    if not isinstance(level, str) or level.replace("_", " ").upper() not in levels:  # as SQLAlchemy reads it
        raise ValueError(f"isolation_level= takes one of {', '.join(levels)}, not {level!r}")
    return level


def _check(function: Any, is_async: bool) -> None:
    if isinstance(function, staticmethod | classmethod):
        raise TypeError(f"put transactional below @{type(function).__name__}: it decorates the function itself")
    if not callable(function):
        raise TypeError(f"transactional decorates a function, not {function!r}: put it on the line above def")
    name, called = innermost(function).__qualname__, (function, type(function).__call__)
    if not is_async and any(inspect.iscoroutinefunction(one) or inspect.isasyncgenfunction(one) for one in called):
        raise TypeError(f"{name} is async: use AsyncIdemTable with an AsyncEngine")
    if any(inspect.isgeneratorfunction(one) or inspect.isasyncgenfunction(one) for one in called):
        raise TypeError(f"{name} is a generator: its work would run after the claim; return a list")
    if is_async and not any(map(inspect.iscoroutinefunction, called)):
        raise TypeError(f"{name} is not an async function: use IdemTable with an Engine, or write async def")


def _check_session(function: Any, session: inspect.Parameter, names: Names, is_async: bool) -> None:
    # What adapts a function of the other colour has its annotations, and gives it a session that it takes.
    if hasattr(function, "__wrapped__") or not is_of_other_colour(session, names, is_async=is_async):
        return
    name = innermost(function).__qualname__
    if is_async:
        raise TypeError(
            f"{name} is declared to take a Session and gets an AsyncSession, in which nothing is done that is not awaited: "
            f"annotate {session.name} with AsyncSession, and await its methods"
        )
    raise TypeError(
        f"{name} is declared to take an AsyncSession and gets a Session: annotate {session.name} with Session, or use "
        f"AsyncIdemTable and async def"
    )
