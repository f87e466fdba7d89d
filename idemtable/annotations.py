"""What a function says of its session and its result, read where it is decorated.

An annotation may be text (``from __future__ import annotations``), name a type that is local to a function, or one that
is imported for type checkers alone and does not exist at run time.
"""

from __future__ import annotations

import ast
import builtins
import functools
import inspect
import sys
from collections.abc import Callable, Mapping
from types import FrameType, NoneType, UnionType
from typing import Annotated, Any, Final, ForwardRef, NewType, TypeVar, Union, get_args, get_origin

_POSITIONAL: Final = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_VARIABLE: Final = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_CALL: Final = "__call__"
_SYNC: Final = frozenset({"Session", "scoped_session"})
_ASYNC: Final = frozenset({"AsyncSession", "async_scoped_session"})
_SESSIONS: Final = _SYNC | _ASYNC
# The frames of these stand between an annotation and the program whose names it uses.
_OWN: Final = frozenset(f"{__package__}.{module}" for module in ("annotations", "signature", "transactional"))


def signature_of(function: Callable[..., Any]) -> inspect.Signature:
    """Return the signature, also where an annotation names what does not exist at run time."""
    options: dict[str, Any] = {}
    if sys.version_info >= (3, 14):  # annotations are evaluated when they are asked for
        import annotationlib

        options["annotation_format"] = annotationlib.Format.FORWARDREF
    try:
        return inspect.signature(function, **options)
    except ValueError:  # of a class or function in C
        raise TypeError(
            f"{function!r} tells nobody what it takes: decorate a function of your own that calls it"
        ) from None


def refuse_async(given: object, option: str) -> None:
    """Raise TypeError for an async function where nobody awaits what it gives. Of a lambda nobody can tell beforehand."""
    if any(map(inspect.iscoroutinefunction, (given, getattr(type(given), _CALL, None)))):
        raise TypeError(f"{option}= is async, and what it gives would never be awaited: take a plain function")


def innermost(function: Any) -> Any:
    """Return what has the name: the function of a partial or a bound method, the class of an object that can be called."""
    while isinstance(function, functools.partial):
        function = function.func
    function = getattr(function, "__func__", function)
    return function if hasattr(function, "__qualname__") else type(function)


class Names:
    """What the names in a function's annotations mean.

    Made while the function is being decorated: a type that is local to a function is found in the frames of the call
    stack. Those in which the function's text stands go before its module's names; others, such as that of a helper
    which decorates for the program, come after them.
    """

    def __init__(self, function: Any) -> None:
        inner = inspect.unwrap(innermost(function))  # not the globals of a decorator in another module
        inner = inner if hasattr(inner, "__globals__") else inspect.unwrap(getattr(type(function), _CALL, inner))
        self._globals: dict[str, Any] = getattr(inner, "__globals__", {})
        known = {**{one.__name__: one for one in getattr(inner, "__type_params__", ())}, **_closed_over(inner)}
        near: list[FrameType] = []
        far: list[FrameType] = []
        code, name = getattr(inner, "__code__", None), getattr(inner, "__qualname__", "")
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            outer = frame.f_code
            if frame.f_globals.get("__name__") not in _OWN:
                around = name.startswith(f"{outer.co_qualname}.") and code and outer.co_filename == code.co_filename
                is_module = outer.co_name == "<module>"
                (near if around or (is_module and frame.f_globals is self._globals) else far).append(frame)
                if is_module:
                    break
            frame = frame.f_back
        self._locals = _Locals(known, near, self._globals, far)

    def evaluated(self, annotation: Any) -> Any:
        """Return what an annotation means; whatever its evaluation raises goes through."""
        for _ in range(3):  # quotes within quotes, where a module's annotations are text
            if not isinstance(annotation, str | ForwardRef):
                break
            text = annotation if isinstance(annotation, str) else annotation.__forward_arg__
            annotation = eval(text.strip(), self._globals, self._locals)  # noqa: S307 - the program's own text
        return annotation


def _closed_over(function: Any) -> dict[str, Any]:
    found = {}
    for name, cell in zip(
        getattr(getattr(function, "__code__", None), "co_freevars", ()),
        getattr(function, "__closure__", None) or (),
        strict=False,
    ):
        try:
            found[name] = cell.cell_contents
        except ValueError:  # the function itself, which has no name yet
            continue
    return found


class _Locals(dict[str, Any]):
    """The locals of an evaluation: before the globals the near frames, after them and the built-ins the far ones."""

    def __init__(
        self, known: dict[str, Any], near: list[FrameType], own: Mapping[str, Any], far: list[FrameType]
    ) -> None:
        super().__init__(known)
        self._near = near
        self._own = own
        self._far = far

    def __missing__(self, name: str) -> Any:
        # Each look takes a copy of a frame's locals, which keeps them alive as long as the frame runs.
        is_known = name in self._own or hasattr(builtins, name)
        for frame in self._near if is_known else [*self._near, *self._far]:
            if name in (scope := frame.f_locals):
                return scope[name]
        raise KeyError(name)


def declared_return(function: Any, names: Names | None = None) -> Any:
    """Return the declared return type, evaluated; ``Any`` where none is declared, the class of ``None`` for ``None``.

    Raises:
        TypeError: it cannot be resolved here; the message names ``returns=``.
    """
    annotation = signature_of(function).return_annotation
    if annotation is inspect.Signature.empty:
        return Any
    try:
        declared = (names or Names(function)).evaluated(annotation)
    except Exception as error:
        raise TypeError(
            f"the return type {annotation!r} of {innermost(function).__qualname__} cannot be resolved where it is "
            f"decorated: pass it as returns="
        ) from error
    return NoneType if declared is None else declared  # to whom it is handed, None is that nothing was said


def receiver_of(parameters: list[inspect.Parameter]) -> str | None:
    """Return the name of the parameter that is the object or the class of a method, if there is one."""
    first = parameters[0] if parameters else None
    if first is not None and first.kind in _POSITIONAL and first.name in ("self", "cls"):
        return first.name
    return None


def session_of(
    parameters: list[inspect.Parameter], taken: frozenset[str], names: Names | None
) -> inspect.Parameter | None:
    """Return the parameter that gets the session.

    It is the one annotated with a Session class (of two, the one named ``session``), else the one named ``session``,
    else the first without an annotation.

    Args:
        parameters: of the function, after the object of a method.
        taken: the names of those that are the key or the tenant.
        names: what the names in annotations mean.
    """
    known: list[inspect.Parameter] = []
    guessed: list[inspect.Parameter] = []
    for one in parameters:
        if one.kind not in _VARIABLE and one.annotation is not one.empty and one.name not in taken:
            answer = _is_session(one.annotation, names)
            if answer is not False:
                (known if answer else guessed).append(one)
    named = [one for one in parameters if one.name == "session" and one.kind not in _VARIABLE and one.name not in taken]
    for found in (known, guessed):
        if found:
            return next((one for one in named if one in found), found[0])
    if named:
        return named[0]
    first = parameters[0] if parameters else None
    if first is None or first.kind not in _POSITIONAL or first.name in taken or first.annotation is not first.empty:
        # Who says key="session" is told that it is no parameter of a call.
        return next((one for one in parameters if one.name == "session" and one.kind not in _VARIABLE), None)
    return first


def is_of_other_colour(parameter: inspect.Parameter, names: Names, *, is_async: bool) -> bool:
    """Say whether a parameter is declared to take sessions of the other colour alone; a name nobody knows may be either."""
    own, other = (_ASYNC, _SYNC) if is_async else (_SYNC, _ASYNC)
    hint = parameter.annotation
    return _is_session(hint, names, other) is True and _is_session(hint, names, own) is False


def is_session(cls: type) -> bool:
    """Say whether the objects of a class are sessions."""
    return _is_session(cls, None) is True


def _is_session(hint: Any, names: Names | None, wanted: frozenset[str] = _SESSIONS) -> bool | None:
    """Say whether an annotation allows a session; ``None``: it does by its name, and nobody knows what that means."""
    if isinstance(hint, str | ForwardRef):
        text = hint if isinstance(hint, str) else hint.__forward_arg__
        try:
            if names is None:
                raise NameError(text)
            return _is_session(names.evaluated(hint), names, wanted)
        except Exception:  # imported for type checkers alone
            return None if _reads_session(text) else False
    origin = get_origin(hint)
    if origin is Annotated:
        return _is_session(hint.__origin__, names, wanted)
    if origin in (Union, UnionType):
        answers = [_is_session(one, names, wanted) for one in get_args(hint)]
        return True if True in answers else None if None in answers else False
    if origin is not None:
        return _is_session(origin, names, wanted)
    if isinstance(hint, type):
        return any(cls.__name__ in wanted and cls.__module__.startswith("sqlalchemy.") for cls in hint.__mro__)
    if isinstance(hint, TypeVar):
        bounds = hint.__constraints__ or ((hint.__bound__,) if hint.__bound__ is not None else ())
        return any(_is_session(one, names, wanted) for one in bounds)
    if isinstance(hint, NewType):
        return _is_session(hint.__supertype__, names, wanted)
    alias = getattr(hint, "__value__", None)  # of a `type` statement
    return _is_session(alias, names, wanted) if alias is not None else False


def _reads_session(text: str) -> bool:
    """Say whether an annotation that cannot be evaluated names a Session class where the value's own type stands."""
    try:
        return _reads(ast.parse(text.strip(), mode="eval").body)
    except SyntaxError:
        return False


def _reads(node: ast.expr) -> bool:
    match node:
        case ast.Name(name) | ast.Attribute(attr=name):
            return name in _SESSIONS
        case ast.Constant(str() as text):
            return _reads_session(text)
        case ast.BinOp(left, ast.BitOr(), right):
            return _reads(left) or _reads(right)
        case ast.Subscript(ast.Name(name) | ast.Attribute(attr=name), index):
            items = index.elts if isinstance(index, ast.Tuple) else [index]
            if name == "Annotated":
                return _reads(items[0])
            if name in ("Optional", "Union"):
                return any(map(_reads, items))
            return name in _SESSIONS
    return False
