"""What a decorated function takes, compiled once: `inspect.Signature.bind` costs more per call than the claim."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from .errors import KeyRejectedError
from .fields import NOTHING
from .fingerprint import NEWEST, Default, default_of, fingerprint
from .model import Unset
from .paths import check, resolver, walk

Extractor = Callable[[Mapping[str, Any], tuple[Any, ...], Mapping[str, Any]], Any]
"""Finds one thing in a call, given the arguments by name and the call's own positional and keyword arguments."""


class Fingerprinter(Protocol):
    """Takes the fingerprint of a call, in the version of the row it is compared with; ``None`` for no check."""

    def __call__(
        self, given: Mapping[str, Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], version: int = NEWEST, /
    ) -> bytes | None:
        """Return the fingerprint."""


_POSITIONAL: Final = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_NAMED: Final = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class Parameters:
    """The parameters of a function after its session, and extractors over them."""

    def __init__(self, function: Callable[..., Any]) -> None:
        signature = inspect.signature(function)
        everything = list(signature.parameters.values())
        if not everything or everything[0].kind not in _POSITIONAL:
            raise TypeError(f"{function.__qualname__} must take the session as its first argument")
        if everything[0].name in ("self", "cls"):
            raise TypeError(
                f"{function.__qualname__} is a method, and its first argument would get the session: decorate a function"
            )
        self.signature = signature.replace(parameters=everything[1:])
        self._function = function.__qualname__
        self._resolve = resolver(function)
        parameters = everything[1:]
        self._positional = tuple(p.name for p in parameters if p.kind in _POSITIONAL)
        self._by_name = frozenset(p.name for p in parameters if p.kind in _NAMED)
        self._defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
        variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        self._names = frozenset(p.name for p in parameters)
        self._required = self._names - self._defaults.keys() - {p.name for p in parameters if p.kind in variable}

    def given(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments by name, without defaults.

        Raises:
            TypeError: the call does not fit the function, in Python's own words.
        """
        if len(args) <= len(self._positional):
            given = dict(zip(self._positional, args, strict=False))
            if not kwargs or (kwargs.keys() <= self._by_name and given.keys().isdisjoint(kwargs)):
                given.update(kwargs)
                if given.keys() >= self._required:
                    return given
        try:
            return dict(self.signature.bind(*args, **kwargs).arguments)
        except TypeError as error:
            hint = (
                " (leave the session out: the call gets one of its own)" if "too many positional" in str(error) else ""
            )
            raise TypeError(f"{self._function}: {error}{hint}") from None

    def _path(self, spec: str, what: str) -> tuple[str, tuple[str, ...], bool]:
        """Return the parameter of a spec, the path into it, and whether its types allow that nothing is there."""
        name, path = self._split(spec, what)
        parameter = self.signature.parameters[name]
        into = path[1:] if parameter.kind is parameter.VAR_KEYWORD else path  # **rest: Body is a Body for each name
        if parameter.annotation is parameter.empty or parameter.kind is parameter.VAR_POSITIONAL:
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
            TypeError: neither a string nor callable.
        """
        if callable(spec):
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
            return lambda given, args, kwargs, version=NEWEST, /: fingerprint(payload(*args, **kwargs), version)
        defaults = {name: Default(value) for name, value in self._defaults.items()}
        if isinstance(payload, Unset):
            left_out = key if isinstance(key, str) else None

            def everything(given: Mapping[str, Any], args: Any, kwargs: Any, version: int = NEWEST, /) -> bytes:
                values = {name: value for name, value in given.items() if name != left_out}
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


def declared_return(function: Callable[..., Any], depth: int) -> Any:
    """Return the declared return type, evaluated; ``Any`` where none is declared.

    Args:
        function: the function.
        depth: how many frames up the decoration stands, for types that are local to a function.

    Raises:
        TypeError: a name in it cannot be resolved here; the message names ``returns=``.
    """
    annotation = function.__annotations__.get("return", Any)
    if not isinstance(annotation, str):
        return annotation
    own = getattr(inspect.unwrap(function), "__globals__", {})  # not those of a decorator in another module
    scopes: list[Mapping[str, Any]] = []
    frame = sys._getframe(depth)
    while frame is not None:
        scopes.append(frame.f_locals)
        if frame.f_code.co_name == "<module>":
            break
        frame = frame.f_back  # type: ignore[assignment]
    for local in scopes:
        try:
            return eval(annotation, own, dict(local))  # noqa: S307 - the program's own text
        except NameError:
            continue
    raise TypeError(
        f"the return type {annotation!r} of {function.__qualname__} cannot be resolved where it is decorated: "
        f"pass it as returns="
    )
