"""What a decorated function takes, compiled once: `inspect.Signature.bind` costs more per call than the claim."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from .annotations import Names, innermost, receiver_of, refuse_async, session_of, signature_of
from .errors import KeyRejectedError
from .fields import NOTHING
from .fingerprint import NEWEST, Default, default_of, fingerprint
from .model import Unset
from .paths import check, resolver, walk

Extractor = Callable[[Mapping[str, Any], tuple[Any, ...], Mapping[str, Any]], Any]
"""Finds one thing in a call, given the arguments by name and the call's own positional and keyword arguments."""


_SHAPES: Final = 64
"""Remembered at most: the places in a program that call a function are few, and what they write does not change."""

Filled = tuple[tuple[Any, ...], Mapping[str, Any]]
Filler = Callable[[Any, tuple[Any, ...], Mapping[str, Any]], Filled]


class Fingerprinter(Protocol):
    """Takes the fingerprint of a call, in a version; ``None`` for no check."""

    def __call__(
        self, given: Mapping[str, Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], version: int = NEWEST, /
    ) -> bytes | None:
        """Return the fingerprint."""


_POSITIONAL: Final = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_NAMED: Final = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class Parameters:
    """The parameters of a function without its session, extractors over them, and the session's place among them.

    Args:
        function: the program's.
        key, tenant: where a call's two words stand: what is one of them is no session.
        names: what the names in its annotations mean.

    Raises:
        TypeError: it takes no session.
    """

    def __init__(self, function: Any, key: Any = None, tenant: Any = None, names: Names | None = None) -> None:
        signature = signature_of(function)
        everything = list(signature.parameters.values())
        self._function = innermost(function).__qualname__
        self.receiver = receiver_of(everything)
        """The name of the object or the class of a method: nothing that the call carries."""
        taken = frozenset(spec.partition(".")[0] for spec in (key, tenant) if isinstance(spec, str))
        session = session_of(everything[1 if self.receiver else 0 :], taken, names)
        if session is None:
            raise TypeError(
                f"{self._function} takes no session: annotate the parameter that is to get it with Session or "
                f"AsyncSession, or name it session"
            )
        self.session = session
        parameters = [p for p in everything if p is not session]
        self.signature = signature.replace(parameters=parameters)
        self._resolve = resolver(function)
        before = [p for p in everything[: everything.index(session)] if p.kind in _POSITIONAL]
        self._place = len(before)
        self._before = tuple(p.default for p in before)
        self._positional = tuple(p.name for p in parameters if p.kind in _POSITIONAL)
        self._by_name = frozenset(p.name for p in parameters if p.kind in _NAMED)
        self._defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
        variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        is_first = not self._place and session.kind is not session.KEYWORD_ONLY
        self.filled: Filler = _session_first if is_first else self._filled
        """Returns the arguments of a call that fits, with the session where the function wants it."""
        self._names = frozenset(p.name for p in parameters)
        self._shapes: set[tuple[Any, ...]] = set()
        """Calls that fit: how many arguments by place, and the names of the others."""
        self._required = self._names - self._defaults.keys() - {p.name for p in parameters if p.kind in variable}

    def _filled(self, session: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], /) -> Filled:
        place, kind = self._place, self.session.kind
        if kind is not inspect.Parameter.KEYWORD_ONLY:
            if len(args) >= place:
                return (*args[:place], session, *args[place:]), kwargs
            if kind is inspect.Parameter.POSITIONAL_ONLY:  # those that were left out have defaults
                return (*args, *self._before[len(args) :], session), kwargs
        return args, {**kwargs, self.session.name: session}

    def given(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments by name, without defaults.

        Raises:
            TypeError: the call does not fit the function, in Python's own words.
        """
        shape = len(args), *kwargs
        if shape in self._shapes:
            return {**dict(zip(self._positional, args, strict=False)), **kwargs}
        if len(args) <= len(self._positional):
            given = dict(zip(self._positional, args, strict=False))
            if not kwargs or (kwargs.keys() <= self._by_name and given.keys().isdisjoint(kwargs)):
                given.update(kwargs)
                if given.keys() >= self._required:
                    if len(self._shapes) < _SHAPES:
                        self._shapes.add(shape)
                    return given
        try:
            return dict(self.signature.bind(*args, **kwargs).arguments)
        except TypeError as error:
            # Callers of a function with a session are in the habit of passing one.
            is_habit = "too many positional" in str(error) or f"argument {self.session.name!r}" in str(error)
            hint = " (leave the session out: the call gets one of its own)" if is_habit else ""
            raise TypeError(f"{self._function}: {error}{hint}") from None

    def _path(self, spec: str, what: str) -> tuple[str, tuple[str, ...], bool]:
        """Return the parameter of a spec, the path into it, and whether its types allow that nothing is there."""
        name, path = self._split(spec, what)
        parameter = self.signature.parameters[name]
        into = path[1:] if parameter.kind is parameter.VAR_KEYWORD else path  # **rest: Body is a Body for each name
        # Without a path there is nothing to look up, and a look into the frames keeps what stands in them alive.
        if not into or parameter.annotation is parameter.empty or parameter.kind is parameter.VAR_POSITIONAL:
            return name, path, False
        return name, path, check(parameter.annotation, into, self._resolve, f"{what}={spec!r} of {self._function}")

    def _split(self, spec: str, what: str) -> tuple[str, tuple[str, ...]]:
        name, *path = spec.split(".")
        if name not in self._names or not all(path):
            known = ", ".join(sorted(self._names)) or "none"
            raise ValueError(f"{what}={spec!r} names no parameter of {self._function}; its parameters are: {known}")
        return name, tuple(path)

    def extractor(self, spec: str | Callable[..., Any], what: str) -> Extractor:
        """Compile a parameter's name, a dotted path into one, or a callable of the call's own arguments.

        Raises:
            ValueError: no parameter has this name.
            TypeError: neither a string nor callable, or async.
        """
        if callable(spec):
            refuse_async(spec, what)
            function = spec
            return lambda given, args, kwargs: function(*args, **kwargs)
        if not isinstance(spec, str):
            raise TypeError(f"{what}= takes a parameter's name, a dotted path or a callable, not {spec!r}")
        name, path, _ = self._path(spec, what)
        default = self._defaults.get(name)
        if path:

            def found(given: Mapping[str, Any], args: Any, kwargs: Any) -> Any:
                value = walk(given.get(name, default), path)
                return None if value is NOTHING else value

            return found
        return lambda given, args, kwargs: given.get(name, default)

    def fingerprinter(self, payload: Any, key: str | Callable[..., Any]) -> Fingerprinter:
        """Compile what the fingerprint covers.

        Raises:
            ValueError: no parameter has this name, or its declared type no such path.
            TypeError: `payload` is of another kind.
        """
        if payload is None:
            return lambda given, args, kwargs, version=NEWEST, /: None
        if callable(payload):
            refuse_async(payload, "payload")
            return lambda given, args, kwargs, version=NEWEST, /: fingerprint(payload(*args, **kwargs), version)
        defaults = {name: Default(value) for name, value in self._defaults.items()}
        if isinstance(payload, Unset):
            left_out = key if isinstance(key, str) else None

            def everything(given: Mapping[str, Any], args: Any, kwargs: Any, version: int = NEWEST, /) -> bytes:
                values = dict(given)
                if left_out is not None:
                    values.pop(left_out, None)
                return fingerprint(values, version, defaults)

            return everything
        if not isinstance(payload, tuple | list | set) or not all(isinstance(name, str) for name in payload):
            raise TypeError(f"payload= takes ALL, a tuple of parameters' names, a callable or None, not {payload!r}")
        paths = {spec: self._path(spec, "payload") for spec in payload}

        def chosen(given: Mapping[str, Any], args: Any, kwargs: Any, version: int = NEWEST, /) -> bytes:
            values, known = {}, dict(defaults)
            for spec, (name, path, optional) in paths.items():
                if not path:
                    if name in given:
                        values[spec] = given[name]
                    continue
                owner = walk(given.get(name, self._defaults.get(name)), path[:-1])
                value = walk(owner, path[-1:])
                if value is NOTHING and not optional:
                    raise KeyRejectedError(
                        f"the call has nothing at {spec!r}, which payload= of {self._function} names"
                    )
                values[spec] = None if value is NOTHING else value
                if (default := default_of(type(owner), path[-1])) is not None:
                    known[spec] = default
            return fingerprint(values, version, known)

        return chosen


def _session_first(session: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], /) -> Filled:
    return (session, *args), kwargs
